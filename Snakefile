# How few bits can a language model take, by which recipe? Stages in pipeline order; `rule all` asks for one study.
#
#   snakemake --cores all                                          the demo study
#   snakemake --cores all --config study=lorc                      a table of the paper (conf/study)
#   snakemake --cores all --config study=lorc+standins=true        the same on models that the pipeline trains itself
#   snakemake --cores all --config overrides='study.ranks=[0,16]'  Hydra overrides, separated by blanks
#   snakemake --cores all --config model_path=FOLDER text_path=FILE  a checkpoint and a text of your own, study=own
#   snakemake --cores all --config model_path=OWNER/NAME@REVISION  a checkpoint on the hub, or FILE.gguf
#   snakemake --cores all --configfile mine.yaml                   settings in a file: config/README.md
#   snakemake --cores all --config name=mine overrides=…           what a changed study is called, instead of demo+ranks=0,16
#   snakemake --cores all --config study=demo export=best@4.25     a cell as a folder that other libraries load (docs/export.md)
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/calibrate.smk"
include: "workflow/rules/quantize.smk"
include: "workflow/rules/lorc.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/report.smk"


rule all:
    "The whole study: every cell measured, tracked and on the page (the default)."
    default_target: True
    input:
        pipeline.targets,

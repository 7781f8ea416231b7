# The only rules that see all cells: MLflow, and the page. `snakemake --report FILE` shows what `report()` marks.
#   inputs   every evaluation of the study
#   outputs  results/STUDY/{cells.csv,recommended.csv,against.csv,scorecard.csv,report.html,figures,claims.json}, results/mlflow.db


localrules:
    all,
    track,
    report,


rule track:
    "Results of the study in MLflow."
    input:
        pipeline.inputs("track"),
    output:
        result=pipeline.result("track"),
        run=pipeline.record("track"),
    log:
        pipeline.log("track"),
    params:
        arguments=pipeline.study_arguments(),
        semantics=pipeline.params("track"),
    shell:
        "exec python -m lorcbench.stages track {params.arguments}"


rule report:
    "The study's page, tables and figures: results/STUDY/report.html."
    input:
        pipeline.inputs("report"),
    output:
        complete=touch(pipeline.complete),
        page=report(
            f"{pipeline.folder}/report.html",
            caption="../report/page.rst",
            category=f"Study {pipeline.study.name}",
            labels={"shows": "the whole study"},
        ),
        table=report(
            f"{pipeline.folder}/cells.csv",
            caption="../report/cells.rst",
            category=f"Study {pipeline.study.name}",
            labels={"shows": "every perplexity"},
        ),
        scorecard=report(
            f"{pipeline.folder}/scorecard.csv",
            caption="../report/scorecard.rst",
            category=f"Study {pipeline.study.name}",
            labels={"shows": "published numbers beside ours"},
        ),
        figures=report(
            directory(f"{pipeline.folder}/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figure.rst",
            category="Figures",
            labels={"study": pipeline.study.name, "figure": "{figure}"},
        ),
    log:
        pipeline.log("report"),
    params:
        arguments=pipeline.study_arguments(),
        semantics=pipeline.params("report"),
    shell:
        "exec python -m lorcbench.stages report {params.arguments}"

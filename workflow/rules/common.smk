# The study and its cells, and one place for what all rules share. The logic is in lorcbench.pipeline.rules, which is plain Python.
import sys
from pathlib import Path

from snakemake.logging import logger

from lorcbench.common import paths
from lorcbench.common.artifacts import pull_back_times
from lorcbench.config.checks import ConfigError
from lorcbench.pipeline.console import install
from lorcbench.pipeline.rules import Pipeline
from lorcbench.study import views
from lorcbench.study.outline import outline

console = install(logger)


report: "../report/workflow.rst"


try:
    # Which executor runs the jobs, Snakemake decides after this. A cluster has a number of jobs at a time, this machine one of
    # cores, even in a dry run. On the node of a cluster this is not the main process.
    local = workflow.resource_settings.nodes is None and workflow.is_main_process
    pipeline = Pipeline(config, local)
    if "export" in config:
        from lorcbench.report import winners  # looks at what the study measured

        pipeline.export(winners.cells(pipeline.study, str(config["export"])))
    if workflow.is_main_process:
        pipeline.lifecycle.end_at_ctrl_c(pipeline.closing.again(), lambda: workflow.dryrun)
        pull_back_times(Path(paths.CACHE))
        views.refresh(pipeline.study)
        if console:  # whether it is a dry run is not known yet
            console.answer = lambda: "" if workflow.dryrun else pipeline.closing.known()
        for line in outline(pipeline.study):
            logger.info(line)
        for line in pipeline.device_lines():
            logger.info(line)
    if local:
        # Registering overrides the command line, where the user's own totals are: `--resources mem_mb=… gpu=… gpu_mb=…`.
        asked = {name: workflow.global_resources.get(name) for name in ("mem_mb", "gpu", "gpu_mb")}
        given = {name: limit.value for name, limit in asked.items() if limit and limit.value is not None}
        for name, total in pipeline.resources.totals(given).items():
            if name not in given:
                workflow.register_resource(name, total)
except ConfigError as error:
    sys.exit(f"error: {error}")


wildcard_constraints:
    model=r"[^/]+",
    method=r"[^/]+",
    calibration=r"[^/]+",
    weight=r"w[^/]+|mixed",
    trained=r"a[^/]+",
    activation=r"a[^/]+",
    lorc=r"[^/]+",
    cap=r"\d+",
    rank=r"\d+",
    export=r"merged|adapter|compressed-tensors|gptq",
    verify=r"whole|tensors",
    damp=r"[^/-]+(?:e-\d+)?",
    order=r"natural|act_order",
    dead=r"published|excluded",
    protocol=r"[^/]+",
    text=r"[^/]+",
    task=r"[^/]+",


onstart:
    if pipeline.choice.refusal:
        sys.exit(f"error: {pipeline.choice.refusal}")
    if workflow.local_exec != local:
        sys.exit("error: --jobs is for a cluster; a run on this machine has --cores alone")
    pipeline.lifecycle.take_lock()
    pipeline.lifecycle.leave_words()
    pipeline.lifecycle.note_ctrl_c(pipeline.closing.again())
    jobs = list(workflow.dag.needrun_jobs())
    rules_to_run = {job.rule.name for job in jobs}
    pipeline.closing.begin(rules_to_run)
    if console:
        console.expect({workflow.dag.jobid(job): pipeline.expected(job) for job in jobs})
    if workflow.local_exec:
        pipeline.lifecycle.start_warm(rules_to_run)


onsuccess:
    pipeline.lifecycle.finish()
    pipeline.closing.at_exit()


onerror:
    pipeline.closing.forget()
    pipeline.lifecycle.report_failure()
    pipeline.closing.at_exit()

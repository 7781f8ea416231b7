# The study and its cells, and one place for what all rules share. The logic is in lorcbench.pipeline.rules, which is plain Python.
import sys
from pathlib import Path

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from lorcbench.common import paths
from lorcbench.common.artifacts import pull_back_times
from lorcbench.config.checks import ConfigError
from lorcbench.pipeline.rules import Pipeline
from lorcbench.study import views

# Two of Snakemake's lines for every job say nothing that the stages do not say better.
logger.addFilter(
    lambda record: getattr(record, "event", None) not in (LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED)
    and not record.getMessage().startswith("Select jobs")
)


report: "../report/workflow.rst"


try:
    pipeline = Pipeline(config)
    if workflow.is_main_process:
        pull_back_times(Path(paths.CACHE))
        views.refresh(pipeline.study)
        for line in pipeline.study.outline():
            logger.info(line)
    if workflow.local_exec and workflow.is_main_process:
        # Without a total Snakemake ignores what jobs say of their memory. The user's own is `--resources mem_mb=…`.
        limit = workflow.global_resources.get("mem_mb")
        workflow.register_resource("mem_mb", pipeline.resources.total_memory(limit and limit.value))
except ConfigError as error:
    sys.exit(f"error: {error}")


wildcard_constraints:
    model=r"[^/]+",
    method=r"[^/]+",
    calibration=r"[^/]+",
    weight=r"w[^/]+",
    trained=r"a[^/]+",
    activation=r"a[^/]+",
    lorc=r"[^/]+",
    cap=r"\d+",
    damp=r"[^/-]+(?:e-\d+)?",
    order=r"natural|act_order",
    dead=r"published|excluded",
    protocol=r"[^/]+",
    text=r"[^/]+",
    task=r"[^/]+",


onstart:
    pipeline.lifecycle.take_lock()
    if workflow.local_exec:
        pipeline.lifecycle.start_warm()


onsuccess:
    pipeline.lifecycle.finish()


onerror:
    pipeline.lifecycle.report_failure()

"""Run one stage and say how long its work took, imports left out.

    python benchmarks/stage_run.py STAGE name=value …

The line that the workflow would run is ``python -m lorcbench.stages STAGE name=value …``: this does the same, in the same
folder and with the same results. Modules are imported and the compiled sweep is loaded before the clock starts, as the peers'
are.
"""

from __future__ import annotations

import importlib
import sys

from common import report, timed

from lorcbench.common.process import let_threads_sleep
from lorcbench.pipeline.warm import STAGES, preload


def main() -> None:
    """Import, run, report."""
    stage, *overrides = sys.argv[1:]
    let_threads_sleep()
    module = importlib.import_module(f"lorcbench.stages.{stage}")
    if stage != "lorc":
        preload(STAGES - {"harness"})
    from lorcbench.jobs.job import Job
    from lorcbench.jobs.process import run

    measured = {}

    def work(job: Job) -> None:
        measured.update(timed(lambda: module.main(job)))

    run(stage, overrides, work)
    report(measured)


if __name__ == "__main__":
    main()

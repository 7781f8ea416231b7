"""A stage as a process: its job, its device, its threads, and what a failure leaves."""

from __future__ import annotations

import sys
from collections.abc import Callable

from lorcbench.common.digests import verifying
from lorcbench.common.gpus import GpuError
from lorcbench.config.checks import ConfigError
from lorcbench.jobs.job import Explain, Job
from lorcbench.jobs.threads import kernel_threads


def run(stage: str, overrides: list[str], work: Callable[[Job], None], explain: Explain | None = None) -> None:
    """Run a stage as a process.

    Args:
        explain: as `Job.explain`.

    Raises:
        SystemExit: 1 with a record of the failure; 2, with one too if work had begun, for a configuration that makes no sense.
    """
    try:
        job = Job(stage, overrides)
        job.explain = explain or job.explain
        threads, verify = job.threads, job.runtime.verify
    except (ConfigError, GpuError) as error:
        print(f"error: {stage}: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        job.take_device()
        with kernel_threads(threads), verifying(verify):
            work(job)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the boundary of the process: every failure is recorded, none is swallowed
        job.fail(error)
        where = f"; log: {job.folder}/log.txt" if job.folder else ""
        failed = "" if isinstance(error, ConfigError) and not job.folder else " failed"  # nothing had begun
        print(f"error: {stage}{failed}: {job.reason(error)}{where}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)

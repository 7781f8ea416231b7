"""What a study would take on this machine, before anything runs: ``lorcbench plan study=lorc``."""

from __future__ import annotations

import sys

from lorcbench.jobs.job import Job
from lorcbench.pipeline import plan
from lorcbench.stages import run_by_old_name
from lorcbench.study.expansion import study_from_arguments


def main(job: Job) -> None:
    """Print the plan; exit with 1, and a line each, if something cannot fit."""
    text, misfits = plan.report(study_from_arguments(job.overrides), job.runtime, plan.this_machine(job.runtime))
    print(text)
    if misfits:
        sys.exit("\n".join(["does not fit:", *(f"  {line}" for line in misfits)]))


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

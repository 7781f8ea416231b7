"""What a study would take on this machine, before anything runs: ``python -m lorcbench.stages.plan study=lorc``."""

from __future__ import annotations

import sys

from lorcbench.jobs.job import Job, run
from lorcbench.pipeline import plan
from lorcbench.study.cells import study_from_arguments


def main(job: Job) -> None:
    """Print the plan; exit with 1, and a line each, if something cannot fit."""
    expanded = study_from_arguments(job.overrides)
    text, misfits = plan.report(expanded, job.runtime, plan.this_machine(job.runtime))
    print(text)
    if misfits:
        sys.exit("\n".join(["does not fit:", *(f"  {line}" for line in misfits)]))


if __name__ == "__main__":
    run("plan", main)

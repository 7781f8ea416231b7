"""What a study would take on this machine, before anything runs: ``lorcbench plan study=lorc``."""

from __future__ import annotations

import sys
from dataclasses import replace

from lorcbench.common import slots
from lorcbench.config import compose
from lorcbench.jobs.job import Job
from lorcbench.pipeline import checks, gpus, plan
from lorcbench.stages import run_by_old_name
from lorcbench.study.expansion import study_from_arguments


def main(job: Job) -> None:
    """Print the plan; exit with 1, and a line each, if something cannot fit."""
    for given in (part for part in job.overrides if part.startswith("model_path=")):
        checks.fetch_config(compose.unquoted(given.removeprefix("model_path=")))
    study = study_from_arguments(job.overrides)
    checks.check(study, job.runtime)
    choice = gpus.chosen(job.runtime, local=True)
    runtime = replace(job.runtime, device=choice.device)
    machine = plan.this_machine(runtime, slots.memory_for_jobs(choice.gpus or ()))
    text, misfits = plan.report(study, runtime, machine)
    print("\n".join([text, *gpus.plan_lines(study, choice)]))
    if misfits:
        sys.exit("\n".join(["does not fit:", *(f"  {line}" for line in misfits)]))


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

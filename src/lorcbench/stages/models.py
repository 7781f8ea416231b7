"""Exports of a study → the models of its experiment in MLflow; registering again changes nothing."""

from __future__ import annotations

from lorcbench.jobs.job import Job
from lorcbench.report.tracking.models import register
from lorcbench.stages import run_by_old_name
from lorcbench.stages.track import store_of
from lorcbench.study.expansion import study_from_arguments
from lorcbench.study.stages import MODELS


def main(job: Job) -> None:
    """Register every export that is there."""
    study = study_from_arguments(job.overrides)
    job.at(MODELS, study=study.name)
    models = register(study, store_of(job, study.name))
    job.finish({"stage": "models"}, {"models": models})
    job.say(f"models in MLflow, one per export of study {study.name}: {len(models)}")


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

"""Finished results → MLflow. This is the only process that writes the store; importing again changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.artifacts import write_json, write_text
from lorcbench.jobs.job import Job
from lorcbench.report import comparison, results
from lorcbench.report.tracking.store import TrackingError, track, without_password
from lorcbench.stages import run_by_old_name
from lorcbench.study.expansion import study_from_arguments
from lorcbench.study.stages import TRACK


def main(job: Job) -> None:
    """Import every cell of the study."""
    study = study_from_arguments(job.overrides)
    folder = job.at(TRACK, study=study.name)
    uri = _uri(job.tracking.uri)
    artifacts = str(Path(paths.MLFLOW_ARTIFACTS).resolve() / study.name)

    measured = results.collect(study)
    changes = comparison.changes(measured)
    ours = job.tracking.uri is None
    imported = track(study.name, study.config.title, measured, changes, uri, artifacts, rebuildable=ours)
    job.log(f"created {imported['created']}, kept {imported['kept']}, deleted {imported['deleted']}")

    public = without_password(uri)
    write_json(folder / "imported.json", "imported", {**imported, "uri": public})
    server = public.rstrip("/") if uri.startswith("http") else ""  # `make ui` puts its own address before the others
    lines = [f"{study.name}, {page}: {server}{imported['pages'][page]}\n" for page in ("table", "charts")]
    write_text(folder / "pages.txt", "".join(lines))
    job.finish({"stage": "track"}, {"cells": len(measured)})


def _uri(setting: str | None) -> str:
    """The address of the store that ``tracking.uri`` asks for; our own store if it is null."""
    if setting is None:
        return f"sqlite:///{Path(paths.MLFLOW).resolve()}"
    uri = os.environ.get("MLFLOW_TRACKING_URI", "") if setting == "environment" else setting
    if not uri:
        raise TrackingError("tracking.uri=environment: MLFLOW_TRACKING_URI is not set")
    return uri


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

"""Finished results → MLflow. The one process that writes the store; importing again changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.artifacts import write_json, write_text
from lorcbench.jobs.job import Job, run
from lorcbench.report import results
from lorcbench.report.tracking.store import TrackingError, track, without_password
from lorcbench.study.cells import study_from_arguments


def main(job: Job) -> None:
    """Import every cell of the study."""
    expanded = study_from_arguments(job.overrides)
    job.names["study"] = expanded.name
    folder = job.at(paths.STUDY + "/track")
    uri = job.tracking.uri or f"sqlite:///{Path(paths.MLFLOW).resolve()}"
    if uri == "environment" and not (uri := os.environ.get("MLFLOW_TRACKING_URI", "")):
        raise TrackingError("tracking.uri=environment: MLFLOW_TRACKING_URI is not set")
    artifacts = str(Path(paths.MLFLOW_ARTIFACTS).resolve() / expanded.name)
    found = results.collect(expanded)
    ours = job.tracking.uri is None
    imported = track(expanded.name, expanded.config.title, found, uri, artifacts, job.runtime.bootstrap, rebuildable=ours)
    job.log(f"created {imported['created']}, kept {imported['kept']}, deleted {imported['deleted']}")
    shown = without_password(uri)
    write_json(folder / "imported.json", "imported", {**imported, "uri": shown})
    server = shown.rstrip("/") if uri.startswith("http") else ""  # `make ui` puts its own address before the others
    lines = [f"{expanded.name}, {page}: {server}{imported['pages'][page]}\n" for page in ("table", "charts")]
    write_text(folder / "pages.txt", "".join(lines))
    job.finish("track", {"stage": "track"}, {"cells": len(found)})


if __name__ == "__main__":
    run("track", main)

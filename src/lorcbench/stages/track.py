"""Finished results → MLflow. This is the only process that writes the store; importing again changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.artifacts import write_json, write_text
from lorcbench.jobs.job import Job
from lorcbench.report import comparison, results
from lorcbench.report.tracking.models import register
from lorcbench.report.tracking.place import artifact_root, owner_of, relative, store_uri
from lorcbench.report.tracking.runs import Import, track
from lorcbench.report.tracking.store import Store, without_password
from lorcbench.stages import run_by_old_name
from lorcbench.study.expansion import study_from_arguments
from lorcbench.study.stages import TRACK


def main(job: Job) -> None:
    """Import every cell of the study."""
    study = study_from_arguments(job.overrides)
    folder = job.at(TRACK, study=study.name)
    store = store_of(job, study.name)
    ours, uri, experiment = store.ours, store.uri, store.experiment

    measured = results.collect(study)
    changes = comparison.changes(measured)
    imported = track(Import(study.name, study.config.title, measured, changes), store)
    imported["models"] = register(study, store)
    job.log(", ".join(f"{what} {imported[what]}" for what in ("created", "kept", "deleted", "former")))
    if imported["parent_artifacts"] is None:
        line = f"experiment {experiment} keeps its artifacts in another project; no file of this study goes there"
        job.log(line)
        print(line, file=sys.stderr)

    public = without_password(uri)
    written = {**imported, "experiment": experiment, "uri": public}
    if ours:  # nothing of it names a place, since a project may be moved
        written |= {"uri": f"sqlite:///{paths.MLFLOW}", "parent_artifacts": relative(imported["parent_artifacts"])}
    write_json(folder / "imported.json", "imported", written)
    server = public.rstrip("/") if uri.startswith("http") else ""  # `make ui` puts its own address before the others
    pages = ("experiment", "table", "charts")
    write_text(folder / "pages.txt", "".join(f"{study.name}, {page}: {server}{imported['pages'][page]}\n" for page in pages))
    job.finish({"stage": "track"}, {"cells": len(measured)})


def store_of(job: Job, study: str) -> Store:
    """Where a study is tracked, as the configuration says it."""
    uri = store_uri(job.tracking.uri)
    owner = owner_of(Path(paths.OWNER).parent)
    return Store(uri, str(artifact_root(uri)), job.tracking.experiment_of(study), owner, job.tracking.uri is None)


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

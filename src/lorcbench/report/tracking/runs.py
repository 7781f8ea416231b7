"""Finished results → MLflow: one experiment per study, in it one parent run, and under that one run per cell.

MLflow shows the result files; results do not live in it: the store can be deleted and is built again. One process
writes it, after the jobs (several processes that open a fresh SQLite store at once break it for good).

People put notes, colours and links on runs, so a run is kept as long as the numbers of its cell stay: tags are brought up to
date in place, and a cell that the study no longer has keeps its run, which says so. Only a run whose numbers changed is
replaced, since MLflow neither changes a parameter nor forgets a metric. Runs of other results folders are left alone. Start and
end are those of the jobs that made a cell; what they took without the time between them is the metric ``system/seconds``.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from lorcbench.report.comparison import Change
from lorcbench.report.recommend import fronts
from lorcbench.report.results import CellResult, jobs
from lorcbench.report.tracking.records import KEY, LATEST, Record, records, span
from lorcbench.report.tracking.store import Store, opened
from lorcbench.report.tracking.view import COMPARED, TAG, addresses, local_folder, saved_view
from lorcbench.study.cells import Cell

DIGEST = "lorcbench.digest"  # of all that is logged
NUMBERS = "lorcbench.numbers"  # of the numbers alone
KIND = "mlflow.experimentKind"
NOTE = "mlflow.note.content"
LOGS = "logs"  # a failed run's artifacts: the logs of the jobs that failed
CELL = "cell.json"  # a run's artifact: all that was measured of the cell


@dataclass(frozen=True)
class Import:
    """What is brought into a store.

    Attributes:
        study, title: the study's name, and the line that describes it.
        results: all its cells, failed ones too.
        changes: what the finished cells lost to full precision.
    """

    study: str
    title: str
    results: list[CellResult]
    changes: dict[Cell, Change]


def track(imported: Import, store: Store) -> dict:
    """Bring a study's experiment in line with its results.

    Returns:
        ``experiment_id``, ``parent_run_id``, ``parent_artifacts`` (the URI of its artifacts, None if they would go into another
        project), ``runs`` (cell key → run id), how many runs of cells were ``created``, ``kept`` and ``deleted``, how many are
        ``former`` (of cells that the study no longer has), and ``pages`` (of `view.addresses`).

    Raises:
        TrackingError: the store cannot be reached, opened or written.
    """
    with opened(store) as client:
        experiment_id = study_experiment(client, store)
        stored = runs_by_key(client, experiment_id, imported.study, store)
        job_files = jobs(imported.results)
        spans = [known for result in imported.results if (known := span(result, job_files))]
        begun = min((start for start, _ in spans), default=None)
        parent = _parent(client, experiment_id, imported, store, stored.pop(imported.study, []), begun)
        by_key = records(imported.study, parent.info.run_id, imported.results, imported.changes, job_files)
        _describe(client, experiment_id, imported.title, by_key)
        former = [run for key in stored.keys() - by_key.keys() for run in stored.pop(key)]
        for run in former:
            _set_tags(client, run, {LATEST: "false"})
        runs = {}
        created = 0
        for key, record in by_key.items():
            same = next((run for run in stored.get(key, []) if _shows(run, record)), None)
            if same:
                stored[key].remove(same)
                _refresh(client, same, record, store)
            created += same is None
            runs[key] = same.info.run_id if same else _create(client, experiment_id, record, store)
        outdated = [run for same_key in stored.values() for run in same_key]
        for run in outdated:
            client.delete_run(run.info.run_id)
        status = "FINISHED" if all(result.status == "ok" for result in imported.results) else "FAILED"
        ended = max((end for _, end in spans), default=parent.info.end_time)
        if (parent.info.status, parent.info.end_time) != (status, ended):
            client.set_terminated(parent.info.run_id, status, ended)
    return {
        "experiment_id": experiment_id,
        "parent_run_id": parent.info.run_id,
        "parent_artifacts": parent.info.artifact_uri if store.may_write(parent.info.artifact_uri) else None,
        "pages": addresses(experiment_id, [runs[cell.key] for cell in compared(imported.results)]),
        "created": created,
        "kept": len(runs) - created,
        "deleted": len(outdated),
        "former": len(former),
        "runs": runs,
    }


def compared(results: list[CellResult]) -> list[Cell]:
    """The cells that the comparison page shows: those on the fronts, of a long front some from its smallest to its largest."""
    of_models: dict[str, list[Cell]] = {}
    for cell, better in fronts(sorted(results, key=lambda result: result.bits_per_weight or 0)).items():
        if better is None:
            of_models.setdefault(cell.model, []).append(cell)
    each = max(COMPARED // max(len(of_models), 1), 1)
    picked = []
    for cells in of_models.values():
        steps = min(each, len(cells))
        picked += [cells[round(place * (len(cells) - 1) / max(steps - 1, 1))] for place in range(steps)]
    return picked[:COMPARED]


def study_experiment(client: MlflowClient, store: Store) -> str:
    """The id of the study's experiment, made or brought back from MLflow's bin."""
    name = store.experiment
    root = store.artifact_root
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        folder = f"{root.rstrip('/')}/{name}" if "://" in root else (Path(root).resolve() / name.strip("/")).as_uri()
        # Left to itself MLflow makes a folder mlruns in whatever folder this runs in.
        return client.create_experiment(name, None if store.uri.startswith("http") else folder)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _describe(client: MlflowClient, experiment_id: str, title: str, by_key: dict[str, Record]) -> None:
    """What the experiment's page shows besides runs; a description that somebody wrote stays."""
    names = [{name for record in by_key.values() for name in getattr(record, kind)} for kind in ("params", "metrics")]
    there = client.get_experiment(experiment_id).tags
    for tag, value in {NOTE: title, KIND: "custom_model_development"}.items():
        if tag not in there:
            client.set_experiment_tag(experiment_id, tag, value)
    client.set_experiment_tag(experiment_id, TAG, saved_view(*names))


def runs_by_key(client: MlflowClient, experiment_id: str, study: str, store: Store) -> dict[str, list[Run]]:
    """The study's runs in the experiment that are one's own; those of users have no key, those of others another owner."""
    runs: dict[str, list[Run]] = {}
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.`{KEY}` != '' and tags.study = '{study}'", page_token=token)
        for run in filter(store.owns, page):
            runs.setdefault(run.data.tags[KEY], []).append(run)
        token = page.token
        if not token:
            return runs


def _parent(
    client: MlflowClient, experiment_id: str, imported: Import, store: Store, stored: list[Run], begun: int | None
) -> Run:
    """The study's own run, kept if there is one, with tags that sum the study up.

    Args:
        begun: when its first job did, in milliseconds.
    """
    ok = sum(result.status == "ok" for result in imported.results)
    tags = {
        KEY: imported.study,
        "study": imported.study,
        "cells": str(len(imported.results)),
        "cells_ok": str(ok),
        **store.tags,
    }
    if not stored:
        return client.create_run(experiment_id, begun, {**tags, **store.first_tags, NOTE: imported.title}, imported.study)
    _set_tags(client, stored[0], tags)
    return stored[0]


def _set_tags(client: MlflowClient, run: Run, tags: dict[str, str]) -> None:
    """Give a run tags; nothing is written if it has them."""
    if changed := [RunTag(name, value) for name, value in tags.items() if run.data.tags.get(name) != value]:
        client.log_batch(run.info.run_id, tags=changed)


def _shows(run: Run, record: Record) -> bool:
    """Whether the run was finished and holds the numbers of the record."""
    return (run.data.tags.get(NUMBERS), run.info.status) == (record.numbers, record.status)


def _all_tags(record: Record, store: Store) -> dict[str, str]:
    return {**record.tags, **store.tags, NUMBERS: record.numbers, DIGEST: record.digest}


def _refresh(client: MlflowClient, run: Run, record: Record, store: Store) -> None:
    """Bring a kept run up to date in all but its numbers: name, tags, further parameters, and its document."""
    if run.data.tags.get(DIGEST) != record.digest:
        if run.info.run_name != record.name:
            client.update_run(run.info.run_id, name=record.name)
        if added := [Param(*param) for param in record.params.items() if param[0] not in run.data.params]:
            client.log_batch(run.info.run_id, params=added)
        there = run.data.metrics
        if lacking := [Metric(*metric, run.info.end_time, 0) for metric in record.metrics.items() if metric[0] not in there]:
            client.log_batch(run.info.run_id, metrics=lacking)
        _write_document(client, run, record, store)
    _set_tags(client, run, _all_tags(record, store))


def _create(client: MlflowClient, experiment_id: str, record: Record, store: Store) -> str:
    """A new run that holds all of the record; returns its id."""
    now = int(time.time() * 1000)  # milliseconds
    begun, ended = record.span or (now, now)
    run = client.create_run(experiment_id, begun, {**_all_tags(record, store), **store.first_tags}, record.name)
    run_id = run.info.run_id
    _write_document(client, run, record, store)
    inputs = [
        DatasetInput(
            Dataset(data["name"], data["digest"], "lorcbench", data["source"], profile=data["profile"]),
            [InputTag("mlflow.data.context", data["context"])],
        )
        for data in record.datasets
    ]
    if inputs:
        client.log_inputs(run_id, inputs)
    metrics = [Metric(name, value, ended, 0) for name, value in record.metrics.items()]
    client.log_batch(run_id, metrics, [Param(*param) for param in record.params.items()])
    client.set_terminated(run_id, record.status, ended)
    return run_id


def _write_document(client: MlflowClient, run: Run, record: Record, store: Store) -> None:
    """The run's artifacts: all that was measured of the cell, and the logs of jobs that failed."""
    if not store.may_write(run.info.artifact_uri):
        return
    text = json.dumps(record.document, indent=1, sort_keys=True) + "\n"
    if folder := local_folder(run.info.artifact_uri):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CELL).write_text(text, encoding="utf-8")
        for name, log in record.logs.items():
            (folder / LOGS).mkdir(exist_ok=True)
            shutil.copyfile(log, folder / LOGS / name)
        return
    client.log_text(run.info.run_id, text, CELL)
    for name, log in record.logs.items():
        client.log_text(run.info.run_id, log.read_text(encoding="utf-8", errors="replace"), f"{LOGS}/{name}")

"""Finished results → MLflow: one experiment per study, in it one parent run, and under that one run per cell.

MLflow shows the result files; results do not live in it: the store can be deleted and is built again. One process
writes it, after the jobs (several processes that open a fresh SQLite store at once break it for good). Importing again
changes nothing: a run carries its cell's key and a digest of all that was logged. Only a run whose digest differs is
replaced, since MLflow neither changes a parameter nor forgets a metric. Start and end are those of the import; a
cell's own time is the metric ``system/seconds``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import time
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from lorcbench.common.artifacts import replacing
from lorcbench.report.comparison import Change
from lorcbench.report.results import CellResult
from lorcbench.report.tracking.records import KEY, Record, records
from lorcbench.report.tracking.view import TAG, addresses, local_folder, saved_view
from lorcbench.study.cells import Cell

# Read by MLflow while it is imported: usage reports go nowhere, setting up a store says nothing.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

DIGEST = "lorcbench.digest"
NOTE = "mlflow.note.content"
# MLflow would wait minutes for a server that is not there, and print two lines per run. The user's own settings stay.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
CELL = "cell.json"  # a run's artifact: all that was measured of the cell


class TrackingError(Exception):
    """The tracking store cannot be used; the message is one line that names it."""


def track(
    study_name: str,
    title: str,
    results: list[CellResult],
    changes: dict[Cell, Change],
    uri: str,
    artifact_root: str,
    rebuildable: bool = False,
) -> dict:
    """Bring a study's experiment in line with its results.

    Args:
        study_name, title: the experiment's and parent run's name, and the line that describes them.
        results: all cells of the study, failed ones too.
        changes: what the finished cells lost to full precision.
        uri: an MLflow tracking URI: a SQLite store (made if there is none), another database, or a server.
        artifact_root: folder or URI for the runs' artifacts; a server has its own and is not told.
        rebuildable: whether a SQLite store holds nothing but such imports, so that nothing is lost if the machine (not this
            process) crashes while it is written; writing is twice as fast for it.

    Returns:
        ``experiment_id``, ``parent_run_id``, ``parent_artifacts`` (the URI of its artifacts), ``runs`` (cell key → run id), how
        many runs of cells were ``created``, ``kept`` and ``deleted``, and ``pages`` (of `view.addresses`).

    Raises:
        TrackingError: the store cannot be reached, opened or written.
    """
    with _one_line_errors(uri), _settings(), _unsynchronized() if rebuildable else nullcontext():
        client = _open(uri)
        experiment_id = _experiment(client, study_name, uri, artifact_root)
        stored = _runs_by_key(client, experiment_id)
        parent = _parent(client, experiment_id, study_name, title, results, stored.pop(study_name, []))
        by_key = records(study_name, parent.info.run_id, results, changes)
        names = [{name for record in by_key.values() for name in getattr(record, kind)} for kind in ("params", "metrics")]
        client.set_experiment_tag(experiment_id, NOTE, title)
        client.set_experiment_tag(experiment_id, TAG, saved_view(*names))
        runs = {}
        created = 0
        for key, record in by_key.items():
            same = next((run for run in stored.get(key, []) if _shows(run, record)), None)
            if same:
                stored[key].remove(same)
            created += same is None
            runs[key] = same.info.run_id if same else _create(client, experiment_id, record)
        outdated = [run for same_key in stored.values() for run in same_key]
        for run in outdated:
            client.delete_run(run.info.run_id)
        status = "FINISHED" if all(result.status == "ok" for result in results) else "FAILED"
        if parent.info.status != status:
            client.set_terminated(parent.info.run_id, status)
    return {
        "experiment_id": experiment_id,
        "parent_run_id": parent.info.run_id,
        "parent_artifacts": parent.info.artifact_uri,
        "pages": addresses(experiment_id, [runs[key] for key, record in by_key.items() if record.status == "FINISHED"]),
        "created": created,
        "kept": len(runs) - created,
        "deleted": len(outdated),
        "runs": runs,
    }


def attach(uri: str, run_id: str, files: list[Path]) -> None:
    """Copy files to a run's artifacts, through the tracking server; what was there under their names is replaced.

    Raises:
        TrackingError: the server cannot be reached or refuses.
    """
    with _one_line_errors(uri), _settings():
        for file in files:
            MlflowClient(uri).log_artifact(run_id, str(file))


def without_password(text: str) -> str:
    """The text with stars in place of the user's name and password in addresses."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)


@contextmanager
def _one_line_errors(uri: str):
    """Whatever MLflow and its database raise becomes one line that names the store."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        reason = str(error).partition("[SQL:")[0]
        message = f"tracking store {uri}: {' '.join(reason.split())[:400]}"
        raise TrackingError(without_password(message)) from None


@contextmanager
def _settings():
    """SETTINGS hold while we talk to the store, and it logs no errors of its own: they arrive as exceptions too."""
    logger = logging.getLogger("mlflow.store")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    added = {name: value for name, value in SETTINGS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name in added:
            del os.environ[name]


@contextmanager
def _unsynchronized():
    """New connections to SQLite do not wait for the disk."""

    def connected(connection, _record) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", connected)
    try:
        yield
    finally:
        event.remove(Engine, "connect", connected)


def _open(uri: str) -> MlflowClient:
    """A client of the store; a SQLite store that is not there yet is set up."""
    database = make_url(uri).database if uri.startswith("sqlite:") else None
    if database and Path(database).is_file():
        # MLflow tries for minutes to open a file that is no database; this line fails at once.
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA schema_version")
    elif database:
        # A store whose set-up was killed half-way stays unusable, so it is set up beside its place, then renamed.
        with replacing(Path(database)) as fresh:
            MlflowClient(f"sqlite:///{fresh}").search_experiments()
    return MlflowClient(uri)


def _experiment(client: MlflowClient, name: str, uri: str, artifact_root: str) -> str:
    """The id of the study's experiment, made or brought back from MLflow's bin."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        root = artifact_root if "://" in artifact_root else Path(artifact_root).resolve().as_uri()
        # Left to itself MLflow makes a folder mlruns in whatever folder this runs in.
        location = None if uri.startswith("http") else f"{root.rstrip('/')}/{name}"
        return client.create_experiment(name, location)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _runs_by_key(client: MlflowClient, experiment_id: str) -> dict[str, list[Run]]:
    """The experiment's runs that are ours; a user's own runs have no key and are left alone."""
    runs: dict[str, list[Run]] = {}
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.`{KEY}` != ''", page_token=token)
        for run in page:
            runs.setdefault(run.data.tags[KEY], []).append(run)
        token = page.token
        if not token:
            return runs


def _parent(
    client: MlflowClient, experiment_id: str, study_name: str, title: str, results: list[CellResult], stored: list[Run]
) -> Run:
    """The study's own run, kept if there is one, with tags that sum the study up."""
    ok = sum(result.status == "ok" for result in results)
    tags = {KEY: study_name, "study": study_name, NOTE: title, "cells": str(len(results)), "cells_ok": str(ok)}
    if not stored:
        return client.create_run(experiment_id, tags=tags, run_name=study_name)
    client.log_batch(stored[0].info.run_id, tags=[RunTag(*tag) for tag in tags.items()])
    return stored[0]


def _shows(run: Run, record: Record) -> bool:
    """Whether the run was finished and holds all of the record."""
    return (run.data.tags.get(DIGEST), run.info.status) == (record.digest, record.status)


def _create(client: MlflowClient, experiment_id: str, record: Record) -> str:
    """A new run that holds all of the record; returns its id."""
    now = int(time.time() * 1000)  # milliseconds
    run = client.create_run(experiment_id, now, {**record.tags, DIGEST: record.digest}, record.name)
    run_id = run.info.run_id
    text = json.dumps(record.document, indent=1, sort_keys=True) + "\n"
    if folder := local_folder(run.info.artifact_uri):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CELL).write_text(text, encoding="utf-8")
    else:
        client.log_text(run_id, text, CELL)
    inputs = [
        DatasetInput(
            Dataset(data["name"], data["digest"], "lorcbench", data["source"], profile=data["profile"]),
            [InputTag("mlflow.data.context", data["context"])],
        )
        for data in record.datasets
    ]
    if inputs:
        client.log_inputs(run_id, inputs)
    metrics = [Metric(name, value, now, 0) for name, value in record.metrics.items()]
    client.log_batch(run_id, metrics, [Param(*param) for param in record.params.items()])
    client.set_terminated(run_id, record.status)
    return run_id

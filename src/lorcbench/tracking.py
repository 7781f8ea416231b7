"""Finished results → MLflow: one experiment a study, in it one parent run, and under that one run a cell.

MLflow shows the result files, it is not where results live: the store can be deleted and is built again. One process
writes it, after the jobs (several processes that open a fresh SQLite store at once break it for good). Importing again
changes nothing: a run carries its cell's key and a digest of all that was logged, and only a run whose digest differs
is replaced, since MLflow neither changes a parameter nor forgets a metric. Start and end are those of the import; a
cell's own time is the metric ``seconds``.
"""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from lorcbench.artifacts import fingerprint, replacing
from lorcbench.formats import WeightFormat
from lorcbench.intervals import mean_perplexity_difference, perplexity
from lorcbench.results import CellResult
from lorcbench.study import Cell

# Read by MLflow while it is imported: usage reports go nowhere, setting up a store says nothing.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

KEY, DIGEST = "lorcbench.key", "lorcbench.digest"
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
# MLflow would wait minutes for a server that is not there, and print two lines a run; a setting of the user's stays.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# They differ from one execution of the same work to the next.
UNDIGESTED = ("seconds", "peak_rss_mib")


class TrackingError(Exception):
    """The tracking store cannot be used; the message is one line that names it."""


@dataclass(frozen=True)
class Record:
    """What MLflow is told of one cell."""

    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def digest(self) -> str:
        """Changes when, and only when, something else than time and memory changed."""
        metrics = {key: value for key, value in self.metrics.items() if key not in UNDIGESTED}
        return fingerprint({**asdict(self), "metrics": metrics})


def track(study_name: str, title: str, results: list[CellResult], uri: str, artifact_root: str, resamples: int) -> dict:
    """Bring a study's experiment in line with its results.

    Args:
        study_name, title: the experiment's and parent run's name, and the line that describes them.
        results: all cells of the study, failed ones too.
        uri: an MLflow tracking URI: a SQLite store (made if there is none), another database, or a server.
        artifact_root: folder or URI for the runs' artifacts; a server has its own and is not told.
        resamples: of the confidence intervals.

    Returns:
        ``experiment_id``, ``parent_run_id``, ``runs`` (cell key → run id), and how many runs of cells were ``created``,
        ``kept`` and ``deleted``.

    Raises:
        TrackingError: the store cannot be reached, opened or written.
    """
    with _one_line_errors(uri), _settings():
        client = _open(uri)
        experiment_id = _experiment(client, study_name, uri, artifact_root)
        client.set_experiment_tag(experiment_id, NOTE, title)
        found = _runs_by_key(client, experiment_id)
        parent = _parent(client, experiment_id, study_name, title, results, found.pop(study_name, []))
        wanted = records(study_name, parent.info.run_id, results, resamples)
        runs, created = {}, 0
        for key, record in wanted.items():
            kept = next((run for run in found.get(key, []) if _shows(run, record)), None)
            if kept:
                found[key].remove(kept)
            created += kept is None
            runs[key] = kept.info.run_id if kept else _create(client, experiment_id, record)
        outdated = [run for same_key in found.values() for run in same_key]
        for run in outdated:
            client.delete_run(run.info.run_id)
        status = "FINISHED" if all(result.status == "ok" for result in results) else "FAILED"
        if parent.info.status != status:
            client.set_terminated(parent.info.run_id, status)
    return {
        "experiment_id": experiment_id,
        "parent_run_id": parent.info.run_id,
        "created": created,
        "kept": len(runs) - created,
        "deleted": len(outdated),
        "runs": runs,
    }


def comparison_url(experiment_id: str, run_ids: list[str]) -> str:
    """The path, below the server's address, of the page that compares these runs."""
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (run_ids, [experiment_id]))
    return f"/#/compare-runs?runs={runs}&experiments={experiments}"


def records(study_name: str, parent_run_id: str, results: list[CellResult], resamples: int) -> dict[str, Record]:
    """What is logged of each cell, by its key; differences are to the full-precision cell of the same model."""
    full_precision = {
        result.cell.model: result.nll
        for result in results
        if (result.cell.weight, result.cell.activation, result.status) == ("w16", "a16", "ok")
    }
    cells = [result.cell for result in results]
    # Which calibration and which kind of LoRC is worth a word only in a study that has several.
    telling = [axis for axis in ("calibration", "lorc") if len({getattr(cell, axis) for cell in cells} - {"none"}) > 1]
    return {
        result.cell.key: Record(
            name=_run_name(result.cell, telling),
            status="FINISHED" if result.status == "ok" else "FAILED",
            params=_params(result.cell, telling),
            metrics=_metrics(result, full_precision.get(result.cell.model), resamples),
            tags=_tags(result, study_name, parent_run_id),
        )
        for result in results
    }


def _run_name(cell: Cell, telling: list[str]) -> str:
    parts = [cell.model, cell.method, cell.weight, cell.activation, f"r{cell.rank}"]
    parts += [getattr(cell, axis) for axis in telling]
    return " ".join(part for part in parts if part not in ("none", "a16", "r0"))


def _params(cell: Cell, telling: list[str]) -> dict[str, str]:
    """The axes along which cells differ and no more: the comparison page starts with the first three of them."""
    weight = WeightFormat.parse(cell.weight)
    group = "none" if weight.is_full_precision else str(weight.group or "row")
    axes = {"model", "method", "weight", "activation", "lorc", "rank", *telling}
    return {**{axis: str(getattr(cell, axis)) for axis in sorted(axes)}, "bits": str(weight.bits), "group": group}


def _tags(result: CellResult, study_name: str, parent_run_id: str) -> dict[str, str]:
    """Tags repeat what a filter asks for: in MLflow's table a filter sees a run's own tags, not its parent's."""
    cell = result.cell
    tags = {KEY: cell.key, PARENT: parent_run_id, "study": study_name, "family": result.family, "size": cell.model}
    axes = ("method", "calibration", "weight", "activation", "lorc", "rank")
    tags |= {axis: str(getattr(cell, axis)) for axis in axes}
    tags |= {"status": result.status, "standin": str(result.standin).lower()}
    return {**tags, "reason": result.reason} if result.reason else tags


def _metrics(result: CellResult, baseline: dict[str, np.ndarray] | None, resamples: int) -> dict[str, float]:
    metrics = {
        "bits_per_weight": result.bits_per_weight,
        "max_damp": result.max_damp,
        "seconds": result.seconds,
        "peak_rss_mib": result.peak_rss_mib,
    }
    if result.bits_per_weight is not None and result.weights is not None:
        metrics["size_mbit"] = result.bits_per_weight * result.weights / 1e6
    if result.nll:
        metrics |= {f"ppl_{corpus}": perplexity(nll) for corpus, nll in result.nll.items()}
        metrics["ppl_mean"] = result.mean_ppl
    if result.nll and baseline:
        change = mean_perplexity_difference(result.nll, baseline, resamples)
        metrics |= {"delta_ppl": change.value, "delta_ppl_low": change.low, "delta_ppl_high": change.high}
        metrics |= {f"delta_nll_{corpus}": float(np.mean(nll - baseline[corpus])) for corpus, nll in result.nll.items()}
    # MLflow refuses most punctuation in names, which lm-eval uses: lambada/acc,none.
    metrics |= {re.sub(r"[^\w.-]+", "_", name): value for name, value in result.harness.items()}
    # A perplexity may overflow. Databases store inf as a huge number, which would flatten every chart.
    return {name: float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)}


@contextmanager
def _one_line_errors(uri: str):
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        message = f"tracking store {uri}: {' '.join(str(error).split())[:400]}"
        # The address may hold a password.
        raise TrackingError(re.sub(r"//[^/@\s]*@", "//***@", message)) from None


@contextmanager
def _settings():
    """SETTINGS, for as long as we talk to the store."""
    added = {name: value for name, value in SETTINGS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _open(uri: str) -> MlflowClient:
    database = make_url(uri).database if uri.startswith("sqlite:") else None
    if database and Path(database).is_file():
        # MLflow tries for minutes to open a file that is no database; this says so at once.
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA schema_version")
    elif database:
        # A store whose set-up was killed half-way stays unusable: set up beside its place, then renamed.
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
    found: dict[str, list[Run]] = {}
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.`{KEY}` != ''", page_token=token)
        for run in page:
            found.setdefault(run.data.tags[KEY], []).append(run)
        token = page.token
        if not token:
            return found


def _parent(
    client: MlflowClient, experiment_id: str, study_name: str, title: str, results: list[CellResult], found: list[Run]
) -> Run:
    """The study's own run, kept if there is one, with tags that sum the study up."""
    ok = sum(result.status == "ok" for result in results)
    tags = {KEY: study_name, "study": study_name, NOTE: title, "cells": str(len(results)), "cells_ok": str(ok)}
    if not found:
        return client.create_run(experiment_id, tags=tags, run_name=study_name)
    client.log_batch(found[0].info.run_id, tags=[RunTag(*tag) for tag in tags.items()])
    return found[0]


def _shows(run: Run, record: Record) -> bool:
    """Whether the run was finished and holds all of the record."""
    return (run.data.tags.get(DIGEST), run.info.status) == (record.digest, record.status)


def _create(client: MlflowClient, experiment_id: str, record: Record) -> str:
    now = int(time.time() * 1000)
    run_id = client.create_run(experiment_id, now, {**record.tags, DIGEST: record.digest}, record.name).info.run_id
    metrics = [Metric(name, value, now, 0) for name, value in record.metrics.items()]
    client.log_batch(run_id, metrics, [Param(*param) for param in record.params.items()])
    client.set_terminated(run_id, record.status)
    return run_id

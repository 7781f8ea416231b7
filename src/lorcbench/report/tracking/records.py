"""What is logged of each cell: name, parameters, metrics, tags, data sets, and a document. MLflow is not imported."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from lorcbench.common.artifacts import fingerprint
from lorcbench.config import compose
from lorcbench.report.comparison import Change
from lorcbench.report.intervals import perplexity
from lorcbench.report.results import CellResult, jobs, mebibytes
from lorcbench.study.cells import RECIPE, Cell

KEY = "lorcbench.key"
PARENT = "mlflow.parentRunId"
COMMIT = "mlflow.source.git.commit"
DEVICE = "device"  # the tag that says what computed the cell: a GPU by its name, or the CPU
MADE_BY = ("quantized", "factors", "evaluation")  # the jobs whose time is a cell's own
LATEST = "in_latest_import"  # the tag of a cell's run: whether the study still had the cell when it was last imported
PERCENT = "delta_ppl_percent"  # and its bounds: they follow from other metrics, so a run from before they were logged is kept
# These differ from one execution of the same work to the next.
UNDIGESTED = ("system/seconds", "system/peak_rss_mib", COMMIT, DEVICE)


@dataclass(frozen=True)
class Record:
    """What is logged of one cell.

    Attributes:
        name: of the run, for people.
        status: MLflow's: ``FINISHED`` or ``FAILED``.
        params: the axes in which the cells of the study differ.
        metrics: finite numbers; MLflow allows little punctuation in their names.
        tags: what filters may ask for.
        datasets: token streams: the arguments of MLflow's `Dataset`, and ``context``: ``calibration`` or ``eval``.
        document: all that was measured of the cell, which becomes an artifact.
        span: when the first of the jobs that made the cell began and the last one ended, in milliseconds since 1970; None if
            their records do not say, as those of earlier versions.
        logs: of a failed cell the logs of its failed jobs, by the name that they get.
    """

    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    datasets: list[dict[str, str]]
    document: dict
    span: tuple[int, int] | None = None
    logs: dict[str, Path] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Changes when, and only when, something else than time and memory changed."""
        logged = {name: value for name, value in vars(self).items() if name not in ("span", "logs")}
        for part in ("metrics", "tags"):
            logged[part] = _digested(logged[part])
        return fingerprint(logged)

    @property
    def numbers(self) -> str:
        """Changes when, and only when, a number of the cell changed, or what it was measured on, or whether it has any."""
        measured = [self.document[name] for name in ("nll", "kl", "agree", "harness", "tasks")]
        metrics = {name: value for name, value in _digested(self.metrics).items() if not name.startswith(PERCENT)}
        return fingerprint([self.status, self.tags.get("reason"), metrics, self.datasets, measured])


def _digested(entries: dict) -> dict:
    """Metrics or tags without those that differ from one execution of the same work to the next."""
    return {key: value for key, value in entries.items() if key not in UNDIGESTED}


def records(
    study_name: str,
    parent_run_id: str,
    results: list[CellResult],
    changes: dict[Cell, Change],
    job_files: dict[Path, dict] | None = None,
) -> dict[str, Record]:
    """What is logged of each cell, by its key.

    Args:
        study_name: a tag of each run.
        parent_run_id: the study's own run in MLflow.
        results: all cells of the study, failed ones too.
        changes: what the finished cells lost to full precision.
        job_files: of `lorcbench.report.results.jobs`, if they were read already.
    """
    cells = [result.cell for result in results]
    # Names and parameters tell the calibration, or the kind of LoRC, only in a study that has several.
    several = [axis for axis in ("calibration", "lorc") if len({getattr(cell, axis) for cell in cells} - {"none"}) > 1]
    all_params = [_params(cell, several) for cell in cells]
    # What all runs have in common would fill columns of the table and axes of the charts; tags tell it.
    differing = [axis for axis in (all_params[0] if cells else ()) if len({params[axis] for params in all_params}) > 1]
    job_files = jobs(results) if job_files is None else job_files
    sizes = _sizes(results)
    return {
        result.cell.key: Record(
            name=run_name(result.cell, several),
            status="FINISHED" if result.status == "ok" else "FAILED",
            params={axis: params[axis] for axis in differing},
            metrics=_metrics(result, changes.get(result.cell)),
            tags=_tags(result, study_name, parent_run_id, sizes[result.cell.model], job_files),
            datasets=_datasets(result, job_files),
            document=_document(result, study_name, job_files),
            span=span(result, job_files),
            logs={} if result.status == "ok" else _logs(result),
        )
        for result, params in zip(results, all_params, strict=True)
    }


def span(result: CellResult, job_files: dict[Path, dict]) -> tuple[int, int] | None:
    """When the first of the jobs that made a cell began and when the last one ended, in milliseconds since 1970."""
    folders = [result.folders[artifact] for artifact in MADE_BY if artifact in result.folders]
    runs = [run for folder in folders if (run := job_files[folder]["run"]) and "finished" in run]
    if not runs:
        return None
    ends = [datetime.fromisoformat(run["finished"]).timestamp() for run in runs]
    begins = [end - run["seconds"] for end, run in zip(ends, runs, strict=True)]
    return int(1000 * min(begins)), int(1000 * max(ends))


def _logs(result: CellResult) -> dict[str, Path]:
    """The logs of the jobs that failed."""
    failed = {artifact: folder for artifact, folder in result.folders.items() if (folder / "failed.json").is_file()}
    return {f"{artifact}.txt": log for artifact, folder in failed.items() if (log := folder / "log.txt").is_file()}


def run_name(cell: Cell, several: list[str]) -> str:
    """The cell in words, without the parts that say nothing."""
    parts = [cell.model, cell.method, cell.weight, cell.activation, f"r{cell.rank}"]
    parts += [getattr(cell, axis) for axis in several]
    return " ".join(part for part in parts if part not in ("none", "a16", "r0"))


def _params(cell: Cell, several: list[str]) -> dict[str, str]:
    """The axes of the study, and bits and group of the weights by themselves, so that charts can order by them."""
    weight = cell.weight_format
    group = "none" if weight.is_full_precision else str(weight.group or "row")
    bits = str(weight.bits)
    if weight.is_mixed:
        group, bits = "mixed", str(compose.load("method", cell.method).bits)
    axes = {"model", "method", "weight", "activation", "lorc", "rank", *several}
    return {**{axis: str(getattr(cell, axis)) for axis in sorted(axes)}, "bits": bits, "group": group}


def _tags(result: CellResult, study_name: str, parent_run_id: str, size: str, job_files: dict[Path, dict]) -> dict[str, str]:
    """Tags repeat what a filter asks for: in MLflow's table a filter sees a run's own tags, not its parent's."""
    cell = result.cell
    tags = {KEY: cell.key, PARENT: parent_run_id, "study": study_name, "family": result.family, "size": size}
    tags |= {axis: str(getattr(cell, axis)) for axis in RECIPE}
    tags |= {"status": result.status, "standin": str(result.standin).lower(), "mlflow.source.name": "lorcbench"}
    tags |= {LATEST: "true"}
    run = job_files.get(result.folders.get("evaluation"), {}).get("run") or {}
    optional = {"reason": result.reason, "origin": result.origin, DEVICE: result.device, COMMIT: run.get("commit")}
    return {**tags, **{name: value for name, value in optional.items() if value}}


def _sizes(results: list[CellResult]) -> dict[str, str]:
    """The size of each model for people: as in its name, ``125m``, or else by the weights of its blocks."""
    weights = {result.cell.model: result.weights for result in results if result.weights}
    return {model: _size(model, weights.get(model)) for model in {result.cell.model for result in results}}


def _size(model: str, weights: int | None) -> str:
    """The size of one model, from its name or its number of weights."""
    if in_name := re.search(r"\d+(?:\.\d+)?[mb]$", model, re.IGNORECASE):
        return in_name[0].lower()
    if weights is None:
        return "unknown"
    return f"{weights / 1e9:.1f}b" if weights >= 1e9 else f"{weights / 1e6:.2g}m"


def _datasets(result: CellResult, job_files: dict[Path, dict]) -> list[dict[str, str]]:
    """The token streams that the cell was measured on and calibrated with; named by model too, whose tokenizer made them."""
    model = result.cell.model
    streams = [
        {
            "context": "eval",
            "name": f"{corpus} {model}",
            "digest": stream["stream_sha256"][:16],
            "source": json.dumps({"text": stream["text"], "documents": stream["documents"]}),
            "profile": json.dumps({"tokens": stream["stream_tokens"], "windows": stream["windows"]}),
        }
        for corpus, stream in result.corpora.items()
        if stream.get("stream_sha256")
    ]
    tokens = job_files.get(result.folders.get("calibration"), {}).get("result")
    if tokens:
        settings = tokens["identity"]["settings"]
        profile = {name: settings[name] for name in ("n_samples", "length", "seed") if name in settings}
        texts = {corpus: about["text"] for corpus, about in tokens["corpora"].items()}
        stream = {"name": f"{result.cell.calibration} {model}", "digest": tokens["digest"][:16]}
        streams.append({"context": "calibration", **stream, "source": json.dumps(texts), "profile": json.dumps(profile)})
    return streams


def _document(result: CellResult, study_name: str, job_files: dict[Path, dict]) -> dict:
    """All that was measured of the cell, window by window, and from which jobs, by folder and digest."""
    fields = ("status", "reason", "standin", "bits_per_weight", "weights", "max_damp", "harness", "tasks", "corpora")
    jobs_of = {stage: {"folder": str(folder)} for stage, folder in result.folders.items()}
    for stage, folder in result.folders.items():
        if job_result := job_files[folder]["result"]:
            jobs_of[stage]["digest"] = job_result["digest"]
    measured = {name: getattr(result, name) for name in fields}
    measured["harness"] = {name: _json_number(value) for name, value in result.harness.items()}
    for name in ("nll", "kl", "agree"):
        series = getattr(result, name)
        measured[name] = {corpus: [_json_number(float(value)) for value in values] for corpus, values in series.items()}
    return {"study": study_name, "key": result.cell.key, **vars(result.cell), **measured, "jobs": jobs_of}


def _json_number(value: float) -> float | str:
    """The value; as text if it overflowed, which is no number in JSON."""
    return value if math.isfinite(value) else str(value)


def _metrics(result: CellResult, change: Change | None) -> dict[str, float]:
    """Size, cost, perplexities, what they lost to full precision and how far predictions are from it, and lm-eval's metrics."""
    metrics = {
        "bits_per_weight": result.bits_per_weight,
        "max_damp": result.max_damp,
        "system/seconds": result.seconds,
        "system/peak_rss_mib": result.peak_rss_mib,
    }
    if result.bits_per_weight is not None and result.weights is not None:
        metrics["size_mib"] = mebibytes(result.bits_per_weight, result.weights)
    if result.nll:
        metrics |= {f"ppl_{corpus}": perplexity(nll) for corpus, nll in result.nll.items()}
        metrics["ppl_mean"] = result.mean_ppl
    if change is not None:
        mean = change.mean
        baseline = change.baseline.nll
        metrics |= {"delta_ppl": mean.value, "delta_ppl_low": mean.low, "delta_ppl_high": mean.high}
        rise = change.relative
        metrics |= {PERCENT: 100 * rise.value, f"{PERCENT}_low": 100 * rise.low, f"{PERCENT}_high": 100 * rise.high}
        metrics |= {f"delta_nll_{corpus}": float(np.mean(nll - baseline[corpus])) for corpus, nll in result.nll.items()}
        for name, intervals in change.divergence.items():
            metrics |= {f"{name}_{part}": interval.value for part, interval in intervals.items()}
    # MLflow refuses most punctuation in names, which lm-eval uses: lambada/acc,none.
    metrics |= {re.sub(r"[^\w.-]+", "_", name): value for name, value in result.harness.items()}
    # A perplexity may overflow. Databases store inf as a huge number, which would flatten every chart.
    return {name: float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)}

"""What MLflow is told of each cell: names, parameters, metrics, tags, data sets, and a document. MLflow is not imported."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lorcbench.common.artifacts import fingerprint
from lorcbench.core.formats import WeightFormat
from lorcbench.report.claims import full_precision
from lorcbench.report.intervals import mean_perplexity_difference, perplexity
from lorcbench.report.results import CellResult, jobs
from lorcbench.study.cells import Cell

KEY = "lorcbench.key"
PARENT, COMMIT = "mlflow.parentRunId", "mlflow.source.git.commit"
# They differ from one execution of the same work to the next.
UNDIGESTED = ("system/seconds", "system/peak_rss_mib", COMMIT)


@dataclass(frozen=True)
class Record:
    """What MLflow is told of one cell.

    Attributes:
        datasets: token streams: the arguments of MLflow's `Dataset`, and ``context``: ``calibration`` or ``eval``.
        document: the cell's record, an artifact.
    """

    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    datasets: list[dict[str, str]]
    document: dict

    @property
    def digest(self) -> str:
        """Changes when, and only when, something else than time and memory changed."""
        told = asdict(self)
        for part in ("metrics", "tags"):
            told[part] = {key: value for key, value in told[part].items() if key not in UNDIGESTED}
        return fingerprint(told)


def records(study_name: str, parent_run_id: str, results: list[CellResult], resamples: int) -> dict[str, Record]:
    """What is logged of each cell, by its key; differences are to the full-precision cell of the same model."""
    baselines = {model: result.nll for model, result in full_precision(results).items()}
    cells = [result.cell for result in results]
    # Which calibration and which kind of LoRC is worth a word only in a study that has several.
    telling = [axis for axis in ("calibration", "lorc") if len({getattr(cell, axis) for cell in cells} - {"none"}) > 1]
    all_params = [_params(cell, telling) for cell in cells]
    # What all runs have in common would fill columns of the table and axes of the charts; tags tell it.
    differing = [axis for axis in (all_params[0] if cells else ()) if len({params[axis] for params in all_params}) > 1]
    left, sizes = jobs(results), _sizes(results)
    return {
        result.cell.key: Record(
            name=_run_name(result.cell, telling),
            status="FINISHED" if result.status == "ok" else "FAILED",
            params={axis: params[axis] for axis in differing},
            metrics=_metrics(result, baselines.get(result.cell.model), resamples),
            tags=_tags(result, study_name, parent_run_id, sizes, left),
            datasets=_datasets(result, left),
            document=_document(result, study_name, left),
        )
        for result, params in zip(results, all_params, strict=True)
    }


def _run_name(cell: Cell, telling: list[str]) -> str:
    parts = [cell.model, cell.method, cell.weight, cell.activation, f"r{cell.rank}"]
    parts += [getattr(cell, axis) for axis in telling]
    return " ".join(part for part in parts if part not in ("none", "a16", "r0"))


def _params(cell: Cell, telling: list[str]) -> dict[str, str]:
    """The axes of the study, and bits and group of the weights by themselves, so that charts can order by them."""
    weight = WeightFormat.parse(cell.weight)
    group = "none" if weight.is_full_precision else str(weight.group or "row")
    axes = {"model", "method", "weight", "activation", "lorc", "rank", *telling}
    return {**{axis: str(getattr(cell, axis)) for axis in sorted(axes)}, "bits": str(weight.bits), "group": group}


def _tags(
    result: CellResult, study_name: str, parent_run_id: str, sizes: dict[str, str], left: dict[Path, dict]
) -> dict[str, str]:
    """Tags repeat what a filter asks for: in MLflow's table a filter sees a run's own tags, not its parent's."""
    cell = result.cell
    tags = {KEY: cell.key, PARENT: parent_run_id, "study": study_name, "family": result.family, "size": sizes[cell.model]}
    axes = ("model", "method", "calibration", "weight", "activation", "lorc", "rank")
    tags |= {axis: str(getattr(cell, axis)) for axis in axes}
    tags |= {"status": result.status, "standin": str(result.standin).lower(), "mlflow.source.name": "lorcbench"}
    run = left.get(result.folders.get("evaluation"), {}).get("run") or {}
    optional = {"reason": result.reason, COMMIT: run.get("commit")}
    return {**tags, **{name: value for name, value in optional.items() if value}}


def _sizes(results: list[CellResult]) -> dict[str, str]:
    """The size of each model for people: as in its name, ``125m``, or else by the weights of its blocks."""
    counted = {result.cell.model: result.weights for result in results if result.weights}
    sizes = {}
    for model in {result.cell.model for result in results}:
        named, weights = re.search(r"\d+(?:\.\d+)?[mb]$", model, re.IGNORECASE), counted.get(model)
        spelled = f"{weights / 1e9:.1f}b" if weights and weights >= 1e9 else f"{weights / 1e6:.2g}m" if weights else "unknown"
        sizes[model] = named[0].lower() if named else spelled
    return sizes


def _datasets(result: CellResult, left: dict[Path, dict]) -> list[dict[str, str]]:
    """The token streams that the cell was measured on and calibrated with; named by model too, whose tokenizer made them."""
    model = result.cell.model
    found = [
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
    tokens = left.get(result.folders.get("calibration"), {}).get("result")
    if tokens:
        settings = tokens["identity"]["settings"]
        kept = {name: settings[name] for name in ("n_samples", "length", "seed") if name in settings}
        texts = {corpus: about["text"] for corpus, about in tokens["corpora"].items()}
        about = {"name": f"{result.cell.calibration} {model}", "digest": tokens["digest"][:16]}
        found.append({"context": "calibration", **about, "source": json.dumps(texts), "profile": json.dumps(kept)})
    return found


def _document(result: CellResult, study_name: str, left: dict[Path, dict]) -> dict:
    """The cell's record: what was measured, window by window, and from which jobs, by folder and digest."""
    fields = ("status", "reason", "standin", "bits_per_weight", "weights", "max_damp", "harness", "tasks", "corpora")
    jobs_of = {stage: {"folder": str(folder)} for stage, folder in result.folders.items()}
    for stage, folder in result.folders.items():
        if made := left[folder]["result"]:
            jobs_of[stage]["digest"] = made["digest"]
    told = {name: getattr(result, name) for name in fields}
    # A perplexity that overflowed is no JSON number.
    told["harness"] = {name: value if math.isfinite(value) else str(value) for name, value in result.harness.items()}
    nll = {corpus: [float(value) for value in values] for corpus, values in result.nll.items()}
    nll = {corpus: [value if math.isfinite(value) else str(value) for value in values] for corpus, values in nll.items()}
    return {"study": study_name, "key": result.cell.key, **vars(result.cell), **told, "nll": nll, "jobs": jobs_of}


def _metrics(result: CellResult, baseline: dict[str, np.ndarray] | None, resamples: int) -> dict[str, float]:
    metrics = {
        "bits_per_weight": result.bits_per_weight,
        "max_damp": result.max_damp,
        "system/seconds": result.seconds,
        "system/peak_rss_mib": result.peak_rss_mib,
    }
    if result.bits_per_weight is not None and result.weights is not None:
        metrics["size_mib"] = result.bits_per_weight * result.weights / 8 / 2**20
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

"""Finished result files → one record a cell: what the table, the figures, the claims and the tracker are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lorcbench.common.artifacts import read_json
from lorcbench.config import compose
from lorcbench.core.formats import WeightFormat
from lorcbench.report.intervals import Interval, mean_perplexity_difference, metric_difference, nll_difference, perplexity
from lorcbench.study.cells import Cell, Study

COLUMNS = (
    *(
        "study",
        "model",
        "family",
        "standin",
        "method",
        "weight",
        "activation",
        "rank",
        "lorc",
        "hessian",
        "calibration",
    ),
    *("seed", "protocol", "corpus", "windows", "stream_tokens", "stream_sha256"),
    *("ppl", "ppl_fp", "delta_nll", "delta_nll_low", "delta_nll_high", "delta_ppl"),
    *("delta_ppl_low", "delta_ppl_high", "bits_per_weight", "paper_bits", "weights", "max_damp", "seconds"),
    *("peak_rss_mib", "status", "reason", "derived_from"),
)
HARNESS_COLUMNS = (
    *(
        "study",
        "model",
        "method",
        "calibration",
        "weight",
        "activation",
        "lorc",
        "rank",
        "task",
        "version",
        "documents",
        "shots",
    ),
    *("prefix_token", "metric", "value", "stderr", "value_fp", "delta", "delta_low", "delta_high"),
)


@dataclass
class CellResult:
    """All that was measured of one cell.

    Attributes:
        cell: which.
        family, standin: of its model; `standin` says that the pipeline trained it, so its numbers are no published model's.
        hessian: GPTQ's setting, "" for other methods.
        seed: of the calibration, None without one.
        status: ``ok``, ``failed`` or ``not run``; `reason` says why.
        nll: per-window losses in nats a token, by corpus; empty unless ok.
        bits_per_weight: what is stored for the block linears: codes, scales, zero points and factors.
        weights: number of weights in the block linears.
        max_damp: the largest GPTQ damping that was needed, None without GPTQ.
        seconds, peak_rss_mib: of the jobs that made the cell (shared ones counted in full) and their largest memory.
        harness: lm-eval metrics, ``{"task/metric": value}``, standard errors as ``task/metric_stderr``.
        documents: what every document gives for a metric of lm-eval.
        tasks: version, number of documents and shots of each lm-eval task.
        prefix_token: what lm-eval put before a text without context.
        corpora: of each the text, its number of documents, whether they are the published ones, windows, and the token stream's
            length and hash.
        derived: "" for a measured cell; for one chosen from several by its perplexity, from which (`lorcbench.report.derived`).
        folders: of the jobs that the cell rests on, by stage, in the order in which they run.
    """

    cell: Cell
    family: str = ""
    standin: bool = False
    hessian: str = ""
    seed: int | None = None
    status: str = "not run"
    reason: str = ""
    nll: dict[str, np.ndarray] = field(default_factory=dict)
    bits_per_weight: float | None = None
    weights: int | None = None
    max_damp: float | None = None
    seconds: float | None = None
    peak_rss_mib: float | None = None
    harness: dict[str, float] = field(default_factory=dict)
    documents: dict[str, list] = field(default_factory=dict)
    tasks: dict[str, dict] = field(default_factory=dict)
    prefix_token: str = ""
    corpora: dict[str, dict] = field(default_factory=dict)
    derived: str = ""
    folders: dict[str, Path] = field(default_factory=dict)

    @property
    def mean_ppl(self) -> float:
        """Arithmetic mean of the corpora's perplexities, the paper's average."""
        return float(np.mean([perplexity(values) for values in self.nll.values()]))


def collect(study: Study) -> list[CellResult]:
    """One record a cell of the study, in its order, from whatever result files exist."""
    return [_collect(study, cell) for cell in study.cells]


def _collect(study: Study, cell: Cell) -> CellResult:
    method = compose.load("method", cell.method)
    result = CellResult(cell, hessian=getattr(method, "hessian", ""))
    if cell.calibration != "none":
        result.seed = compose.load("calibration", cell.calibration).seed
    folders = study.job_folders(cell)
    result.folders = {**folders, **study.harness_folder(cell)}
    checkpoint = _read(folders["checkpoint"], "checkpoint")
    result.family = checkpoint["family"] if checkpoint else study.model(cell.model).family or ""
    result.standin = study.model(cell.model).source == "standin"
    evaluation = _read(folders["evaluation"], "perplexity") or {"variants": {}}
    entry = evaluation["variants"].get(cell.variant)
    failed = next((found for folder in folders.values() if (found := _failure(folder, cell.variant))), None)
    if failed:
        result.status, result.reason = "failed", failed
        return result
    if entry is None:
        result.reason = _why_not(folders)
        return result
    result.status = "ok"
    result.corpora = evaluation.get("corpora", {})
    result.nll = {corpus: np.array(values) for corpus, values in entry["nll"].items()}
    result.weights = entry.get("weights")
    result.bits_per_weight = entry.get("bits_per_weight", 16.0)
    result.max_damp = entry.get("max_damp")
    runs = [run for stage in ("quantized", "factors", "evaluation") if (run := _run(folders.get(stage)))]
    result.seconds = round(sum(run["seconds"] for run in runs), 3)
    result.peak_rss_mib = max((run["peak_rss_mib"] for run in runs), default=None)
    if cell in study.harness:
        harness = _read(result.folders["harness"], "harness") or {"variants": {}}
        nothing = {"metrics": {}, "documents": {}, "tasks": {}, "prefix_token": {"text": ""}}
        measured = harness["variants"].get(cell.variant, nothing)
        result.harness, result.documents, result.tasks = measured["metrics"], measured["documents"], measured["tasks"]
        result.prefix_token = measured["prefix_token"]["text"]
    return result


def _read(folder: Path, kind: str) -> dict | None:
    path = folder / "result.json"
    return read_json(path, kind) if path.is_file() else None


def _run(folder: Path | None) -> dict | None:
    path = folder / "run.json" if folder else None
    return read_json(path, "run") if path and path.is_file() else None


def _failure(folder: Path, variant: str) -> str | None:
    """What a failed job left, if it was not followed by a success."""
    path = folder / "failed.json"
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["variants"] is None:
        return f"{record['stage']}: {record['reason']}"
    return f"{record['stage']}: {record['variants'][variant]}" if variant in record["variants"] else None


def _why_not(folders: dict[str, Path]) -> str:
    missing = next(
        stage for stage, folder in folders.items() if not (folder / "result.json").is_file() or stage == "evaluation"
    )
    started = (folders[missing] / "log.txt").is_file()
    return f"{missing}: killed without a record, or cut off" if started else f"{missing}: not run"


def rows(study: Study, results: list[CellResult], resamples: int) -> list[dict]:
    """The tidy table: one row a cell and corpus, and one for the mean of the corpora; one row for a cell without numbers."""
    baselines = {
        result.cell.model: result for result in results if result.cell.method == "none" and result.cell.activation == "a16"
    }
    table = []
    for result in results:
        shared = _shared_columns(study, result)
        baseline = baselines.get(result.cell.model)
        if result.status != "ok" or baseline is None or baseline.status != "ok":
            table.append(shared)
            continue
        for corpus in result.nll:
            delta = nll_difference(result.nll[corpus], baseline.nll[corpus], resamples)
            ppl, ppl_fp = perplexity(result.nll[corpus]), perplexity(baseline.nll[corpus])
            stream = result.corpora.get(corpus, {})
            numbers = {
                "corpus": corpus,
                **{name: stream.get(name, "") for name in ("windows", "stream_tokens", "stream_sha256")},
                "ppl": ppl,
                "ppl_fp": ppl_fp,
                "delta_nll": delta.value,
                "delta_ppl": ppl - ppl_fp,
            }
            table.append(shared | numbers | {"delta_nll_low": delta.low, "delta_nll_high": delta.high})
        mean = mean_perplexity_difference(result.nll, baseline.nll, resamples)
        numbers = {"corpus": "mean", "ppl": result.mean_ppl, "ppl_fp": baseline.mean_ppl, "delta_ppl": mean.value}
        table.append(shared | numbers | {"delta_ppl_low": mean.low, "delta_ppl_high": mean.high})
    return [{column: row.get(column, "") for column in COLUMNS} for row in table]


def harness_rows(study: Study, results: list[CellResult]) -> list[dict]:
    """The tidy table of lm-eval: one row a cell and metric, beside the same metric at full precision."""
    full = (result for result in results if result.cell.method == "none" and result.cell.activation == "a16")
    baselines = {result.cell.model: result for result in full}
    table = []
    for result in results:
        for name, value in result.harness.items():
            task, _, metric = name.rpartition("/")
            if metric.endswith("_stderr"):
                continue
            baseline = baselines.get(result.cell.model)
            change = task_difference(name, result, baseline)
            row = {"study": study.name, **vars(result.cell), **result.tasks.get(task, {}), "task": task, "metric": metric}
            row |= {"value": value, "stderr": result.harness.get(f"{name}_stderr"), "prefix_token": result.prefix_token}
            row |= dict.fromkeys(("value_fp", "delta", "delta_low", "delta_high"))
            if change:
                row |= {"value_fp": baseline.harness[name], "delta": change.value}
                row |= {"delta_low": change.low, "delta_high": change.high}
            table.append({column: "" if row[column] is None else row[column] for column in HARNESS_COLUMNS})
    return table


def task_difference(name: str, result: CellResult, baseline: CellResult | None) -> Interval | None:
    """The paired difference of an lm-eval metric to full precision, document by document; None without a counterpart."""
    if baseline is None or name not in result.documents or name not in baseline.documents:
        return None
    return metric_difference(name.rpartition("/")[2], result.documents[name], baseline.documents[name])


def _shared_columns(study: Study, result: CellResult) -> dict:
    cell = result.cell
    columns = {name: getattr(cell, name) for name in ("model", "method", "calibration", "weight", "activation", "lorc", "rank")}
    measured = (
        "family",
        "standin",
        "hessian",
        "seed",
        "bits_per_weight",
        "weights",
        "max_damp",
        "seconds",
        "peak_rss_mib",
    )
    columns |= {name: value for name in (*measured, "status", "reason") if (value := getattr(result, name)) is not None}
    paper_bits = WeightFormat.parse(cell.weight).paper_bits()
    return columns | {"study": study.name, "protocol": study.eval, "paper_bits": paper_bits, "derived_from": result.derived}


def jobs(results: list[CellResult]) -> dict[Path, dict]:
    """What the jobs under these cells left, each folder read once: ``{"result": …, "run": …}``, None for a file not there."""
    found = {}
    for folder in dict.fromkeys(folder for result in results for folder in result.folders.values()):
        paths = {name: folder / f"{name}.json" for name in ("result", "run")}
        found[folder] = {name: json.loads(path.read_text("utf-8")) if path.is_file() else None for name, path in paths.items()}
    return found


def run_records(results: list[CellResult]) -> list[Path]:
    """The run records of every job that the cells rest on, each once, in the order of the stages."""
    found: dict[str, dict[Path, None]] = {}
    for result in results:
        for stage, folder in result.folders.items():
            found.setdefault(stage, {})[folder / "run.json"] = None
    return [path for records in found.values() for path in records if path.is_file()]

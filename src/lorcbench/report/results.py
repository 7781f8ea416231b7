"""Finished result files → one record per cell: what tables, figures, claims and the tracker are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from lorcbench.common.artifacts import ArtifactError, canonical, read_json
from lorcbench.config import compose
from lorcbench.config import folders as config_folders
from lorcbench.report import devices
from lorcbench.report.exported import Files, files
from lorcbench.report.intervals import perplexity
from lorcbench.study import meaning
from lorcbench.study.cells import Cell, Study
from lorcbench.study.graph import jobs_of, upstream
from lorcbench.study.stages import SENSITIVITY, StageJob, sensitivities

NOT_RUN = "not run"  # of a job that did not even begin


@dataclass
class CellResult:
    """All that was measured of one cell.

    Attributes:
        cell: which one.
        family, standin: of its model; `standin` says that the pipeline trained it, so its numbers are no published model's.
        planted: of its model: outliers or dead inputs were planted, so that its numbers are evidence for no claim.
        full_precision: of its model: the parameters of a block that no method quantizes.
        origin: of its model, what stands beside its name, such as ``from a 4-bit GGUF``; "" for an ordinary checkpoint.
        hessian: GPTQ's setting, "" for other methods.
        seed: of the calibration, None without one.
        status: ``ok``, ``failed`` or ``not run``; `reason` says why.
        nll: losses per window, in nats per token, by corpus; empty unless ok.
        kl: divergence of the predictions from full precision's, a mean per window in nats per token, by corpus; full
            precision's own is 0. Empty if it was not measured, as by a protocol with ``divergence=false``.
        agree: share of the tokens of each window whose most likely one is full precision's, by corpus.
        bits_per_weight: what is stored for the block linears: codes, scales, zero points and factors.
        weights: number of weights in the block linears; None for full precision.
        parameters: numbers in the files of its model, embeddings and norms too; None where these files are not here.
        files: what these files hold; None as for `parameters`.
        max_damp: the largest GPTQ damping that was needed, None without GPTQ.
        seconds, peak_rss_mib: of the jobs that made the cell (shared ones counted in full) and their largest memory.
        device: what computed it: ``cpu``, the name of a GPU, or several with `` + `` between them; "" unless ok.
        harness: lm-eval metrics, ``{"task/metric": value}``, standard errors as ``task/metric_stderr``.
        documents: what each document gives for a metric of lm-eval, ``{"task/metric": values}``.
        tasks: version, number of documents and shots of each lm-eval task.
        prefix_token: what lm-eval put before a text without context.
        tasks_reason: of a cell that lm-eval was to measure and did not, why.
        channels: of full precision, how uneven the inputs of the linears are (`lorcbench.models.channels.unevenness`): one
            entry per block, by the first linear that reads the input.
        corpora: of each the text, its number of documents, whether they are the published ones, windows, tokens per window,
            and the token stream's length and hash.
        independent: the corpora whose windows the protocol draws one by one from random documents.
        derived: "" for a measured cell; for one chosen from several by its perplexity, from which (`lorcbench.report.derived`).
        folders: of the jobs that the cell rests on, by stage, in the order in which they run.
    """

    cell: Cell
    family: str = ""
    standin: bool = False
    planted: bool = False
    full_precision: tuple[str, ...] = ()
    origin: str = ""
    hessian: str = ""
    seed: int | None = None
    status: str = "not run"
    reason: str = ""
    nll: dict[str, np.ndarray] = field(default_factory=dict)
    kl: dict[str, np.ndarray] = field(default_factory=dict)
    agree: dict[str, np.ndarray] = field(default_factory=dict)
    bits_per_weight: float | None = None
    weights: int | None = None
    parameters: int | None = None
    files: Files | None = None
    max_damp: float | None = None
    seconds: float | None = None
    peak_rss_mib: float | None = None
    device: str = ""
    harness: dict[str, float] = field(default_factory=dict)
    documents: dict[str, list] = field(default_factory=dict)
    tasks: dict[str, dict] = field(default_factory=dict)
    prefix_token: str = ""
    tasks_reason: str = ""
    channels: dict[str, list[dict]] = field(default_factory=dict)
    corpora: dict[str, dict] = field(default_factory=dict)
    independent: frozenset[str] = frozenset()
    derived: str = ""
    folders: dict[str, Path] = field(default_factory=dict)

    @property
    def mean_ppl(self) -> float:
        """Arithmetic mean of the corpora's perplexities, the paper's average."""
        return float(np.mean([perplexity(values) for values in self.nll.values()]))


def mebibytes(bits_per_weight: float, weights: int) -> float:
    """The size of `weights` weights, in MiB."""
    return bits_per_weight * weights / 8 / 2**20


def collect(study: Study) -> list[CellResult]:
    """One record per cell of the study, in its order, from whatever result files exist.

    Raises:
        ArtifactError: a result file is damaged, or of another kind or format.
    """
    foreign: dict[Path, str | None] = {}
    return [_collect(study, cell, foreign) for cell in study.cells]


def _collect(study: Study, cell: Cell, foreign: dict[Path, str | None]) -> CellResult:
    """What is known of one cell: its model, why it has no numbers, or its numbers.

    Args:
        foreign: what `_foreign` said of the jobs of other cells, by folder; added to.
    """
    method = compose.load("method", cell.method)
    result = CellResult(cell, hessian=getattr(method, "hessian", ""))
    if cell.calibration != "none":
        result.seed = compose.load("calibration", cell.calibration).seed
    jobs = jobs_of(study, cell)
    # There is a sensitivity per candidate of mixed formats, and the cell rests on all of them.
    of_candidates = {f"{job.stage.artifact} {job.names.weight}": job for job in sensitivities(study.wildcards(cell))}
    beneath = {artifact: job for artifact, job in jobs.items() if artifact != SENSITIVITY.artifact} | of_candidates
    for job in beneath.values():
        if job.folder not in foreign:
            foreign[job.folder] = _foreign(study, job)
    result.folders = {artifact: job.folder for artifact, job in beneath.items()}
    folders = {artifact: folder for artifact, folder in result.folders.items() if artifact != "harness"}
    checkpoint = _read(folders["checkpoint"], "checkpoint")
    result.family = checkpoint["family"] if checkpoint else study.model(cell.model).family or ""
    result.full_precision = tuple((checkpoint or {}).get("architecture", {}).get("full_precision", ()))
    if checkpoint:
        place = folders["checkpoint"] / checkpoint["folder"]
        result.parameters = config_folders.parameters(place)
        result.files = _files(place, canonical(checkpoint.get("architecture", {})))
    result.standin = study.model(cell.model).source == "standin"
    result.planted = study.model(cell.model).planted
    if study.model(cell.model).source == "gguf":
        bits = f"{checkpoint['gguf']['bits']}-bit " if checkpoint else ""
        result.origin = f"from a {bits}GGUF"
    evaluation = _read(folders["evaluation"], "perplexity") or {"variants": {}}
    reasons = [_failure(folder, cell.variant) or foreign[folder] for folder in folders.values()]
    if reason := next(filter(None, reasons), None):
        result.status = "failed"
        result.reason = reason
    elif cell.variant not in evaluation["variants"]:
        result.reason = _why_not(study, jobs["evaluation"])
    else:
        _fill(result, evaluation, folders)
        if cell in study.harness and not foreign[result.folders["harness"]]:
            _fill_harness(result)
        if cell in study.harness and not result.harness:
            job = jobs["harness"]
            result.tasks_reason = _failure(job.folder, cell.variant) or foreign[job.folder] or _why_not(study, job)
    return result


@cache
def _files(folder: Path, architecture: str) -> Files | None:
    """What the files of a checkpoint hold, which all its cells ask; its record is JSON. None without a record."""
    return files(folder, about) if (about := json.loads(architecture)) else None


def _foreign(study: Study, job: StageJob) -> str | None:
    """Why a job's result is not what its names mean; None if it is, or if there is none."""
    path = job.folder / "result.json"
    try:
        if path.is_file():
            meaning.check(job, study.entry, read_json(path, job.stage.kind))
    except ArtifactError as error:
        return str(error)
    return None


def _fill(result: CellResult, evaluation: dict, folders: dict[str, Path]) -> None:
    """Perplexities, size and cost of a cell that was measured."""
    measured = evaluation["variants"][result.cell.variant]
    result.status = "ok"
    protocol = evaluation["identity"]["settings"]
    result.corpora = {name: {"window": protocol["window"]} | about for name, about in evaluation.get("corpora", {}).items()}
    result.independent = frozenset(name for name, corpus in protocol["corpora"].items() if corpus["sampling"] == "documents")
    for name in ("nll", "kl", "agree"):
        setattr(result, name, {corpus: np.array(values) for corpus, values in measured.get(name, {}).items()})
    result.weights = measured.get("weights")
    result.channels = measured.get("channels", {})
    result.bits_per_weight = measured.get("bits_per_weight", 16.0)
    result.max_damp = measured.get("max_damp")
    own = ["quantized", "factors", "evaluation", *(name for name in folders if name.startswith(SENSITIVITY.artifact))]
    runs = [run for stage in own if (run := run_of(folders.get(stage)))]
    result.seconds = round(sum(run["seconds"] for run in runs), 3)
    result.peak_rss_mib = max((run["peak_rss_mib"] for run in runs), default=None)
    before = [run_of(folders.get(artifact)) for artifact in ("statistics", "hessians", "quantized", "factors")]
    measured_on = devices.of_variant(evaluation, result.cell.variant, run_of(folders["evaluation"]))
    result.device = devices.together([*(devices.named(run) for run in before if run), measured_on])


def _fill_harness(result: CellResult) -> None:
    """What lm-eval measured of the cell, if it did already."""
    harness = _read(result.folders["harness"], "harness") or {"variants": {}}
    if measured := harness["variants"].get(result.cell.variant):
        result.harness = measured["metrics"]
        result.documents = measured["documents"]
        result.tasks = measured["tasks"]
        result.prefix_token = measured["prefix_token"]["text"]


def _read(folder: Path, kind: str) -> dict | None:
    path = folder / "result.json"
    return read_json(path, kind) if path.is_file() else None


def run_of(folder: Path | None) -> dict | None:
    """The record of the job in a folder: time, memory, host; None if there is no folder, or no record in it.

    Raises:
        ArtifactError: it is damaged.
    """
    path = folder / "run.json" if folder else None
    return read_json(path, "run") if path and path.is_file() else None


def commit_of(run: dict, digits: int | None = None) -> str:
    """The commit whose code ran a job, and whether the checkout differed from it, in words; "" where there is none.

    Args:
        digits: of the commit, None for all.
    """
    commit = (run.get("commit") or "")[:digits]
    return f"{commit}, with changes" if commit and run.get("with_changes") else commit


def _failure(folder: Path, variant: str | None = None) -> str | None:
    """What a failed job left, if no success followed it.

    Args:
        variant: whose failure counts, where that of some ranks left the others alone; None is any of them.
    """
    path = folder / "failed.json"
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    of_variants = record["variants"]
    if of_variants is None or variant is None:
        return f"{record['stage']}: {record['reason']}"
    return f"{record['stage']}: {of_variants[variant]}" if variant in of_variants else None


def _why_not(study: Study, last: StageJob) -> str:
    """Why a job did not run: the failure of another that has to finish before it, else the first without a result.

    A job whose file lacks a cell, though all that it reads is there, is the last one itself.
    """
    jobs = upstream(study, last)
    if reason := next(filter(None, (_failure(job.folder) for job in jobs if job.folder != last.folder)), None):
        return reason
    missing = next((job for job in jobs if not (job.folder / "result.json").is_file()), last)
    started = (missing.folder / "log.txt").is_file()
    return f"{missing.stage.artifact}: {'killed without a record, or cut off' if started else NOT_RUN}"


def jobs(results: list[CellResult]) -> dict[Path, dict]:
    """What the jobs under these cells left, each folder read once: ``{"result": …, "run": …}``, None for a missing file."""
    folders = dict.fromkeys(folder for result in results for folder in result.folders.values())
    return {folder: {name: _parsed(folder / f"{name}.json") for name in ("result", "run")} for folder in folders}


def _parsed(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def stage_costs(results: list[CellResult]) -> list[dict]:
    """Jobs, seconds, largest memory and devices of each stage that the cells rest on: one record per stage, in their order."""
    folders: dict[str, dict[Path, None]] = {}  # each job once, however many cells share it
    for result in results:
        for name, folder in result.folders.items():
            folders.setdefault(name, {})[folder] = None
    runs: dict[str, list[dict]] = {}
    for run in (run for same in folders.values() for folder in same if (run := run_of(folder))):
        runs.setdefault(run["stage"], []).append(run)
    return [
        {
            "stage": stage,
            "jobs": len(records),
            "seconds": round(sum(record["seconds"] for record in records), 1),
            "peak_rss_mib": max(record["peak_rss_mib"] for record in records),
            "device": devices.together(map(devices.named, records)),
        }
        for stage, records in runs.items()
    ]

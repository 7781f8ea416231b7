"""Synthetic results of a study, and their import into a store, for the tests of what MLflow is told."""

from __future__ import annotations

import numpy as np

from lorcbench.report import tracking
from lorcbench.report.comparison import changes
from lorcbench.report.results import CellResult
from lorcbench.report.tracking.place import Owner
from lorcbench.report.tracking.runs import Import

# MlflowClient from there: MLflow imported any earlier would send usage reports.
from lorcbench.report.tracking.store import MlflowClient, Store
from lorcbench.study.cells import Cell

CORPORA = ("prose", "code")
FAILED = "model-b/gptq/self/w2-asym-row/a16/r0"
ANN = Owner("a" * 32, None, "laptop:/home/ann/results", "ann")
BOB = Owner("b" * 32, None, "desktop:/home/bob/results", "bob")


def result(model: str, method: str, weight: str, rank: int = 0, **changes) -> CellResult:
    """A synthetic result; the fewer the bits, the larger its losses."""
    calibration = "self" if method == "gptq" else "none"
    cell = Cell(model, method, calibration, weight, "a16", "a16", "plain-int8" if rank else "none", rank)
    rng = np.random.default_rng(0)
    worse = {"w16": 0.0, "w4": 0.01, "w2": 0.5}[weight.partition("-")[0]] / (1 + rank)
    nll = {corpus: 2 + worse * rng.uniform(0.9, 1.1, 60) + rng.normal(0, 0.1, 60) for corpus in CORPORA}
    fields = {"family": "opt", "standin": model == "model-a", "status": "ok", "nll": nll, "bits_per_weight": 4.25}
    fields |= {"weights": 2_000_000, "seconds": 3.0, "peak_rss_mib": 500.0}
    return CellResult(cell, **{**fields, **changes})


def study_results() -> list[CellResult]:
    """12 cells of 2 models; one failed, one has lm-eval metrics."""
    results = []
    for model in ("model-a", "model-b"):
        recipes = [("none", "w16"), ("rtn", "w4-asym-g32"), ("rtn", "w2-asym-g32"), ("gptq", "w4-asym-g32")]
        results += [result(model, *recipe) for recipe in [*recipes, ("gptq", "w2-asym-row")]]
        results += [result(model, "gptq", "w2-asym-g32", rank=8)]
    broken = {"status": "failed", "reason": "Hessian of fc1 is not positive definite", "nll": {}, "seconds": None}
    results[10] = result("model-b", "gptq", "w2-asym-row", bits_per_weight=None, weights=None, **broken)
    results[1].harness = {"lambada/acc,none": 0.25, "lambada/perplexity": float("inf")}
    return results


def track(name: str, title: str, results: list[CellResult], uri: str, artifacts: str, owner: Owner = ANN, **where) -> dict:
    """Import results by themselves, into an experiment of the study's name."""
    store = Store(uri, artifacts, **{"experiment": name, "owner": owner, **where})
    return tracking.runs.track(Import(name, title, results, changes(results)), store)


def imported(uri: str, results: list[CellResult], owner: Owner = ANN, **where) -> dict:
    return track("tiny", "A tiny study", results, uri, uri.removeprefix("sqlite:///") + ".artifacts", owner, **where)


def runs_of(uri: str, experiment_id: str, query: str = "") -> dict[str, object]:
    return {run.data.tags["lorcbench.key"]: run for run in MlflowClient(uri).search_runs([experiment_id], query)}

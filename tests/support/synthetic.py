"""Synthetic cell results for the tests of claims, figures and page: what each recipe costs is chosen, the windows are noise."""

import numpy as np

from lorcbench.config import compose
from lorcbench.config.schema import StudyConfig
from lorcbench.report.results import CellResult
from lorcbench.study import published
from lorcbench.study.cells import Cell, Study

WINDOWS = {"reference": 3.6, "docstrings": 3.85, "source": 4.1}  # mean loss at full precision


class Wildcards(dict):
    """As Snakemake hands them over: a mapping whose keys are attributes."""

    __getattr__ = dict.__getitem__


def result(name: str, loss: float = 0.0, noise: float = 0.002, seed: int = 0, **changes) -> CellResult:
    """A finished cell whose losses are `loss` above full precision's on average.

    Args:
        name: ``model method weight rank``, such as ``opt-standin-s gptq w2-asym-row r8``.
        noise: standard deviation of the difference of a window to full precision's.
        changes: fields of the result to set otherwise.
    """
    model, method, weight, rank = name.split()
    calibration = "none" if method in ("none", "rtn") else "stdlib"
    lorc = "none" if rank == "r0" else "plain-int8"
    cell = Cell(model, method, calibration, weight, "a16", "a16", lorc, int(rank[1:]))
    windows, own = np.random.default_rng(0), np.random.default_rng(seed)
    nll = {
        corpus: mean + 0.3 * windows.standard_normal(96) + loss + noise * own.standard_normal(96) * (method != "none")
        for corpus, mean in WINDOWS.items()
    }
    bits = 16.0 if method == "none" else int(weight[1]) + 0.25 + 0.1 * cell.rank
    fields = {"family": model.partition("-")[0], "standin": "standin" in model, "status": "ok", "nll": nll}
    fields |= {"bits_per_weight": bits, "weights": None if method == "none" else 786_432, "seconds": 2.5}
    fields |= {"peak_rss_mib": 512.0, "max_damp": 0.01 if method.startswith("gptq") else None}
    return CellResult(cell, **(fields | changes))


def results(models: tuple[str, ...] = ("opt-standin-s", "bloom-standin-s")) -> list[CellResult]:
    """A small study in which GPTQ, groups and LoRC all help: 27 cells of each model."""
    found, seed = [], 0
    for model in models:
        found.append(result(f"{model} none w16 r0"))
        for method, share in (("rtn", 1.0), ("gptq", 0.6)):
            for weight, loss in (("w8-asym-row", 0.0002), ("w4-asym-row", 0.02), ("w3-asym-row", 0.1), ("w2-asym-row", 0.4)):
                for group, kept in (("row", 1.0), ("g32", 0.7)):
                    for rank, left in (("r0", 1.0), ("r8", 0.8)):
                        if weight.startswith("w8") and (group, rank) != ("row", "r0"):
                            continue
                        seed += 1
                        name = f"{model} {method} {weight.replace('row', group)} {rank}"
                        found.append(result(name, loss * share * kept * left, seed=seed))
    return found


def study(found: list[CellResult], title: str = "A synthetic study", **changes) -> Study:
    """The study that these results are of."""
    fields = {"name": "synthetic", "config": StudyConfig(title=title, eval="stdlib"), "eval": "stdlib", "tasks": ()}
    fields |= {"cells": tuple(result.cell for result in found), "harness": (), "not_applicable": (), "folders": {}}
    return Study(**(fields | changes))


def printed(expanded: Study, factor: float = 1.0) -> list[CellResult]:
    """Results that are the published numbers times `factor`, of the cells of a study whose three perplexities are printed."""
    places = {}
    for row in published.studied():
        comparable = published.PROTOCOLS[row.source] == expanded.eval and row.seed is row.lr is None and not row.misprinted
        if comparable and row.corpus != "mean":
            places.setdefault((row.model, row.method, row.weight, row.activation, row.rank), {})[row.corpus] = row.ppl
    found = []
    for cell in expanded.cells:
        formats = published.without_convention(cell.weight), published.without_convention(cell.activation)
        triple = places.get((cell.model, cell.method, *formats, cell.rank), {})
        nll = {corpus: np.full(64, np.log(ppl * factor)) for corpus, ppl in triple.items()}
        family = cell.model.partition("-")[0]
        found.append(CellResult(cell, family, status="ok" if nll else "not run", nll=nll))
    return found


def printed_means(expanded: Study) -> list[CellResult]:
    """Results whose corpora all have the published mean; where only the best method's is printed, it is taken for GPTQ's."""
    places = {}
    for row in published.studied():
        if row.corpus == "mean" and row.lr is None and row.seed is None and not row.misprinted and np.isfinite(row.ppl):
            places.setdefault((row.model, row.method, row.weight, row.activation, row.rank, row.lorc_bits), row.ppl)
    found = []
    for cell in expanded.cells:
        recipe = (cell.weight, cell.activation, cell.rank, compose.load("lorc", cell.lorc).bits if cell.rank else None)
        methods = [cell.method, "best"] if cell.method == "gptq" else [cell.method]
        ppl = next((places[place] for method in methods if (place := (cell.model, method, *recipe)) in places), None)
        if ppl is not None:
            nll = {corpus: np.full(8, np.log(ppl)) for corpus in published.CORPORA}
            found.append(CellResult(cell, cell.model.partition("-")[0], status="ok", nll=nll))
    return found

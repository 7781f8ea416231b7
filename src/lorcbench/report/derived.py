"""Results that are chosen from measured ones by their own perplexity, as the papers' tables choose.

``zq_local*`` and ``zq_global*`` are the best of several learning rates of one recipe, ``best`` is the best of the methods that
optimize. Both see the test text, so they are too good by a little, and never stand in for a measured cell: they carry
`CellResult.derived`. Distillation's own default chooses its learning rate by held-out calibration loss.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from lorcbench.config import compose
from lorcbench.config.recipes import Method
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell

BEST = "best"
_RATE = re.compile(r"\+lr=[^+]+")


def derive(results: list[CellResult]) -> list[CellResult]:
    """The best learning rate of every recipe that has several, and the best method where two or more were measured."""
    finished = [result for result in results if result.status == "ok" and math.isfinite(result.mean_ppl)]
    rates = _best_rates(finished)
    return [*rates, *_best_methods([*finished, *rates])]


def base_method(method: str) -> str:
    """The method that a variant or a derived result belongs to: ``zq_local`` of ``zq_local*+iterations=128``."""
    return method.partition("+")[0].rstrip("*")


def settings_of(method: str) -> Method:
    """The settings of the base method of a variant or a derived result; `BEST` is no method and has those of ``none``."""
    return compose.load("method", "none" if method == BEST else base_method(method))


def _best_rates(results: list[CellResult]) -> list[CellResult]:
    found: dict[Cell, list[CellResult]] = {}
    for result in results:
        if _RATE.search(result.cell.method):
            stem, plus, changes = _RATE.sub("", result.cell.method).partition("+")
            found.setdefault(replace(result.cell, method=f"{stem}*{plus}{changes}"), []).append(result)
    return [
        _chosen(cell, rates, f"{len(rates)} learning rates")
        for cell, rates in found.items()
        if len({result.cell.method for result in rates}) > 1
    ]


def _best_methods(results: list[CellResult]) -> list[CellResult]:
    found: dict[Cell, list[CellResult]] = {}
    for result in results:
        if settings_of(result.cell.method).optimizes and not _RATE.search(result.cell.method):
            found.setdefault(replace(result.cell, method=BEST, trained="a16"), []).append(result)
    return [
        _chosen(cell, methods, ", ".join(dict.fromkeys(result.cell.method for result in methods)))
        for cell, methods in found.items()
        if len({base_method(result.cell.method) for result in methods}) > 1
    ]


def _chosen(cell: Cell, results: list[CellResult], among: str) -> CellResult:
    best = min(results, key=lambda result: result.mean_ppl)
    return replace(best, cell=cell, derived=f"{best.derived or best.cell.method}; lowest test perplexity of {among}")

"""Results that are chosen from measured ones by their own perplexity, as the papers' tables choose.

``zq_local*`` and ``zq_global*`` are the best of several learning rates of one recipe, ``best`` is the best of the methods that
optimize. Both choices see the test text, so they are too good by a little. They never stand in for a measured cell: they carry
`CellResult.derived`. Distillation's own default chooses its learning rate by held-out calibration loss.
"""

from __future__ import annotations

import math
from dataclasses import replace

from lorcbench.config import compose
from lorcbench.config.recipes import Method
from lorcbench.config.variants import Variant
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell

BEST = "best"


def derive(results: list[CellResult]) -> list[CellResult]:
    """The best learning rate of each recipe that has several, and the best method where two or more were measured."""
    finished = [result for result in results if result.status == "ok" and math.isfinite(result.mean_ppl)]
    starred = _best_rates(finished)
    return [*starred, *_best_methods([*finished, *starred])]


def base_method(method: str) -> str:
    """The conf file that a variant, or a derived result, is of: ``zq_local`` of ``zq_local*+iterations=128``."""
    return Variant.parse(without_star(method)).stem


def without_star(method: str) -> str:
    """The recipe that a star is the best of: ``zq_local+iterations=128`` of ``zq_local*+iterations=128``."""
    variant = Variant.parse(method)
    return str(replace(variant, stem=variant.stem.removesuffix("*")))


def without_rate(method: str) -> str:
    """The method's name without its learning rate."""
    return str(Variant.parse(method).without("lr"))


def best_of_rates(results: list[CellResult]) -> dict[Cell, CellResult]:
    """Of the cells that differ in the learning rate only, the best one, keyed by their common cell without a rate.

    Where no two cells differ so, all keep their own names.
    """
    best: dict[Cell, CellResult] = {}
    for result in results:
        cell = replace(result.cell, method=without_rate(result.cell.method))
        if cell not in best or result.mean_ppl < best[cell].mean_ppl:
            best[cell] = result
    return best if len(best) < len(results) else {result.cell: result for result in results}


def settings_of(method: str) -> Method:
    """The settings of the base method of a variant or a derived result; `BEST` is no method and has those of ``none``."""
    return compose.load("method", "none" if method == BEST else base_method(method))


def changed_settings_of(method: str) -> Method:
    """The settings of a variant, with what its name changes; of a derived result as `settings_of`, but for its star."""
    return compose.load("method", "none" if method == BEST else without_star(method))


def _best_rates(results: list[CellResult]) -> list[CellResult]:
    """The best learning rate of each recipe that has several, under its method's name with a star."""
    sweeps: dict[Cell, list[CellResult]] = {}
    for result in results:
        method = Variant.parse(result.cell.method)
        if method.setting("lr") is not None:
            starred = replace(method.without("lr"), stem=f"{method.stem}*")
            sweeps.setdefault(replace(result.cell, method=str(starred)), []).append(result)
    return [
        _chosen(cell, sweep, f"{len(sweep)} learning rates")
        for cell, sweep in sweeps.items()
        if len({result.cell.method for result in sweep}) > 1
    ]


def _best_methods(results: list[CellResult]) -> list[CellResult]:
    """The best of the optimizing methods at each format and rank; of a sweep of learning rates only its best takes part."""
    rivals: dict[Cell, list[CellResult]] = {}
    for result in results:
        one_rate = Variant.parse(result.cell.method).setting("lr") is not None
        if settings_of(result.cell.method).optimizes and not one_rate:
            rivals.setdefault(replace(result.cell, method=BEST, trained="a16"), []).append(result)
    return [
        _chosen(cell, methods, ", ".join(dict.fromkeys(result.cell.method for result in methods)))
        for cell, methods in rivals.items()
        if len({base_method(result.cell.method) for result in methods}) > 1
    ]


def _chosen(cell: Cell, results: list[CellResult], among: str) -> CellResult:
    """The result of lowest perplexity under the name of `cell`; it says what it was chosen from."""
    best = min(results, key=lambda result: result.mean_ppl)
    return replace(best, cell=cell, derived=f"{best.derived or best.cell.method}; lowest test perplexity of {among}")

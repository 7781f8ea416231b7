"""LoRC at equal bits: each cell with it beside the best cell of its method that does without and has no more bits.

Against the same cell without LoRC, a correction can hardly lose. But its factors are bits, and these bits could be spent on
finer groups or wider codes instead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from lorcbench.report.comparison import Change
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell


def rivals(results: Iterable[CellResult]) -> dict[Cell, CellResult]:
    """For each measured cell with LoRC the cell of lowest perplexity without it, of no more bits and the same model and method.

    Calibration and activations are the same too; weight formats may differ. A cell without such a rival is left out.
    """
    finished = [
        result
        for result in results
        if result.status == "ok" and not result.derived and result.bits_per_weight and math.isfinite(result.mean_ppl)
    ]
    without: dict[Cell, list[CellResult]] = {}
    for result in finished:
        if not result.cell.rank:
            without.setdefault(_kin(result.cell), []).append(result)
    best = {}
    for result in finished:
        fitting = [one for one in without.get(_kin(result.cell), []) if one.bits_per_weight <= result.bits_per_weight]
        if result.cell.rank and fitting:
            best[result.cell] = min(fitting, key=lambda one: (one.mean_ppl, one.bits_per_weight))
    return best


def _kin(cell: Cell) -> Cell:
    """What a cell and its rivals have in common."""
    return replace(cell.uncorrected, weight="")


def compare(results: list[CellResult]) -> dict[Cell, Change]:
    """The change of each cell with LoRC over its rival, which takes the place of full precision."""
    best = rivals(results)
    return {result.cell: Change(result, best[result.cell]) for result in results if result.cell in best}


def sentence(results: list[CellResult]) -> str:
    """How many cells with LoRC are beaten at equal bits; "" if there is none with a rival."""
    compared = compare(results)
    if not compared:
        return ""
    ways = Counter(_way(change) for change in compared.values())
    beaten = sum(change.relative.value > 0 for change in compared.values())
    return (
        f"LoRC at equal bits: for {beaten} of {len(compared)} cells with LoRC there is a cell without it, of the same method "
        f"and with no more bits, that has a lower perplexity ({ways['beaten']} beyond the 95 % interval); {ways['better']} "
        "are better than every such cell beyond the interval."
    )


def _way(change: Change) -> str:
    """Which side of its rival a cell is on, if the interval tells."""
    if change.relative.low > 0:
        return "beaten"
    return "better" if change.relative.high < 0 else "open"

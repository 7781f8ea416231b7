"""LoRC at equal bits: each cell with it beside the best cell of its method that has no more bits, and does without or is plain.

Against the same cell without LoRC, a correction can hardly lose. But its factors are bits, and these bits could be spent on
finer groups or wider codes instead. Against plain LoRC of the same rank, factors that know the inputs can hardly lose either;
they too are held against every plain cell of no more bits, of any rank and format.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

from lorcbench.common.spelling import counted
from lorcbench.config import compose
from lorcbench.config.paired import PAIRED
from lorcbench.config.variants import Variant
from lorcbench.report.comparison import Change
from lorcbench.report.derived import changed_settings_of
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell

NONE = "none"
PLAIN = "plain"
# Kinds of LoRC in the order in which they are shown: what they know of the inputs grows. The last are methods that make codes
# and factors together; there the method is the kind, whoever made the factors.
KINDS = (NONE, PLAIN, "distilled", "diag-abs", "diag-rms", "exact", *PAIRED)
_PRECISIONS = (8, 16, 4)  # bits of factors, the usual ones first


@cache
def _kind(method: str, lorc: str) -> str:
    settings = changed_settings_of(method)
    return compose.load("lorc", lorc).kind if settings.rank is None else settings.kind


def kind_of(cell: Cell) -> str:
    """Which kind of LoRC a cell has, one of `KINDS`; `NONE` at rank 0."""
    return _kind(cell.method, cell.lorc)


def kinds(cells: Iterable[Cell]) -> list[str]:
    """The kinds of LoRC that cells have, in the order of `KINDS`, without `NONE`."""
    present = {kind_of(cell) for cell in cells}
    return [kind for kind in KINDS if kind in present and kind != NONE]


def twin(cell: Cell, kind: str) -> Cell | None:
    """The cell of the same rank whose factors differ in their kind only; None if there is no such setting.

    Args:
        cell: one whose factors know the inputs, so that its calibration is there for every kind.
    """
    setting = Variant.parse(cell.lorc)
    stem = f"{kind}-{setting.stem.rpartition('-')[2]}"
    if stem not in compose.names("lorc") or (kind == PLAIN and setting.setting("inputs")):
        return None
    return cell.corrected(str(replace(setting, stem=stem)), cell.rank)


def _plainness(cell: Cell) -> tuple[int, int, bool]:
    """How far a cell's setting is from the plainest one of its kind: first the changes in its name, then its precision."""
    lorc = compose.load("lorc", cell.lorc)
    return len(Variant.parse(cell.lorc).settings), _PRECISIONS.index(lorc.bits), lorc.kind != "paired"


def leading(cells: Iterable[Cell]) -> set[Cell]:
    """Of cells that differ in how factors of one kind are stored or made, the first: INT8 before FP16 before INT4, no settings
    before some.

    What is counted per kind counts these alone, so that a variant is no second vote.
    """
    first: dict[Cell, Cell] = {}
    for cell in sorted(cells, key=_plainness):
        first.setdefault(replace(cell, lorc=kind_of(cell)), cell)
    return set(first.values())


def rivals(results: Iterable[CellResult], against: str = NONE) -> dict[Cell, CellResult]:
    """For each measured cell with LoRC the cell of lowest perplexity whose kind is `against`, of no more bits.

    Model, method, calibration and activations are the same; weight formats and ranks may differ, and so may the method's
    `clip`. Of a method that makes its own factors the rivals are of all variants of its base, RTN or GPTQ. A cell without a
    rival is left out, and so are cells whose own kind is `against`.
    """
    finished = [
        result
        for result in results
        if result.status == "ok" and not result.derived and result.bits_per_weight and math.isfinite(result.mean_ppl)
    ]
    candidates: dict[Cell, list[CellResult]] = {}
    for result in finished:
        if kind_of(result.cell) == against:
            for kin in {_kin(result.cell), _family(result.cell)}:
                candidates.setdefault(kin, []).append(result)
    best = {}
    for result in finished:
        kin = _kin(result.cell) if changed_settings_of(result.cell.method).rank is None else _family(result.cell)
        fitting = [one for one in candidates.get(kin, []) if one.bits_per_weight <= result.bits_per_weight]
        if kind_of(result.cell) not in (NONE, against) and fitting:
            best[result.cell] = min(fitting, key=lambda one: (one.mean_ppl, one.bits_per_weight))
    return best


def _kin(cell: Cell) -> Cell:
    """What a cell and its rivals have in common; clipped scales take no bits, so cells with and without them are rivals."""
    return replace(cell.uncorrected, weight="", method=str(Variant.parse(cell.method).without("clip")))


def _family(cell: Cell) -> Cell:
    """What a cell has in common with all whose codes come from the same base, RTN or GPTQ, whatever their settings."""
    settings = changed_settings_of(cell.method)
    if settings.rank is None:
        return replace(_kin(cell), method=settings.label)
    calibration = "none" if settings.base == "rtn" else cell.calibration
    return replace(_kin(cell), method=settings.base.upper(), calibration=calibration)


def compare(results: list[CellResult], against: str = NONE) -> dict[Cell, Change]:
    """The change of each cell with LoRC over its rival, which takes the place of full precision."""
    best = rivals(results, against)
    return {result.cell: Change(result, best[result.cell]) for result in results if result.cell in best}


@dataclass(frozen=True)
class Tally:
    """Comparisons counted: cells beside their rivals.

    Attributes:
        count: of comparisons.
        above, below: with the higher, and with the lower perplexity.
        surely_above, surely_below: of these, where the 95 % interval tells.
    """

    count: int
    above: int
    surely_above: int
    below: int
    surely_below: int

    @classmethod
    def of(cls, compared: Iterable[Change]) -> Tally:
        """What came out of these comparisons."""
        rises = [change.relative for change in compared]
        above = [rise for rise in rises if rise.value > 0]
        below = [rise for rise in rises if rise.value < 0]
        sure = sum(rise.low > 0 for rise in above), sum(rise.high < 0 for rise in below)
        return cls(len(rises), len(above), sure[0], len(below), sure[1])


def sentence(results: list[CellResult]) -> str:
    """How many cells with LoRC are beaten at equal bits, of each kind; "" if there is none with a rival."""
    compared = compare(results)
    present = kinds(compared)
    if not present:
        return ""
    if present == [PLAIN]:
        tally = Tally.of(compared.values())
        return (
            f"LoRC at equal bits, beside the best cell of the same method that has no LoRC and no more bits: worse in "
            f"{tally.above} of {counted(tally.count, 'cell')} ({tally.surely_above} beyond the 95 % interval), better in "
            f"{tally.below} ({tally.surely_below} beyond it)."
        )
    text = f"LoRC at equal bits, beside the best cell without it of the same method and no more bits: {_by_kind(compared)}."
    if with_plain := compare(results, PLAIN):
        text += f" Beside the best cell with plain LoRC of no more bits: {_by_kind(with_plain)}."
    return text


def _by_kind(compared: dict[Cell, Change]) -> str:
    """How many cells of each kind are worse and better than their rivals."""
    parts = []
    counted = leading(compared)
    for kind in kinds(compared):
        tally = Tally.of(change for cell, change in compared.items() if kind_of(cell) == kind and cell in counted)
        beyond = " beyond the 95 % interval" if not parts else ""
        parts.append(
            f"of {tally.count} {kind} cells {tally.above} are worse ({tally.surely_above}{beyond}) and {tally.below} better "
            f"({tally.surely_below})"
        )
    return "; ".join(parts)

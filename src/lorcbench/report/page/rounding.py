"""Against rounding: every method beside rounding to nearest in the same format."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from lorcbench.common.spelling import counted
from lorcbench.report import rounding
from lorcbench.report.intervals import Interval
from lorcbench.report.page.grid import Column, Entry, chip, entry, grid
from lorcbench.report.rounding import Against
from lorcbench.report.spelling import number, p_value, percent

_NAMES = ("model", "method", "weight", "activation", "LoRC")
_NUMBERS = ("PPL of RTN", "PPL", "difference", "difference in %", "p", "p after Holm")


def against_rounding(found: list[Against]) -> str:
    """What was found, and a row per comparison; "" where nothing can be compared."""
    if not found:
        return ""
    note = (
        "Each cell beside the cell of the same model that is rounded to nearest (RTN) with the same weights, activations and "
        "correction: the difference of the mean PPL, the same in percent of RTN's, and their 95 % intervals. Below 0 the "
        "method is better. The two are told apart if the interval of the difference misses 0. Of "
        f"{counted(len(found), 'comparison')} an interval may miss zero by chance. The p-value after Holm corrects for that: "
        "where it is at most 0.05, the difference is told apart even among all of them. The claims below are corrected for all "
        "their own tests, so a difference can survive here and not there: take the claims for what the paper says, and this "
        "table for the choice of a method."
    )
    columns = [
        *(Column(name, names=True, spare=name in ("activation", "LoRC")) for name in _NAMES),
        *(Column(name, numeric=True) for name in _NUMBERS[:4]),
        Column("told apart"),
        *(Column(name, numeric=True) for name in _NUMBERS[4:]),
    ]
    body = grid("rounding-table", columns, list(map(_row, found)), "opt gptq w3", "Against rounding", "comparisons")
    return f'<p>{escape(rounding.sentence(found))}</p><p class="note">{note}</p>{body}'


def _row(one: Against) -> list[Entry]:
    """The row of a comparison."""
    change, cell = one.change, one.change.result.cell
    calibration = [] if cell.calibration == "none" else [cell.calibration]
    lorc = entry(f"r{cell.rank}", s=[cell.lorc] if cell.rank else [])
    difference = _change(change.mean, lambda bound: number(bound, "+"))
    share = _change(change.relative, lambda bound: percent(bound, 2).removesuffix(" %"))
    return [
        *(cell.model, entry(cell.method, s=calibration), cell.weight, cell.activation, lorc),
        *(entry(number(result.mean_ppl), result.mean_ppl) for result in (change.baseline, change.result)),
        *(difference, share, _apart(one)),
        *(entry(p_value(p), p) for p in (one.p, one.p_holm)),
    ]


def _change(change: Interval, spell: Callable[[float], str]) -> Entry:
    """A change with its interval."""
    return entry(spell(change.value), change.value, i=f"[{spell(change.low)}, {spell(change.high)}]")


def _apart(one: Against) -> Entry:
    """Whether the interval tells the two apart, and whether it still does among all comparisons."""
    if not one.told_apart:
        return chip("undecided", "no")
    said = "better" if one.change.mean.value < 0 else "worse"
    return chip("supported" if said == "better" else "contradicted", said, s=[] if one.survives else ["not after Holm"])

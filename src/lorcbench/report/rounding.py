"""Every method against rounding to nearest: ``against.csv``, the page's table *Against rounding*, and one sentence.

Two cells are compared whose model, weight format, activations and correction are the same, and which differ in their method
alone. The calibration is the same too, unless rounding reads none. The difference is paired, window by window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lorcbench.report.comparison import Change, windows
from lorcbench.report.intervals import Interval, holm
from lorcbench.report.results import CellResult
from lorcbench.report.wording import method_words
from lorcbench.study.cells import RECIPE

TABLE = "against.csv"
ROUNDING = "rtn"
_PERPLEXITY = ("ppl", "ppl_rtn", "delta_ppl", "delta_ppl_low", "delta_ppl_high", "rise", "rise_low", "rise_high")
COLUMNS = ("study", *RECIPE, "rtn", *_PERPLEXITY, "told_apart", "p", "p_holm")
_APART = 0.05  # the largest p-value, after Holm, of a difference that is told apart among all comparisons


@dataclass(frozen=True, eq=False)
class Against:
    """A cell beside the one that is rounded to nearest in the same format.

    Attributes:
        change: the cell's mean perplexity over that cell's, which takes the place of full precision.
        p: two-sided p-value of "the mean perplexities are equal".
        p_holm: the same after Holm's procedure over all comparisons of the study.
    """

    change: Change
    p: float
    p_holm: float

    @property
    def told_apart(self) -> bool:
        """Whether the 95 % interval of the difference, by itself, does not contain zero."""
        return self.change.mean.low > 0 or self.change.mean.high < 0

    @property
    def survives(self) -> bool:
        """Whether it is told apart after Holm, too."""
        return self.p_holm <= _APART

    def row(self, study: str) -> dict:
        """The row of the table."""
        result, rounded = self.change.result, self.change.baseline
        mean, relative = self.change.mean, self.change.relative
        columns = {"study": study, **{name: getattr(result.cell, name) for name in RECIPE}, "rtn": rounded.cell.key}
        columns |= {"ppl": result.mean_ppl, "ppl_rtn": rounded.mean_ppl, "told_apart": self.told_apart}
        for name, interval in (("delta_ppl", mean), ("rise", relative)):
            columns |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return columns | {"p": self.p, "p_holm": self.p_holm}


def find(results: Iterable[CellResult]) -> list[Against]:
    """All comparisons of a study, in the order of its cells; none where it has no cell with another method beside `ROUNDING`.

    Derived cells are left out, and those whose perplexity is no number.
    """
    finished = [one for one in results if one.status == "ok" and not one.derived and math.isfinite(one.mean_ppl)]
    rounded = {one.cell: one for one in finished if one.cell.method == ROUNDING}
    changes = []
    for result in finished:
        same = replace(result.cell, method=ROUNDING, trained="a16")
        rival = rounded.get(same) or rounded.get(replace(same, calibration="none"))
        if result.cell.method != ROUNDING and rival is not None and windows(rival) == windows(result):
            changes.append(Change(result, rival))
    alone = [_p(change.mean) for change in changes]
    return [Against(change, p, after) for change, p, after in zip(changes, alone, holm(alone), strict=True)]


def _p(difference: Interval) -> float:
    """Two-sided p-value of "the expectation is zero": below 0.05 if, and only if, the 95 % interval does not contain zero."""
    return min(1.0, 2 * min(difference.p_not_below(0.0), difference.p_not_above(0.0)))


def sentence(found: list[Against]) -> str:
    """How often each method is surely better than rounding at each number of bits, and worse; "" without comparisons."""
    methods: dict[str, list[Against]] = {}
    for one in found:
        methods.setdefault(one.change.result.cell.method, []).append(one)
    parts = [f"{method_words(method)} in {_by_bits(compared)}" for method, compared in methods.items()]
    what = "Against rounding (RTN) in the same format, surely better (and after Holm)"
    return f"{what}: {'; '.join(parts)}." if parts else ""


def _by_bits(compared: list[Against]) -> str:
    """What came out for one method, the most bits first."""
    widths: dict[str, list[Against]] = {}
    for one in compared:
        widths.setdefault(one.change.result.cell.weight.partition("-")[0].removeprefix("w"), []).append(one)
    order = sorted(widths, key=lambda bits: -int(bits) if bits.isdecimal() else 0)
    return ", ".join(_counts(bits, widths[bits]) for bits in order)


def _counts(bits: str, compared: list[Against]) -> str:
    """How many are told apart, by themselves and, in brackets, after Holm."""
    apart = [one for one in compared if one.told_apart]
    better = [one for one in apart if one.change.mean.value < 0]
    worse = [one for one in apart if one.change.mean.value > 0]
    where = f"at {bits} bits" if bits.isdecimal() else f"of {bits} formats"
    said = f"{_sure(better)} of {len(compared)} {where}"
    return f"{said} and surely worse in {_sure(worse)}" if worse else said


def _sure(apart: list[Against]) -> str:
    return f"{len(apart)} ({sum(one.survives for one in apart)})"

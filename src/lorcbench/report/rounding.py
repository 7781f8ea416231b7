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
    """How often each method is better and worse than rounding; "" without comparisons."""
    methods: dict[str, list[Against]] = {}
    for one in found:
        methods.setdefault(one.change.result.cell.method, []).append(one)
    parts = [_counts(method, compared, index == 0) for index, (method, compared) in enumerate(methods.items())]
    return f"Against rounding (RTN) in the same format: {'; '.join(parts)}." if parts else ""


def _counts(method: str, compared: list[Against], in_words: bool) -> str:
    """What came out for one method.

    Args:
        in_words: say what the numbers in brackets are.
    """
    kinds = {"better": [one for one in compared if one.change.mean.value < 0]}
    kinds["worse"] = [one for one in compared if one.change.mean.value > 0]
    parts = []
    for name, of_kind in kinds.items():
        apart, survive = sum(one.told_apart for one in of_kind), sum(one.survives for one in of_kind)
        told = f"{apart} beyond the 95 % interval, {survive} after Holm" if in_words and not parts else f"{apart}, {survive}"
        count = f"{len(of_kind)} of {len(compared)}" if not parts else f"{len(of_kind)}"
        if of_kind or not parts:
            parts.append(f"{name} in {count} ({told})")
    return f"{method_words(method)} is {', '.join(parts)}"

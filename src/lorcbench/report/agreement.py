"""How far the scorecard agrees with print: within tolerances, in sensitivity classes, and in the order of the methods.

Print is papers. What reproductions say is counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lorcbench.config import compose
from lorcbench.report.scorecard import TOLERANCES, Row, counted
from lorcbench.report.spelling import number, percent
from lorcbench.study.published import PAPER, REPRODUCTION, SOURCES, STUDIED


@dataclass(frozen=True)
class Agreement:
    """How much of what was measured agrees with print.

    Attributes:
        kind: of `TOLERANCES`.
        count: numbers compared.
        within: those of them that are inside their tolerance.
        median: of |measured / published - 1|, the upper one of an even number; None if print has no number at all.
    """

    kind: str
    count: int
    within: int
    median: float | None


@dataclass(frozen=True)
class Ordering:
    """Whether the cells of one table come in the published order.

    Attributes:
        table: where the published numbers stand.
        scope: the model.
        n: cells compared.
        spearman: rank correlation of measured and published perplexity over them; NaN for fewer than three.
        pairs: pairs of methods at one format and rank whose published numbers differ.
        agreeing: those of them whose measured numbers differ the same way.
    """

    table: str
    scope: str
    n: int
    spearman: float
    pairs: int = 0
    agreeing: int = 0


def agreements(rows: list[Row], sources: str = PAPER) -> list[Agreement]:
    """One record per kind of cell that the rows of papers, or of reproductions, have, in the order of `TOLERANCES`."""
    records = []
    for kind in TOLERANCES:
        members = [row for row in counted(rows, sources) if row.kind == kind]
        shares = sorted(abs(row.relative) for row in members if not row.diverged_in_print)
        median = shares[len(shares) // 2] if shares else None
        if members:
            records.append(Agreement(kind, len(members), sum(row.within for row in members), median))
    return records


def orderings(rows: list[Row]) -> list[Ordering]:
    """One record per table of a paper and model, over the means, or WikiText-2 where a table has no mean.

    Of several measured cells of one published number, the derived one counts where there is one (it was chosen as the paper
    chose), and else the study's first.
    """
    tables: dict[tuple[str, str], dict[tuple, Row]] = {}
    for row in sorted(counted(rows), key=lambda row: (row.corpus != "mean", not row.derived)):
        if row.corpus == ("mean" if row.source == "zeroquant-v2" else "wikitext2"):
            tables.setdefault((_table(row), row.model), {}).setdefault(row.recipe, row)
    records = []
    for (table, model), chosen in tables.items():
        members = list(chosen.values())
        pairs = list(_method_pairs(members))
        correlation = spearman([row.measured for row in members], [row.published for row in members])
        records.append(Ordering(table, model, len(members), correlation, len(pairs), sum(pairs)))
    return records


def _table(row: Row) -> str:
    """The table of a row; those of sources beside the studied papers with the source's name."""
    return row.table if row.source in STUDIED else f"{SOURCES[row.source].title} {row.table}"


def _method_pairs(rows: list[Row]) -> Iterator[bool]:
    """For each pair of methods at one format and rank whose published numbers differ: whether the measured ones agree."""
    for row, other in combinations(rows, 2):
        if row.recipe[:-1] == other.recipe[:-1] and row.published != other.published:
            yield (row.measured < other.measured) == (row.published < other.published)


def spearman(values: list[float], others: list[float]) -> float:
    """Rank correlation, equal values sharing their mean rank; NaN for fewer than three values, or if one list is constant."""
    if len(values) < 3:
        return math.nan
    ranks = _centred_ranks(np.asarray(values))
    other_ranks = _centred_ranks(np.asarray(others))
    length = np.sqrt((ranks**2).sum() * (other_ranks**2).sum())
    return float((ranks * other_ranks).sum() / length) if length else math.nan


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """The rank (n,) of each value (n,) minus the mean rank; equal values share theirs."""
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    return below + (equal - 1) / 2 - (len(values) - 1) / 2


def _dtypes(rows: list[Row]) -> list[str]:
    """The types of the forward passes by which the rows were measured."""
    return list(dict.fromkeys(compose.load("eval", row.protocol).dtype for row in rows if row.protocol))


def summary(rows: list[Row], ordered: list[Ordering]) -> list[str]:
    """Lines for the terminal: how much agrees, by kind of cell, and what is farthest off; none if nothing is comparable."""
    if not rows:
        return []
    papers = counted(rows)
    lines = [f"  published numbers: {len(papers)} compared, {sum(row.within for row in papers)} within tolerance"]
    lines += [f"    {_in_words(agreement)}" for agreement in agreements(rows)]
    if classed := [row for row in rows if row.class_measured]:
        same = sum(row.class_measured == row.class_published for row in classed)
        lines.append(f"    {'class':15} {same} of {len(classed)} agree, {sum(row.class_open for row in classed)} open")
    if pairs := sum(ordering.pairs for ordering in ordered):
        lines.append(f"    {'order':15} {sum(ordering.agreeing for ordering in ordered)} of {pairs} pairs of methods agree")
    lines += [f"    {dtype} forward passes; those of print were float16, to judge by GPTQ's code" for dtype in _dtypes(rows)]
    outside = [row for row in papers if not row.within and not row.diverged_in_print]
    for row in sorted(outside, key=lambda row: -abs(math.log1p(row.relative)))[:3]:
        recipe = " ".join([row.model, row.method, row.weight, row.activation, f"r{row.rank}", row.corpus])
        lines.append(f"    off: {recipe}: {number(row.measured)}, published {number(row.published)} ({percent(row.relative)})")
    if others := counted(rows, REPRODUCTION):
        within = sum(row.within for row in others)
        lines.append(f"  reproductions, no papers and not counted above: {len(others)} compared, {within} within tolerance")
        lines += [f"    {_in_words(agreement)}" for agreement in agreements(rows, REPRODUCTION)]
    return lines


def _in_words(agreement: Agreement) -> str:
    """The line of a kind of cells."""
    median = "" if agreement.median is None else f", median difference {100 * agreement.median:.2f} %"
    return f"{agreement.kind:15} {agreement.within} of {agreement.count}{median}"

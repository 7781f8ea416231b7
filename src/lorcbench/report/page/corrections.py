"""Kinds of correction: what was found, in a sentence or two per kind, and the means behind it."""

from __future__ import annotations

from html import escape

from lorcbench.report.corrections import Corrections, Means
from lorcbench.report.intervals import Interval
from lorcbench.report.page.parts import MISSING, table, value
from lorcbench.report.spelling import percent

_HEADS = ["kind", "cells", "taken back", "over plain, equal rank", "over the best without, equal bits", "pays for its bits"]


def kinds_of_correction(found: Corrections) -> str:
    """What was found per kind, and two tables; "" where a study does not compare kinds."""
    if not found.sentences:
        return ""
    note = (
        "“Taken back” is the median share of the loss to full precision that the correction takes away. The other numbers are "
        "geometric means of the ratio of mean perplexities over the cells, minus 1, with 95 % intervals of the paired "
        "differences; at equal bits the rival is the best cell of the same method and no more bits. A cell pays for its bits "
        "if it is below that rival beyond the interval. Each interval stands by itself here; the claims below control the "
        "error of all of them together."
    )
    by_format = table(
        ["weights", *_HEADS], "".join(map(_row, found.by_format)), "Kinds of correction by weight format", _HEADS[1:]
    )
    by_share = table(["rank ÷ width", *_HEADS], "".join(map(_row, found.by_share)), "Kinds of correction by rank", _HEADS[1:])
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.sentences)
    return f'<ul>{sentences}</ul><p class="note">{note}</p>{by_format}{by_share if found.by_share else ""}'


def _row(means: Means) -> str:
    """The means of one kind at one place."""
    better, count = means.better
    pays = f'<td class="num">{better} of {count}</td>' if count else MISSING
    taken_back = value(means.taken_back, lambda share: f"{100 * share:.0f} %")
    return (
        f'<tr><th scope="row">{escape(means.where)}</th><td>{escape(means.kind)}</td>{value(means.cells, str)}{taken_back}'
        f"{_change(means.plain)}{_change(means.without)}{pays}</tr>"
    )


def _change(change: Interval | None) -> str:
    """A mean change with its interval."""
    if change is None:
        return MISSING
    spelled, low, high = (percent(share, 2).removesuffix(" %") for share in (change.value, change.low, change.high))
    return f'<td class="num">{spelled} % <span class="interval">[{low}, {high}]</span></td>'

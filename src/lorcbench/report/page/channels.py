"""Massive activations: which channels of which inputs are far larger than the others, and what methods lose beside them."""

from __future__ import annotations

from html import escape

from lorcbench.report.comparison import Change
from lorcbench.report.page.parts import MISSING, table, value
from lorcbench.report.results import CellResult
from lorcbench.report.spelling import percent
from lorcbench.study.cells import Cell

MASSIVE = 20.0  # times the median channel, from which on a channel counts
_NAMED = 3  # channels of an input that are named


def massive(results: list[CellResult], changes: dict[Cell, Change]) -> str:
    """Per model with such channels: where they are, and what its methods lose per format; "" if no model has any."""
    return "".join(_model(result, results, changes) for result in results if _is_massive(result))


def _is_massive(result: CellResult) -> bool:
    """Whether a cell is of full precision and measured a channel that counts."""
    return any(_ratio(entry) >= MASSIVE for entries in result.channels.values() for entry in entries)


def _ratio(entry: dict) -> float:
    return entry["max_over_median"] or 0.0


def _model(result: CellResult, results: list[CellResult], changes: dict[Cell, Change]) -> str:
    """The two tables of one model."""
    heads = ["input of", "blocks with such a channel", "largest |x| over median", "in block", "|x|", "channels"]
    strongest = sorted(result.channels.items(), key=lambda item: -max(map(_ratio, item[1])))
    inputs = "".join(_input(name, entries) for name, entries in strongest)
    model = f"{result.cell.model} ({result.origin})" if result.origin else result.cell.model
    note = (
        f"{model}, before anything is rounded: of each channel of an input the largest |x| over all test windows. A channel "
        f"counts from {MASSIVE:g} times the median channel on. An input that several linears share has the name of the first. "
        "Of each block the largest channel is looked at; blocks are counted from 0."
    )
    tables = f'<p class="note">{escape(note)}</p>' + table(heads, inputs, f"Massive activations of {model}", heads[1:5])
    losses = _losses([other for other in results if other.cell.model == result.cell.model], changes, model)
    return tables + f'<p class="note">What the methods lose there, without LoRC: the rise of the mean PPL.</p>{losses}'


def _input(name: str, entries: list[dict]) -> str:
    """The row of one input."""
    index, largest = max(enumerate(entries), key=lambda item: _ratio(item[1]))
    strong = sorted((item for item in enumerate(entries) if _ratio(item[1]) >= MASSIVE), key=lambda item: -_ratio(item[1]))
    blocks: dict[int, list[int]] = {}  # of each channel, the strongest first
    for block, entry in strong:
        blocks.setdefault(entry["channel"], []).append(block)
    return (
        f'<tr><th scope="row"><code>{escape(name)}</code></th><td class="num">{len(strong)} of {len(entries)}</td>'
        f"{value(_ratio(largest), '{:,.0f}'.format)}{value(index, str)}{value(largest['max'], '{:,.1f}'.format)}"
        f"<td>{escape(_named(blocks)) or '–'}</td></tr>"
    )


def _named(blocks: dict[int, list[int]]) -> str:
    """The first channels, each with its blocks, and how many more there are."""
    first = list(blocks.items())[:_NAMED]
    named = [f"{channel} (block{'s' if len(of) > 1 else ''} {', '.join(map(str, of))})" for channel, of in first]
    return "; ".join([*named, *([f"{len(blocks) - _NAMED} more"] if len(blocks) > _NAMED else [])])


def _losses(results: list[CellResult], changes: dict[Cell, Change], model: str) -> str:
    """Formats down, methods across, the rise with its interval inside; of a method with several calibrations the first."""
    rises: dict[tuple[str, str], dict[str, Change]] = {}
    for result in results:
        cell = result.cell
        if not (cell.rank or cell.is_full_precision or result.derived) and cell in changes:
            rises.setdefault((cell.weight, cell.activation), {}).setdefault(cell.method, changes[cell])
    methods = list(dict.fromkeys(method for row in rises.values() for method in row))
    rows = "".join(
        f'<tr><th scope="row">{escape(weight)}{"" if activation == "a16" else f" {escape(activation)}"}</th>'
        + "".join(_rise(row.get(method)) for method in methods)
        + "</tr>"
        for (weight, activation), row in rises.items()
    )
    return table(["format", *methods], rows, f"What the methods lose on {model}", methods) if rows else ""


def _rise(change: Change | None) -> str:
    """One rise with its interval, in percent."""
    if change is None:
        return MISSING
    rise = change.relative
    spelled, low, high = (percent(share).removesuffix(" %") for share in (rise.value, rise.low, rise.high))
    return f'<td class="num">{spelled} % <span class="interval">[{low}, {high}]</span></td>'

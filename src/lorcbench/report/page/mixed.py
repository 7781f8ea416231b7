"""Mixed formats: each cell beside the best with one format everywhere, and beside the baseline by depth."""

from __future__ import annotations

from html import escape

from lorcbench.report.comparison import Change
from lorcbench.report.mixed import Mixed, said
from lorcbench.report.page.parts import MISSING, method_cell, table, value
from lorcbench.report.spelling import number

_HEADS = ["model", "method", "activations", "bits", "PPL", "best uniform cell", "its bits", "over it", "over early layers high"]


def mixed_formats(found: list[Mixed]) -> str:
    """A table of all cells of mixed formats; "" where there is none."""
    if not found:
        return ""
    note = (
        "Each cell has a format for each linear, chosen under a budget of bits per weight, which counts codes, scales and zero "
        "points. “Best uniform cell” is the one with the lowest mean perplexity among all with the same base method, one "
        "format for all linears and no more bits; “early layers high” is the same budget and candidates with the most bits in "
        "the first blocks (<code>by=depth</code>). Changes are of the mean perplexity, with 95 % intervals of the paired "
        "difference: below 0 the mixed cell is better."
    )
    rows = "".join(map(_row, found))
    return f'<p class="note">{note}</p>{table(_HEADS, rows, "Cells of mixed formats", numeric=(*_HEADS[3:5], *_HEADS[6:]))}'


def _row(one: Mixed) -> str:
    cell, uniform = one.result.cell, one.uniform
    rival = f"<td>{escape(uniform.baseline.cell.weight)}</td>" if uniform else "<td>–</td>"
    bits = value(uniform.baseline.bits_per_weight, "{:.3f}".format) if uniform else MISSING
    return (
        f"<tr><td>{escape(cell.model)}</td>{method_cell(cell.method)}<td>{escape(cell.activation)}</td>"
        f"{value(one.result.bits_per_weight, '{:.3f}'.format)}{value(one.result.mean_ppl, number)}{rival}{bits}"
        f"{_change(uniform)}{_change(one.depth)}</tr>"
    )


def _change(change: Change | None) -> str:
    """A relative change with its interval."""
    if change is None:
        return MISSING
    spelled, _, interval = said(change.relative).partition(" % ")
    return f'<td class="num" data-v="{change.relative.value!r}">{spelled} % <span class="interval">{interval}</span></td>'

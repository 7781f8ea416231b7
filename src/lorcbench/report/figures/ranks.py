"""Perplexity against the rank of the compensation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lorcbench.report.comparison import Change
from lorcbench.report.equal_bits import kind_of
from lorcbench.report.figures.kinds import draw_ranks, several
from lorcbench.report.figures.lines import BESIDE, named_places, plot
from lorcbench.report.figures.style import (
    GREY,
    Figure,
    Looks,
    axis_labels,
    canvas,
    format_of,
    log_axis,
    row_title,
    save,
    unique,
)
from lorcbench.report.results import CellResult
from lorcbench.report.spelling import percent
from lorcbench.report.wording import method_words
from lorcbench.study.cells import Cell

DEFAULT = "plain-int8"
WORTH_MENDING = 0.005  # a bit width that loses a smaller share than this gives LoRC nothing to give back


def draw(results: list[CellResult], changes: dict[Cell, Change], folder: Path) -> Figure | None:
    """One panel per model and bit width; with several kinds of correction, per model and weight format."""
    if several(results):
        return draw_ranks(results, changes, folder)
    corrected = {result.cell.uncorrected for result in results if result.cell.rank and result.cell in changes}
    points = [result for result in results if result.cell.uncorrected in corrected]
    bits = sorted({r.cell.weight_format.bits for r in points if changes[r.cell].relative.value > WORTH_MENDING})
    points = [result for result in points if result.cell.weight_format.bits in bits]
    if not points:
        return None
    looks = Looks((result.cell.method for result in points), map(_stroke, _lines(points)))
    models = unique(result.cell.model for result in points)
    ranks = sorted({result.cell.rank for result in points})
    names = ["none" if rank == 0 else f"r{rank}" for rank in ranks]
    title = "How much of the loss does LoRC give back?"
    fig, axes = canvas((len(models), len(bits)), 1.6, title, results, looks.methods + looks.formats, share="col")
    for row, model in enumerate(models):
        for ax, width in zip(axes[row], bits, strict=True):
            lines = _lines([r for r in points if r.cell.model == model and r.cell.weight_format.bits == width])
            ax.set_title(f"{width} bits", fontweight="normal", color=GREY)
            named_places(ax, names)
            plot(ax, lines, lambda result: ranks.index(result.cell.rank), changes, looks, _stroke)
        row_title(axes[row, 0], model)
    for ax in axes[0]:
        ax.set_yscale("log")
        log_axis(ax.yaxis, "×")
    axis_labels(fig, "rank of the LoRC factors", "PPL ÷ full precision")
    caption = (
        "Mean perplexity of the corpora, divided by the same model's at full precision, without LoRC and by rank. Each "
        f"bit width has its own scale; those that lose less than {100 * WORTH_MENDING:g} % are left out.{BESIDE}"
    )
    return save(fig, folder, Figure("lorc", title, caption))


def _lines(results: list[CellResult]) -> list[list[CellResult]]:
    """The cells that differ in rank only. Cells without LoRC begin every LoRC line."""
    lines: dict[Cell, list[CellResult]] = {}
    for result in results:
        if result.cell.rank:
            lines.setdefault(replace(result.cell, rank=0), []).append(result)
    without = {result.cell: result for result in results if not result.cell.rank}
    starts = [without.get(line[0].cell.uncorrected) for line in lines.values()]
    whole = [[*([start] if start else []), *line] for start, line in zip(starts, lines.values(), strict=True)]
    return [sorted(line, key=lambda result: result.cell.rank) for line in whole]


def _stroke(line: list[CellResult]) -> str:
    """A line's formats without the bits of the weights, and its LoRC setting, if that is not the default."""
    lorc = line[-1].cell.lorc
    return format_of(line[-1]) if lorc == DEFAULT else f"{format_of(line[-1])} {lorc}"


def recovered(results: list[CellResult], changes: dict[Cell, Change]) -> str:
    """What the largest rank gives back at the fewest bits, by method, or by kind where kinds are compared; for the text."""
    quantized = [result.cell for result in results if result.cell in changes and result.cell.method != "none"]
    losses = {cell: changes[cell].relative.value for cell in quantized}
    mended = [cell for cell in losses if cell.rank and losses.get(cell.uncorrected, 0) > WORTH_MENDING]
    if not mended:
        return ""
    bits = min(cell.weight_format.bits for cell in mended)
    mended = [cell for cell in mended if cell.weight_format.bits == bits]
    rank = max(cell.rank for cell in mended)
    by_kind = several(results)
    shares: dict[str, list[float]] = {}
    for cell in mended:
        if cell.rank == rank:
            shares.setdefault(kind_of(cell) if by_kind else method_words(cell.method), []).append(
                1 - losses[cell] / losses[cell.uncorrected]
            )
    means = {name: percent(np.mean(share), 0).removeprefix("+") for name, share in shares.items()}
    parts = [
        f"{mean} of the loss with {name} factors" if by_kind else f"{mean} of what {name} lost" for name, mean in means.items()
    ]
    return f"At {bits} bits, rank {rank} gives back on average {', '.join(parts)}."

"""Perplexity against the rank of the compensation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lorcbench.core.formats import WeightFormat
from lorcbench.report.claims import full_precision, percent
from lorcbench.report.figures.lines import lost, plot
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
    weight_of,
)
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell

DEFAULT = "plain-int8"
WORTH_MENDING = 0.005  # a bit width that loses a smaller share than this gives LoRC nothing to give back


def draw(results: list[CellResult], folder: Path) -> Figure | None:
    """One panel for each model and bit width."""
    baselines = full_precision(results)
    corrected = {_without_lorc(r.cell) for r in results if r.cell.rank and r.cell.model in baselines}
    shown = [result for result in results if _without_lorc(result.cell) in corrected]
    bits = sorted({weight_of(r).bits for r in shown if lost(r, baselines) > WORTH_MENDING})
    shown = [result for result in shown if weight_of(result).bits in bits]
    if not shown:
        return None
    looks = Looks((result.cell.method for result in shown), map(_stroke, _lines(shown)))
    models, ranks = unique(result.cell.model for result in shown), sorted({result.cell.rank for result in shown})
    title, handles = "How much of the loss does LoRC give back?", looks.methods + looks.formats
    fig, axes = canvas((len(models), len(bits)), 1.6, title, results, handles, share="col")
    for row, model in enumerate(models):
        for ax, width in zip(axes[row], bits, strict=True):
            lines = _lines([r for r in shown if r.cell.model == model and weight_of(r).bits == width])
            ax.set_title(f"{width} bits", fontweight="normal", color=GREY)
            ax.set_xticks(range(len(ranks)), ["none" if rank == 0 else f"r{rank}" for rank in ranks])
            ax.set_xlim(-0.4, len(ranks) - 0.6)
            plot(ax, lines, lambda result: ranks.index(result.cell.rank), baselines[model], looks, _stroke)
        row_title(axes[row, 0], model)
    for ax in axes[0]:
        ax.set_yscale("log")
        log_axis(ax.yaxis, "×")
    axis_labels(fig, "rank of the LoRC factors", "PPL ÷ full precision")
    caption = (
        "Mean perplexity of the corpora, divided by the same model's at full precision, without LoRC and by rank. Each "
        f"bit width has its own scale; those that lose less than {100 * WORTH_MENDING:g} % are left out. "
        f"{_recovered(shown, baselines)}"
    )
    return save(fig, folder, Figure("lorc", title, caption.strip()))


def _lines(results: list[CellResult]) -> list[list[CellResult]]:
    """The cells that differ in rank only. Cells without LoRC begin every LoRC line."""
    lines: dict[tuple, list[CellResult]] = {}
    for lorc in unique(result.cell.lorc for result in results if result.cell.rank):
        for result in results:
            if result.cell.lorc in (lorc, "none"):
                key = (
                    result.cell.model,
                    result.cell.method,
                    result.cell.calibration,
                    result.cell.weight,
                    result.cell.activation,
                )
                lines.setdefault((*key, lorc), []).append(result)
    lines = {key: line for key, line in lines.items() if any(result.cell.rank for result in line)}
    return [sorted(line, key=lambda result: result.cell.rank) for line in lines.values()]


def _stroke(line: list[CellResult]) -> str:
    """A line's formats without the bits of the weights, and its LoRC setting, if that is not the default."""
    lorc = line[-1].cell.lorc
    return format_of(line[-1]) if lorc == DEFAULT else f"{format_of(line[-1])} {lorc}"


def _recovered(shown: list[CellResult], baselines: dict[str, CellResult]) -> str:
    """What the largest rank gives back at the fewest bits, for the caption."""
    bits, rank = min(weight_of(result).bits for result in shown), max(result.cell.rank for result in shown)
    losses = {result.cell: lost(result, baselines) for result in shown}
    shares: dict[str, list[float]] = {}
    for cell in losses:
        before = losses.get(_without_lorc(cell), 0)
        if cell.rank == rank and WeightFormat.parse(cell.weight).bits == bits and before > WORTH_MENDING:
            shares.setdefault(cell.method, []).append(1 - losses[cell] / before)
    found = [f"{percent(np.mean(share), 0).lstrip('+')} of what {method} lost" for method, share in shares.items()]
    return f"At {bits} bits, rank {rank} gives back on average {', '.join(found)}." if found else ""


def _without_lorc(cell: Cell) -> Cell:
    return replace(cell, rank=0, lorc="none")

"""Perplexity against the bits of a weight."""

from __future__ import annotations

from pathlib import Path

from lorcbench.report.claims import full_precision
from lorcbench.report.figures.lines import plot
from lorcbench.report.figures.style import (
    Figure,
    Looks,
    axis_labels,
    canvas,
    drop_spare,
    format_of,
    log_axis,
    save,
    unique,
    weight_of,
)
from lorcbench.report.results import CellResult


def draw(results: list[CellResult], folder: Path) -> Figure | None:
    """One panel a model, without LoRC."""
    baselines = full_precision(results)
    shown = [r for r in results if r.cell.model in baselines and r.cell.method != "none" and r.cell.rank == 0]
    shown = [result for result in shown if result.cell.activation == "a16"] or shown
    if not shown:
        return None
    looks = Looks((result.cell.method for result in shown), map(format_of, shown))
    models = unique(result.cell.model for result in shown)
    bits = sorted({weight_of(result).bits for result in shown})
    columns, handles = min(len(models), 4), looks.methods + looks.formats
    title = "How much perplexity does each bit width cost?"
    fig, axes = canvas((-(-len(models) // columns), columns), 2.6, title, results, handles)
    for ax, model in zip(axes.flat, models, strict=False):
        ax.set_title(model)
        ax.set_xticks(range(len(bits)), [str(value) for value in bits])
        ax.set_xlim(-0.4, len(bits) - 0.6)
        lines = _lines([result for result in shown if result.cell.model == model])
        plot(ax, lines, lambda result: bits.index(weight_of(result).bits), baselines[model], looks)
    drop_spare(axes, len(models))
    axes[0, 0].set_yscale("log")
    log_axis(axes[0, 0].yaxis, "×")
    axis_labels(fig, "bits a weight, scales and zero points not counted", "PPL ÷ full precision")
    caption = (
        "Mean perplexity of the corpora without LoRC, divided by the same model's at full precision; lower is better. "
        "Bars are 95 % intervals of the paired difference over the same windows of text."
    )
    return save(fig, folder, Figure("bits", title, caption))


def _lines(results: list[CellResult]) -> list[list[CellResult]]:
    """The cells that differ in bits only."""
    lines: dict[tuple, list[CellResult]] = {}
    for result in results:
        lines.setdefault((result.cell.method, result.cell.calibration, format_of(result)), []).append(result)
    return [sorted(line, key=lambda result: weight_of(result).bits) for line in lines.values()]

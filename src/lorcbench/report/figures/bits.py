"""Perplexity against the bits per weight."""

from __future__ import annotations

from pathlib import Path

from lorcbench.report.comparison import Change
from lorcbench.report.figures.lines import BESIDE, named_places, panel_per_model
from lorcbench.report.figures.style import Figure, Looks, axis_labels, format_of, save
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell


def draw(results: list[CellResult], changes: dict[Cell, Change], folder: Path) -> Figure | None:
    """One panel per model, without LoRC."""
    points = [r for r in results if r.cell in changes and r.cell.method != "none" and r.cell.rank == 0]
    points = [result for result in points if result.cell.activation == "a16"] or points
    if not points:
        return None
    looks = Looks((result.cell.method for result in points), map(format_of, points))
    bits = sorted({result.cell.weight_format.bits for result in points})
    names = [str(value) for value in bits]
    title = "How much perplexity does each bit width cost?"
    fig = panel_per_model(
        title,
        results,
        _lines(points),
        lambda result: bits.index(result.cell.weight_format.bits),
        changes,
        looks,
        lambda ax: named_places(ax, names),
    )
    axis_labels(fig, "bits per weight, scales and zero points not counted", "PPL ÷ full precision")
    caption = (
        "Mean perplexity of the corpora without LoRC, divided by the same model's at full precision; lower is better. "
        f"Bars are 95 % intervals of the paired difference over the same windows of text.{BESIDE}"
    )
    return save(fig, folder, Figure("bits", title, caption))


def _lines(results: list[CellResult]) -> list[list[CellResult]]:
    """The cells that differ in bits only."""
    lines: dict[tuple, list[CellResult]] = {}
    for result in results:
        cell = result.cell
        lines.setdefault((cell.model, cell.method, cell.calibration, format_of(result)), []).append(result)
    return [sorted(line, key=lambda result: result.cell.weight_format.bits) for line in lines.values()]

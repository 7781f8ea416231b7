"""LoRC against what the same bits buy without it."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from lorcbench.report import equal_bits
from lorcbench.report.figures.kinds import draw_equal_bits, several
from lorcbench.report.figures.lines import panel_per_model
from lorcbench.report.figures.style import Figure, Looks, axis_labels, save, unique
from lorcbench.report.results import CellResult


def draw(results: list[CellResult], folder: Path) -> Figure | None:
    """One panel per model: each cell with LoRC over its bits; with several kinds of correction, a column of panels per kind."""
    if several(results):
        return draw_equal_bits(results, folder)
    changes = equal_bits.compare(results)
    points = [result for result in results if result.cell in changes]
    if not points:
        return None
    looks = Looks((result.cell.method for result in points), unique(_stroke([point]) for point in points))
    bits = [point.bits_per_weight for point in points]
    margin = 0.06 * (max(bits) - min(bits)) + 0.1

    def prepare(ax: Axes) -> None:
        ax.set_xlim(min(bits) - margin, max(bits) + margin)

    title = "Does LoRC pay at equal bits?"
    fig = panel_per_model(title, results, _lines(points), lambda point: point.bits_per_weight, changes, looks, prepare, _stroke)
    axis_labels(fig, "bits per weight: codes, scales, zero points and factors", "PPL ÷ best without LoRC")
    caption = (
        "Each cell with LoRC, divided by the cell of lowest mean perplexity without it that has the same method and no more "
        "bits; a point above 1 is beaten at equal bits. Lines join ranks; bars are 95 % intervals of the paired difference."
    )
    return save(fig, folder, Figure("equal-bits", title, caption))


def _lines(points: list[CellResult]) -> list[list[CellResult]]:
    """The cells that differ in rank only, by size."""
    lines: dict[tuple, list[CellResult]] = {}
    for point in points:
        cell = point.cell
        lines.setdefault((cell.model, cell.method, cell.calibration, cell.weight, cell.activation, cell.lorc), []).append(point)
    return [sorted(line, key=lambda point: point.bits_per_weight) for line in lines.values()]


def _stroke(line: list[CellResult]) -> str:
    """The formats of a line, and its LoRC setting if that is not the default."""
    cell = line[0].cell
    activation = [] if cell.activation == "a16" else [cell.activation]
    lorc = [] if cell.lorc == "plain-int8" else [cell.lorc]
    return " ".join([cell.weight, *activation, *lorc])

"""Perplexity of distilled weights against the learning rate."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from lorcbench.config import compose
from lorcbench.report.comparison import Change
from lorcbench.report.derived import without_rate
from lorcbench.report.figures.lines import panel_per_model
from lorcbench.report.figures.style import Figure, Looks, axis_labels, save, span
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell


def draw(results: list[CellResult], changes: dict[Cell, Change], folder: Path) -> Figure | None:
    """One panel per model; a recipe is shown if it was run with two learning rates."""
    lines = curves([result for result in results if result.cell in changes])
    if not lines:
        return None
    points = [result for line in lines for result in line]
    rates = [rate(result) for result in points]
    looks = Looks((without_rate(result.cell.method) for result in points), map(_format, points))
    # All learning rates of a method have its colour and its mark.
    looks.colours = {result.cell.method: looks.colours[without_rate(result.cell.method)] for result in points}
    looks.marks = {result.cell.method: looks.marks[without_rate(result.cell.method)] for result in points}

    def prepare(ax: Axes) -> None:
        ax.set_xscale("log")
        ax.set_xlim(span(rates, 0.1, 0.1))
        ax.xaxis.set_minor_locator(NullLocator())

    title = "Which learning rate does distillation want?"
    fig = panel_per_model(title, results, lines, rate, changes, looks, prepare, lambda line: _format(line[0]))
    axis_labels(fig, "learning rate", "PPL ÷ full precision")
    caption = (
        "Mean perplexity of the corpora, divided by the same model's at full precision, by the learning rate of the "
        "distillation. The best of a curve is chosen on the text that it is measured on."
    )
    return save(fig, folder, Figure("rates", title, caption))


def answer(results: list[CellResult]) -> str:
    """Which learning rates are best how often, in a sentence; "" where no recipe was run with several."""
    of_recipes = curves([result for result in results if result.cell.rank == 0])
    best = Counter(rate(min(curve, key=lambda result: result.mean_ppl)) for curve in of_recipes)
    counted = ", ".join(f"{value:g} in {best[value]}" for value in sorted(best))
    return f"Of {len(of_recipes)} curves the lowest perplexity is at a learning rate of {counted}." if of_recipes else ""


def curves(results: list[CellResult]) -> list[list[CellResult]]:
    """The cells without LoRC that differ in the learning rate only, where there are several."""
    lines: dict[tuple, list[CellResult]] = {}
    for result in results:
        cell = result.cell
        if cell.rank == 0 and rate(result) is not None:
            key = (cell.model, without_rate(cell.method), cell.calibration, cell.weight, cell.activation)
            lines.setdefault(key, []).append(result)
    return [sorted(line, key=rate) for line in lines.values() if len({rate(result) for result in line}) > 1]


def rate(result: CellResult) -> float | None:
    """The fixed learning rate of a distilled cell, from its name or its conf file; None if it has none, or chooses one."""
    learning = getattr(compose.load("method", result.cell.method), "lr", None)
    return learning if isinstance(learning, float) else None


def _format(result: CellResult) -> str:
    """A cell's formats, bits included."""
    return result.cell.weight if result.cell.activation == "a16" else f"{result.cell.weight} {result.cell.activation}"

"""Perplexity of distilled weights against the learning rate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from matplotlib.ticker import NullLocator

from lorcbench.config import compose
from lorcbench.report.claims import full_precision
from lorcbench.report.figures.lines import plot
from lorcbench.report.figures.style import Figure, Looks, axis_labels, canvas, drop_spare, log_axis, save, span, unique
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell


def draw(results: list[CellResult], folder: Path) -> Figure | None:
    """One panel a model; a recipe is shown if it was run with two learning rates."""
    baselines = full_precision(results)
    lines: dict[tuple, list[CellResult]] = {}
    for result in results:
        if result.cell.model in baselines and result.cell.rank == 0 and _rate(result) is not None:
            cell = result.cell
            key = (cell.model, _without_rate(cell.method), cell.calibration, cell.weight, cell.activation)
            lines.setdefault(key, []).append(result)
    lines = {key: sorted(line, key=_rate) for key, line in lines.items() if len({_rate(result) for result in line}) > 1}
    if not lines:
        return None
    shown = [result for line in lines.values() for result in line]
    models = unique(result.cell.model for result in shown)
    looks = Looks((key[1] for key in lines), (_format(result) for result in shown))
    colours = {result.cell.method: looks.colours[_without_rate(result.cell.method)] for result in shown}
    columns, rates = min(len(models), 4), sorted({_rate(result) for result in shown})
    title = "Which learning rate does distillation want?"
    handles = looks.methods + looks.formats
    looks.colours = colours
    fig, axes = canvas((-(-len(models) // columns), columns), 2.6, title, results, handles)
    axes[0, 0].set(xscale="log", yscale="log")
    axes[0, 0].set_xlim(span(rates, 0.1, 0.1))
    for ax, model in zip(axes.flat, models, strict=False):
        ax.set_title(model)
        plot(
            ax,
            [line for key, line in lines.items() if key[0] == model],
            _rate,
            baselines[model],
            looks,
            lambda line: _format(line[0]),
        )
    drop_spare(axes, len(models))
    log_axis(axes[0, 0].yaxis, "×")
    axes[0, 0].xaxis.set_minor_locator(NullLocator())
    axis_labels(fig, "learning rate", "PPL ÷ full precision")
    caption = (
        "Mean perplexity of the corpora, divided by the same model's at full precision, by the learning rate of the "
        "distillation. The best of a curve is chosen on the text that it is measured on."
    )
    return save(fig, folder, Figure("rates", title, caption))


def best(results: list[CellResult]) -> list[CellResult]:
    """The best of the cells that differ in the learning rate only, under its method's name without the rate, and all others."""
    found: dict[Cell, CellResult] = {}
    for result in results:
        cell = replace(result.cell, method=_without_rate(result.cell.method))
        if cell not in found or result.mean_ppl < found[cell].mean_ppl:
            found[cell] = result
    several = len(found) < len(results)
    return [replace(result, cell=cell) if several else result for cell, result in found.items()]


def _rate(result: CellResult) -> float | None:
    """The fixed learning rate of a distilled cell."""
    rate = getattr(compose.load("method", result.cell.method), "lr", None) if result.cell.method != "none" else None
    return rate if isinstance(rate, float) else None


def _without_rate(method: str) -> str:
    return "+".join(part for part in method.split("+") if not part.startswith("lr="))


def _format(result: CellResult) -> str:
    """A cell's formats, bits included."""
    return result.cell.weight if result.cell.activation == "a16" else f"{result.cell.weight} {result.cell.activation}"

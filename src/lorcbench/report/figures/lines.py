"""What several figures are made of: lines of perplexity relative to full precision with intervals, and the sizes of cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib.axes import Axes

from lorcbench.report.comparison import Change, full_precision
from lorcbench.report.figures.style import EDGE, WIDTH, Looks, canvas, drop_spare, format_of, log_axis, unique
from lorcbench.report.results import CellResult, mebibytes
from lorcbench.study.cells import Cell

COLLAPSED = 10  # cells whose perplexity is more than this many times the worst at full precision are counted, not drawn
SPREAD = 0.12  # of a panel's width, over which lines are shifted at most; else cells would seem to lie at another place
BESIDE = " Points of several lines at one place are drawn side by side, so that all intervals are seen."
ABREAST = 4  # panels that stand side by side


def plot(
    ax: Axes,
    lines: list[list[CellResult]],
    place: Callable[[CellResult], float],
    changes: dict[Cell, Change],
    looks: Looks,
    stroke: Callable[[list[CellResult]], str] = lambda line: format_of(line[0]),
    hue: Callable[[list[CellResult]], str] = lambda line: line[0].cell.method,
) -> None:
    """The lines of one panel: perplexities relative to full precision, with 95 % intervals of the paired difference.

    Args:
        lines: cells that a line joins; all cells of a line have one colour and mark, and one dash.
        place: where on the horizontal axis a cell lies.
        changes: what the cells lost to full precision.
        stroke: which of the dashes of `looks` a line has.
        hue: which of the colours, with its mark.
    """
    ax.axhline(1, color=EDGE, lw=0.8, zorder=1)
    left, right = ax.get_xlim()
    linear = ax.get_xscale() == "linear"
    points = 72 * WIDTH * ax.get_position().width  # of the panel
    between = min(2, min(36, SPREAD * points) / len(lines)) * (right - left) / points if lines else 0
    at = _at_each_place(lines, place) if linear else {}
    for index, line in enumerate(lines):
        rises = [changes[result.cell].relative for result in line]
        ratio = 1 + np.array([rise.value for rise in rises])
        bars = np.array([(rise.value - rise.low, rise.high - rise.value) for rise in rises]).T
        dash = looks.dashes[stroke(line)]
        colour, marker = looks.of(hue(line))
        x = [place(result) + between * _aside(at.get(place(result), []), index) for result in line]
        ax.errorbar(x, ratio, bars, color=colour, ls=dash, marker=marker, ms=4.5, elinewidth=1, zorder=3)


def _at_each_place(lines: list[list[CellResult]], place: Callable[[CellResult], float]) -> dict[float, list[int]]:
    """Which lines have a point at each place of the horizontal axis."""
    at: dict[float, list[int]] = {}
    for index, line in enumerate(lines):
        for x in dict.fromkeys(map(place, line)):
            at.setdefault(x, []).append(index)
    return at


def _aside(together: list[int], index: int) -> float:
    """How far from its place the point of a line is drawn, so that the bars of several lines there do not hide one another.

    In steps between two points; a point alone stands at its place.
    """
    return together.index(index) - (len(together) - 1) / 2 if index in together else 0.0


def panel_per_model(
    title: str,
    results: list[CellResult],
    lines: list[list[CellResult]],
    place: Callable[[CellResult], float],
    changes: dict[Cell, Change],
    looks: Looks,
    prepare: Callable[[Axes], None],
    stroke: Callable[[list[CellResult]], str] = lambda line: format_of(line[0]),
) -> mpl_figure.Figure:
    """A figure with one panel per model, with one vertical axis for all of them.

    Args:
        results: of the whole study, for the line below the title.
        lines, place, changes, looks, stroke: as in `plot`.
        prepare: sets up the horizontal axis of a panel, before anything is drawn in it.
    """
    models = unique(line[0].cell.model for line in lines)
    columns = min(len(models), ABREAST)
    rows = -(-len(models) // columns)
    fig, axes = canvas((rows, columns), 2.6, title, results, looks.methods + looks.formats)
    for ax, model in zip(axes.flat, models, strict=False):
        ax.set_title(model)
        prepare(ax)
        plot(ax, [line for line in lines if line[0].cell.model == model], place, changes, looks, stroke)
    drop_spare(axes, len(models))
    axes[0, 0].set_yscale("log")
    log_axis(axes[0, 0].yaxis, "×")
    return fig


def named_places(ax: Axes, names: list[str]) -> None:
    """Names instead of numbers at 0, 1, … of the horizontal axis."""
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.4, len(names) - 0.6)


def sizes(results: list[CellResult]) -> dict[Cell, float]:
    """The size of the block linears, in MiB, of each cell that knows it."""
    # Full precision stores no codes that would tell the number of weights; other cells of the model do.
    weights = {result.cell.model: result.weights for result in results if result.weights}
    known = [result for result in results if result.bits_per_weight and result.cell.model in weights]
    return {result.cell: mebibytes(result.bits_per_weight, weights[result.cell.model]) for result in known}


def collapsed_above(results: list[CellResult]) -> float:
    """The perplexity above which a cell has collapsed."""
    return COLLAPSED * max((result.mean_ppl for result in full_precision(results).values()), default=np.inf)

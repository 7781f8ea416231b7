"""Lines of perplexity relative to full precision, with intervals: the form that most figures have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from lorcbench.report.figures.style import EDGE, INK, WIDTH, Looks, format_of
from lorcbench.report.intervals import mean_perplexity_difference
from lorcbench.report.results import CellResult


def plot(
    ax: Axes,
    lines: list[list[CellResult]],
    place: Callable[[CellResult], float],
    baseline: CellResult,
    looks: Looks,
    stroke: Callable[[list[CellResult]], str] = lambda line: format_of(line[0]),
) -> None:
    """The lines of one panel: perplexities relative to `baseline`, with 95 % intervals of the paired difference.

    Args:
        lines: cells that a line joins; all of one have one method and one stroke.
        place: where on the horizontal axis a cell lies.
        stroke: which of the strokes of `looks` a line has.
    """
    ax.axhline(1, color=EDGE, lw=0.8, zorder=1)
    left, right = ax.get_xlim()
    linear = ax.get_xscale() == "linear"
    point = (right - left) / (72 * WIDTH * ax.get_position().width)
    for index, line in enumerate(lines):
        # A sideways shift of a few points, so that the bars of several lines do not hide one another.
        shift = min(2, 36 / len(lines)) * (index - (len(lines) - 1) / 2) * point if linear else 0
        changes = [mean_perplexity_difference(result.nll, baseline.nll) for result in line]
        ratio = 1 + np.array([change.value for change in changes]) / baseline.mean_ppl
        half = np.array([change.high - change.value for change in changes]) / baseline.mean_ppl
        half = np.minimum(half, 0.9 * ratio)  # a logarithmic axis has no zero
        dash, marker = looks.strokes[stroke(line)]
        x, colour = [place(result) + shift for result in line], looks.colours.get(line[0].cell.method, INK)
        ax.errorbar(x, ratio, half, color=colour, ls=dash, marker=marker, ms=4.5, elinewidth=1, zorder=3)


def lost(result: CellResult, baselines: dict[str, CellResult]) -> float:
    """The rise of perplexity as a share of the model's at full precision."""
    return result.mean_ppl / baselines[result.cell.model].mean_ppl - 1

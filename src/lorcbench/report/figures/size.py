"""Perplexity over model size at each bit width, with and without LoRC: ZeroQuant-V2's figure 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lorcbench.report.comparison import full_precision
from lorcbench.report.derived import without_star
from lorcbench.report.figures.lines import collapsed_above, sizes
from lorcbench.report.figures.style import (
    GREY,
    INK,
    Figure,
    Looks,
    axis_labels,
    canvas,
    dash_handle,
    log_axis,
    row_title,
    save,
    unique,
)
from lorcbench.report.results import CellResult
from lorcbench.report.scorecard import Row
from lorcbench.report.spelling import number
from lorcbench.study.cells import RECIPE, Cell
from lorcbench.study.published import STUDIED

DASHES = {"no LoRC": "-", "LoRC": (0, (5, 2))}


def draw(results: list[CellResult], folder: Path, rows: Iterable[Row]) -> Figure | None:
    """One row of panels per family that has several models, one panel per bit width.

    Args:
        results: derived ones too, whose published counterpart is drawn.
        rows: of the scorecard.
    """
    measured = [result for result in results if not result.derived]
    mebibytes = sizes(results)
    baselines = full_precision(measured)
    families = _families([result for result in measured if result.cell.model in baselines and result.cell in mebibytes])
    ceiling = collapsed_above(measured)
    best = [
        result
        for result in _best(measured)
        if result.cell.model in families and result.cell in mebibytes and result.mean_ppl <= ceiling
    ]
    if not best:
        return None
    bits = sorted({result.cell.weight_format.bits for result in best}, reverse=True)
    looks = Looks(result.cell.method for result in best)
    printed = _in_print(results, best, rows)
    title = "Is a larger model at fewer bits worth its size?"
    names = unique(families.values())
    fig, axes = canvas((len(names), len(bits)), 2.4, title, measured, _handles(looks, bool(printed)), share="row")
    axes[0, 0].set_xscale("log")
    for panels, family in zip(axes, names, strict=True):
        row_title(panels[0], family)
        panels[0].set_yscale("log")
        of_family = {model for model, name in families.items() if name == family}
        full = [result for model, result in baselines.items() if model in of_family]
        for ax, width in zip(panels, bits, strict=True):
            ax.set_title(f"{width} bits", fontweight="normal", color=GREY)
            _line(ax, full, mebibytes, "-", "*", INK)
            _draw_recipes(ax, _of_panel(best, width, of_family), mebibytes, looks)
            rings = [(result, ppl) for result, ppl in printed if _of_panel([result], width, of_family)]
            _draw_in_print(ax, rings, mebibytes, looks)
        log_axis(panels[0].yaxis)
    log_axis(axes[0, 0].xaxis, narrow=True)
    axis_labels(fig, "size of the block linears in MiB, from the smallest model to the largest", "mean PPL of the corpora")
    caption = (
        "Each line joins the models of a family; a recipe below and left of full precision's gives more for its bytes. "
        "Of the groups, and of the ranks, that a method was run with, the one of lowest perplexity."
    )
    if hidden := sum(result.mean_ppl > ceiling for result in _best(measured)):
        caption += f" Recipes with a perplexity above {number(ceiling)} are not drawn: {hidden}."
    return save(fig, folder, Figure("size", title, caption))


def _families(results: list[CellResult]) -> dict[str, str]:
    """The family of each model, of the families that have several models."""
    families = {result.cell.model: result.family for result in results}
    count = Counter(families.values())
    return {model: family for model, family in families.items() if count[family] > 1}


def _handles(looks: Looks, printed: bool) -> list[Line2D]:
    """The entries of the legend: methods, dashes, and the points that are no recipe of ours."""
    dashes = [dash_handle(name, dash) for name, dash in DASHES.items()]
    full = Line2D([], [], color=INK, marker="*", ms=9, label="full precision")
    ring = Line2D([], [], ls="", marker="o", ms=9, mfc="none", mec=GREY, mew=1.2, label="in print")
    return [*looks.methods, *dashes, full, *([ring] if printed else [])]


def _of_panel(results: list[CellResult], bits: int, models: set[str]) -> list[CellResult]:
    """The results of one panel."""
    return [result for result in results if result.cell.weight_format.bits == bits and result.cell.model in models]


def _draw_recipes(ax: Axes, results: list[CellResult], mebibytes: dict[Cell, float], looks: Looks) -> None:
    """A line per method, without and with LoRC."""
    for method in looks.colours:
        colour, mark = looks.of(method)
        for name, dash in DASHES.items():
            line = [r for r in results if r.cell.method == method and (r.cell.rank > 0) == (name == "LoRC")]
            _line(ax, line, mebibytes, dash, mark, colour)


def _draw_in_print(ax: Axes, printed: list[tuple[CellResult, float]], mebibytes: dict[Cell, float], looks: Looks) -> None:
    """A ring at each published mean, at the size of the cell that it is the counterpart of."""
    for result, ppl in printed:
        if result.cell in mebibytes:
            colour, _ = looks.of(without_star(result.cell.method))
            ax.plot(mebibytes[result.cell], ppl, ls="", marker="o", ms=9, mfc="none", mec=colour, mew=1.2, zorder=4)


def _best(results: list[CellResult]) -> Iterable[CellResult]:
    """The cell of lowest perplexity of each model, method, bit width, and without and with LoRC."""
    best: dict[tuple, CellResult] = {}
    for result in results:
        cell = result.cell
        if cell.method == "none" or cell.activation != "a16":
            continue
        key = (cell.model, cell.method, cell.weight_format.bits, cell.rank > 0)
        if key not in best or result.mean_ppl < best[key].mean_ppl:
            best[key] = result
    return best.values()


def _in_print(results: list[CellResult], best: list[CellResult], rows: Iterable[Row]) -> list[tuple[CellResult, float]]:
    """The published mean of each cell that a line goes through, and of each derived cell."""
    of_papers = [row for row in rows if row.corpus == "mean" and row.source in STUDIED]
    means = {tuple(getattr(row, axis) for axis in RECIPE): row.published for row in of_papers}
    candidates = [*best, *(result for result in results if result.derived)]
    keys = [(result, tuple(getattr(result.cell, axis) for axis in RECIPE)) for result in candidates]
    return [(result, means[key]) for result, key in keys if np.isfinite(means.get(key, np.inf))]


def _line(ax: Axes, results: list[CellResult], mebibytes: dict[Cell, float], dash, mark: str, colour: str) -> None:
    """Perplexity over size, from the smallest cell to the largest."""
    places = [(mebibytes[result.cell], result.mean_ppl) for result in results if result.cell in mebibytes]
    places.sort(key=lambda place: place[0])
    if places:
        ax.plot(*zip(*places, strict=True), ls=dash, marker=mark, ms=9 if mark == "*" else 5, color=colour, zorder=3)

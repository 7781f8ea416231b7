"""Perplexity over model size at each bit width, with and without LoRC: ZeroQuant-V2's figure 1."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lorcbench.report.claims import full_precision, number
from lorcbench.report.figures.pareto import collapsed_above, mebibytes
from lorcbench.report.figures.style import (
    GREY,
    INK,
    Figure,
    Looks,
    axis_labels,
    canvas,
    log_axis,
    row_title,
    save,
    unique,
    weight_of,
)
from lorcbench.report.results import CellResult
from lorcbench.report.scorecard import Row
from lorcbench.study.cells import Cell

_AXES = ("model", "method", "calibration", "weight", "activation", "lorc", "rank")
STROKES = {"no LoRC": ("-", "o"), "LoRC": ((0, (5, 2)), "^")}


def draw(results: list[CellResult], folder: Path, rows: Iterable[Row]) -> Figure | None:
    """One row of panels a family that has several models, one panel a bit width.

    Args:
        results: derived ones too, whose published counterpart is drawn.
        rows: of the scorecard.
    """
    found, results = results, [result for result in results if not result.derived]
    baselines, sizes = full_precision(results), mebibytes(found)
    models = {result.cell.model: result.family for result in results if result.cell.model in baselines and result.cell in sizes}
    families = [family for family in unique(models.values()) if list(models.values()).count(family) > 1]
    ceiling = collapsed_above(results)
    best = [
        result
        for result in _best(results)
        if models.get(result.cell.model) in families and result.cell in sizes and result.mean_ppl <= ceiling
    ]
    bits = sorted({weight_of(result).bits for result in best}, reverse=True)
    if not best:
        return None
    looks = Looks(result.cell.method for result in best)
    strokes = [Line2D([], [], color=GREY, ls=dash, marker=mark, label=name) for name, (dash, mark) in STROKES.items()]
    full = Line2D([], [], color=INK, marker="*", ms=9, label="full precision")
    printed = _in_print(found, best, rows)
    open_ring = [Line2D([], [], ls="", marker="o", ms=9, mfc="none", mec=GREY, mew=1.2, label="in print")] if printed else []
    title = "Is a larger model at fewer bits worth its size?"
    handles = [*looks.methods, *strokes, full, *open_ring]
    fig, axes = canvas((len(families), len(bits)), 2.4, title, results, handles, share="row")
    axes[0, 0].set_xscale("log")
    for row, family in zip(axes, families, strict=True):
        row_title(row[0], family)
        row[0].set_yscale("log")
        of_family = [result for result in baselines.values() if models.get(result.cell.model) == family]
        for ax, width in zip(row, bits, strict=True):
            ax.set_title(f"{width} bits", fontweight="normal", color=GREY)
            _line(ax, of_family, sizes, "-", "*", INK)
            members = [r for r in best if weight_of(r).bits == width and models[r.cell.model] == family]
            for method, colour in looks.colours.items():
                for name, (dash, mark) in STROKES.items():
                    line = [r for r in members if r.cell.method == method and (r.cell.rank > 0) == (name == "LoRC")]
                    _line(ax, line, sizes, dash, mark, colour)
            for result, ppl in printed:
                if weight_of(result).bits == width and models.get(result.cell.model) == family and result.cell in sizes:
                    colour = looks.colours.get(result.cell.method.replace("*", ""), INK)
                    ax.plot(sizes[result.cell], ppl, ls="", marker="o", ms=9, mfc="none", mec=colour, mew=1.2, zorder=4)
        log_axis(row[0].yaxis)
    log_axis(axes[0, 0].xaxis, narrow=True)
    axis_labels(fig, "size of the block linears in MiB, from the smallest model to the largest", "mean PPL of the corpora")
    caption = (
        "Each line joins the models of a family; a recipe below and left of full precision's gives more for its bytes. "
        "Of the groups, and of the ranks, that a method was run with, the one of lowest perplexity."
    )
    if hidden := sum(result.mean_ppl > ceiling for result in _best(results)):
        caption += f" Recipes with a perplexity above {number(ceiling)} are not drawn: {hidden}."
    return save(fig, folder, Figure("size", title, caption))


def _best(results: list[CellResult]) -> Iterable[CellResult]:
    """The cell of lowest perplexity of each model, method, bit width, and without and with LoRC."""
    best: dict[tuple, CellResult] = {}
    for result in results:
        cell = result.cell
        if cell.method == "none" or cell.activation != "a16":
            continue
        key = (cell.model, cell.method, weight_of(result).bits, cell.rank > 0)
        if key not in best or result.mean_ppl < best[key].mean_ppl:
            best[key] = result
    return best.values()


def _in_print(found: list[CellResult], best: list[CellResult], rows: Iterable[Row]) -> list[tuple[CellResult, float]]:
    """The published mean of each cell that a line goes through, and of each derived cell."""
    means = {tuple(getattr(row, axis) for axis in _AXES): row.published for row in rows if row.corpus == "mean"}
    candidates = [*best, *(result for result in found if result.derived)]
    keys = [(result, tuple(getattr(result.cell, axis) for axis in _AXES)) for result in candidates]
    return [(result, means[key]) for result, key in keys if np.isfinite(means.get(key, np.inf))]


def _line(ax: Axes, line: list[CellResult], sizes: dict[Cell, float], dash, mark: str, colour: str) -> None:
    line = sorted((result for result in line if result.cell in sizes), key=lambda result: sizes[result.cell])
    places = [(sizes[result.cell], result.mean_ppl) for result in line]
    if places:
        ax.plot(*zip(*places, strict=True), ls=dash, marker=mark, ms=9 if mark == "*" else 5, color=colour, zorder=3)

"""Perplexity against size: which recipes are worth their bytes."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lorcbench.report.figures.lines import collapsed_above, sizes
from lorcbench.report.figures.names import ALL_AROUND, BELOW_LEFT, Names, Place
from lorcbench.report.figures.style import GREY, INK, PAPER, Figure, Looks, axis_labels, canvas, log_axis, save, span, unique
from lorcbench.report.results import CellResult
from lorcbench.report.spelling import number
from lorcbench.study.cells import Cell

HOLLOW = {"mfc": PAPER, "mew": 1.4}  # the mark of a cell with LoRC


def draw(results: list[CellResult], folder: Path) -> Figure | None:
    """One panel per family, each with its front of undominated cells."""
    mebibytes = sizes(results)
    ceiling = collapsed_above(results)
    points = [result for result in results if result.cell in mebibytes and result.mean_ppl <= ceiling]
    if all(result.cell.method == "none" for result in points):
        return None
    looks = Looks(result.cell.method for result in results)
    families = unique(result.family for result in points)
    title = "Which recipe is best at a given size?"
    marks = [Line2D([], [], ls="", marker="o", ms=8, color=GREY, label="no LoRC")]
    marks += [Line2D([], [], ls="", marker="o", ms=8, color=GREY, mec=GREY, label="LoRC", **HOLLOW)]
    marks += [Line2D([], [], ls="", marker="*", ms=8, color=INK, label="full precision")]
    handles = [*looks.methods, *marks, Line2D([], [], color=INK, label="Pareto front")]
    fig, axes = canvas((1, len(families)), 4.4, title, results, handles)
    first = axes[0, 0]
    first.set(xscale="log", yscale="log")
    first.set_xlim(span([mebibytes[result.cell] for result in points], 0.12, 0.05))
    first.set_ylim(span([result.mean_ppl for result in points], 0.15, 0.05))
    log_axis(first.xaxis)
    log_axis(first.yaxis)
    for ax, family in zip(axes[0], families, strict=True):
        ax.set_title(family)
        _draw_family(ax, [result for result in points if result.family == family], mebibytes, looks)
    axis_labels(fig, "size of the block linears in MiB: codes, scales, zero points and factors", "mean PPL of the corpora")
    caption = (
        "Every cell of the study; lower and further left is better. A cell is on the line unless another one of its family is "
        "at least as good in both size and perplexity, and better in one; the others are pale."
    )
    if hidden := len(mebibytes) - len(points):
        caption += f" Cells with a perplexity above {number(ceiling)} are not drawn: {hidden}."
    return save(fig, folder, Figure("pareto", title, caption))


def _draw_family(ax: Axes, members: list[CellResult], mebibytes: dict[Cell, float], looks: Looks) -> None:
    """The cells of one family by size, and their front: those that no cell beats in size and perplexity."""
    front: list[CellResult] = []
    for result in sorted(members, key=lambda result: (mebibytes[result.cell], result.mean_ppl)):
        if not front or result.mean_ppl < front[-1].mean_ppl:
            front.append(result)
    places = {result.cell: (mebibytes[result.cell], result.mean_ppl) for result in members}
    best = {result.cell: places[result.cell] for result in front}
    ax.step(*zip(*best.values(), strict=True), where="post", color=INK)
    looks_alike: dict[tuple, list[Place]] = {}  # one element of the drawing per look, not per cell
    for cell, place in places.items():
        if cell.is_full_precision:
            ax.plot(*place, marker="*", color=INK, ms=11, zorder=5)
        else:
            looks_alike.setdefault((cell.method, cell in best, cell.rank > 0), []).append(place)
    for (method, on_front, corrected), alike in looks_alike.items():
        size, alpha = (7, 1) if on_front else (5, 0.35)
        colour, mark = looks.of(method)
        hollow = HOLLOW | {"mec": colour} if corrected else {}
        style = {"ls": "", "marker": mark, "color": colour, "ms": size, "alpha": alpha, "zorder": 3 + alpha}
        ax.plot(*zip(*alike, strict=True), **style, **hollow)
    _name(ax, places, best)


def _name(ax: Axes, places: dict[Cell, Place], front: dict[Cell, Place]) -> None:
    """Write each model to its full precision, and the weight format to cells of the front where there is room."""
    corners: list[Place] = []
    for place in front.values():
        corners += [*([(place[0], corners[-1][1])] if corners else []), place]
    names = Names(ax, places.values(), corners)
    for cell, place in places.items():
        if cell.is_full_precision:
            names.put(cell.model, place, ALL_AROUND, 9, INK, is_needed=True)
    for cell, place in front.items():
        weight = cell.weight_format
        if cell.method != "none":  # nothing else lies below and left of the front
            text = f"w{weight.bits} {f'g{weight.group}' if weight.group else 'row'}{f' r{cell.rank}' if cell.rank else ''}"
            names.put("mixed" if weight.is_mixed else text, place, BELOW_LEFT, 7.5, GREY)

"""Which kind of correction is best at each size: the Pareto front of every kind, over all methods, formats and ranks."""

from __future__ import annotations

from pathlib import Path

from matplotlib.lines import Line2D

from lorcbench.report.comparison import Change
from lorcbench.report.equal_bits import KINDS, NONE, kind_of
from lorcbench.report.figures.lines import ABREAST, collapsed_above
from lorcbench.report.figures.style import EDGE, KIND_LOOKS, Figure, axis_labels, canvas, drop_spare, log_axis, save, unique
from lorcbench.report.results import CellResult
from lorcbench.report.spelling import number
from lorcbench.study.cells import Cell


def draw(results: list[CellResult], changes: dict[Cell, Change], folder: Path) -> Figure | None:
    """One panel per model, one line per kind of correction."""
    ceiling = collapsed_above(results)
    points = [r for r in results if r.cell in changes and r.cell.method != "none" and r.bits_per_weight]
    points = [result for result in points if result.cell.activation == "a16"] or points
    kept = [result for result in points if result.mean_ppl <= ceiling]
    present = {kind_of(result.cell) for result in kept}
    if NONE not in present or present == {NONE}:
        return None
    # Where no correction comes near, there is nothing to compare.
    most = max(result.bits_per_weight for result in kept if result.cell.rank)
    kept = [result for result in kept if result.bits_per_weight <= most + 0.1]
    handles = [
        Line2D([], [], color=colour, ls=dash, marker=mark, label="no correction" if kind == NONE else kind)
        for kind, (colour, dash, mark) in KIND_LOOKS.items()
        if kind in present
    ]
    title = "Which correction is best at equal bits?"
    models = unique(result.cell.model for result in kept)
    columns = min(len(models), ABREAST)
    fig, axes = canvas((-(-len(models) // columns), columns), 3.2, title, results, handles)
    for ax, model in zip(axes.flat, models, strict=False):
        ax.set_title(model)
        ax.axhline(1, color=EDGE, lw=0.8, zorder=1)
        of_model = [result for result in kept if result.cell.model == model]
        for kind in KINDS:
            front = _front([result for result in of_model if kind_of(result.cell) == kind])
            colour, dash, mark = KIND_LOOKS[kind]
            ratios = [1 + changes[result.cell].relative.value for result in front]
            bits = [result.bits_per_weight for result in front]
            ax.plot(bits, ratios, color=colour, ls=dash, marker=mark, ms=4.5, zorder=3)
    drop_spare(axes, len(models))
    axes[0, 0].set_yscale("log")
    log_axis(axes[0, 0].yaxis, "×")
    axis_labels(fig, "bits per weight: codes, scales, zero points and factors", "PPL ÷ full precision")
    caption = (
        "Of each kind of correction the Pareto front of all measured cells, over all methods, weight formats and ranks: no "
        "other cell of the kind is at least as good in both bits and mean perplexity, and better in one. Further down and "
        "left is better: at equal bits the lowest cell that is not further right wins. A kind that was measured in fewer "
        "cells has fewer chances."
    )
    if hidden := len(points) - sum(result.mean_ppl <= ceiling for result in points):
        caption += f" Cells with a perplexity above {number(ceiling)} are not drawn: {hidden}."
    return save(fig, folder, Figure("fronts", title, caption))


def _front(results: list[CellResult]) -> list[CellResult]:
    """The cells that no other one beats in bits and perplexity, by bits."""
    front: list[CellResult] = []
    for result in sorted(results, key=lambda result: (result.bits_per_weight, result.mean_ppl)):
        if not front or result.mean_ppl < front[-1].mean_ppl:
            front.append(result)
    return front

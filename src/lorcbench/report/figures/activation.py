"""Perplexity against the group size of quantized activations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lorcbench.core.formats import ActivationFormat
from lorcbench.report.claims import full_precision
from lorcbench.report.figures.lines import plot
from lorcbench.report.figures.style import Figure, Looks, axis_labels, canvas, drop_spare, log_axis, save, unique
from lorcbench.report.results import CellResult


def draw(results: list[CellResult], folder: Path) -> Figure | None:
    """One panel a model; a recipe is shown if it was run with two group sizes of the same activation bits."""
    baselines = full_precision(results)
    lines: dict[tuple, list[CellResult]] = {}
    for result in results:
        if result.cell.model in baselines and result.cell.activation != "a16":
            lines.setdefault(_line(result), []).append(result)
    lines = {key: line for key, line in lines.items() if len({_group(result) for result in line}) > 1}
    if not lines:
        return None
    whole = {_recipe(result): result for result in results if result.cell.activation == "a16"}
    for line in lines.values():
        line.sort(key=_group, reverse=True)
        if (unrounded := whole.get(_recipe(line[0]))) and unrounded.cell.model in baselines:
            line.append(unrounded)
    shown = [result for line in lines.values() for result in line]
    groups = sorted({_group(result) for result in shown}, reverse=True)
    models = unique(result.cell.model for result in shown)
    looks = Looks((result.cell.method for result in shown), (_stroke(line[0]) for line in lines.values()))
    columns = min(len(models), 4)
    title = "How fine must the groups of the activations be?"
    handles = [*looks.methods, *looks.formats]
    fig, axes = canvas((-(-len(models) // columns), columns), 2.6, title, results, handles)
    for ax, model in zip(axes.flat, models, strict=False):
        ax.set_title(model)
        ax.set_xticks(range(len(groups)), [_spell(group) for group in groups])
        ax.set_xlim(-0.4, len(groups) - 0.6)
        of_model = [line for line in lines.values() if line[0].cell.model == model]
        plot(ax, of_model, lambda result: groups.index(_group(result)), baselines[model], looks, lambda line: _stroke(line[0]))
    drop_spare(axes, len(models))
    axes[0, 0].set_yscale("log")
    log_axis(axes[0, 0].yaxis, "×")
    axis_labels(fig, "features of a token that share a scale; none: activations as they are", "PPL ÷ full precision")
    black = " Black is weights in full precision." if any(result.cell.method == "none" for result in shown) else ""
    caption = (
        "Mean perplexity of the corpora when the inputs of the block linears are rounded at run time, divided by the same "
        f"model's at full precision.{black} Bars are 95 % intervals of the paired difference."
    )
    return save(fig, folder, Figure("activation", title, caption))


def _line(result: CellResult) -> tuple:
    """What the cells of one line have in common: all but the group of the activations."""
    plain = replace(ActivationFormat.parse(result.cell.activation), group=None)
    return (*_recipe(result), str(plain))


def _recipe(result: CellResult) -> tuple:
    cell = result.cell
    return cell.model, cell.method, cell.calibration, cell.weight, cell.lorc, cell.rank


def _stroke(result: CellResult) -> str:
    """Weight format and activation bits of a line, for the legend."""
    parsed, cell = ActivationFormat.parse(result.cell.activation), result.cell
    rank = f" r{cell.rank}" if cell.rank else ""
    return f"{cell.weight}{rank} a{parsed.bits}-{'sym' if parsed.symmetric else 'asym'}"


def _group(result: CellResult) -> float:
    """Features that share a scale: a whole token is infinite, no rounding is one."""
    parsed = ActivationFormat.parse(result.cell.activation)
    return 1 if parsed.bits == 16 else parsed.group or np.inf


def _spell(group: float) -> str:
    return "none" if group == 1 else "token" if group == np.inf else f"g{group}"

"""Perplexity against the group size of quantized activations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lorcbench.report.comparison import Change
from lorcbench.report.figures.lines import BESIDE, named_places, panel_per_model
from lorcbench.report.figures.style import Figure, Looks, axis_labels, save
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell


def draw(results: list[CellResult], changes: dict[Cell, Change], folder: Path) -> Figure | None:
    """One panel per model; a recipe is shown if it was run with two group sizes of the same activation bits."""
    lines = _lines([result for result in results if result.cell in changes])
    if not lines:
        return None
    points = [result for line in lines for result in line]
    groups = sorted({group_of(result.cell) for result in points}, reverse=True)
    names = [spell(group) for group in groups]
    looks = Looks((result.cell.method for result in points), map(_stroke, lines))
    title = "How fine must the groups of the activations be?"
    fig = panel_per_model(
        title,
        results,
        lines,
        lambda result: groups.index(group_of(result.cell)),
        changes,
        looks,
        lambda ax: named_places(ax, names),
        _stroke,
    )
    axis_labels(fig, "features of a token that share a scale; none: activations as they are", "PPL ÷ full precision")
    black = " Black is weights in full precision." if any(result.cell.method == "none" for result in points) else ""
    caption = (
        "Mean perplexity of the corpora when the inputs of the block linears are rounded at run time, divided by the same "
        f"model's at full precision.{black} Bars are 95 % intervals of the paired difference.{BESIDE}"
    )
    return save(fig, folder, Figure("activation", title, caption))


def _lines(results: list[CellResult]) -> list[list[CellResult]]:
    """The cells that differ in the group of the activations only, and last the same recipe with activations as they are."""
    lines: dict[tuple, list[CellResult]] = {}
    whole: dict[tuple, CellResult] = {}
    for result in results:
        if result.cell.activation_format.is_full_precision:
            whole[_recipe(result)] = result
        else:
            any_group = replace(result.cell.activation_format, group=None)
            lines.setdefault((*_recipe(result), any_group), []).append(result)
    several = [line for line in lines.values() if len({group_of(result.cell) for result in line}) > 1]
    for line in several:
        line.sort(key=lambda result: group_of(result.cell), reverse=True)
        if unrounded := whole.get(_recipe(line[0])):
            line.append(unrounded)
    return several


def _recipe(result: CellResult) -> tuple:
    """All of a cell but its activations."""
    cell = result.cell
    return cell.model, cell.method, cell.calibration, cell.weight, cell.lorc, cell.rank


def _stroke(line: list[CellResult]) -> str:
    """Weight format and activation bits of a line, for the legend."""
    cell = line[0].cell
    activation = cell.activation_format
    rank = f" r{cell.rank}" if cell.rank else ""
    return f"{cell.weight}{rank} a{activation.bits}-{'sym' if activation.symmetric else 'asym'}"


def group_of(cell: Cell) -> float:
    """Features that share a scale: a whole token is infinite, no rounding is one."""
    activation = cell.activation_format
    return 1 if activation.is_full_precision else activation.group or np.inf


def spell(group: float) -> str:
    """A group as the axis and the text call it."""
    return "none" if group == 1 else "token" if group == np.inf else f"g{group}"

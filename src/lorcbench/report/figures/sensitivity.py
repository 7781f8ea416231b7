"""What each weight format costs, as a heat map: bits by group, one panel per model and method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lorcbench.core.formats import WeightFormat
from lorcbench.report.comparison import Change
from lorcbench.report.figures.style import (
    GREY,
    WIDTH,
    Figure,
    axis_labels,
    canvas,
    method_labels,
    row_title,
    save,
    unique,
)
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell

SHADES = colormaps["OrRd"]
SCALE = LogNorm(0.001, 1, clip=True)  # of the rise of perplexity as a share: from 0.1 % to a doubling
WIDEST = 0.9  # inches of a cell
# On shades, whether the page is light or dark.
DARK_INK = "#1a1a1a"
LIGHT_INK = "#fefefe"


def draw(results: list[CellResult], changes: dict[Cell, Change], folder: Path) -> Figure | None:
    """Weights without LoRC, activations as they are; a method is shown if it was run with two rows and four formats."""
    plain = [r for r in results if r.cell in changes and r.cell.method != "none" and r.cell.rank == 0]
    plain = [result for result in plain if result.cell.activation == "a16"]
    formats: dict[str, set[WeightFormat]] = {}
    for result in plain:
        formats.setdefault(result.cell.method, set()).add(result.cell.weight_format)
    methods = [method for method, tried in formats.items() if len(tried) >= 4 and len(set(map(_row, tried))) > 1]
    members = [result for result in plain if result.cell.method in methods]
    if not members:
        return None
    models = unique(result.cell.model for result in members)
    rows = sorted({_row(result.cell.weight_format) for result in members}, key=lambda row: (-row[0], row[1]))
    groups = sorted({_group(result) for result in members}, key=lambda group: -group if group else -np.inf)
    title = "How sensitive is each model to bits and groups?"
    legend = Line2D([], [], ls="", marker="s", ms=9, color=SHADES(0.5), label="rise of PPL over full precision, in percent")
    # Models stand side by side, if their cells are not too narrow for numbers and their panels for names.
    fit = len(models) <= 10 and len(models) * len(groups) <= 24
    down, across = (methods, models) if fit and len(methods) <= len(models) else (models, methods)
    fig, axes = canvas((len(down), len(across)), 0.1 + 0.3 * len(rows), title, results, [legend], share="row")
    labels = method_labels(methods)
    for panels, row_name in zip(axes, down, strict=True):
        row_title(panels[0], labels.get(row_name, row_name))
        for ax, name in zip(panels, across, strict=True):
            rises: dict[tuple[int, int], float] = {}
            for result in members:
                if {result.cell.model, result.cell.method} == {row_name, name}:
                    place = groups.index(_group(result)), rows.index(_row(result.cell.weight_format))
                    rises[place] = min(changes[result.cell].relative.value, rises.get(place, np.inf))
            _shade(ax, rises, (len(groups), len(rows)))
            ax.set_title(labels.get(name, name), fontweight="normal", color=GREY, fontsize=9.5 if len(across) < 8 else 8)
            ax.set_xticks(range(len(groups)), [f"g{group}" if group else "row" for group in groups])
            ax.set_yticks(range(len(rows)), _row_labels(rows))
    axis_labels(fig, "weights that share a scale", "bits per weight")
    caption = (
        "Rise of the mean perplexity over full precision in percent, without LoRC; the darker, the more is lost. "
        "Where a format was run with several calibrations, the lowest."
    )
    return save(fig, folder, Figure("sensitivity", title, caption))


def _group(result: CellResult) -> int:
    """Weights that share a scale; 0 is a whole row."""
    return result.cell.weight_format.group or 0


def _row(weight: WeightFormat) -> tuple[int, str]:
    """Bits, and what else but the group tells formats apart."""
    _, symmetry, _, *conventions = str(weight).split("-")  # as in w4-asym-g128-pow2
    return weight.bits, " ".join([symmetry, *conventions])


def _row_labels(rows: list[tuple[int, str]]) -> list[str]:
    """The bits; with the rest of the format where rows differ in it."""
    several = len({rest for _, rest in rows}) > 1
    return [f"{bits} {rest}" if several else str(bits) for bits, rest in rows]


def _shade(ax: Axes, rises: dict[tuple[int, int], float], shape: tuple[int, int]) -> None:
    """A panel: each of its cells has a shade, and the rise in percent."""
    for (x, y), rise in rises.items():
        shade = SCALE(max(rise, SCALE.vmin))
        ax.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, color=SHADES(0.9 * shade), lw=0))
        digits = 0 if abs(rise) >= 0.0995 else 1 if abs(rise) >= 0.00095 else 2
        text = f"{round(100 * rise, digits) + 0.0:,.{digits}f}"  # no minus zero
        ink = LIGHT_INK if shade > 0.62 else DARK_INK
        ax.text(x, y, text.replace("-", "−"), ha="center", va="center", fontsize=8, color=ink)
    inches = WIDTH * ax.get_position().width
    ax.set_xlim(-0.5, max(shape[0], inches / WIDEST) - 0.5)
    ax.set_ylim(shape[1] - 0.5, -0.5)
    ax.grid(False)
    ax.spines[:].set_visible(False)

"""Which linear got which format, of the cells with mixed formats: a map of blocks and linears per cell."""

from __future__ import annotations

from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lorcbench.config.variants import Variant
from lorcbench.core.formats import WeightFormat
from lorcbench.report import mixed
from lorcbench.report.figures.style import GREY, Figure, axis_labels, canvas, drop_spare, save, unique
from lorcbench.report.results import CellResult
from lorcbench.study.cells import weight_format

SHADES = colormaps["OrRd"]
DARK_INK = "#1a1a1a"  # on shades, whether the page is light or dark
LIGHT_INK = "#fefefe"
ABREAST = 3
MOST = 12  # cells that are shown: those with fewest bits first
_NAMED = 16  # blocks, up to which there is room for numbers
_SHORT = {"query_key_value": "qkv", "dense_h_to_4h": "fc1", "dense_4h_to_h": "fc2", "dense": "out"}  # of BLOOM


def draw(results: list[CellResult], folder: Path) -> Figure | None:
    """One panel per model and cell of mixed formats that was chosen by a score."""
    chosen = [one.result for one in mixed.find(results)]
    chosen = [result for result in chosen if Variant.parse(result.cell.method).setting("by") is None]
    of_cells = {result.cell: formats for result in chosen if (formats := mixed.formats(result))}
    known = [result for result in chosen if result.cell in of_cells]
    shown = sorted(known, key=lambda result: result.bits_per_weight)[:MOST]
    shown = sorted(shown, key=lambda result: result.cell.model)
    if not shown:
        return None
    formats = {result.cell: [_parsed(block) for block in of_cells[result.cell]] for result in shown}
    used = {fmt for blocks in formats.values() for block in blocks for fmt, _ in block.values()}
    order = sorted(used, key=lambda fmt: (fmt.bits, -(fmt.group or 10**9), str(fmt)))
    shades = {fmt: 0.15 + 0.7 * index / max(1, len(order) - 1) for index, fmt in enumerate(order)}
    legend = [Line2D([], [], ls="", marker="s", ms=9, color=SHADES(shades[fmt]), label=str(fmt)) for fmt in order]
    columns = min(ABREAST, len(shown))
    rows = max(len(block) for blocks in formats.values() for block in blocks)
    title = "Which linear got how many bits?"
    about = "Formats of the linears, chosen by measured divergence under a budget"
    fig, axes = canvas((-(-len(shown) // columns), columns), 0.2 + 0.22 * rows, title, shown, legend, "none", about)
    for ax, result in zip(axes.flat, shown, strict=False):
        _fill(ax, formats[result.cell], shades)
        budget = Variant.parse(result.cell.method).setting("bits")
        ax.set_title(f"{result.cell.model}, {budget} bits", fontweight="normal", color=GREY, fontsize=9)
    drop_spare(axes, len(shown))
    axis_labels(fig, "decoder block", "")
    caption = (
        "The format of each linear over the depth of the model, under the budget of bits per weight above its panel "
        "(scales and zero points counted). The darker, the more bits: there the model's predictions suffer most if this linear "
        "is quantized. Linears of one input (q, k, v) have one format. An r is before the rank of the correction, if ranks are "
        "chosen too."
    )
    return save(fig, folder, Figure("mixed", title, caption))


def _parsed(block: dict[str, tuple[str, int]]) -> dict[str, tuple[WeightFormat, int]]:
    """Formats and ranks of a block, by a short name of the linear; linears of one name, such as experts, count as the first."""
    short: dict[str, tuple[WeightFormat, int]] = {}
    for name, (spelled, rank) in block.items():
        last = name.rpartition(".")[2].removesuffix("_proj")
        short.setdefault(_SHORT.get(last, last), (weight_format(spelled), rank))
    return short


def _fill(ax: Axes, blocks: list[dict[str, tuple[WeightFormat, int]]], shades: dict[WeightFormat, float]) -> None:
    """One panel: a row per linear, a column per block."""
    names = unique(name for block in blocks for name in block)
    for x, block in enumerate(blocks):
        for name, (fmt, rank) in block.items():
            y = names.index(name)
            ax.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, color=SHADES(shades[fmt]), lw=0))
            if len(blocks) <= _NAMED:
                ink = LIGHT_INK if shades[fmt] > 0.6 else DARK_INK
                ax.text(
                    x, y, f"{fmt.bits} r{rank}" if rank else str(fmt.bits), ha="center", va="center", fontsize=7.5, color=ink
                )
    ax.set_xlim(-0.5, len(blocks) - 0.5)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(False)
    ax.spines[:].set_visible(False)

"""The study's three figures: what bits cost, what LoRC gives back, and which recipes are worth their size.

One method has one colour in all of them (Okabe-Ito, which colour-blind readers tell apart) and one format one stroke.
Equal results give equal bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lorcbench.claims import full_precision, number, percent
from lorcbench.formats import WeightFormat
from lorcbench.intervals import mean_perplexity_difference
from lorcbench.results import CellResult
from lorcbench.study import Cell

INK, GREY = "#222222", "#666666"
COLOURS = {"rtn": "#D55E00", "gptq": "#0072B2", "gptq-cached": "#56B4E9", "zq_local": "#009E73", "zq_global": "#CC79A7"}
SPARE_COLOURS = ("#E69F00", "#7B5EA7", "#8C8C8C", "#A6761D", "#3B3B3B")
STROKES = (("-", "o"), ((0, (5, 2)), "s"), ((0, (1.5, 1.5)), "D"), ((0, (5, 2, 1, 2)), "v"), ((0, (8, 2)), "P"))
WIDTH, HEADER, FOOTER, LEFT, GAP = 9.0, 1.25, 0.58, 0.78, 0.7  # inches
MARKS = {"no LoRC": "o", "LoRC": "^", "full precision": "*"}
WORTH_MENDING = 0.005  # a bit width that loses a smaller share than this gives LoRC nothing to give back
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "svg.hashsalt": "lorcbench",  # the SVG's element ids are random without it
    **{"text.color": INK, "figure.facecolor": "white"},
    **{"axes.edgecolor": "#999999", "axes.linewidth": 0.8, "axes.spines.right": False, "axes.spines.top": False},
    **{"axes.titlelocation": "left", "axes.titlesize": 10, "axes.titleweight": "bold"},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": "#e8e8e8", "grid.linewidth": 0.8},
    **{"xtick.color": GREY, "xtick.labelsize": 9, "xtick.major.size": 0},
    **{"ytick.color": GREY, "ytick.labelsize": 9, "ytick.major.size": 0},
    **{"lines.linewidth": 1.3, "lines.markersize": 5, "lines.markeredgecolor": "white", "lines.markeredgewidth": 0.6},
    **{"legend.frameon": False, "legend.fontsize": 9.5, "legend.borderpad": 0, "legend.borderaxespad": 0.2},
    **{"legend.handlelength": 2.2, "legend.handletextpad": 0.5, "legend.columnspacing": 1.4},
}


@dataclass(frozen=True)
class Figure:
    """A figure on disk: ``<stem>.png`` and ``<stem>.svg``."""

    stem: str
    title: str
    caption: str


def draw(results: list[CellResult], folder: Path) -> list[Figure]:
    """Draw every figure that the finished cells have data for.

    Args:
        results: the cells of a study; those that are not ``ok`` or have no finite perplexity are left out.
        folder: where the files go; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finished = [result for result in results if result.status == "ok" and np.isfinite(result.mean_ppl)]
    with rc_context(STYLE):
        return [figure for make in (_bits, _lorc, _pareto) if (figure := make(finished, folder))]


class _Looks:
    """The colour of each method and the stroke of each format, one for all figures, and their legend entries."""

    def __init__(self, results: list[CellResult]) -> None:
        methods = sorted({result.cell.method for result in results} - {"none"}, key=lambda name: (name != "rtn", name))
        stems = Counter(name.partition("+")[0] for name in methods)
        # A method with one variant goes by its own name and colour.
        labels = {name: stem if stems[stem := name.partition("+")[0]] == 1 else name for name in methods}
        spare = [name for name in methods if labels[name] not in COLOURS]
        self.colours = {name: COLOURS[labels[name]] for name in methods if labels[name] in COLOURS}
        self.colours |= {name: SPARE_COLOURS[index % len(SPARE_COLOURS)] for index, name in enumerate(spare)}
        formats = _unique(_format(result) for result in results if result.cell.method != "none")
        self.strokes = {name: STROKES[index % len(STROKES)] for index, name in enumerate(formats)}
        self.methods = [Line2D([], [], color=colour, lw=4, label=labels[name]) for name, colour in self.colours.items()]
        strokes = self.strokes.items()
        self.formats = [Line2D([], [], color=GREY, ls=dash, marker=mark, label=name) for name, (dash, mark) in strokes]


def _bits(results: list[CellResult], folder: Path) -> Figure | None:
    """Perplexity against the bits of a weight, one panel a model."""
    baselines = full_precision(results)
    shown = [r for r in results if r.cell.model in baselines and r.cell.method != "none" and r.cell.rank == 0]
    shown = [result for result in shown if result.cell.activation == "a16"] or shown
    if not shown:
        return None
    looks, models = _Looks(shown), _unique(result.cell.model for result in shown)
    bits = sorted({_weight(result).bits for result in shown})
    columns, handles = min(len(models), 4), looks.methods + looks.formats
    title = "How much perplexity does each bit width cost?"
    fig, axes = _canvas((-(-len(models) // columns), columns), 2.6, title, results, handles)
    for ax, model in zip(axes.flat, models, strict=False):
        lines = _lines([result for result in shown if result.cell.model == model])
        ax.set_title(model)
        ax.set_xticks(range(len(bits)), [str(value) for value in bits])
        ax.set_xlim(-0.4, len(bits) - 0.6)
        _plot(ax, lines, lambda result: bits.index(_weight(result).bits), baselines[model], looks)
    for ax in axes.flat[len(models) :]:
        ax.remove()
    axes[0, 0].set_yscale("log")
    _log_axis(axes[0, 0].yaxis, "×")
    _label(fig, "bits a weight, scales and zero points not counted", "PPL ÷ full precision")
    caption = (
        "Mean perplexity of the corpora without LoRC, divided by the same model's at full precision; lower is better. "
        "Bars are 95 % intervals of the paired difference over the same windows of text."
    )
    return _save(fig, folder, Figure("bits", title, caption))


def _lorc(results: list[CellResult], folder: Path) -> Figure | None:
    """Perplexity against the rank of the compensation, one panel for each model and bit width."""
    baselines = full_precision(results)
    corrected = {_without_lorc(r.cell) for r in results if r.cell.rank and r.cell.model in baselines}
    shown = [result for result in results if _without_lorc(result.cell) in corrected]
    bits = sorted({_weight(r).bits for r in shown if _lost(r, baselines) > WORTH_MENDING})
    shown = [result for result in shown if _weight(result).bits in bits]
    if not shown:
        return None
    looks, models = _Looks(shown), _unique(result.cell.model for result in shown)
    ranks = sorted({result.cell.rank for result in shown})
    title, handles = "How much of the loss does LoRC give back?", looks.methods + looks.formats
    fig, axes = _canvas((len(models), len(bits)), 1.6, title, results, handles, by_column=True)
    for row, model in enumerate(models):
        for ax, width in zip(axes[row], bits, strict=True):
            lines = _lines([r for r in shown if r.cell.model == model and _weight(r).bits == width], by_rank=True)
            ax.set_title(f"{width} bits", fontweight="normal", color=GREY)
            ax.set_xticks(range(len(ranks)), ["none" if rank == 0 else f"r{rank}" for rank in ranks])
            ax.set_xlim(-0.4, len(ranks) - 0.6)
            _plot(ax, lines, lambda result: ranks.index(result.cell.rank), baselines[model], looks)
        axes[row, 0].annotate(model, (0, 1), (0, 20), "axes fraction", "offset points", fontweight="bold")
    for ax in axes[0]:
        ax.set_yscale("log")
        _log_axis(ax.yaxis, "×")
    _label(fig, "rank of the LoRC factors", "PPL ÷ full precision")
    caption = (
        "Mean perplexity of the corpora, divided by the same model's at full precision, without LoRC and by rank. Each "
        f"bit width has its own scale; those that lose less than {100 * WORTH_MENDING:g} % are left out. "
        f"{_recovered(shown, baselines)}"
    )
    return _save(fig, folder, Figure("lorc", title, caption))


def _pareto(results: list[CellResult], folder: Path) -> Figure | None:
    """Perplexity against size, one panel a family, each with its front of undominated cells."""
    ceiling = 10 * max((result.mean_ppl for result in full_precision(results).values()), default=np.inf)
    sizes = _mebibytes(results)
    shown = [result for result in results if result.cell in sizes and result.mean_ppl <= ceiling]
    if all(result.cell.method == "none" for result in shown):
        return None
    looks, families = _Looks(results), _unique(result.family for result in shown)
    title = "Which recipe is best at a given size?"
    marks = [Line2D([], [], ls="", marker=mark, ms=8, color=GREY, label=name) for name, mark in MARKS.items()]
    handles = [*looks.methods, *marks, Line2D([], [], color=INK, label="Pareto front")]
    fig, axes = _canvas((1, len(families)), 4.4, title, results, handles)
    first = axes[0, 0]
    first.set(xscale="log", yscale="log")
    first.set_xlim(_span([sizes[result.cell] for result in shown], 0.12, 0.05))
    first.set_ylim(_span([result.mean_ppl for result in shown], 0.15, 0.05))
    _log_axis(first.xaxis)
    _log_axis(first.yaxis)
    for ax, family in zip(axes[0], families, strict=True):
        ax.set_title(family)
        _draw_family(ax, [result for result in shown if result.family == family], sizes, looks)
    _label(fig, "size of the block linears in MiB: codes, scales, zero points and factors", "mean PPL of the corpora")
    caption = (
        "Every cell of the study; lower and further left is better. No cell of its family is both smaller and better "
        "than a cell on the line; the others are pale."
    )
    if hidden := len(sizes) - len(shown):
        caption += f" Cells with a perplexity above {number(ceiling)} are not drawn: {hidden}."
    return _save(fig, folder, Figure("pareto", title, caption))


def _mebibytes(results: list[CellResult]) -> dict[Cell, float]:
    """The size of the block linears of each cell that knows it."""
    # Full precision stores no codes that would tell the number of weights; other cells of the model do.
    weights = {result.cell.model: result.weights for result in results if result.weights}
    known = [result for result in results if result.bits_per_weight and result.cell.model in weights]
    return {result.cell: result.bits_per_weight * weights[result.cell.model] / 8 / 2**20 for result in known}


def _draw_family(ax: Axes, members: list[CellResult], sizes: dict[Cell, float], looks: _Looks) -> None:
    """The cells of one family by size, and their front: those that no cell beats in size and perplexity."""
    front: list[CellResult] = []
    for result in sorted(members, key=lambda result: (sizes[result.cell], result.mean_ppl)):
        if not front or result.mean_ppl < front[-1].mean_ppl:
            front.append(result)
    best = {result.cell: (sizes[result.cell], result.mean_ppl) for result in front}
    ax.step(*zip(*best.values(), strict=True), where="post", color=INK)
    for result in members:
        cell, place = result.cell, (sizes[result.cell], result.mean_ppl)
        if cell.method == "none" and cell.activation == "a16":
            ax.plot(*place, marker=MARKS["full precision"], color=INK, ms=11, zorder=5)
            ax.annotate(cell.model, place, (-6, 7), textcoords="offset points", fontsize=9, ha="right", zorder=6)
        else:
            mark, (size, alpha) = MARKS["LoRC" if cell.rank else "no LoRC"], (7, 1) if cell in best else (5, 0.35)
            colour = looks.colours.get(cell.method, INK)
            ax.plot(*place, marker=mark, color=colour, ms=size, alpha=alpha, zorder=3 + alpha)
    _name_front(ax, {cell: place for cell, place in best.items() if cell.method != "none"})


def _name_front(ax: Axes, front: dict[Cell, tuple[float, float]]) -> None:
    """Write the weight format to cells of the front, where there is room; nothing else lies below and left of it."""
    last = np.array([-np.inf, -np.inf])
    for cell, place in front.items():
        here = ax.transData.transform(place) * 72 / ax.get_figure().dpi
        if np.hypot(*(here - last)) < 13:
            continue
        weight, last = WeightFormat.parse(cell.weight), here
        text = f"w{weight.bits} {f'g{weight.group}' if weight.group else 'row'}{f' r{cell.rank}' if cell.rank else ''}"
        slanted = {"ha": "right", "va": "top", "rotation": 40, "rotation_mode": "anchor"}
        ax.annotate(text, place, (-3, -4), textcoords="offset points", color=GREY, fontsize=7.5, **slanted)


def _canvas(
    shape: tuple[int, int], height: float, title: str, results: list[CellResult], handles: list[Line2D], by_column: bool = False
) -> tuple[mpl_figure.Figure, np.ndarray]:
    """An empty figure with question, subtitle and legend, and its panels, each `height` inches high.

    Args:
        by_column: the panels of a column share the vertical axis, not all panels; there is room for the name of a row.
    """
    # Legend entries that are too long for one line (about 105 characters) go on several.
    lines = -(-sum(len(handle.get_label()) + 7 for handle in handles) // 105)
    (rows, columns), header = shape, HEADER + 0.21 * (lines - 1) + 0.2 * by_column
    total = header + rows * height + (rows - 1) * GAP + FOOTER
    fig = mpl_figure.Figure(figsize=(WIDTH, total))
    axes = fig.subplots(rows, columns, sharex=True, sharey="col" if by_column else True, squeeze=False)
    fig.subplots_adjust(left=LEFT / WIDTH, right=1 - 0.15 / WIDTH, top=1 - header / total, bottom=FOOTER / total)
    fig.subplots_adjust(hspace=GAP / height, wspace=0.3 if by_column else 0.12)
    x = 0.14 / WIDTH
    fig.text(x, 1 - 0.14 / total, title, fontsize=14, fontweight="bold", va="top")
    fig.text(x, 1 - 0.42 / total, _subtitle(results), fontsize=9.5, color=GREY, va="top")
    corner = (x, 1 - 0.66 / total)
    fig.legend(handles=handles, ncol=-(-len(handles) // lines), loc="upper left", bbox_to_anchor=corner)
    return fig, axes


def _subtitle(results: list[CellResult]) -> str:
    standins = {result.cell.model for result in results if result.standin}
    if not standins:
        return "Perplexity (PPL) over the study's corpora"
    if len(standins) == len({result.cell.model for result in results}):
        return "Stand-ins: small models that this pipeline trained itself. Their perplexities are no published model's."
    return f"Of these models, {', '.join(sorted(standins))} are stand-ins that this pipeline trained itself."


def _label(fig: mpl_figure.Figure, x: str, y: str) -> None:
    width, height = fig.get_size_inches()
    fig.supxlabel(x, x=0.5 + 0.5 * LEFT / width, y=0.1 / height, fontsize=10, color=GREY, va="bottom")
    fig.supylabel(y, x=0.1 / width, y=0.5 + 0.5 * (FOOTER - HEADER) / height, fontsize=10, color=GREY, ha="left")


def _plot(
    ax: Axes, lines: list[list[CellResult]], place: Callable[[CellResult], int], baseline: CellResult, looks: _Looks
) -> None:
    """The lines of one panel: perplexities relative to `baseline`, with their intervals."""
    ax.axhline(1, color="#999999", lw=0.8, zorder=1)
    left, right = ax.get_xlim()
    point = (right - left) / (72 * WIDTH * ax.get_position().width)
    for index, line in enumerate(lines):
        # A sideways shift of a few points, so that the bars of several lines do not hide one another.
        shift = min(2, 36 / len(lines)) * (index - (len(lines) - 1) / 2) * point
        changes = [mean_perplexity_difference(result.nll, baseline.nll) for result in line]
        ratio = 1 + np.array([change.value for change in changes]) / baseline.mean_ppl
        half = np.array([change.high - change.value for change in changes]) / baseline.mean_ppl
        half = np.minimum(half, 0.9 * ratio)  # a logarithmic axis has no zero
        dash, marker = looks.strokes[_format(line[0])]
        x, colour = [place(result) + shift for result in line], looks.colours[line[0].cell.method]
        ax.errorbar(x, ratio, half, color=colour, ls=dash, marker=marker, ms=4.5, elinewidth=1, zorder=3)


def _log_axis(axis: Axis, unit: str = "") -> None:
    """Round numbers as ticks of a logarithmic axis, however short it is."""
    low, high = axis.get_view_interval()
    short = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    axis.set_major_locator(short if high < 4 * low else LogLocator(subs=(1, 2, 5) if high < 500 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}{unit}"))
    axis.set_minor_locator(NullLocator())


def _span(values: list[float], before: float, after: float) -> tuple[float, float]:
    """Limits of a logarithmic axis: those of the values and a share of their span on either side."""
    low, high = np.log(min(values)), np.log(max(values))
    width = max(high - low, 0.1)
    return float(np.exp(low - before * width)), float(np.exp(high + after * width))


def _lines(results: list[CellResult], by_rank: bool = False) -> list[list[CellResult]]:
    """The cells that one line joins: they differ in rank or in bits only. Cells without LoRC begin every LoRC line."""
    settings = _unique(result.cell.lorc for result in results if result.cell.rank) if by_rank else ["none"]
    lines: dict[tuple, list[CellResult]] = {}
    for lorc in settings:
        for result in results:
            if result.cell.lorc in (lorc, "none"):
                key = (result.cell.method, result.cell.calibration, _format(result), lorc)
                lines.setdefault(key, []).append(result)
    return [sorted(line, key=lambda r: (_weight(r).bits, r.cell.rank)) for line in lines.values()]


def _lost(result: CellResult, baselines: dict[str, CellResult]) -> float:
    """The rise of perplexity as a share of the model's at full precision."""
    return result.mean_ppl / baselines[result.cell.model].mean_ppl - 1


def _recovered(shown: list[CellResult], baselines: dict[str, CellResult]) -> str:
    """What the largest rank gives back at the fewest bits, for the caption."""
    bits, rank = min(_weight(result).bits for result in shown), max(result.cell.rank for result in shown)
    lost = {result.cell: _lost(result, baselines) for result in shown}
    shares: dict[str, list[float]] = {}
    for cell in lost:
        before = lost.get(_without_lorc(cell), 0)
        if cell.rank == rank and WeightFormat.parse(cell.weight).bits == bits and before > WORTH_MENDING:
            shares.setdefault(cell.method, []).append(1 - lost[cell] / before)
    found = [f"{percent(np.mean(share), 0).lstrip('+')} of what {method} lost" for method, share in shares.items()]
    return f"At {bits} bits, rank {rank} gives back on average {', '.join(found)}." if found else ""


def _without_lorc(cell: Cell) -> Cell:
    return replace(cell, rank=0, lorc="none")


def _weight(result: CellResult) -> WeightFormat:
    return WeightFormat.parse(result.cell.weight)


def _format(result: CellResult) -> str:
    """A cell's formats without the bits of the weights, such as ``asym-g32``."""
    weight = result.cell.weight.partition("-")[2]
    return weight if result.cell.activation == "a16" else f"{weight} {result.cell.activation}"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _save(fig: mpl_figure.Figure, folder: Path, figure: Figure) -> Figure:
    fig.savefig(folder / f"{figure.stem}.png", dpi=150)
    fig.savefig(folder / f"{figure.stem}.svg", metadata={"Date": None})
    return figure

"""What all figures share: palette, strokes, canvas, axes, and how a figure is saved.

The SVG carries its own dark scheme: a style sheet that a browser applies in dark mode and every other program ignores.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lorcbench.common.artifacts import replacing, write_text
from lorcbench.config.variants import Variant
from lorcbench.report.results import CellResult

INK = "#222222"
GREY = "#666666"
PAPER = "#ffffff"
EDGE = "#999999"
GRID = "#e8e8e8"
COLOURS = {"rtn": "#d55e00", "gptq": "#0072b2", "gptq-cached": "#56b4e9", "zq_local": "#009e73", "zq_global": "#cc79a7"}
SPARE_COLOURS = ("#e69f00", "#7b5ea7", "#8c8c8c", "#a6761d", "#3b3b3b")
# What each colour is on a dark page, where it differs; the page's own dark card is the paper.
DARK = {INK: "#e6e8ea", GREY: "#a3adb7", PAPER: "#1b1f24", EDGE: "#6e7681", GRID: "#30363d"}
DARK |= {"#d55e00": "#f0803c", "#0072b2": "#4aa3e0", "#56b4e9": "#9ad4f5", "#009e73": "#2cc295"}
DARK |= {"#7b5ea7": "#ab92d6", "#a6761d": "#cf9d45", "#3b3b3b": "#c8ccd0"}
# The mark of each method, which tells it in grey and to the colour-blind; a dash tells the format.
MARKS = {"rtn": "o", "gptq": "s", "gptq-cached": "D", "zq_local": "^", "zq_global": "v"}
SPARE_MARKS = ("P", "X", "<", ">", "h")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1, 2)), (0, (8, 2)))
# Colour, dash and mark of each kind of correction (`lorcbench.report.equal_bits.KINDS`).
KIND_LOOKS = {
    "none": (INK, "-", "o"),
    "plain": ("#e69f00", (0, (5, 2)), "s"),
    "distilled": ("#cc79a7", (0, (8, 2)), "P"),
    "diag-abs": ("#56b4e9", (0, (1.5, 1.5)), "D"),
    "diag-rms": ("#009e73", (0, (5, 2, 1, 2)), "v"),
    "exact": ("#7b5ea7", "-", "^"),
    "intrinsic": ("#0072b2", "-", "D"),
    "split": ("#d55e00", (0, (5, 2)), "v"),
    "joint": ("#a6761d", (0, (1.5, 1.5)), "s"),
}
# Inches: of the figure, above and below its panels, left of them, and between two rows.
WIDTH = 9.0
HEADER = 1.25
FOOTER = 0.58
LEFT = 0.78
GAP = 0.7
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "svg.hashsalt": "lorcbench",  # the SVG's element ids are random without it
    **{"text.color": INK, "figure.facecolor": PAPER, "axes.facecolor": "none"},
    **{"axes.edgecolor": EDGE, "axes.linewidth": 0.8, "axes.spines.right": False, "axes.spines.top": False},
    **{"axes.titlelocation": "left", "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlecolor": INK},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.8},
    **{"xtick.color": GREY, "xtick.labelsize": 9, "xtick.major.size": 0},
    **{"ytick.color": GREY, "ytick.labelsize": 9, "ytick.major.size": 0},
    **{"lines.linewidth": 1.3, "lines.markersize": 5, "lines.markeredgecolor": PAPER, "lines.markeredgewidth": 0.6},
    **{"legend.frameon": False, "legend.fontsize": 9.5, "legend.borderpad": 0, "legend.borderaxespad": 0.2},
    **{"legend.handlelength": 2.2, "legend.handletextpad": 0.5, "legend.columnspacing": 1.4},
}


@dataclass(frozen=True)
class Figure:
    """A figure on disk: ``<stem>.png`` and ``<stem>.svg``.

    Attributes:
        stem: of its files.
        title: the question that it answers.
        caption: what is drawn.
        finding: the answer in a sentence or two, of the whole study; "" if there is none.
        files: without suffix: the one that is shown, and those with further models, such as ``models-2/<stem>``.
    """

    stem: str
    title: str
    caption: str
    finding: str = ""
    files: tuple[str, ...] = ()


class Looks:
    """The colour and mark of each method and the dash of each format in one figure, and their legend entries.

    Args:
        names: the methods' names in paths, ``none`` among them or not.
        formats: what dashes tell apart, in their order.
    """

    def __init__(self, names: Iterable[str], formats: Iterable[str] = ()) -> None:
        methods = sorted(set(names) - {"none"}, key=lambda name: (name != "rtn", name))
        labels = method_labels(methods)
        spare = [name for name in methods if labels[name] not in COLOURS]
        self.colours = {name: COLOURS[labels[name]] for name in methods if labels[name] in COLOURS}
        self.colours |= {name: SPARE_COLOURS[index % len(SPARE_COLOURS)] for index, name in enumerate(spare)}
        self.marks = {name: MARKS[labels[name]] for name in methods if labels[name] in MARKS}
        self.marks |= {name: SPARE_MARKS[index % len(SPARE_MARKS)] for index, name in enumerate(spare)}
        self.dashes = {name: DASHES[index % len(DASHES)] for index, name in enumerate(unique(formats))}
        self.methods = [hue_handle(labels[name], colour, self.marks[name]) for name, colour in self.colours.items()]
        self.formats = [dash_handle(name, dash) for name, dash in self.dashes.items()]

    def of(self, method: str) -> tuple[str, str]:
        """The colour and the mark of a method; ``none``, weights in full precision, is a black star."""
        return self.colours.get(method, INK), self.marks.get(method, "*")


def method_labels(methods: list[str]) -> dict[str, str]:
    """What each method is called in a figure: a method with one variant goes by its own name."""
    stems = {method: Variant.parse(method).stem for method in methods}
    variants = Counter(stems.values())
    return {method: stem if variants[stem] == 1 else method for method, stem in stems.items()}


def hue_handle(label: str, colour: str, mark: str) -> Line2D:
    """The entry of the legend for a colour and its mark, whatever the format."""
    return Line2D([], [], color=colour, lw=4, marker=mark, ms=8, label=label)


def dash_handle(label: str, dash) -> Line2D:
    """The entry of the legend for a dash, whatever the method."""
    return Line2D([], [], color=GREY, ls=dash, label=label)


def canvas(
    shape: tuple[int, int],
    height: float,
    title: str,
    results: list[CellResult],
    handles: list[Line2D],
    share: str = "all",
    about: str = "Perplexity (PPL) over the study's corpora",
) -> tuple[mpl_figure.Figure, np.ndarray]:
    """An empty figure with question, subtitle and legend, and its panels.

    Args:
        shape: rows and columns of panels.
        height: of each panel, in inches.
        title: the question that the figure answers.
        results: of the study; the subtitle says which of their models are stand-ins.
        handles: the entries of the legend.
        share: which panels have the vertical axis in common: ``all``, ``row`` or ``col``; rows have names in the last two. With
            ``none`` they have no axis in common.
        about: the subtitle, where no model is a stand-in.
    """
    lines = _legend_lines([len(handle.get_label()) + 7 for handle in handles])
    rows, columns = shape
    header = HEADER + 0.21 * (lines - 1) + 0.2 * (share != "all")
    total = header + rows * height + (rows - 1) * GAP + FOOTER
    fig = mpl_figure.Figure(figsize=(WIDTH, total))
    common = {"sharex": share != "none", "sharey": share}
    axes = fig.subplots(rows, columns, **common, squeeze=False)
    fig.subplots_adjust(left=LEFT / WIDTH, right=1 - 0.15 / WIDTH, top=1 - header / total, bottom=FOOTER / total)
    fig.subplots_adjust(hspace=GAP / height, wspace=0.3 if share in ("col", "none") else 0.12)
    x = 0.14 / WIDTH
    fig.text(x, 1 - 0.14 / total, title, fontsize=14, fontweight="bold", va="top")
    fig.text(x, 1 - 0.42 / total, _subtitle(results, about), fontsize=9.5, color=GREY, va="top")
    corner = (x, 1 - 0.66 / total)
    fig.legend(handles=handles, ncol=-(-len(handles) // lines), loc="upper left", bbox_to_anchor=corner)
    return fig, axes


def _legend_lines(widths: list[int]) -> int:
    """How many lines a legend needs whose entries are so many characters wide; it is filled column by column."""
    for lines in range(1, len(widths)):
        if sum(max(widths[start : start + lines]) for start in range(0, len(widths), lines)) <= 112:
            return lines
    return len(widths)


def drop_spare(axes: np.ndarray, used: int) -> None:
    """Remove the panels after the first `used`; those above them show their own ticks."""
    columns = axes.shape[1]
    for index in range(used, axes.size):
        axes.flat[index].remove()
        if index >= columns:
            axes.flat[index - columns].xaxis.set_tick_params(labelbottom=True)


def _subtitle(results: list[CellResult], about: str) -> str:
    """Which of the models are stand-ins, and which are from a GGUF file; `about` if none is."""
    if origins := {result.cell.model: result.origin for result in results if result.origin}:
        about = f"{'; '.join(f'{model}: {origin}' for model, origin in sorted(origins.items()))}. {about}".strip()
    standins = {result.cell.model for result in results if result.standin}
    if not standins:
        return about
    if len(standins) == len({result.cell.model for result in results}):
        return "Stand-ins: small models that this pipeline trained itself. Their perplexities are no published model's."
    return f"Of these models, {', '.join(sorted(standins))} are stand-ins that this pipeline trained itself."


def axis_labels(fig: mpl_figure.Figure, x: str, y: str) -> None:
    """One label for all horizontal axes, below them, and one for all vertical ones."""
    width, height = fig.get_size_inches()
    fig.supxlabel(x, x=0.5 + 0.5 * LEFT / width, y=0.1 / height, fontsize=10, color=GREY, va="bottom")
    fig.supylabel(y, x=0.1 / width, y=0.5 + 0.5 * (FOOTER - HEADER) / height, fontsize=10, color=GREY, ha="left")


def row_title(ax, text: str) -> None:
    """Name a row of panels above its first one."""
    ax.annotate(text, (0, 1), (0, 20), "axes fraction", "offset points", fontweight="bold")


def log_axis(axis: Axis, unit: str = "", narrow: bool = False) -> None:
    """Round numbers as ticks of a logarithmic axis, however short it is; fewer on a narrow panel."""
    low, high = axis.get_view_interval()
    if high < 6 * low:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    else:
        few_decades = high < (20 if narrow else 500) * low
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}{unit}"))
    axis.set_minor_locator(NullLocator())


def span(values: Iterable[float], before: float, after: float) -> tuple[float, float]:
    """Limits of a logarithmic axis: those of the values and a share of their span on either side."""
    low = np.log(min(values))
    high = np.log(max(values))
    width = max(high - low, 0.1)
    return float(np.exp(low - before * width)), float(np.exp(high + after * width))


def format_of(result: CellResult) -> str:
    """A cell's formats without the bits of the weights, such as ``asym-g32``."""
    fmt = result.cell.weight_format
    weight = "" if fmt.is_full_precision else str(fmt).removeprefix(f"w{fmt.bits}-")
    return weight if result.cell.activation == "a16" else f"{weight} {result.cell.activation}"


def unique(names: Iterable[str]) -> list[str]:
    """Each name once, in its order."""
    return list(dict.fromkeys(names))


def save(fig: mpl_figure.Figure, folder: Path, figure: Figure) -> Figure:
    """Write the PNG, and the SVG with its dark scheme."""
    with replacing(folder / f"{figure.stem}.png") as temporary:
        fig.savefig(temporary, format="png", dpi=150)
    file = io.StringIO()
    fig.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    # One rule per colour that the figure paints with: matplotlib writes them as ``style="fill: #222222"``.
    paints = [(f"{part}: {light}", part, dark) for light, dark in DARK.items() for part in ("fill", "stroke")]
    rules = "".join(f'[style*="{paint}"]{{{part}:{dark} !important}}' for paint, part, dark in paints if paint in text)
    sheet = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>\n"
    write_text(folder / f"{figure.stem}.svg", text.replace("<defs>", f"{sheet} <defs>", 1))
    return figure

"""The figures of LoRC where a study has several kinds of correction: kinds have the colours, or a column of panels each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from lorcbench.config import compose
from lorcbench.config.lorc import WEIGHTED
from lorcbench.config.paired import PAIRED
from lorcbench.report import equal_bits
from lorcbench.report.comparison import Change
from lorcbench.report.equal_bits import kind_of, kinds, leading
from lorcbench.report.figures.lines import BESIDE, named_places, plot
from lorcbench.report.figures.style import (
    GREY,
    KIND_LOOKS,
    Figure,
    Looks,
    axis_labels,
    canvas,
    format_of,
    hue_handle,
    log_axis,
    row_title,
    save,
    unique,
)
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell

Line = list[CellResult]
_LEADING = "Of each kind the INT8 factors of default settings."


def several(results: Iterable[CellResult]) -> bool:
    """Whether kinds of correction are to be compared: two or more, one of which knows the inputs."""
    present = kinds(result.cell for result in results)
    return len(present) > 1 and any(kind in (*WEIGHTED, *PAIRED) for kind in present)


def draw_ranks(results: list[CellResult], changes: dict[Cell, Change], folder: Path) -> Figure | None:
    """Perplexity against the rank: one row of panels per model, one column per weight format; colours are kinds."""
    lines = _by_rank([result for result in results if result.cell in changes])
    if not lines:
        return None
    methods = unique(line[0].cell.method for line in lines)
    looks = _kind_looks([line[-1].cell for line in lines], methods)
    models = unique(line[0].cell.model for line in lines)
    formats = sorted({line[0].cell.weight for line in lines}, key=lambda name: _fineness(name, lines))
    shares = sorted({_share(result.cell) for line in lines for result in line})
    title = "How much of the loss does each kind of LoRC give back?"
    shape = (len(models), len(formats))
    fig, axes = canvas(shape, 1.6, title, results, looks.methods + looks.formats, share="col")
    for row, model in zip(axes, models, strict=True):
        for ax, name in zip(row, formats, strict=True):
            ax.set_title(name, fontweight="normal", color=GREY, fontsize=9)
            named_places(ax, [f"{share:.2g}" for share in shares])
            own = [line for line in lines if (line[0].cell.model, line[0].cell.weight) == (model, name)]
            plot(ax, own, lambda result: shares.index(_share(result.cell)), changes, looks, _method, _kind)
        row_title(row[0], model)
    for ax in axes[0]:
        ax.set_yscale("log")
        log_axis(ax.yaxis, "×", narrow=True)
    unit = "% of the model's width" if _widths_known(lines) else "components"
    axis_labels(fig, f"rank of the LoRC factors, in {unit}", "PPL ÷ full precision")
    caption = (
        "Mean perplexity of the corpora, divided by the same model's at full precision, without LoRC and by rank, for each "
        f"kind of correction. Each weight format has its own scale. {_LEADING} Bars are 95 % intervals of the paired "
        "difference. Kinds at one rank take the same bits or nearly so; what the bits buy otherwise is in the figure of equal "
        f"bits.{BESIDE}"
    )
    return save(fig, folder, Figure("lorc", title, caption))


def draw_equal_bits(results: list[CellResult], folder: Path) -> Figure | None:
    """Each cell with LoRC over its bits, beside the best without: one row of panels per model, one column per kind."""
    changes = equal_bits.compare(results)
    counted = leading(changes)
    points = [result for result in results if result.cell in counted]
    if not points:
        return None
    lines: dict[Cell, Line] = {}
    for point in sorted(points, key=lambda point: point.bits_per_weight):
        lines.setdefault(replace(point.cell, rank=0), []).append(point)
    looks = Looks((point.cell.method for point in points), map(format_of, points))
    models = unique(point.cell.model for point in points)
    columns = kinds(point.cell for point in points)
    bits = [point.bits_per_weight for point in points]
    margin = 0.06 * (max(bits) - min(bits)) + 0.1
    title = "Does LoRC pay at equal bits?"
    fig, axes = canvas((len(models), len(columns)), 2.0, title, results, looks.methods + looks.formats, share="row")
    for row, model in zip(axes, models, strict=True):
        for ax, kind in zip(row, columns, strict=True):
            ax.set_title(kind, fontweight="normal", color=GREY)
            ax.set_xlim(min(bits) - margin, max(bits) + margin)
            own = [line for line in lines.values() if line[0].cell.model == model and _kind(line) == kind]
            plot(ax, own, lambda point: point.bits_per_weight, changes, looks)
        row_title(row[0], model)
        row[0].set_yscale("log")
        log_axis(row[0].yaxis, "×")
    axis_labels(fig, "bits per weight: codes, scales, zero points and factors", "PPL ÷ best without LoRC")
    caption = (
        "Each cell with LoRC, divided by the cell of lowest mean perplexity without it that has the same method and no more "
        f"bits; a point above 1 is beaten at equal bits. {_LEADING} Lines join ranks; bars are 95 % intervals of the paired "
        "difference."
    )
    return save(fig, folder, Figure("equal-bits", title, caption))


def _by_rank(results: list[CellResult]) -> list[Line]:
    """The cells that differ in rank only, each line from the cell without LoRC on."""
    of_cell = {result.cell: result for result in results}
    counted = leading(cell for cell in of_cell if cell.rank)
    lines: dict[Cell, Line] = {}
    for cell, result in of_cell.items():
        if cell in counted:
            lines.setdefault(replace(cell, rank=0), []).append(result)
    starts = [of_cell.get(line[0].cell.uncorrected) for line in lines.values()]
    whole = [[*([start] if start else []), *line] for start, line in zip(starts, lines.values(), strict=True)]
    return [sorted(line, key=lambda result: result.cell.rank) for line in whole]


def _kind_looks(cells: list[Cell], strokes: list[str]) -> Looks:
    """A colour and a mark for each kind of correction, and dashes for something else."""
    looks = Looks((), strokes)
    for kind in kinds(cells):
        looks.colours[kind], _, looks.marks[kind] = KIND_LOOKS[kind]
    looks.methods = [hue_handle(kind, colour, looks.marks[kind]) for kind, colour in looks.colours.items()]
    return looks


def _kind(line: Line) -> str:
    return kind_of(line[-1].cell)


def _method(line: Line) -> str:
    return line[-1].cell.method


def _fineness(name: str, lines: list[Line]) -> tuple[int, int]:
    """Where a weight format stands: by bits, then rows before groups and wide groups before narrow ones."""
    fmt = next(line[0].cell for line in lines if line[0].cell.weight == name).weight_format
    return fmt.bits, -(fmt.group or 10**9)


def _width(model: str) -> int | None:
    return compose.load("model", model).hidden if model in compose.names("model") else None


def _widths_known(lines: list[Line]) -> bool:
    return all(_width(line[0].cell.model) for line in lines)


def _share(cell: Cell) -> float:
    """The rank in percent of the model's width, to two digits; the rank itself where only the checkpoint knows the width."""
    width = _width(cell.model)
    return float(f"{100 * cell.rank / width:.2g}") if width else float(cell.rank)

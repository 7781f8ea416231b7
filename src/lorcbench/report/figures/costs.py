"""What each kind of correction costs in time, and what it buys in the same bits."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from lorcbench.report import equal_bits
from lorcbench.report.comparison import mean_change
from lorcbench.report.equal_bits import kind_of, kinds, leading
from lorcbench.report.figures.kinds import several
from lorcbench.report.figures.lines import ABREAST
from lorcbench.report.figures.style import EDGE, KIND_LOOKS, Figure, axis_labels, canvas, drop_spare, hue_handle, save, unique
from lorcbench.report.intervals import Interval
from lorcbench.report.results import CellResult, run_of
from lorcbench.report.spelling import number, percent

Points = dict[tuple[str, str], tuple[float, Interval]]  # (model, kind) → seconds per million weights, change at equal bits


def draw(results: list[CellResult], folder: Path) -> Figure | None:
    """One panel per model, one point per kind of correction."""
    points = _points(results) if several(results) else {}
    if not points:
        return None
    models = unique(model for model, _ in points)
    present = [kind for kind in KIND_LOOKS if any(own == kind for _, own in points)]
    columns = min(len(models), ABREAST)
    title = "What does a correction cost, and what does it buy?"
    handles = [hue_handle(kind, KIND_LOOKS[kind][0], KIND_LOOKS[kind][2]) for kind in present]
    fig, axes = canvas((-(-len(models) // columns), columns), 2.6, title, results, handles)
    for ax, model in zip(axes.flat, models, strict=False):
        ax.set_title(model)
        ax.axhline(0, color=EDGE, lw=0.8, zorder=1)
        ax.set_xlim(0, 1.1 * max(seconds for seconds, _ in points.values()))
        for (own, kind), (seconds, change) in points.items():
            if own == model:
                colour, _, mark = KIND_LOOKS[kind]
                value, low, high = (100 * part for part in (change.value, change.low, change.high))
                ax.errorbar(seconds, value, yerr=[[value - low], [high - value]], color=colour, marker=mark, ms=6, capsize=3)
    drop_spare(axes, len(models))
    axis_labels(fig, "seconds per million weights: codes and factors of a cell", "PPL over the best without LoRC, %")
    caption = (
        "Of each kind of correction the median time of the two jobs that make the codes and the factors of a cell, and the "
        "geometric mean of the change of the mean perplexity over the best cell without LoRC of the same method, or base, and "
        "no more bits. Further down is better, further left is cheaper. Bars are 95 % intervals. Statistics of the inputs, "
        "which many cells share, are not counted; times are of the machine as it was, with other jobs beside."
    )
    return save(fig, folder, Figure("costs", title, caption, _finding(points)))


def _points(results: list[CellResult]) -> Points:
    """The kinds that have a rival, by model."""
    compared = equal_bits.compare(results)
    counted = leading(compared)
    points: Points = {}
    for model in unique(cell.model for cell in compared):
        own = [change for cell, change in compared.items() if cell.model == model and cell in counted]
        for kind in kinds(change.result.cell for change in own):
            of_kind = [change for change in own if kind_of(change.result.cell) == kind]
            seconds = [taken for change in of_kind if (taken := _seconds(change.result)) is not None]
            if seconds:
                points[model, kind] = median(seconds), mean_change([(one.result, one.baseline) for one in of_kind])
    return points


def _seconds(result: CellResult) -> float | None:
    """Seconds per million weights of the jobs that made the codes and the factors of a cell; None without their records."""
    runs = [run_of(result.folders.get(artifact)) for artifact in ("quantized", "factors")]
    return sum(run["seconds"] for run in runs) / (result.weights / 1e6) if all(runs) and result.weights else None


def _finding(points: Points) -> str:
    """The kinds that buy something on some model, the cheapest first; the others by name."""
    told, silent = [], []
    for kind in dict.fromkeys(kind for _, kind in points):
        own = [point for (_, name), point in points.items() if name == kind]
        seconds = median(seconds for seconds, _ in own)
        if any(change.high < 0 for _, change in own):
            least, most = min(change.value for _, change in own), max(change.value for _, change in own)
            spelled = percent(least) if least == most else f"{percent(least).removesuffix(' %')} to {percent(most)}"
            told.append((seconds, f"{kind} {spelled} in {number(seconds)} s"))
        else:
            silent.append(kind)
    if not told:
        return "At equal bits no kind of correction is below the best cell without one, on any model."
    text = f"Over the best without LoRC, per million weights: {', '.join(words for _, words in sorted(told))}."
    return text + (f" On no model below it: {', '.join(silent)}." if silent else "")

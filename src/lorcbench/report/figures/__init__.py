"""The study's figures, each drawn where the finished cells have data for it.

One method has one colour and one mark in all of them (Okabe-Ito colours, which colour-blind readers tell apart) and, within one
figure, one format one dash. Where kinds of correction are compared, it is the kind that has a colour and a mark. A figure draws
six models at most; the others are in further files. Equal results give equal bytes. The SVG files follow the reader's light or
dark scheme; the PNG files are light.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib import rc_context

from lorcbench.report.comparison import Change
from lorcbench.report.derived import best_of_rates
from lorcbench.report.figures import (
    activation,
    bits,
    costs,
    equal_bits,
    errors,
    fronts,
    mixed,
    pareto,
    ranks,
    rates,
    sensitivity,
    size,
)
from lorcbench.report.figures.answers import answers
from lorcbench.report.figures.selection import parts
from lorcbench.report.figures.style import STYLE, Figure
from lorcbench.report.mixed import is_mixed
from lorcbench.report.results import CellResult
from lorcbench.report.scorecard import Row
from lorcbench.study.cells import Cell

RATES = " Of several learning rates of a distillation, the best by this perplexity."


def draw(results: list[CellResult], changes: dict[Cell, Change], folder: Path, rows: Iterable[Row] = ()) -> list[Figure]:
    """Draw every figure that the finished cells have data for.

    Args:
        results: the cells of a study; those that are not ``ok`` or have no finite perplexity are left out. A derived one
            repeats a measured one, so only its published counterpart is drawn.
        changes: what the cells lost to full precision.
        folder: where the files go; it is made if there is none.
        rows: of the scorecard; published means are drawn beside ours in the figure of sizes.
    """
    finished = [result for result in results if result.status == "ok" and np.isfinite(result.mean_ppl)]
    measured = [result for result in finished if not result.derived]
    changes = {cell: change for cell, change in changes.items() if np.isfinite(change.baseline.mean_ppl)}
    best = best_of_rates(measured)
    # A cell that is shown under another name has the change of the cell that was measured.
    tuned = [replace(result, cell=cell) for cell, result in best.items()]
    tuned_changes = {cell: changes[result.cell] for cell, result in best.items() if result.cell in changes}
    derived = [result for result in finished if result.derived]
    found = answers(tuned, tuned_changes) | {"rates": rates.answer(measured)}
    drawn: dict[str, Figure] = {}
    with rc_context(STYLE):
        for number, models in enumerate(parts(finished), start=1):
            place = Path("" if number == 1 else f"models-{number}")
            kept = [[one for one in some if one.cell.model in models] for some in (tuned, measured, derived)]
            for figure in _draw(*kept, tuned_changes, changes, folder / place, list(rows)):
                before = drawn.get(figure.stem, replace(figure, finding=found.get(figure.stem) or figure.finding))
                drawn[figure.stem] = replace(before, files=(*before.files, str(place / figure.stem)))
    if len(tuned) < len(measured):
        return [one if one.stem == "rates" else replace(one, caption=one.caption + RATES) for one in drawn.values()]
    return list(drawn.values())


def _draw(
    tuned: list[CellResult],
    measured: list[CellResult],
    derived: list[CellResult],
    tuned_changes: dict[Cell, Change],
    changes: dict[Cell, Change],
    folder: Path,
    rows: list[Row],
) -> list[Figure]:
    """The figures of six models at most, in the order of the page.

    Args:
        tuned: measured cells, of several learning rates the best one.
        measured, derived: all cells.
        tuned_changes, changes: of `tuned` and of `measured`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # What orders formats by bits or groups has no place for mixed ones.
    uniform = [result for result in tuned if not is_mixed(result.cell)]
    figures = [
        pareto.draw(tuned, folder),
        equal_bits.draw(uniform, folder),
        fronts.draw(tuned, tuned_changes, folder),
        costs.draw(uniform, folder),
        mixed.draw(tuned, folder),
        bits.draw(uniform, tuned_changes, folder),
        sensitivity.draw(uniform, tuned_changes, folder),
        ranks.draw(uniform, tuned_changes, folder),
        size.draw([*uniform, *derived], folder, rows),
        activation.draw(uniform, tuned_changes, folder),
        rates.draw(measured, changes, folder),
        errors.draw_depth(uniform, folder),
        errors.draw_spectra(uniform, folder),
    ]
    return [figure for figure in figures if figure]

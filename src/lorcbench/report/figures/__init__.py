"""The study's figures, each drawn where the finished cells have data for it.

One method has one colour in all of them (Okabe-Ito, which colour-blind readers tell apart) and, within one figure, one format
one stroke. Where kinds of correction are compared, it is the kind that has a colour. Equal results give equal bytes. The SVG
files follow the reader's light or dark scheme; the PNG files are light.
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
from lorcbench.report.figures.style import STYLE, Figure
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
    folder.mkdir(parents=True, exist_ok=True)
    finished = [result for result in results if result.status == "ok" and np.isfinite(result.mean_ppl)]
    measured = [result for result in finished if not result.derived]
    changes = {cell: change for cell, change in changes.items() if np.isfinite(change.baseline.mean_ppl)}
    best = best_of_rates(measured)
    # A cell that is shown under another name has the change of the cell that was measured.
    tuned = [replace(result, cell=cell) for cell, result in best.items()]
    tuned_changes = {cell: changes[result.cell] for cell, result in best.items() if result.cell in changes}
    derived = [result for result in finished if result.derived]
    # What orders formats by bits or groups has no place for mixed ones.
    uniform = [result for result in tuned if not result.cell.weight_format.is_mixed]
    with rc_context(STYLE):
        drawn = [
            pareto.draw(tuned, folder),
            equal_bits.draw(uniform, folder),
            fronts.draw(tuned, tuned_changes, folder),
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
    if len(tuned) < len(measured):
        drawn = [f if f is None or f.stem == "rates" else replace(f, caption=f.caption + RATES) for f in drawn]
    return [figure for figure in drawn if figure]

"""The study's figures, each drawn where the finished cells have data for it.

One method has one colour in all of them (Okabe-Ito, which colour-blind readers tell apart) and, within one figure, one format
one stroke. Equal results give equal bytes. The SVG files follow the reader's light or dark scheme; the PNG files are light.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib import rc_context

from lorcbench.report.figures import activation, bits, errors, pareto, ranks, rates, sensitivity, size
from lorcbench.report.figures.style import STYLE, Figure
from lorcbench.report.results import CellResult
from lorcbench.report.scorecard import Row

RATES = " Of several learning rates of a distillation, the best by this perplexity."


def draw(results: list[CellResult], folder: Path, rows: Iterable[Row] = ()) -> list[Figure]:
    """Draw every figure that the finished cells have data for.

    Args:
        results: the cells of a study; those that are not ``ok`` or have no finite perplexity are left out. A derived one
            repeats a measured one, so that only its published counterpart is drawn.
        folder: where the files go; it is made.
        rows: of the scorecard; published means are drawn beside ours in the figure of sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finished = [result for result in results if result.status == "ok" and np.isfinite(result.mean_ppl)]
    measured = [result for result in finished if not result.derived]
    tuned = rates.best(measured)
    with rc_context(STYLE):
        drawn = [
            bits.draw(tuned, folder),
            sensitivity.draw(tuned, folder),
            ranks.draw(tuned, folder),
            pareto.draw(tuned, folder),
            size.draw([*tuned, *(result for result in finished if result.derived)], folder, rows),
            activation.draw(tuned, folder),
            rates.draw(measured, folder),
            errors.draw_depth(tuned, folder),
            errors.draw_spectra(tuned, folder),
        ]
    if len(tuned) < len(measured):
        drawn = [f if f is None or f.stem == "rates" else replace(f, caption=f.caption + RATES) for f in drawn]
    return [figure for figure in drawn if figure]

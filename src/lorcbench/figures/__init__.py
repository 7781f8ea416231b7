"""The study's figures, each drawn where the finished cells have data for it.

One method has one colour in all of them (Okabe-Ito, which colour-blind readers tell apart) and, within one figure, one format
one stroke. Equal results give equal bytes. The SVG files follow the reader's light or dark scheme; the PNG files are light.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context

from lorcbench.figures import activation, bits, errors, lorc, pareto, rates, sensitivity, size
from lorcbench.figures.style import STYLE, Figure
from lorcbench.results import CellResult
from lorcbench.study import Cell


def draw(results: list[CellResult], folder: Path, published: dict[Cell, float] | None = None) -> list[Figure]:
    """Draw every figure that the finished cells have data for.

    Args:
        results: the cells of a study; those that are not ``ok`` or have no finite perplexity are left out.
        folder: where the files go; it is made.
        published: mean perplexities in print, by cell; drawn beside ours in the figure of sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finished = [result for result in results if result.status == "ok" and np.isfinite(result.mean_ppl)]
    with rc_context(STYLE):
        drawn = [
            bits.draw(finished, folder),
            sensitivity.draw(finished, folder),
            lorc.draw(finished, folder),
            pareto.draw(finished, folder),
            size.draw(finished, folder, published or {}),
            activation.draw(finished, folder),
            rates.draw(finished, folder),
            errors.draw_depth(finished, folder),
            errors.draw_spectra(finished, folder),
        ]
    return [figure for figure in drawn if figure]

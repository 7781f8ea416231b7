"""What the terminal shows at the end of a study."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from lorcbench.common import paths
from lorcbench.report.comparison import Change
from lorcbench.report.findings import Findings
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell, Study
from lorcbench.study.ranks import rank_lines


def summary(study: Study, results: list[CellResult], changes: dict[Cell, Change], findings: Findings, folder: Path) -> str:
    """How many cells have numbers, the best cell of each model and bit width, the findings, and where everything is.

    Args:
        results: the measured cells.
        folder: where the report was written.
    """
    count = Counter(result.status for result in results)
    lines = [f"\n{study.name}: {count['ok']} cells measured, {count['failed']} failed, {count['not run']} not run"]
    lines += [f"  failed: {result.cell.key}: {result.reason}" for result in results if result.status == "failed"]
    if study.too_large:
        limit = f"more than study.max_params={study.config.max_params:g} weights"
        lines.append(f"  left out, {limit}: {', '.join(study.too_large)}")
    lines += [f"  {line}" for line in rank_lines(study)]
    finished = [result for result in results if result.status == "ok"]
    for model in dict.fromkeys(result.cell.model for result in finished):
        lines += _best(model, [result for result in finished if result.cell.model == model], changes)
    lines += findings.lines()
    places = {"page": folder / "report.html", "table": folder / "cells.csv", "MLflow": Path(paths.MLFLOW)}
    lines += [f"  {name:6} {path}" for name, path in places.items()]
    return "\n".join(lines)


def _best(model: str, results: list[CellResult], changes: dict[Cell, Change]) -> list[str]:
    """One line per bit width: the cell of lowest mean perplexity, and its rise over full precision."""
    lines = []
    for bits in sorted({result.cell.weight_format.bits for result in results}, reverse=True):
        same_bits = [result for result in results if result.cell.weight_format.bits == bits]
        best = min(same_bits, key=lambda result: result.mean_ppl)
        rise = 100 * changes[best.cell].relative.value if best.cell in changes else math.nan
        recipe = best.cell.key.removeprefix(f"{model}/")
        numbers = f"{best.mean_ppl:9.2f} ({rise:+6.1f} %)  {best.bits_per_weight:5.2f} bits"
        lines.append(f"  {model:20} {f'w{bits}':4} {numbers}  {recipe}")
    return lines

"""What the terminal shows at the end of a study."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from lorcbench.common import paths
from lorcbench.config import compose
from lorcbench.report.findings import Findings
from lorcbench.report.results import CellResult
from lorcbench.study.cells import SHORT_WINDOW, Study
from lorcbench.study.ranks import rank_lines


def window_lines(study: Study, results: list[CellResult]) -> list[str]:
    """A line for every model whose windows were fitted to its positions and to the text: how long they are, and why."""
    protocol = compose.load("eval", study.eval)
    lines = {}
    for result in results:
        for about in result.corpora.values():
            if protocol.fit and (window := about.get("window")):
                tokens = f"the {about['stream_tokens']:,} tokens of {about['text']} that are for tests"
                short = ": few for a language model; a longer text gives longer ones, up to its positions"
                line = f"{result.cell.model}: {about['windows']} windows of {window:,} tokens, of {tokens}"
                lines[line + (short if window < SHORT_WINDOW else "")] = None
    return list(lines)


def summary(study: Study, results: list[CellResult], findings: Findings, folder: Path) -> str:
    """How many cells have numbers, what to use, the other findings, and where everything is.

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
    lines += [f"  {line}" for line in (*window_lines(study, results), *rank_lines(study))]
    origins = {result.cell.model: result.origin for result in results if result.origin}
    lines += [f"  {model}: {origin}, dequantized" for model, origin in origins.items()]
    lines += findings.lines()
    places = {"page": folder / "report.html", "table": folder / "cells.csv", "MLflow": Path(paths.MLFLOW)}
    lines += [f"  {name:6} {path}" for name, path in places.items()]
    return "\n".join(lines)

"""What the terminal shows at the end of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lorcbench.common import paths
from lorcbench.config import compose
from lorcbench.report import devices
from lorcbench.report.findings import Findings
from lorcbench.report.intervals import perplexity
from lorcbench.report.results import NOT_RUN, CellResult
from lorcbench.study.cells import SHORT_WINDOW, Study
from lorcbench.study.outline import left_out
from lorcbench.study.ranks import rank_lines


def window_lines(study: Study, results: list[CellResult]) -> list[str]:
    """A line for every model whose windows were fitted to the text, or that is the user's own, or measured on a text that is.

    It says the perplexity in full precision, and in how many windows of which length.
    """
    fitted = compose.load("eval", study.eval).fit
    own_text = any(study.entry("text", name).path for name in compose.load("eval", study.eval).texts())
    short = "; such windows are short for a language model, a longer text gives longer ones"
    lines = []
    for result in (result for result in results if result.cell.is_full_precision):
        if not (fitted or own_text or study.model(result.cell.model).path):
            continue
        for corpus, about in result.corpora.items():
            ppl, window = perplexity(result.nll[corpus]), about["window"]
            stream = f"{about['windows']} windows of {window:,} tokens, out of {about['stream_tokens']:,} of {about['text']}"
            line = f"{result.cell.model}: perplexity {ppl:.2f} in full precision, in {stream}"
            # A window that the text could fill more often was bounded by the command line, or by the model's positions.
            by_text = about["stream_tokens"] < 2 * window * about["windows"]
            lines.append(line + (short if fitted and by_text and window < SHORT_WINDOW else ""))
    return lines


def _reasons(results: list[CellResult]) -> list[str]:
    """A line for each reason why cells have no numbers; of a job that did not begin there is none but that it did not."""
    cells: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for what, reason in ((result.status, result.reason), ("no numbers of lm-eval", result.tasks_reason)):
            if reason and not reason.endswith(f": {NOT_RUN}"):
                cells.setdefault((what, reason), []).append(result.cell.key)
    return [
        f"  {what}: {keys[0] if len(keys) == 1 else f'{len(keys)} cells'}: {reason}" for (what, reason), keys in cells.items()
    ]


def summary(study: Study, results: list[CellResult], findings: Findings, folder: Path, advice: Iterable[str] = ()) -> str:
    """How many cells have numbers, what to use, the other findings, and where everything is.

    Args:
        results: the measured cells.
        folder: where the report was written.
        advice: what else people are told.
    """
    count = Counter(result.status for result in results)
    lines = [f"\n{study.name}: {count['ok']} cells measured, {count['failed']} failed, {count['not run']} not run"]
    lines += _reasons(results)
    if study.too_large:
        limit = f"more than study.max_params={study.config.max_params:g} weights"
        lines.append(f"  left out, {limit}: {', '.join(study.too_large)}")
    lines += [f"  {line}" for line in (*left_out(study), *window_lines(study, results), *rank_lines(study))]
    origins = {result.cell.model: result.origin for result in results if result.origin}
    lines += [f"  {model}: {origin}, dequantized" for model, origin in origins.items()]
    lines += [f"  {line}" for line in devices.lines(result.device for result in results if result.status == "ok")]
    lines += findings.lines(folder / "report.html")
    lines += [f"  {line}" for line in advice]
    places = {"page": folder / "report.html", "table": folder / "cells.csv", "MLflow": Path(paths.MLFLOW)}
    lines += [f"  {name:6} {path}" for name, path in places.items()]
    return "\n".join(lines)

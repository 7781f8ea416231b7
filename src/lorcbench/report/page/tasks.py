"""The table of lm-eval's metrics: the numbers of tasks.csv, one row per cell."""

from __future__ import annotations

from html import escape

from lorcbench.report.comparison import Change
from lorcbench.report.intervals import Interval
from lorcbench.report.page.parts import MISSING, sortable
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell


def tasks(results: list[CellResult], changes: dict[Cell, Change]) -> str:
    """lm-eval's metrics with its standard errors, and their change to full precision with its interval."""
    measured = [result for result in results if result.harness]
    if not measured:
        return ""
    metrics = sorted({name for result in measured for name in result.harness if not name.endswith("_stderr")})
    rows = "".join(
        f"<tr><td><code>{escape(result.cell.key)}</code></td>"
        + "".join(_metric(result, name, _change(result, name, changes)) for name in metrics)
        + "</tr>"
        for result in measured
    )
    return f'<p class="note">{escape(_note(measured))}</p>' + sortable(
        "task-table", ["cell", *metrics], rows, metrics, "w2 rtn"
    )


def _note(measured: list[CellResult]) -> str:
    """What the numbers are, of which versions of the tasks, and what stood before a text without context."""
    versions = {name: task for result in measured for name, task in result.tasks.items()}
    of_tasks = [f"{name} {task['version']} ({task['documents']:,} documents)" for name, task in versions.items()]
    prefixes = sorted({f"{result.prefix_token} for {result.cell.model}" for result in measured if result.prefix_token})
    note = "A value ± lm-eval's standard error where it gives one; below it, the change to full precision over the same "
    note += "documents, with its 95 % interval."
    note += f" Versions: {', '.join(of_tasks)}." if of_tasks else ""
    note += f" Before a text without context: {', '.join(prefixes)}." if prefixes else ""
    return note


def _change(result: CellResult, name: str, changes: dict[Cell, Change]) -> Interval | None:
    """The change of a metric to full precision; None for full precision itself, and where there is nothing to compare with."""
    change = None if result.cell.is_full_precision else changes.get(result.cell)
    return change.tasks.get(name) if change else None


def _metric(result: CellResult, name: str, change: Interval | None) -> str:
    """One cell of the table."""
    if name not in result.harness:
        return MISSING
    score = result.harness[name]
    error = result.harness.get(f"{name}_stderr")
    spread = f' <span class="interval">± {_spell(error)}</span>' if error is not None else ""
    below = ""
    if change is not None:
        value, low, high = (_spell(bound, "+") for bound in (change.value, change.low, change.high))
        below = f'<small>{value} <span class="interval">[{low}, {high}]</span></small>'
    return f'<td class="num" data-v="{score!r}">{_spell(score)}{spread}{below}</td>'


def _spell(value: float, sign: str = "") -> str:
    """Four digits after the point; one for large numbers, such as a perplexity per word."""
    return f"{value:{sign},.{4 if abs(value) < 100 else 1}f}".replace("-", "−")

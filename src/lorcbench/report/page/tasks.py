"""The table of lm-eval's metrics: the numbers of tasks.csv, one row per cell."""

from __future__ import annotations

import math
from html import escape

from lorcbench.report.comparison import Change
from lorcbench.report.intervals import Interval
from lorcbench.report.page.grid import Column, Entry, entry, grid
from lorcbench.report.page.parts import NOTHING
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell


def tasks(results: list[CellResult], changes: dict[Cell, Change]) -> str:
    """lm-eval's metrics with its standard errors, and their change to full precision with its interval."""
    measured = [result for result in results if result.harness]
    if not measured:
        return ""
    metrics = sorted({name for result in measured for name in result.harness if _is_shown(result, name)})
    rows = [
        [result.cell.key, *(_metric(result, name, _change(result, name, changes)) for name in metrics)] for result in measured
    ]
    columns = [Column("cell", names=True), *(Column(name, numeric=True) for name in metrics)]
    return f'<p class="note">{escape(_note(measured))}</p>{grid("task-table", columns, rows, "w2 rtn", "Metrics of lm-eval")}'


def _is_shown(result: CellResult, name: str) -> bool:
    """Whether a metric has a column: all but standard errors, and the members of a group, which tasks.csv has."""
    return not name.endswith("_stderr") and "part_of" not in result.tasks.get(name.rpartition("/")[0], {})


def _of_task(name: str, task: dict) -> str:
    """What was measured of a task or group, in words."""
    count, all_of_it = f"{task['documents']:,}", f" of {task['of']:,}" if "of" in task else ""
    said = [f"the first {count}{all_of_it} documents" if all_of_it else f"{count} documents"]
    if "tasks" in task:  # a limit holds for each task of a group
        first = "the first of each task, " if all_of_it else ""
        said = [f"{task['tasks']} tasks, which tasks.csv has one by one; {first}{count}{all_of_it} documents"]
    if task["shots"]:
        seed = f" drawn with seed {task['seed']}" if "seed" in task else ""
        said.append(f"{task['shots']} examples before each{seed}")
    if "chat" in task:
        said.append("in the chat template" + ("" if task["chat"] == "true" else f" {task['chat']}"))
    if task.get("truncated"):
        said.append(f"{task['truncated']:,} prompts cut at the left, since they are longer than the window")
    return f"{name} {task['version']} ({'; '.join(said)})"


def _note(measured: list[CellResult]) -> str:
    """What the numbers are, of which versions of the tasks, and what stood before a text without context."""
    versions = {name: task for result in measured for name, task in result.tasks.items() if "part_of" not in task}
    of_tasks = [_of_task(name, task) for name, task in versions.items()]
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


def _metric(result: CellResult, name: str, change: Interval | None) -> Entry:
    """One entry of the table."""
    if name not in result.harness:
        return NOTHING
    score = result.harness[name]
    error = result.harness.get(f"{name}_stderr")
    spread = f"± {_spell(error)}" if error is not None else ""
    below = []
    if change is not None:
        value, low, high = (_spell(bound, "+") for bound in (change.value, change.low, change.high))
        below = [f"{value} [{low}, {high}]"]
    return entry(_spell(score), score if math.isfinite(score) else None, i=spread, s=below)


def _spell(value: float, sign: str = "") -> str:
    """Four digits after the point; one for large numbers, such as a perplexity per word."""
    return f"{value:{sign},.{4 if abs(value) < 100 else 1}f}".replace("-", "−")

"""The cells that a user may want to take away: those on the front of their model, with all that a choice needs.

This is computed once per report. What a budget lets through of it is `lorcbench.report.budget`, for the terminal, the page and
`recommended.csv` alike.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable

from lorcbench.config import foreign
from lorcbench.config.variants import Variant
from lorcbench.report.budget import Choice
from lorcbench.report.comparison import Change, mean_change, windows
from lorcbench.report.derived import settings_of
from lorcbench.report.exported import format_of, tensor_bytes
from lorcbench.report.intervals import relative_change
from lorcbench.report.recommend import USABLE, Advice, candidates, fronts, kind_of, mean_log
from lorcbench.report.results import CellResult
from lorcbench.report.shared import Shared
from lorcbench.report.wording import recipe
from lorcbench.study.cells import Cell


def choices(study: str, results: list[CellResult], changes: dict[Cell, Change], command: str) -> list[Choice]:
    """The quantized cells on the front of their model and activation format, in the order of `results`.

    Args:
        study: the name of their study.
        results: all cells of the study; failed and derived ones are left out.
        changes: what they lost to full precision; a cell without that is left out.
        command: that exports cells of the study, up to their keys: of `lorcbench.study.started.command`.
    """
    front = fronts(results)
    fitting: dict[tuple[str, str], list[CellResult]] = {}
    for result in results:
        cell = result.cell
        on_front = front.get(cell, result) is None and not result.derived
        if on_front and cell in changes and cell.method != "none":
            fitting.setdefault((cell.model, cell.activation), []).append(result)
    chosen = {}
    for members in fitting.values():
        for result in members:
            chosen[result.cell] = _choice(study, changes[result.cell], _alike(result, members), command)
    return [chosen[result.cell] for result in results if result.cell in chosen]


def shared_recipes(results: list[CellResult], changes: dict[Cell, Change], advice: Iterable[Advice]) -> list[Shared]:
    """Of each kind with several models the recipes that no other one beats in size and mean loss, the smallest first.

    Args:
        results: all cells of the study; failed and derived ones are left out.
        changes: what they lost to full precision.
        advice: of the same cells; it says which models are of one kind.
    """
    found = []
    for part in advice:
        of_kind = [result for result in results if result.cell.model in part.models]
        recipes = candidates(of_kind, changes, part.activation) if len(part.models) > 1 else {}
        least = math.inf
        for members in sorted(recipes.values(), key=lambda own: (_most_bits(own), mean_log(own, changes))):
            loss = mean_log(members, changes)
            if loss < least:
                least = loss
                found.append(_shared(part, list(members.values()), changes))
    return found


def _most_bits(members: dict[str, CellResult]) -> float:
    return max(result.bits_per_weight for result in members.values())


def _shared(part: Advice, members: list[CellResult], changes: dict[Cell, Change]) -> Shared:
    """A recipe with its numbers."""
    loss = mean_change([(changes[result.cell].result, changes[result.cell].baseline) for result in members])
    bits = [result.bits_per_weight for result in members]
    sizes = [exported_megabytes(result) for result in members]
    return Shared(
        kind=part.kind,
        models=tuple(result.cell.model for result in members),
        activation=part.activation,
        recipe=recipe(members[0].cell),
        cells=tuple(result.cell.key for result in members),
        least_bits=min(bits),
        bits_per_weight=max(bits),
        megabytes=None if None in sizes else max(sizes),
        rise=loss.value,
        rise_low=loss.low,
        rise_high=loss.high,
        usable=loss.value <= USABLE,
    )


def _alike(result: CellResult, members: Iterable[CellResult]) -> list[CellResult]:
    """The smaller cells whose paired interval to `result` holds no change, the smallest first."""
    smaller = [one for one in members if one.bits_per_weight < result.bits_per_weight and windows(one) == windows(result)]
    paired = ((one, relative_change(one.nll, result.nll, result.independent)) for one in smaller)
    return sorted((one for one, change in paired if change.low <= 0 <= change.high), key=lambda one: one.bits_per_weight)


def _choice(study: str, change: Change, alike: list[CellResult], command: str) -> Choice:
    """A cell with its numbers."""
    result = change.result
    cell = result.cell
    shown = ("model", "method", "calibration", "weight", "activation", "lorc", "rank")
    return Choice(
        study=study,
        **{name: getattr(cell, name) for name in shown},
        cell=cell.key,
        recipe=recipe(cell),
        kind=kind_of(result),
        bits_per_weight=result.bits_per_weight,
        megabytes=exported_megabytes(result),
        format=_format(result),
        megabytes_fp=result.files.size / 1e6 if result.files else None,
        dtype_fp=result.files.dtype if result.files else "",
        ppl=result.mean_ppl,
        ppl_fp=change.baseline.mean_ppl,
        delta_ppl=change.mean.value,
        delta_ppl_low=change.mean.low,
        delta_ppl_high=change.mean.high,
        rise=change.relative.value,
        rise_low=change.relative.low,
        rise_high=change.relative.high,
        usable=change.relative.value <= USABLE,
        alike=tuple(one.cell.key for one in alike),
        export=_export(result, command),
    )


def _format(result: CellResult) -> str:
    """The format that `export` takes by itself; "" where nothing is known of it, and of a checkpoint already."""
    is_foreign = settings_of(result.cell.method).kind == foreign.METHOD
    return "" if result.files is None or is_foreign else format_of(result.files, result.cell, result.family)


def _export(result: CellResult, command: str) -> str:
    """The command that makes a checkpoint of a cell, or what takes its place where there is one."""
    cell = result.cell
    if settings_of(cell.method).kind == foreign.METHOD:
        return f"(a checkpoint already: {Variant.parse(cell.method).setting('of')})"
    needed = "" if result.files is None or result.files.packs else f" format={format_of(result.files, cell, result.family)}"
    return f"{command} {shlex.quote(cell.key)}{needed}"


def exported_megabytes(result: CellResult) -> float | None:
    """The size in 10⁶ bytes of what a cell is exported to, without tokenizer and small files; None if it is not known."""
    if result.files is None or result.bits_per_weight is None:
        return None
    return tensor_bytes(result.files, result.cell, result.family, result.bits_per_weight) / 1e6

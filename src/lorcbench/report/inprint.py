"""What ZeroQuant-V2 printed of the cells that a statement compares, for the very model that it is about."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from lorcbench.config import compose
from lorcbench.report.derived import base_method, settings_of
from lorcbench.report.statement import Statement
from lorcbench.study import published
from lorcbench.study.cells import Cell


@dataclass(frozen=True)
class Printed:
    """The mean perplexities that print has for a statement.

    Attributes:
        levels: one per term of the statement; infinite where the table says that the model diverged.
        tables: where they stand.
        value: the sum that the statement bounds; NaN where two infinite numbers are compared.
    """

    levels: tuple[float, ...]
    tables: tuple[str, ...]
    value: float


def printed(statement: Statement) -> Printed | None:
    """The published counterpart of a statement; None if print lacks one of its cells.

    All numbers are of one table if there is one that has them. Some tables print the best of the optimizing methods only, which
    then stands for each of them; `Printed.tables` says so.
    """
    cells = [result.cell for _, result in statement.terms]
    exact = [_means().get(_place(cell), {}) for cell in cells]
    best = [means | _best(cell) for cell, means in zip(cells, exact, strict=True)]
    options = _of_one_table(cells, exact) or _of_one_table(cells, best) or _first(exact) or _first(best)
    if options is None:
        return None
    tables, levels = zip(*options, strict=True)
    coefficients = [coefficient for coefficient, _ in statement.terms]
    value = sum(coefficient * level for coefficient, level in zip(coefficients, levels, strict=True))
    return Printed(levels, tuple(dict.fromkeys(tables)), value)


def _of_one_table(cells: list[Cell], means: list[dict[str, float]]) -> list[tuple[str, float]] | None:
    """The numbers of the first table that has all cells; full precision stands in a table of its own."""
    quantized = [own for cell, own in zip(cells, means, strict=True) if not cell.is_full_precision]
    common = [table for table in quantized[0] if all(table in own for own in quantized)]
    if not common or not all(means):
        return None
    return [(common[0], own[common[0]]) if common[0] in own else next(iter(own.items())) for own in means]


def _first(means: list[dict[str, float]]) -> list[tuple[str, float]] | None:
    """The first number of each cell, from whatever table."""
    return [next(iter(own.items())) for own in means] if all(means) else None


def _best(cell: Cell) -> dict[str, float]:
    """What print has of the best of the optimizing methods, if the cell is of one of them."""
    if not settings_of(cell.method).optimizes:
        return {}
    return {f"{table}, the best method": mean for table, mean in _means().get(_place(cell, "best"), {}).items()}


def _place(cell: Cell, method: str = "") -> tuple:
    """The key of a cell in print; convention, scale type and calibration are in no table."""
    formats = published.without_convention(cell.weight), published.without_convention(cell.activation)
    factors = None
    if cell.rank:
        lorc = compose.load("lorc", cell.lorc)
        factors = lorc.bits if lorc.kind == "plain" else lorc.kind
    return (cell.model, method or base_method(cell.method), *formats, cell.rank, factors)


@cache
def _means() -> dict[tuple, dict[str, float]]:
    """The printed means, by cell and table."""
    means: dict[tuple, dict[str, float]] = defaultdict(dict)
    for row in published.studied():
        chosen = row.lr is None and row.seed is None and not row.misprinted and not math.isnan(row.ppl)
        if row.source == "zeroquant-v2" and row.corpus == "mean" and chosen:
            place = (row.model, row.method, row.weight, row.activation, row.rank, row.lorc_bits)
            means[place].setdefault(row.table, row.ppl)
    return means

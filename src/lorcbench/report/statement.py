"""A statement: Σ coefficient · perplexity, said to lie between two bounds. How statements are made of the cells of a study."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lorcbench.config.variants import Variant
from lorcbench.report.comparison import full_precision
from lorcbench.report.derived import settings_of, without_rate
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell

FEW = 4  # bits up to which methods, groups and LoRC are said to help; beyond, there is nothing to help
OURS = "our extrapolation: no table has it"


@dataclass(frozen=True)
class Statement:
    """One claim about one recipe of one model.

    Attributes:
        claim: the sentence.
        source: the tables that print what it compares, or `OURS`.
        terms: coefficient and cell; the last is the recipe that the claim is about.
        low, high: the bounds between which Σ coefficient · perplexity is said to lie.
        pooled: whether models may be pooled; not if the cell of comparison is another one on each.
        note: what stands on this model for numbers in the claim; "" if nothing does.
    """

    claim: str
    source: str
    terms: tuple[tuple[float, CellResult], ...]
    low: float = -math.inf
    high: float = 0.0
    pooled: bool = True
    note: str = ""

    @property
    def subject(self) -> CellResult:
        """The cell that the claim is about."""
        return self.terms[-1][1]

    @property
    def is_difference(self) -> bool:
        """Whether the sum is one perplexity minus another."""
        return [coefficient for coefficient, _ in self.terms] == [-1.0, 1.0]

    @property
    def is_comparison(self) -> bool:
        """Whether one cell is said to be below another, and no more."""
        return self.pooled and self.is_difference and (self.low, self.high) == (-math.inf, 0.0)


class Grid:
    """The finished cells of a study, and how one is found from another."""

    def __init__(self, results: list[CellResult]) -> None:
        self.cells = {result.cell: result for result in results if result.status == "ok"}
        self.baselines = full_precision(results)
        rates: dict[Cell, set[str]] = {}
        for cell in self.cells:
            rates.setdefault(replace(cell, method=without_rate(cell.method)), set()).add(cell.method)
        self._swept = {method for methods in rates.values() if len(methods) > 1 for method in methods if _rate(method)}

    def near(self, cell: Cell, **fields) -> CellResult | None:
        """The cell with these fields instead, if it was measured."""
        return self.cells.get(replace(cell, **fields))

    def full(self, cell: Cell) -> CellResult | None:
        """Full precision of the cell's model, if it was measured."""
        return self.baselines.get(cell.model)

    def chosen(self) -> Iterator[tuple[Cell, CellResult]]:
        """The cells that claims speak of: neither each cell of a sweep of learning rates, nor the best of the methods."""
        for cell, result in self.cells.items():
            if cell.method == "none" or (base(cell) and cell.method not in self._swept):
                yield cell, result


def _rate(method: str) -> str | None:
    """The learning rate that a method's name gives."""
    return Variant.parse(method).setting("lr")


def base(cell: Cell) -> str:
    """The method in words, or "" if no claim speaks of it."""
    return settings_of(cell.method).label


def below(claim: str, source: str, lower: CellResult, higher: CellResult | None) -> Iterator[Statement]:
    """That `lower` has a lower perplexity than `higher`; nothing if that was not measured."""
    if higher is not None:
        yield Statement(claim, source, ((-1.0, higher), (1.0, lower)))


def alike(
    claim: str, source: str, share: float, reference: CellResult | None, result: CellResult, note: str = ""
) -> Iterator[Statement]:
    """That `result` is within a share of the perplexity of `reference`; nothing if that was not measured."""
    if reference is not None:
        bound = share * reference.mean_ppl
        yield Statement(claim, source, ((-1.0, reference), (1.0, result)), -bound, bound, note=note)


def weights_only(cell: Cell) -> bool:
    """Whether only the weights are quantized, without LoRC."""
    return cell.rank == 0 and cell.activation == "a16"

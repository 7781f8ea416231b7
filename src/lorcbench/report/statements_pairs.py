"""What we ask of methods that make codes and factors together: our claims, which no table of the paper makes.

The ordinary order finds codes and then corrects their error. At equal rank each method is held against it with the same
settings, Hessians among them; at equal bits against the best cell of the same base, RTN or GPTQ, of no more bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lorcbench.config.variants import Variant
from lorcbench.core.settings import GptqSettings
from lorcbench.report.derived import changed_settings_of
from lorcbench.report.equal_bits import NONE, PLAIN, kind_of, rivals
from lorcbench.report.results import CellResult
from lorcbench.report.statement import FEW, OURS, Grid, Statement, below
from lorcbench.study.cells import Cell

_ORDINARY = "exact"  # the correction after the codes that the methods are held against
_SHARED = (*vars(GptqSettings()), "hessian")  # settings that a method has in common with its base


def statements(grid: Grid) -> Iterator[Statement]:
    """All that the finished cells allow, claim by claim."""
    for claims in (_equal_rank, _equal_bits):
        yield from claims(grid)


def _paired(grid: Grid) -> Iterator[tuple[Cell, CellResult, str]]:
    """The cells of such methods, with the factors that the methods made; and which base they have, in words."""
    for cell, result in grid.cells.items():
        settings = changed_settings_of(cell.method)
        if settings.rank is not None and Variant.parse(cell.lorc).stem.startswith("paired-"):
            yield cell, result, settings.base.upper()


def _equal_rank(grid: Grid) -> Iterator[Statement]:
    """Each method against the ordinary order with the same settings."""
    for cell, result, base in _paired(grid):
        if (bits := cell.weight_format.bits) <= FEW:
            before = f"{base} and then {_ORDINARY} LoRC"
            claim = f"At {bits} bits and equal rank, {kind_of(cell)} has a lower perplexity than {before}"
            yield from below(claim, OURS, result, ordinary(grid, cell))


def ordinary(grid: Grid, cell: Cell) -> CellResult | None:
    """The cell that finds its codes first and then corrects them, in the same number of bits and with the same settings."""
    own = vars(changed_settings_of(cell.method))
    for other, result in grid.cells.items():
        settings = changed_settings_of(other.method)
        near = replace(other, method=cell.method, lorc=cell.lorc) == cell
        if near and settings.rank is None and other.lorc == cell.lorc.replace("paired", _ORDINARY):
            shared = {key: value for key, value in vars(settings).items() if key in _SHARED}
            if own["base"].upper() == settings.label and shared.items() <= own.items():
                return result
    return None


def _equal_bits(grid: Grid) -> Iterator[Statement]:
    """Each method against the best of its base with no more bits: without LoRC, plain, and exact."""
    for against in (NONE, PLAIN, _ORDINARY):
        best = rivals(grid.cells.values(), against)
        for cell, result, base in _paired(grid):
            if cell in best:
                rival = "without LoRC" if against == NONE else f"with {against} LoRC"
                claim = f"At equal bits, {kind_of(cell)} beats every cell of {base} {rival}"
                yield Statement(claim, OURS, ((-1.0, best[cell]), (1.0, result)), pooled=False)

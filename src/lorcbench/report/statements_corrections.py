"""What we ask of corrections beyond the paper's LoRC, and of clipped scales: our claims, which no table of the paper makes.

At equal rank the kinds of correction differ by what they know of the inputs; at equal bits each is held against what its bits
buy otherwise. Kinds are those of `lorcbench.report.equal_bits.KINDS`. Pairs differ in one setting only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lorcbench.config.lorc import WEIGHTED
from lorcbench.config.variants import Variant
from lorcbench.report.equal_bits import NONE, PLAIN, kind_of, leading, rivals, twin
from lorcbench.report.results import CellResult
from lorcbench.report.statement import FEW, OURS, Grid, Statement, alike, base, below, weights_only
from lorcbench.study.cells import Cell

FACTOR_BOUND = 0.001  # INT8 against FP16 factors, as a share of the perplexity
_CLIP = "clip"  # the setting of RTN and GPTQ that searches for a narrower range


def statements(grid: Grid) -> Iterator[Statement]:
    """All that the finished cells allow, claim by claim."""
    for claims in (_equal_rank, _equal_bits, _factors, _precision, _inputs, _clip):
        yield from claims(grid)


def _weighted(grid: Grid) -> Iterator[tuple[Cell, CellResult]]:
    """The cells whose factors know the inputs."""
    for cell, result in grid.chosen():
        if cell.rank and base(cell) and kind_of(cell) in WEIGHTED:
            yield cell, result


def _equal_rank(grid: Grid) -> Iterator[Statement]:
    """Each kind against those that know less of the inputs; the two diagonals are not held against each other."""
    for cell, result in _weighted(grid):
        kind = kind_of(cell)
        bits = cell.weight_format.bits
        for other in (PLAIN, *WEIGHTED[:-1]) if kind == WEIGHTED[-1] else (PLAIN,):
            if bits <= FEW:
                claim = f"At {bits} bits and equal rank, {kind} LoRC has a lower perplexity than {other} LoRC"
                yield from below(claim, OURS, result, grid.cells.get(twin(cell, other)))


def _equal_bits(grid: Grid) -> Iterator[Statement]:
    """Each kind against the best of its method with no more bits: without LoRC, and with plain LoRC."""
    own = leading(cell for cell, _ in _weighted(grid))
    for against in (NONE, PLAIN):
        best = rivals(grid.cells.values(), against)
        for cell, result in _weighted(grid):
            if cell in best and cell in own:
                rival = f"cell of {base(cell)} without LoRC" if against == NONE else "cell of the same method with plain LoRC"
                claim = f"At equal bits, {kind_of(cell)} LoRC beats every {rival}"
                yield Statement(claim, OURS, ((-1.0, best[cell]), (1.0, result)), pooled=False)


def _factors(grid: Grid) -> Iterator[Statement]:
    """INT8 factors against FP16 ones."""
    for cell, result in _weighted(grid):
        setting = Variant.parse(cell.lorc)
        if setting.stem.endswith("-int8"):
            claim = f"INT8 factors of {kind_of(cell)} LoRC stay within {100 * FACTOR_BOUND:g} % of FP16 factors"
            fp16 = str(replace(setting, stem=f"{setting.stem.removesuffix('-int8')}-fp16"))
            yield from alike(claim, OURS, FACTOR_BOUND, grid.near(cell, lorc=fp16), result)


def _precision(grid: Grid) -> Iterator[Statement]:
    """More components in INT4 against fewer in INT8, on the same weights and of one kind, with no more bits."""
    for cell, result in grid.chosen():
        setting = Variant.parse(cell.lorc)
        if not (base(cell) and cell.rank and setting.stem.endswith("-int8")):
            continue
        int4 = str(replace(setting, stem=f"{setting.stem.removesuffix('-int8')}-int4"))
        more = [one for one in grid.cells.values() if one.cell == replace(cell, lorc=int4, rank=one.cell.rank)]
        more = [one for one in more if one.cell.rank > cell.rank and one.bits_per_weight <= result.bits_per_weight]
        if more:
            claim = f"At equal bits, more components in INT4 have a lower perplexity than {kind_of(cell)} LoRC in INT8"
            best = min(more, key=lambda one: one.mean_ppl)
            yield Statement(claim, OURS, ((-1.0, result), (1.0, best)), pooled=False)


def _inputs(grid: Grid) -> Iterator[Statement]:
    """The inputs that the quantized model gives its linears against those of the unquantized one."""
    for cell, result in _weighted(grid):
        setting = Variant.parse(cell.lorc)
        if setting.setting("inputs") == "quantized":
            whose = "the inputs of the quantized model instead of the unquantized one"
            claim = f"Weighted with {whose}, {kind_of(cell)} LoRC has a lower perplexity"
            yield from below(claim, OURS, result, grid.near(cell, lorc=str(setting.without("inputs"))))


def _clip(grid: Grid) -> Iterator[Statement]:
    """Scales from a clipped range, chosen by its error, against scales from the whole range."""
    for cell, result in grid.chosen():
        method = Variant.parse(cell.method)
        bits = cell.weight_format.bits
        if weights_only(cell) and method.setting(_CLIP) not in (None, "none") and bits <= FEW:
            claim = f"At {bits} bits, clip={method.setting(_CLIP)} lowers the perplexity of {base(cell)}"
            whole = str(method.without(_CLIP))
            yield from below(claim, OURS, result, grid.near(cell, method=whole))

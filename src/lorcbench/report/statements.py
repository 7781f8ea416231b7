"""What ZeroQuant-V2 and its LoRC claim, as inequalities between measured perplexities.

A statement is Σ coefficient · perplexity, said to lie between two bounds, over cells of one model on the same windows. So
"GPTQ is below RTN" is GPTQ - RTN < 0, "INT8 is free" is a difference inside a small share of full precision, "class 1" is a
loss of at most 0.1, and "LoRC brings back most of the loss" is LoRC - (RTN + full precision) / 2 < 0. Statements about model
sizes and classes speak of published models alone; on stand-ins groups are narrower by `rehearsal.SCALE`, as in their studies.

Each statement names the tables that print the numbers which it compares. Where no table has them (2 bits under RTN, LoRC on
RTN, LoRC at equal bits), the statement carries the paper's claim further: its source is `OURS`. What we ask of corrections that
the paper does not know is in `lorcbench.report.statements_corrections` and `statements_pairs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from lorcbench.config import compose
from lorcbench.config.lorc import WEIGHTED
from lorcbench.report import statements_corrections, statements_pairs
from lorcbench.report.equal_bits import kind_of, rivals
from lorcbench.report.results import CellResult
from lorcbench.report.statement import FEW, OURS, Grid, Statement, alike, base, below, weights_only
from lorcbench.study.cells import Cell
from lorcbench.study.published import CLASS_BOUNDS, CORPORA
from lorcbench.study.rehearsal import SCALE, rank

INT8_BOUND = 0.002  # of the full-precision perplexity
FACTOR_BOUND = 0.003  # INT8 against FP16 factors: table 8's largest difference
BLOCK_BOUND = 0.01  # A8 in groups against A16, and symmetric against asymmetric: class 1 at a perplexity of 10
# Where a claim's numbers are printed, by bits of the weights and, where it matters, the method.
_AGAINST_RTN = {4: "table 3, E.15/E.16", 3: "tables E.17/E.18"}
_GROUPS = {
    ("RTN", 4): "tables E.15/E.16",
    ("RTN", 3): "tables E.17/E.18",
    ("GPTQ", 4): "table 4, E.15/E.16",
    ("GPTQ", 3): "tables E.17/E.18",
    ("GPTQ", 2): "table 7",
    ("ZQ-Global", 4): "table 4, E.15/E.16",
    ("ZQ-Global", 3): "tables E.17/E.18",
}
_SEVERAL_GROUPS = {key: source for key, source in _GROUPS.items() if key != ("GPTQ", 2)}  # table 7 has groups of 256 alone
_LORC = {("GPTQ", bits): "table 7" for bits in (2, 3, 4)}
# Families and models that the paper's tables single out.
_A8_NEVER_BREAKS = "bloom"
_A8_CLASS_3_FROM = {"opt": 6e9}  # weights from which A8 by token is class 3; in other families from 10 billion on
_GPTQ_CLASS_1 = "opt-30b"
# Bounds of the loss of each sensitivity class.
_CLASS_1 = (-math.inf, CLASS_BOUNDS[0])
_CLASS_2 = CLASS_BOUNDS
_CLASS_3 = (CLASS_BOUNDS[1], math.inf)


def statements(results: list[CellResult]) -> Iterator[Statement]:
    """All that the finished cells allow, claim by claim in the paper's order; then what no paper claims."""
    grid = Grid(results)
    for claims in (_int8, _symmetry, _methods, _groups, _activations, _lorc, _equal_bits, _factors, _classes):
        yield from claims(grid)
    yield from statements_corrections.statements(grid)
    yield from statements_pairs.statements(grid)


def _int8(grid: Grid) -> Iterator[Statement]:
    """8 bits by row cost nothing."""
    claim = f"INT8 round-to-nearest with one scale a row stays within {100 * INT8_BOUND:g} % of full precision"
    for cell, result in grid.chosen():
        weight = cell.weight_format
        if weights_only(cell) and cell.method == "rtn" and weight.bits == 8 and weight.group is None:
            yield from alike(claim, "table 2", INT8_BOUND, grid.full(cell), result)


def _symmetry(grid: Grid) -> Iterator[Statement]:
    """Asymmetric against symmetric: weights by row at 4 bits, activations by token."""
    for cell, result in grid.chosen():
        weight = cell.weight_format
        activation = cell.activation_format
        if weights_only(cell) and cell.method == "rtn" and weight.bits == 4 and weight.group is None and not weight.symmetric:
            claim = "At 4 bits, asymmetric weights have a lower perplexity than symmetric ones under RTN"
            yield from below(claim, "table 2", result, grid.near(cell, weight=str(replace(weight, symmetric=True))))
        if activation.bits == 8 and activation.group is None and not activation.symmetric and cell.rank == 0:
            other = str(replace(activation, symmetric=True))
            trained = cell.trained if cell.trained == "a16" else other
            claim = "Asymmetric A8 by token has a lower perplexity than symmetric"
            yield from below(claim, "tables 2 and 3", result, grid.near(cell, activation=other, trained=trained))


def _methods(grid: Grid) -> Iterator[Statement]:
    """GPTQ against RTN, and at 4 bits by row against distillation."""
    for cell, result in grid.chosen():
        bits = cell.weight_format.bits
        if base(cell) != "GPTQ" or cell.rank or bits > FEW:
            continue
        if cell.activation == "a16":
            claim = f"At {bits} bits, GPTQ has a lower perplexity than RTN"
            source = _AGAINST_RTN.get(bits, OURS)
            yield from below(claim, source, result, grid.near(cell, method="rtn", calibration="none"))
        if bits != 4 or cell.weight_format.group:
            continue
        for other in _distilled(grid, cell):
            rival = base(other.cell)
            if cell.activation == "a16":
                yield from below(f"At W4A16, GPTQ has a lower perplexity than {rival}", "appendix C, table 3", result, other)
            elif rival == "ZQ-Global" and cell.activation_format.group is None:
                yield from below(f"At W4A8, {rival} has a lower perplexity than GPTQ", "appendix C, table 3", other, result)


def _distilled(grid: Grid, cell: Cell) -> Iterator[CellResult]:
    """ZQ-Local and ZQ-Global of the same formats; the best of a sweep of learning rates where there is one, as in the paper."""
    rivals: dict[str, CellResult] = {}
    for other, result in grid.chosen():
        same = replace(other, method=cell.method, trained=cell.trained) == cell
        if same and base(other).startswith("ZQ") and (result.derived or base(other) not in rivals):
            rivals[base(other)] = result
    yield from rivals.values()


def _groups(grid: Grid) -> Iterator[Statement]:
    """The finest group of each recipe against rows; and most of that gain from groups of 256 alone."""
    finest: dict[Cell, tuple[int, CellResult]] = {}
    for cell, result in grid.chosen():
        weight = cell.weight_format
        if not weights_only(cell) or not base(cell) or weight.group is None or weight.bits > FEW:
            continue
        row = replace(cell, weight=str(replace(weight, group=None)))
        if row in grid.cells and (row not in finest or weight.group < finest[row][0]):
            finest[row] = weight.group, result
    for row, (group, result) in finest.items():
        bits = row.weight_format.bits
        claim = f"At {bits} bits, groups instead of rows lower the perplexity of {base(row)}"
        yield from below(claim, _GROUPS.get((base(row), bits), OURS), result, grid.cells[row])
        middle = grid.near(row, weight=str(replace(row.weight_format, group=_scaled(256, result))))
        if middle is not None and group <= _scaled(32, result) and base(row) != "RTN":
            claim = f"At {bits} bits, groups of 256 give most of what groups of 32 give to {base(row)}"
            terms = ((-1.0, grid.cells[row]), (-1.0, result), (2.0, middle))
            note = _stand_for("groups of", _scaled, (256, 32), result)
            yield Statement(claim, _SEVERAL_GROUPS.get((base(row), bits), OURS), terms, note=note)


def _activations(grid: Grid) -> Iterator[Statement]:
    """A8 in groups, with weights in groups and optimized."""
    for cell, result in grid.chosen():
        activation = cell.activation_format
        source = "tables 5 and 6"
        if activation.bits != 8 or cell.rank or base(cell) in ("", "RTN") or cell.weight_format.group is None:
            continue
        if activation.group == _scaled(128, result):
            note = _stand_for("groups of", _scaled, (128,), result)
            claim = f"A8 in groups of 128 stays within {100 * BLOCK_BOUND:g} % of A16"
            yield from alike(claim, source, BLOCK_BOUND, grid.near(cell, activation="a16", trained="a16"), result, note)
            if not activation.symmetric:
                other = str(replace(activation, symmetric=True))
                trained = cell.trained if cell.trained == "a16" else other
                claim = f"Symmetric and asymmetric A8 in groups of 128 are within {100 * BLOCK_BOUND:g} % of each other"
                yield from alike(claim, source, BLOCK_BOUND, grid.near(cell, activation=other, trained=trained), result, note)


def _lorc(grid: Grid) -> Iterator[Statement]:
    """LoRC against the same recipe without it, and how much it brings back where 2 bits break the model."""
    for cell, result in grid.chosen():
        without = grid.cells.get(cell.uncorrected)
        bits = cell.weight_format.bits
        if not _of_the_paper(cell) or without is None or bits > FEW:
            continue
        full = grid.full(cell)
        claim = f"At {bits} bits, LoRC lowers the perplexity of {base(cell)}"
        source = _LORC.get((base(cell), bits), OURS) if cell.activation == "a16" else OURS
        yield from below(claim, source, result, without)
        if bits == 2 and cell.activation == "a16" and full is not None and without.mean_ppl > 2 * full.mean_ppl:
            claim = f"Where 2 bits more than double the perplexity, LoRC takes away more than half of what {base(cell)} loses"
            yield Statement(claim, source, ((-0.5, without), (-0.5, full), (1.0, result)))


def _equal_bits(grid: Grid) -> Iterator[Statement]:
    """LoRC against the best that the same method does with no more bits and without it."""
    best = rivals(grid.cells.values())
    for cell, result in grid.chosen():
        if cell in best and _of_the_paper(cell):
            claim = f"At equal bits, {base(cell)} with LoRC beats every cell of {base(cell)} without it"
            yield Statement(claim, OURS, ((-1.0, best[cell]), (1.0, result)), pooled=False)


def _factors(grid: Grid) -> Iterator[Statement]:
    """INT8 factors against FP16 ones, and how soon the rank saturates."""
    for cell, result in grid.chosen():
        if not _of_the_paper(cell):
            continue
        if cell.lorc == "plain-int8":
            claim = f"INT8 factors of LoRC stay within {100 * FACTOR_BOUND:g} % of FP16 factors"
            source = "table 8" if (base(cell), cell.weight_format.bits, cell.activation) == ("GPTQ", 4, "a16") else OURS
            yield from alike(claim, source, FACTOR_BOUND, grid.near(cell, lorc="plain-fp16"), result)
        zero = grid.cells.get(cell.uncorrected)
        eight = grid.near(cell, rank=_scaled_rank(8, result))
        if cell.rank == _scaled_rank(32, result) and zero is not None and eight is not None:
            claim = f"At {cell.weight_format.bits} bits, rank 8 gives most of what rank 32 gives"
            source = "table 9" if (base(cell), cell.weight_format.bits, cell.activation) == ("GPTQ", 4, "a16") else OURS
            note = _stand_for("ranks", _scaled_rank, (8, 32), result)
            yield Statement(claim, source, ((-1.0, zero), (-1.0, result), (2.0, eight)), note=note)


def _classes(grid: Grid) -> Iterator[Statement]:
    """Statements about sizes and sensitivity classes, of published models on the published corpora."""
    for cell, result in grid.chosen():
        full = grid.full(cell)
        size = _size(cell.model)
        if full is None or full is result or result.standin or size is None or set(result.nll) != set(CORPORA):
            continue
        for claim, source, bounds in _class_claims(cell, size):
            yield Statement(claim, source, ((-1.0, full), (1.0, result)), *bounds)
        if cell.method == "none" and result.family == _A8_NEVER_BREAKS:
            claim = "A8 by token never breaks BLOOM: less than twice full precision's perplexity"
            yield Statement(claim, "table 2", ((-2.0, full), (1.0, result)))


def _class_claims(cell: Cell, size: int) -> Iterator[tuple[str, str, tuple[float, float]]]:
    """The class claims that speak of a cell of a model of `size` weights: claim, source and bounds of the loss."""
    weight = cell.weight_format
    activation = cell.activation_format
    if cell.method == "none" and activation.bits == 8 and not activation.group and not activation.symmetric:
        if size < 1e9:
            yield "A8 by token is class 1 below a billion weights", "table 2", _CLASS_1
        if size > _A8_CLASS_3_FROM.get(compose.load("model", cell.model).family, 1e10):
            yield "A8 by token is class 3 above 10 billion weights, and for OPT from 6.7b on", "table 2", _CLASS_3
    if weight.bits != 4 or weight.symmetric or activation.bits != 16:
        return
    if not weight.group and cell.rank == 0 and cell.method == "rtn":
        if size < 1e10:
            yield "4-bit RTN by row is class 3 below 10 billion weights", "table 2", _CLASS_3
        if size > 1e11:
            yield "4-bit RTN by row is class 2 above 100 billion weights", "table 2", _CLASS_2
    if not weight.group and cell.rank == 0 and base(cell) == "GPTQ":
        if cell.model == _GPTQ_CLASS_1:
            yield "GPTQ at 4 bits by row is class 1 on OPT-30b", "table 3", _CLASS_1
        else:
            bounds = (CLASS_BOUNDS[0], math.inf)
            yield "GPTQ at 4 bits by row reaches class 1 on no model but OPT-30b", "table 3", bounds
    if weight.group and weight.group <= 256 and cell.rank == 0 and base(cell) == "GPTQ" and size > 1e10:
        yield "4 bits in groups of 256 and less are class 1 from 13 billion weights on", "table 4", _CLASS_1
    if weight.group and weight.group <= 256 and cell.rank == 8 and _of_the_paper(cell) and size > 1e10:
        yield "LoRC and groups of 256 and less bring 4 bits to class 1 from 13 billion weights on", "table 7", _CLASS_1


def _of_the_paper(cell: Cell) -> bool:
    """Whether a cell has LoRC of a kind that the paper speaks of: plain or distilled factors, which know no inputs."""
    return bool(cell.rank and base(cell) and kind_of(cell) not in WEIGHTED)


def _scaled(group: int, result: CellResult) -> int:
    """The group of the paper, or what stands for it on a stand-in."""
    return group // SCALE if result.standin else group


def _stand_for(what: str, scaled: Callable[[int, CellResult], int], published: tuple[int, ...], result: CellResult) -> str:
    """Which groups or ranks of a stand-in stand for those that a claim names; "" on another model."""
    own = " and ".join(str(scaled(number, result)) for number in published)
    return f"here {what} {own} stand for {' and '.join(map(str, published))}" if result.standin else ""


def _scaled_rank(published: int, result: CellResult) -> int:
    """The rank of the paper, or what stands for it on a stand-in."""
    return rank(published) if result.standin else published


def _size(model: str) -> int | None:
    """The weights of a model's blocks; None for a folder given on the command line."""
    return compose.load("model", model).block_weights if model in compose.names("model") else None

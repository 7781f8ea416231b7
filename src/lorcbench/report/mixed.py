"""Mixed formats beside what they must beat: the best cell with one format and no more bits, and the baseline by depth.

Both comparisons are paired, on the same windows. The rival has the same base method, with or without clipped scales, the same
activation format, and no correction unless the mixed cell chooses ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lorcbench.common.artifacts import ArtifactError, read_json
from lorcbench.config import compose
from lorcbench.config.variants import Variant
from lorcbench.report.comparison import Change
from lorcbench.report.intervals import Interval
from lorcbench.report.results import CellResult
from lorcbench.report.spelling import percent
from lorcbench.study.cells import Cell


@dataclass(frozen=True)
class Mixed:
    """One cell of mixed formats.

    Attributes:
        result: the cell.
        uniform: over the best cell with one format everywhere; None if no such cell has as few bits.
        depth: over the cell whose first blocks have the most bits, of the same budget and candidates; None if there is none.
    """

    result: CellResult
    uniform: Change | None
    depth: Change | None


def is_mixed(cell: Cell) -> bool:
    """Whether the linears of a cell have formats of their own."""
    return cell.weight_format.is_mixed


def find(results: list[CellResult]) -> list[Mixed]:
    """All measured cells of mixed formats without a correction, each beside its rivals."""
    finished = [
        result
        for result in results
        if result.status == "ok" and not result.derived and result.bits_per_weight and math.isfinite(result.mean_ppl)
    ]
    cells = {result.cell: result for result in finished}
    found = []
    for result in finished:
        if not is_mixed(result.cell) or (result.cell.rank and not _chooses_ranks(result.cell)):
            continue
        best = min(_rivals(result, finished), key=lambda one: (one.mean_ppl, one.bits_per_weight), default=None)
        by_depth = cells.get(replace(result.cell, method=_by_depth(result.cell.method), lorc="none", rank=0))
        uniform = Change(result, best) if best else None
        found.append(Mixed(result, uniform, Change(result, by_depth) if by_depth and by_depth is not result else None))
    return found


def _rivals(result: CellResult, finished: list[CellResult]) -> list[CellResult]:
    """The cells of one format with no more bits."""
    cell, base = result.cell, compose.load("method", result.cell.method).base

    def kin(other: Cell) -> bool:
        same = (other.model, other.activation) == (cell.model, cell.activation) and (not other.rank or _chooses_ranks(cell))
        method = str(Variant.parse(other.method).without("clip"))
        return same and method == base and other.calibration in (cell.calibration, "none")

    return [one for one in finished if one.bits_per_weight <= result.bits_per_weight and kin(one.cell)]


def _chooses_ranks(cell: Cell) -> bool:
    return bool(compose.load("method", cell.method).choice_of_ranks)


def _by_depth(method: str) -> str:
    """The method whose first blocks have the most bits, its budget and candidates the same."""
    variant = Variant.parse(method).without("by").without("lorc").without("ranks")
    return compose.canonical("method", f"{variant}+by=depth")


def sentences(found: list[Mixed]) -> list[str]:
    """One sentence per cell that was chosen by something, for the terminal."""
    lines = []
    for one in found:
        if one.uniform is None or Variant.parse(one.result.cell.method).setting("by") == "depth":
            continue
        rival = one.uniform.baseline
        line = (
            f"{one.result.cell.model}, {one.result.cell.method} ({one.result.bits_per_weight:.3f} bits): perplexity "
            f"{said(one.uniform.relative)} over {rival.cell.weight}, the best uniform cell of no more bits"
        )
        lines.append(line + (f"; {said(one.depth.relative)} over early layers high" if one.depth else ""))
    return lines


def said(change: Interval) -> str:
    """A relative change in percent, with its interval."""
    value, low, high = (percent(share, 2).removesuffix(" %") for share in (change.value, change.low, change.high))
    return f"{value} % [{low}, {high}]"


def formats(result: CellResult) -> list[dict[str, tuple[str, int]]]:
    """Format and rank of each linear in forward order, block by block, as the result of its quantization says; none without it.

    Forward order is in the record of the checkpoint; files have names in alphabetical order.
    """
    try:
        checkpoint = read_json(result.folders["checkpoint"] / "result.json", "checkpoint")
        order = [name for group in checkpoint["architecture"]["linears"] for name in group]
        quantized = read_json(result.folders["quantized"] / "result.json", "quantized")
        ranks = quantized.get("ranks", [{}] * len(quantized["formats"]))
        blocks = zip(quantized["formats"], ranks, strict=True)
        return [{name: (block[name], of_block.get(name, 0)) for name in order if name in block} for block, of_block in blocks]
    except (ArtifactError, KeyError):
        return []

"""Codes and factors of one decoder block that are made for one another, by `lorcbench.core.pairs` and `intrinsic`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from lorcbench.config.paired import PairedMethod
from lorcbench.core import gptq, intrinsic, pairs, quantizer
from lorcbench.core.formats import WeightFormat
from lorcbench.core.lorc import weighted_norm
from lorcbench.core.moments import dead_diagonal
from lorcbench.core.pairs import Pair
from lorcbench.core.quantizer import Quantized
from lorcbench.jobs.inputs import by_linear
from lorcbench.jobs.quantized import QuantizedBlock
from lorcbench.jobs.statistics import MetricOf
from lorcbench.models.architecture import Architecture
from lorcbench.models.checkpoint import Checkpoint

Solver = Callable[[torch.Tensor], Pair]  # W (out, in) float32 → its codes and factors


def pair_block(
    checkpoint: Checkpoint,
    index: int,
    metric_of: MetricOf,
    fmt: WeightFormat,
    method: PairedMethod,
    tokens_per_sequence: int,
) -> QuantizedBlock:
    """Codes and factors of all linears of block `index`; a fused query_key_value is three matrices.

    Args:
        metric_of: E[xᵀx] of each input, called once for it, in forward order.
        tokens_per_sequence: of the calibration.

    Raises:
        ValueError, ArithmeticError: as `lorcbench.core.gptq.prepare` and `quantize`.
    """
    architecture = checkpoint.architecture
    weights = checkpoint.linears(index)
    matrices, notes, dead, factors = {}, {}, {}, {}
    for group in architecture.linears:
        metric = metric_of(group[0])
        solver, of_input = _solver(metric, fmt, method, dead_diagonal(tokens_per_sequence))
        for name in group:
            weight = weights[name].to(metric.device).float()
            rows = architecture.part_rows(name, len(weight)) or {"": slice(None)}
            solved = {f"{name}.{part}" if part else name: solver(weight[indices]) for part, indices in rows.items()}
            matrices[name] = _together([pair.quantized for pair in solved.values()], list(rows.values()))
            factors |= {matrix: (pair.b, pair.a) for matrix, pair in solved.items()}
            notes[name] = of_input | {"pairs": {matrix: _noted(pair.notes) for matrix, pair in solved.items()}}
            unseen = metric.diagonal() == 0
            dead |= {name: unseen} if of_input.get("dead") else {}
    return QuantizedBlock(matrices, dead=dead, notes=notes, factors=factors)


def corrected_weights(block: QuantizedBlock, architecture: Architecture) -> dict[str, torch.Tensor]:
    """Ŵ + B A (out, in) float32 of every linear of a block."""
    corrections = by_linear({matrix: b @ a for matrix, (b, a) in block.factors.items()}, architecture)
    return {name: weight + corrections[name] for name, weight in block.weights().items()}


def _solver(metric: torch.Tensor, fmt: WeightFormat, method: PairedMethod, one: float) -> tuple[Solver, dict]:
    """What makes the codes and factors of a matrix with this input, and what its notes say of the input.

    Args:
        one: `lorcbench.core.moments.dead_diagonal`.
    """
    exact = method.decomposition == "exact"
    if method.kind == "intrinsic":
        hessian = intrinsic.prepare(metric, method.rank, method, one, exact)

        def inside(weight: torch.Tensor) -> Pair:
            pair = Pair(*intrinsic.quantize(weight, hessian, fmt, method), {})
            return pair._replace(notes={"errors": [weighted_norm(pair.error(weight), metric)]})

        return inside, _of_input(hessian.rest)
    if method.base == "gptq":
        prepared = gptq.prepare(metric, method, one)
        of_input = _of_input(prepared)

        def quantize(weight: torch.Tensor) -> Quantized:
            return gptq.quantize(weight, prepared, fmt, method)
    else:
        of_input = {}

        def quantize(weight: torch.Tensor) -> Quantized:
            return quantizer.quantize(weight, fmt, method.clip)

    if method.kind == "joint":
        rounds, kind = method.rounds, method.correction
        return lambda weight: pairs.joint(weight, metric, quantize, method.rank, rounds, kind, exact), of_input
    preserved = None if method.preserved == "auto" else method.preserved

    def split(weight: torch.Tensor) -> Pair:
        pair = pairs.split(weight, metric, quantize, method.rank, preserved, exact)
        return pair._replace(notes=pair.notes | {"errors": [weighted_norm(pair.error(weight), metric)]})

    return split, of_input


def _of_input(hessian: gptq.PreparedHessian) -> dict:
    """The notes of a Hessian, as of GPTQ."""
    return {"damp": hessian.factor.damp, "dead": int(hessian.dead_inputs.sum())}


def _noted(notes: dict) -> dict:
    """Notes with five digits of errors."""
    return notes | {"errors": [float(f"{error:.5g}") for error in notes["errors"]]}


def _together(parts: list[Quantized], rows: list[torch.Tensor | slice]) -> Quantized:
    """One matrix out of the matrices that have some of its rows each."""
    if len(parts) == 1:
        return parts[0]
    order = torch.cat([indices.to(parts[0].codes.device) for indices in rows])

    def joined(tensors: list[torch.Tensor]) -> torch.Tensor:
        stacked = torch.cat(tensors)
        return torch.empty_like(stacked).index_copy_(0, order, stacked)

    zero = None if parts[0].zero is None else joined([part.zero for part in parts])
    codes, scale = joined([part.codes for part in parts]), joined([part.scale for part in parts])
    return replace(parts[0], codes=codes, scale=scale, zero=zero)

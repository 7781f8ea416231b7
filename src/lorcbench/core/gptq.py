"""GPTQ (Frantar et al., ICLR 2023): round columns one after another, and push each error onto the columns not yet rounded.

For a linear y = W x with H = E[x xᵀ] and (H + λI)⁻¹ = UᵀU, U upper triangular, column j of W (out, in) is rounded to ŵ_j and

    e = (w_j - ŵ_j) / U[j, j],        w_k ← w_k - e · U[j, k]  for every k > j

By hand, one row, two columns: U = [[2, 1], [0, 1]], grid of integers, w = (0.4, 0.8): ŵ_0 = 0, e = 0.4 / 2 = 0.2,
w_1 ← 0.8 - 0.2 · 1 = 0.6, ŵ_1 = 1.

Columns are swept in column blocks, and U = R⁻¹ with H + λI = R Rᵀ is never formed. The errors satisfy Δ = W - Ŵ = E U, so Δ
and R are enough to compute what all columns before a column block b push onto it:

    Δ   [ done . . . . | b b b b | . . . . . ]      W_b ← W_b + (Δ_done · R[done, b]) · U[b, b],   U[b, b] = R[b, b]⁻¹
                                                     then the recursion above inside b, with U[b, b]

That is one Cholesky factorization instead of the published code's three, and small inverses. Rows are independent, so each row
is swept by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from lorcbench.core.compiled import compiled, over_rows
from lorcbench.core.formats import WeightFormat
from lorcbench.core.grids import encode, grouped, lowest_code, offset_first
from lorcbench.core.linalg import HessianFactor, hessian_factor, product
from lorcbench.core.quantizer import Quantized, scale_and_zero, scale_and_zero_unchecked
from lorcbench.core.settings import GptqSettings


@dataclass(frozen=True)
class PreparedHessian:
    """What a sweep needs of a Hessian; one serves all linears with that input, and all weight formats.

    Attributes:
        factor: of the (permuted) damped Hessian.
        order: (in,) the order in which the sweep takes the columns; None is left to right.
    """

    factor: HessianFactor
    order: torch.Tensor | None

    @property
    def dead_inputs(self) -> torch.Tensor:
        """(in,) bool, the inputs that were always zero, in their own order; `factor.dead` has them in the sweep's."""
        dead = self.factor.dead
        return dead if self.order is None else torch.empty_like(dead).index_copy_(0, self.order, dead)


@dataclass(frozen=True)
class Grid:
    """The values to which the columns of a matrix (out, in) are rounded.

    Attributes:
        format: of the codes.
        scale: (out, groups) in the format's scale type.
        zero: (out, groups) int32.
        group_of: (in,) int64, the group of each column.
    """

    format: WeightFormat
    scale: torch.Tensor
    zero: torch.Tensor
    group_of: torch.Tensor


class _ColumnBlock(NamedTuple):
    """Columns that are swept together.

    Attributes:
        start, stop: its columns, in the order of the sweep.
        reach: the end of the last group that starts in it, if that lies behind `stop`, else `stop`.
        groups: the groups that start in it, if their scales are still to be computed.
    """

    start: int
    stop: int
    reach: int
    groups: range


def prepare(hessian: torch.Tensor, settings: GptqSettings, dead_diagonal: float = 1.0) -> PreparedHessian:
    """Factor H (in, in), in the order of the sweep. Raises what `hessian_factor` raises.

    Args:
        dead_diagonal: what the published code's 1, on the diagonal of an input that was always zero, is in the units of H: 1
            for H = 2/n Σ xᵀx over n sequences, as there; 1 / (2 · tokens per sequence) for E[xᵀx] over tokens. It matters
            only if `settings.dead` is ``published``.
    """
    filling = dead_diagonal if settings.dead == "published" else None
    if not settings.act_order:
        return PreparedHessian(hessian_factor(hessian, settings.damp, filling), None)
    diagonal = hessian.diagonal()
    diagonal = diagonal if filling is None else torch.where(diagonal == 0, filling, diagonal)
    order = torch.argsort(diagonal, descending=True, stable=True)
    return PreparedHessian(hessian_factor(hessian[order][:, order], settings.damp, filling), order)


def quantize(weight: torch.Tensor, hessian: PreparedHessian, fmt: WeightFormat, settings: GptqSettings) -> Quantized:
    """Quantize W (out, in) so that tr((W - Ŵ) H (W - Ŵ)ᵀ) stays small.

    Columns whose input was always zero are set to zero first. As in the published code, scales of rows are computed before
    that, those of groups after it; with ``dead=excluded`` all of them after it.

    Raises:
        ValueError: groups do not divide the width, act_order is asked for with groups that are not static, or W or a scale is
            not finite.
    """
    order = hessian.order
    if (order is not None or settings.act_order) and fmt.group is not None and not settings.static_groups:
        raise ValueError("act_order with groups needs static_groups: stored groups are runs of neighbouring columns")
    original = weight.float()
    dead = hessian.dead_inputs
    # A sweep changes its matrix, so it gets a copy. Whether any input is dead is not asked on a GPU, which would have to wait.
    zeroed = original.masked_fill(dead, 0) if dead.is_cuda or dead.any() else original.clone()
    covered = original if fmt.group is None and settings.dead == "published" else zeroed
    static = settings.static_groups or fmt.group is None
    # Groups are runs of neighbouring columns of the original matrix. The sweep overwrites scales that are not static.
    scale, zero = scale_and_zero(grouped(covered, fmt.group), fmt, settings.clip if static else "none")
    w = (zeroed if order is None else zeroed[:, order]).contiguous()  # columns in the order of the sweep
    group_of = torch.arange(w.shape[1], device=w.device) // (fmt.group or w.shape[1])
    if order is not None:
        group_of = group_of[order]
    codes = _sweep(w, hessian.factor.upper, Grid(fmt, scale, zero, group_of), settings, static)
    if order is not None:
        codes = torch.empty_like(codes).index_copy_(1, order, codes)
    return Quantized(codes, scale, None if fmt.symmetric else zero, fmt)


def quantize_stacked(
    weights: list[torch.Tensor], hessian: PreparedHessian, fmt: WeightFormat, settings: GptqSettings
) -> list[Quantized]:
    """Quantize linears that share their input, each W (out, in), as one stack of rows, since rows are independent."""
    rows = [len(weight) for weight in weights]
    stacked = quantize(torch.cat([weight.float() for weight in weights]), hessian, fmt, settings)
    zeros = stacked.zero.split(rows) if stacked.zero is not None else [None] * len(rows)
    parts = zip(stacked.codes.split(rows), stacked.scale.split(rows), zeros, strict=True)
    return [Quantized(codes, scale, zero, fmt) for codes, scale, zero in parts]


def _sweep(w: torch.Tensor, upper: torch.Tensor, grid: Grid, settings: GptqSettings, static: bool) -> torch.Tensor:
    """Codes (out, in) uint8 of W.

    Args:
        w: W (out, in), columns in the order of the sweep. Changed in place: column block by column block W becomes Δ = W - Ŵ.
        upper: R (in, in) of `HessianFactor`, in the same order.
        grid: its scales and zero points are filled in as the sweep reaches their groups, unless they are static.
        static: whether all scales are there before the sweep.

    Raises:
        ValueError: a scale is not finite.
    """
    fmt = grid.format
    codes = torch.empty_like(w, dtype=torch.uint8)
    sweep_block = _sweep_block_triton if w.is_cuda else _sweep_block_compiled
    compute_scales = scale_and_zero_unchecked if w.is_cuda else scale_and_zero
    column_blocks = list(_column_blocks(w.shape[1], fmt, settings, static))
    for column_block, inverse in zip(column_blocks, _inverses(upper, column_blocks), strict=True):
        start, stop, reach, groups = column_block
        pushed = product(product(w[:, :start], upper[:start, start:reach]), inverse)  # by all columns before `start`
        corrected = w[:, start:reach] + pushed
        for group in groups:
            offset = group * fmt.group - start
            # (out, group size) → (out, 1, group size): one group per row.
            scale, zero = compute_scales(corrected[:, offset : offset + fmt.group].unsqueeze(1), fmt, settings.clip)
            grid.scale[:, group] = scale[:, 0]
            grid.zero[:, group] = zero[:, 0]
        size = stop - start
        block_grid = replace(grid, group_of=grid.group_of[start:stop])
        rounded = sweep_block(corrected[:, :size], inverse[:size, :size], block_grid, codes[:, start:stop])
        w[:, start:stop] -= rounded
    if not torch.isfinite(grid.scale).all():  # checked once at the end, because a GPU has to wait for each check
        raise ValueError(
            f"a scale is infinite or too large for {grid.scale.dtype}: use the -fp32scale variant of the weight format"
        )
    return codes


def _column_blocks(width: int, fmt: WeightFormat, settings: GptqSettings, static: bool) -> Iterator[_ColumnBlock]:
    """The column blocks of a matrix of `width` columns, from left to right."""
    corrected = not static and settings.group_params == "corrected"
    start = 0
    while start < width:
        # If the scale of a group needs all corrections before the group, a column block ends where the group starts.
        next_group = (start // fmt.group + 1) * fmt.group if corrected else width
        stop = min(start + settings.block, next_group, width)
        # Groups that start in this block; -(-a // b) is a / b rounded up.
        groups = range(0) if static else range(-(-start // fmt.group), -(-stop // fmt.group))
        # A scale is computed from the whole group as it stands when this block starts, even where the group is longer.
        reach = max(stop, groups[-1] * fmt.group + fmt.group if groups else 0)
        yield _ColumnBlock(start, stop, reach, groups)
        start = stop


def _inverses(upper: torch.Tensor, column_blocks: list[_ColumnBlock]) -> Iterable[torch.Tensor]:
    """U[b, b] = R[b, b]⁻¹ of each column block b, up to its reach; on a GPU all at once if they are of one size."""
    diagonal_blocks = (upper[block.start : block.reach, block.start : block.reach] for block in column_blocks)
    if upper.is_cuda and len({block.reach - block.start for block in column_blocks}) == 1:
        return _inverse(torch.stack(list(diagonal_blocks))).contiguous()
    return map(_inverse, diagonal_blocks)


def _inverse(upper: torch.Tensor) -> torch.Tensor:
    """R⁻¹ of one upper triangular R (k, k), or of several (n, k, k)."""
    identity = torch.eye(upper.shape[-1], dtype=upper.dtype, device=upper.device)
    return torch.linalg.solve_triangular(upper, identity.expand_as(upper), upper=True)


def sweep_block_reference(weights: torch.Tensor, inverse: torch.Tensor, grid: Grid, codes: torch.Tensor) -> torch.Tensor:
    """Sweep one column block by plain tensor operations, on any device; the compiled sweeps must give the same codes.

    Returns what the codes mean, (out, k) in float32.

    Args:
        weights: (out, k) as they stand when the column block starts; changed in place.
        inverse: (k, k) U[b, b].
        grid: of these k columns.
        codes: (out, k) uint8, filled.
    """
    rounded = torch.empty_like(weights)
    column_format = replace(grid.format, group=1)  # so that `encode` takes a single column
    for j, group in enumerate(grid.group_of.tolist()):
        scale = grid.scale[:, group : group + 1]
        zero = grid.zero[:, group : group + 1]
        codes[:, j : j + 1] = encode(weights[:, j : j + 1], scale, zero, column_format)
        rounded[:, j] = (codes[:, j].float() - zero[:, 0]) * scale[:, 0].float()
        error = (weights[:, j] - rounded[:, j]) / inverse[j, j]
        weights[:, j + 1 :] -= error.unsqueeze(1) * inverse[j, j + 1 :]  # (out, 1) · (columns to the right,)
    return rounded


def _sweep_block_triton(weights: torch.Tensor, inverse: torch.Tensor, grid: Grid, codes: torch.Tensor) -> torch.Tensor:
    """The same as `sweep_block_reference` on a GPU; `weights` stay as they are."""
    from lorcbench.core.gptq_triton import sweep_block

    return sweep_block(weights, inverse, grid.scale, grid.zero, grid.group_of, *_bounds(grid.format), codes)


def _bounds(fmt: WeightFormat) -> tuple[int, int, bool]:
    """Lowest and highest code, and whether the zero point is added before rounding."""
    return lowest_code(fmt), 2**fmt.bits - 1, offset_first(fmt)


_TILE = 64  # rows at a time: 128 columns of them are 32 KB, which stay in the first cache


def _sweep_block_compiled(weights: torch.Tensor, inverse: torch.Tensor, grid: Grid, codes: torch.Tensor) -> torch.Tensor:
    """The same as `sweep_block_reference` on the CPU, in PyTorch's number of threads; `weights` stay as they are.

    Each thread sweeps some rows from the first column to the last. How much faster that is than plain tensor operations,
    column by column: `python benchmarks/cpu_kernels.py`; benchmarks/README.md, "Kernels that are not PyTorch's".
    """
    # (out, k) → (k, out): the innermost loops then run over neighbouring rows, as many at once as a vector register holds.
    values = np.ascontiguousarray(weights.numpy().T)
    groups, group_of = np.unique(grid.group_of.numpy(), return_inverse=True)  # only the groups of this column block
    scale = grid.scale[:, groups].float().T.contiguous().numpy()
    zero = grid.zero[:, groups].float().T.contiguous().numpy()
    block_codes = np.empty(values.shape, dtype=np.uint8)
    lowest, highest, shift_first = _bounds(grid.format)
    arrays = (values, scale, zero, block_codes, np.ascontiguousarray(inverse.numpy()), group_of)
    bounds = (np.float32(lowest), np.float32(highest), shift_first)
    over_rows(lambda start, stop: _sweep_columns(*arrays, start, stop, *bounds), values.shape[1], _TILE)
    codes.copy_(torch.from_numpy(block_codes.T))
    return torch.from_numpy(values.T)  # `_sweep_columns` left there what the codes mean


@compiled
def _sweep_columns(values, scale, zero, codes, inverse, group_of, start, stop, lowest, highest, shift_first):
    """Sweep rows `start` to `stop` of a column block, columns first.

    Args:
        values: (k, out) the weights; what their codes mean takes their place.
        scale, zero: (groups of the column block, out) float32.
        codes: (k, out) uint8, filled.
        inverse: (k, k) U[b, b].
        group_of: (k,) rows of `scale` and `zero`.
        lowest, highest: codes, float32.
        shift_first: whether the zero point is added before rounding.
    """
    width = values.shape[0]
    w = np.empty((width, _TILE), np.float32)  # the weights of one tile of rows
    errors = np.empty(_TILE, np.float32)
    for first in range(start, stop, _TILE):
        count = min(_TILE, stop - first)
        for j in range(width):
            for row in range(count):
                w[j, row] = values[j, first + row]
        for j in range(width):
            group = group_of[j]
            diagonal = inverse[j, j]
            for row in range(count):
                s = scale[group, first + row]
                z = zero[group, first + row]
                code = np.rint((w[j, row] + z * s) / s) if shift_first else np.rint(w[j, row] / s) + z
                code = lowest if code < lowest else highest if code > highest else code
                rounded = (code - z) * s
                codes[j, first + row] = np.uint8(code)
                values[j, first + row] = rounded
                errors[row] = (w[j, row] - rounded) / diagonal
            for k in range(j + 1, width):
                u = inverse[j, k]
                for row in range(count):
                    w[k, row] -= errors[row] * u

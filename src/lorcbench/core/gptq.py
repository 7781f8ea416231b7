"""GPTQ (Frantar et al., ICLR 2023): round columns one after another, each error pushed onto the columns not yet rounded.

For a linear y = W x with H = E[x xᵀ] and (H + λI)⁻¹ = UᵀU, U upper triangular, column j of W (out, in) is rounded to ŵ_j and

    e = (w_j - ŵ_j) / U[j, j],        w_k ← w_k - e · U[j, k]  for every k > j

By hand, one row, two columns: U = [[2, 1], [0, 1]], grid of integers, w = (0.4, 0.8): ŵ_0 = 0, e = 0.4 / 2 = 0.2,
w_1 ← 0.8 - 0.2 · 1 = 0.6, ŵ_1 = 1.

Columns are swept in blocks, and U = R⁻¹ with H + λI = R Rᵀ is never formed. The errors satisfy Δ = W - Ŵ = E U, so what all
columns before a block b push onto it follows from Δ and R::

    Δ   [ done . . . . | b b b b | . . . . . ]      W_b ← W_b + (Δ_done · R[done, b]) · U[b, b],   U[b, b] = R[b, b]⁻¹
                                                     then the recursion above inside b, with U[b, b]

That is one Cholesky factorization instead of the published code's three, and small inverses. Rows never meet, so each row is
swept on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import torch

from lorcbench.core.formats import WeightFormat
from lorcbench.core.linalg import HessianFactor, hessian_factor, product
from lorcbench.core.quantizer import Quantized, encode, grouped, offset_first, scale_and_zero, scale_and_zero_unchecked
from lorcbench.core.settings import GptqSettings


@dataclass(frozen=True)
class PreparedHessian:
    """What a sweep needs of a Hessian; one serves every linear with that input and every weight format.

    Attributes:
        factor: of the (permuted) damped Hessian.
        order: (in,) the column order of the sweep; None is left to right.
    """

    factor: HessianFactor
    order: torch.Tensor | None


def prepare(hessian: torch.Tensor, settings: GptqSettings) -> PreparedHessian:
    """Factor H (in, in), in the order of the sweep. Raises what `hessian_factor` raises."""
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if settings.act_order else None
    return PreparedHessian(hessian_factor(hessian if order is None else hessian[order][:, order], settings.damp), order)


def quantize(weight: torch.Tensor, hessian: PreparedHessian, fmt: WeightFormat, settings: GptqSettings) -> Quantized:
    """Quantize W (out, in) so that tr((W - Ŵ) H (W - Ŵ)ᵀ) stays small.

    Columns whose input was always zero are set to zero first, as in the published code.

    Raises:
        ValueError: groups do not divide the width, or act_order is asked for with groups that are not static.
    """
    order = hessian.order
    if (order is not None or settings.act_order) and fmt.group is not None and not settings.static_groups:
        raise ValueError("act_order with groups needs static_groups: stored groups are runs of neighbouring columns")
    w = weight.float() if order is None else weight.float()[:, order]
    w = torch.where(hessian.factor.dead, torch.zeros_like(w), w).contiguous()
    original = w if order is None else torch.empty_like(w).index_copy_(1, order, w)
    group_of = torch.arange(w.shape[1], device=w.device) // (fmt.group or w.shape[1])
    groups = grouped(original, fmt.group)
    scale, zero = scale_and_zero(groups, fmt)
    static = settings.static_groups or fmt.group is None
    if order is not None:
        group_of = group_of[order]
    codes = _sweep(w, hessian.factor.upper, fmt, settings, group_of, scale, zero, static)
    if order is not None:
        codes = torch.empty_like(codes).index_copy_(1, order, codes)
    return Quantized(codes, scale, None if fmt.symmetric else zero, fmt)


def quantize_stacked(
    weights: list[torch.Tensor], hessian: PreparedHessian, fmt: WeightFormat, settings: GptqSettings
) -> list[Quantized]:
    """Quantize linears that share their input, each W (out, in), as one stack of rows: rows do not know of each other."""
    rows = [len(weight) for weight in weights]
    stacked = quantize(torch.cat([weight.float() for weight in weights]), hessian, fmt, settings)
    zeros = stacked.zero.split(rows) if stacked.zero is not None else [None] * len(rows)
    parts = zip(stacked.codes.split(rows), stacked.scale.split(rows), zeros, strict=True)
    return [Quantized(codes, scale, zero, fmt) for codes, scale, zero in parts]


def _sweep(w, upper, fmt, settings, group_of, scale, zero, static) -> torch.Tensor:
    """Codes (out, in) of W in sweep order; fills `scale` and `zero` as it goes unless they are static. Leaves Δ in `w`."""
    width = w.shape[1]
    codes = torch.empty_like(w, dtype=torch.uint8)
    sweep_block = _sweep_block_triton if w.is_cuda else _sweep_block_compiled
    find = scale_and_zero_unchecked if w.is_cuda else scale_and_zero
    blocks = list(_blocks(width, fmt, settings, static))
    for (start, stop, seen, groups), inverse in zip(blocks, _inverses(upper, blocks), strict=True):
        now = w[:, start:seen] + product(product(w[:, :start], upper[:start, start:seen]), inverse)
        for group in groups:
            first = group * fmt.group - start
            found = find(now[:, first : first + fmt.group].unsqueeze(1), fmt)
            scale[:, group], zero[:, group] = found[0][:, 0], found[1][:, 0]
        size, columns = stop - start, slice(start, stop)
        rounded = sweep_block(now[:, :size], inverse[:size, :size], scale, zero, group_of[columns], fmt, codes[:, columns])
        w[:, columns] -= rounded
    if not torch.isfinite(scale).all():  # looked at once, for a GPU would have to wait for every look
        raise ValueError(f"a scale is infinite or too large for {scale.dtype}: use the -fp32scale variant of the weight format")
    return codes


def _blocks(width: int, fmt: WeightFormat, settings: GptqSettings, static: bool) -> Iterator[tuple[int, int, int, range]]:
    """Column blocks: where each starts and stops, how far it looks, and the groups whose scales are found in it."""
    corrected = not static and settings.group_params == "corrected"
    start = 0
    while start < width:
        # A block ends where a group starts if that group's scale must see every correction before it.
        next_group = (start // fmt.group + 1) * fmt.group if corrected else width
        stop = min(start + settings.block, next_group, width)
        groups = range(0) if static else range(-(-start // fmt.group), -(-stop // fmt.group))  # that start in this block
        # Scales are found on all of a group, as it stands when its block starts, even where it reaches beyond the block.
        yield start, stop, max(stop, groups[-1] * fmt.group + fmt.group if groups else 0), groups
        start = stop


def _inverses(upper: torch.Tensor, blocks: list[tuple[int, int, int, range]]) -> Iterable[torch.Tensor]:
    """U[b, b] = R[b, b]⁻¹ of every column block, as far as it looks; on a GPU all at once if they are of one size."""
    found = (upper[start:seen, start:seen] for start, _, seen, _ in blocks)
    if upper.is_cuda and len({seen - start for start, _, seen, _ in blocks}) == 1:
        return _inverse(torch.stack(list(found))).contiguous()
    return map(_inverse, found)


def _inverse(upper: torch.Tensor) -> torch.Tensor:
    """R⁻¹ of one upper triangular R (k, k), or of several (n, k, k)."""
    one = torch.eye(upper.shape[-1], dtype=upper.dtype, device=upper.device)
    return torch.linalg.solve_triangular(upper, one.expand_as(upper), upper=True)


def sweep_block_reference(block, inverse, scale, zero, group_of, fmt, codes) -> torch.Tensor:
    """One column block by plain tensor operations, on any device: what the compiled sweeps must equal.

    Returns what the codes mean, (out, k) in float32.

    Args:
        block: (out, k) weights as they stand when the block starts; changed in place.
        inverse: (k, k) U[b, b].
        scale, zero: (out, groups).
        group_of: (k,) the group of each column.
        codes: (out, k) uint8, filled.
    """
    meaning = torch.empty_like(block)
    one = WeightFormat(fmt.bits, fmt.symmetric, 1, fmt.convention, fmt.scale_dtype)
    for j, group in enumerate(group_of.tolist()):
        s, z = scale[:, group : group + 1], zero[:, group : group + 1]
        codes[:, j : j + 1] = encode(block[:, j : j + 1], s, z, one)
        meaning[:, j] = (codes[:, j].float() - z[:, 0]) * s[:, 0].float()
        error = (block[:, j] - meaning[:, j]) / inverse[j, j]
        block[:, j + 1 :] -= error.unsqueeze(1) * inverse[j, j + 1 :]
    return meaning


def _sweep_block_triton(block, inverse, scale, zero, group_of, fmt, codes) -> torch.Tensor:
    from lorcbench.core.gptq_triton import sweep_block

    return sweep_block(block, inverse, scale, zero, group_of, *_bounds(fmt), codes)


def _bounds(fmt: WeightFormat) -> tuple[int, int, bool]:
    """Lowest and highest code, and whether the zero point is added before rounding."""
    return 1 if fmt.convention == "restricted" else 0, 2**fmt.bits - 1, offset_first(fmt)


_TILE = 64  # rows at a time: 128 columns of them are 32 KB, which stay in the first cache


def _sweep_block_compiled(block, inverse, scale, zero, group_of, fmt, codes) -> torch.Tensor:
    # Transposed, so that the innermost loops run over rows, which are independent: as wide as the processor's vectors.
    columns = np.ascontiguousarray(block.numpy().T)
    groups, group_of = np.unique(group_of.numpy(), return_inverse=True)
    s, z = scale[:, groups].float().T.contiguous().numpy(), zero[:, groups].float().T.contiguous().numpy()
    found = np.empty(columns.shape, dtype=np.uint8)
    lowest, highest, shift_first = _bounds(fmt)
    arguments = (columns, s, z, found, np.ascontiguousarray(inverse.numpy()), group_of)
    settings = (np.float32(lowest), np.float32(highest), shift_first)
    rows = columns.shape[1]
    step = _TILE * -(-rows // (_TILE * torch.get_num_threads()))
    parts = [(first, min(first + step, rows)) for first in range(0, rows, step)]
    if len(parts) == 1:
        _sweep_columns(*arguments, *parts[0], *settings)
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(lambda part: _sweep_columns(*arguments, *part, *settings), parts))
    codes.copy_(torch.from_numpy(found.T))
    return torch.from_numpy(columns.T)


@numba.njit(cache=True, nogil=True)
def _sweep_columns(block, scale, zero, codes, inverse, group_of, start, stop, lowest, highest, shift_first):
    """Rows `start` to `stop` of the sweep of `block` (k, out), columns first; scale and zero are (groups of the block, out).

    What the codes mean takes the place of the weights.
    """
    width = block.shape[0]
    w, e = np.empty((width, _TILE), np.float32), np.empty(_TILE, np.float32)
    for first in range(start, stop, _TILE):
        count = min(_TILE, stop - first)
        for j in range(width):
            for row in range(count):
                w[j, row] = block[j, first + row]
        for j in range(width):
            group, diagonal = group_of[j], inverse[j, j]
            for row in range(count):
                s, z = scale[group, first + row], zero[group, first + row]
                code = np.rint((w[j, row] + z * s) / s) if shift_first else np.rint(w[j, row] / s) + z
                code = lowest if code < lowest else highest if code > highest else code
                rounded = (code - z) * s
                codes[j, first + row], block[j, first + row] = np.uint8(code), rounded
                e[row] = (w[j, row] - rounded) / diagonal
            for k in range(j + 1, width):
                u = inverse[j, k]
                for row in range(count):
                    w[k, row] -= e[row] * u

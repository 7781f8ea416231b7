"""GPTQ (Frantar et al., ICLR 2023): round columns one after another, each error pushed onto the columns not yet rounded.

For a linear y = W x with H = E[x xᵀ] and (H + λI)⁻¹ = UᵀU, U upper triangular, column j of W (out, in) is rounded to ŵ_j and

    e = (w_j - ŵ_j) / U[j, j],        w_k ← w_k - e · U[j, k]  for every k > j

Columns are swept in blocks: inside a block the update is immediate, behind it one matrix product brings it to the rest::

    W   [ ....... | b b b b | r r r r r r ]      b: this block, swept column by column
          done      ▲ U[b,b]   ▲ W_r -= E_b · U[b, r] after the block

Rows never meet, so each row is swept on its own. By hand, one row, two columns: U = [[2, 1], [0, 1]], grid of integers,
w = (0.4, 0.8): ŵ_0 = 0, e = 0.4 / 2 = 0.2, w_1 ← 0.8 - 0.2 · 1 = 0.6, ŵ_1 = 1.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import torch

from lorcbench.formats import WeightFormat
from lorcbench.linalg import InverseFactor, inverse_factor
from lorcbench.quantizer import Quantized, encode, grouped, offset_first, scale_and_zero


@dataclass(frozen=True)
class GptqSettings:
    """The algorithm's own settings; defaults are the published code's.

    Attributes:
        damp: λ as a fraction of the mean diagonal of H.
        block: columns a block.
        group_params: when a group's scale is found. ``block_start``: from the weights as they stood at the start of the
            column block that the group starts in (published code); ``corrected``: with all corrections up to the group.
        static_groups: all scales from the uncorrected weights, before the sweep.
        act_order: sweep columns by falling diagonal of H; with groups this needs `static_groups`.
    """

    damp: float = 0.01
    block: int = 128
    group_params: str = "block_start"
    static_groups: bool = False
    act_order: bool = False


@dataclass(frozen=True)
class PreparedHessian:
    """What a sweep needs of a Hessian; one serves every linear with that input and every weight format.

    Attributes:
        factor: the inverse factor of the (permuted) damped Hessian.
        order: (in,) the column order of the sweep; None is left to right.
    """

    factor: InverseFactor
    order: torch.Tensor | None


def prepare(hessian: torch.Tensor, settings: GptqSettings) -> PreparedHessian:
    """Factor H (in, in), in the order of the sweep. Raises what `inverse_factor` raises."""
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if settings.act_order else None
    return PreparedHessian(inverse_factor(hessian if order is None else hessian[order][:, order], settings.damp), order)


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
    return Quantized(codes, scale, None if fmt.symmetric else zero)


def quantize_stacked(
    weights: list[torch.Tensor], hessian: PreparedHessian, fmt: WeightFormat, settings: GptqSettings
) -> list[Quantized]:
    """Quantize linears that share their input, each W (out, in), as one stack of rows: rows do not know of each other."""
    rows = [len(weight) for weight in weights]
    stacked = quantize(torch.cat([weight.float() for weight in weights]), hessian, fmt, settings)
    zeros = stacked.zero.split(rows) if stacked.zero is not None else [None] * len(rows)
    parts = zip(stacked.codes.split(rows), stacked.scale.split(rows), zeros, strict=True)
    return [Quantized(codes, scale, zero) for codes, scale, zero in parts]


def _sweep(w, upper, fmt, settings, group_of, scale, zero, static) -> torch.Tensor:
    """Codes (out, in) of W in sweep order; fills `scale` and `zero` as it goes unless they are static. Changes `w`."""
    width = w.shape[1]
    codes = torch.empty_like(w, dtype=torch.uint8)
    corrected = not static and settings.group_params == "corrected"
    start = 0
    while start < width:
        # A block ends where a group starts if that group's scale must see every correction before it.
        next_group = (start // fmt.group + 1) * fmt.group if corrected else width
        stop = min(start + settings.block, next_group, width)
        if not static:
            for first in range(-(-start // fmt.group) * fmt.group, stop, fmt.group):
                found = scale_and_zero(w[:, first : first + fmt.group].unsqueeze(1), fmt)
                scale[:, first // fmt.group], zero[:, first // fmt.group] = found[0][:, 0], found[1][:, 0]
        columns = slice(start, stop)
        sweep_block = _sweep_block_triton if w.is_cuda else _sweep_block_compiled
        block = w[:, columns].clone()
        error = sweep_block(block, upper[columns, columns].contiguous(), scale, zero, group_of[columns], fmt, codes[:, columns])
        w[:, stop:] -= error @ upper[columns, stop:]
        start = stop
    return codes


def sweep_block_reference(block, upper, scale, zero, group_of, fmt, codes) -> torch.Tensor:
    """One column block by plain tensor operations, on any device: what the compiled sweep must equal.

    Args:
        block: (out, k) weights, changed in place.
        upper: (k, k) the block's part of U.
        scale, zero: (out, groups).
        group_of: (k,) the group of each column.
        codes: (out, k) uint8, filled.

    Returns:
        (out, k) the errors e that the columns behind the block still need.
    """
    error = torch.empty_like(block)
    one = WeightFormat(fmt.bits, fmt.symmetric, 1, fmt.convention, fmt.scale_dtype)
    for j, group in enumerate(group_of.tolist()):
        s, z = scale[:, group : group + 1], zero[:, group : group + 1]
        codes[:, j : j + 1] = encode(block[:, j : j + 1], s, z, one)
        rounded = (codes[:, j].float() - z[:, 0]) * s[:, 0].float()
        error[:, j] = (block[:, j] - rounded) / upper[j, j]
        block[:, j + 1 :] -= error[:, j : j + 1] * upper[j, j + 1 :]
    return error


def _sweep_block_triton(block, upper, scale, zero, group_of, fmt, codes) -> torch.Tensor:
    from lorcbench.methods.gptq_triton import sweep_block

    return sweep_block(block, upper, scale, zero, group_of, *_bounds(fmt), codes)


def _bounds(fmt: WeightFormat) -> tuple[int, int, bool]:
    """Lowest and highest code, and whether the zero point is added before rounding."""
    return 1 if fmt.convention == "restricted" else 0, 2**fmt.bits - 1, offset_first(fmt)


def _sweep_block_compiled(block, upper, scale, zero, group_of, fmt, codes) -> torch.Tensor:
    error = torch.empty_like(block)
    out = np.empty(block.shape, dtype=np.uint8)
    arrays = (upper.numpy(), group_of.numpy(), *_bounds(fmt))
    rows = (block.numpy(), scale.float().numpy(), zero.numpy(), out, error.numpy())
    step = -(-len(out) // torch.get_num_threads())
    parts = [slice(first, first + step) for first in range(0, len(out), step)]
    if len(parts) == 1:
        _sweep_rows(*rows, *arrays)
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(lambda part: _sweep_rows(*(array[part] for array in rows), *arrays), parts))
    codes.copy_(torch.from_numpy(out))
    return error


@numba.njit(cache=True, nogil=True)
def _sweep_rows(w, scale, zero, codes, error, upper, group_of, lowest, highest, shift_first):
    for row in range(w.shape[0]):
        for j in range(w.shape[1]):
            s = scale[row, group_of[j]]
            z = np.float32(zero[row, group_of[j]])
            code = np.rint((w[row, j] + z * s) / s) if shift_first else np.rint(w[row, j] / s) + z
            code = min(max(code, np.float32(lowest)), np.float32(highest))
            codes[row, j] = np.uint8(code)
            e = (w[row, j] - (code - z) * s) / upper[j, j]
            error[row, j] = e
            for k in range(j + 1, w.shape[1]):
                w[row, k] -= e * upper[j, k]

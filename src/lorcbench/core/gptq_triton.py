"""GPTQ's sweep of one column block as a Triton kernel: each program holds some rows of the block in registers to the end."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

_ROWS = 16  # rows per program; with 128 columns these are 16 values per thread


def sweep_block(block, inverse, scale, zero, group_of, lowest: int, highest: int, shift_first: bool, codes) -> torch.Tensor:
    """The same as `lorcbench.core.gptq.sweep_block_reference`, on CUDA tensors; `block` stays as it is.

    Returns what the codes mean, (out, k) in float32.

    Args:
        block: (out, k) float32, a view whose rows are contiguous.
        inverse: (k, k) U[b, b].
        scale, zero: (out, groups).
        group_of: (k,) int64, the group of each column.
        lowest, highest: codes.
        shift_first: whether the zero point is added before rounding.
        codes: (out, k) uint8 view, filled.
    """
    rows, columns = block.shape
    meaning = torch.empty(rows, columns, dtype=torch.float32, device=block.device)
    _sweep[(triton.cdiv(rows, _ROWS),)](
        block, inverse.contiguous(), scale, zero, group_of, codes, meaning, rows, columns,
        block.stride(0), codes.stride(0), scale.shape[1], lowest, highest,
        SHIFT_FIRST=shift_first, ROWS=_ROWS, COLUMNS=triton.next_power_of_2(columns),
        enable_fp_fusion=False,  # a fused multiply-add rounds once instead of twice, which would change some codes
    )  # fmt: skip
    return meaning


# Not specialized for the numbers that differ between formats and shapes: each compilation takes seconds.
@triton.jit(do_not_specialize=["rows", "groups", "lowest", "highest"])
def _sweep(
    w_ptr, u_ptr, scale_ptr, zero_ptr, group_ptr, codes_ptr, meaning_ptr, rows, columns,
    w_stride, codes_stride, groups, lowest, highest,
    SHIFT_FIRST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sweep `ROWS` rows of a column block from its first column to its last; arguments as in `sweep_block`.

    `w_stride` and `codes_stride` are the distances between rows. All other matrices are contiguous.
    """
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = row < rows
    w = tl.load(w_ptr + row[:, None] * w_stride + column[None, :], inside[:, None] & (column < columns)[None, :], 0.0)
    for j in range(columns):
        group = tl.load(group_ptr + j)
        s = tl.load(scale_ptr + row * groups + group, inside, 1.0).to(tl.float32)
        z = tl.load(zero_ptr + row * groups + group, inside, 0).to(tl.float32)
        u = tl.load(u_ptr + j * columns + column, column < columns, 0.0)
        diagonal = tl.load(u_ptr + j * columns + j)
        weight = tl.sum(tl.where(column[None, :] == j, w, 0.0), axis=1)
        # Division as IEEE defines it, since the faster one gives some other codes.
        if SHIFT_FIRST:  # noqa: SIM108  a compile-time branch
            code = libdevice.rint(tl.div_rn(weight + z * s, s))
        else:
            code = libdevice.rint(tl.div_rn(weight, s)) + z
        code = tl.minimum(tl.maximum(code, lowest), highest)
        rounded = (code - z) * s
        error = tl.div_rn(weight - rounded, diagonal)
        tl.store(codes_ptr + row * codes_stride + j, code.to(tl.uint8), inside)
        tl.store(meaning_ptr + row * columns + j, rounded, inside)
        w -= error[:, None] * tl.where(column > j, u, 0.0)[None, :]

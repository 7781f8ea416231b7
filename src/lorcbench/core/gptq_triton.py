"""GPTQ's sweep of one column block as a Triton kernel: a program holds some rows of the block in registers, start to end."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

_ROWS = 16  # rows a program; with 128 columns, 16 values a thread


def sweep_block(block, inverse, scale, zero, group_of, lowest: int, highest: int, shift_first: bool, codes) -> None:
    """The same as `lorcbench.core.gptq.sweep_block_reference`, on CUDA tensors; `block` is left as it is.

    Args:
        block: (out, k) float32.
        inverse: (k, k) U[b, b].
        scale, zero: (out, groups).
        group_of: (k,) int64.
        codes: (out, k) uint8 view, filled.
    """
    rows, columns = block.shape
    found = torch.empty(rows, columns, dtype=torch.uint8, device=block.device)
    _sweep[(triton.cdiv(rows, _ROWS),)](
        block.contiguous(), inverse.contiguous(), scale.float(), zero.contiguous(), group_of, found, rows, columns,
        scale.shape[1], lowest, highest, SHIFT_FIRST=shift_first, ROWS=_ROWS, COLUMNS=triton.next_power_of_2(columns),
    )  # fmt: skip
    codes.copy_(found)


@triton.jit
def _sweep(
    w_ptr, u_ptr, scale_ptr, zero_ptr, group_ptr, codes_ptr, rows, columns, groups,
    lowest, highest, SHIFT_FIRST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = row < rows
    w = tl.load(w_ptr + row[:, None] * columns + column[None, :], inside[:, None] & (column < columns)[None, :], 0.0)
    for j in range(columns):
        group = tl.load(group_ptr + j)
        s = tl.load(scale_ptr + row * groups + group, inside, 1.0)
        z = tl.load(zero_ptr + row * groups + group, inside, 0).to(tl.float32)
        u = tl.load(u_ptr + j * columns + column, column < columns, 0.0)
        diagonal = tl.load(u_ptr + j * columns + j)
        weight = tl.sum(tl.where(column[None, :] == j, w, 0.0), axis=1)
        # Division as IEEE has it: the fast one rounds some codes to the other side.
        if SHIFT_FIRST:  # noqa: SIM108  a compile-time branch
            code = libdevice.rint(tl.div_rn(weight + z * s, s))
        else:
            code = libdevice.rint(tl.div_rn(weight, s)) + z
        code = tl.minimum(tl.maximum(code, lowest), highest)
        error = tl.div_rn(weight - (code - z) * s, diagonal)
        tl.store(codes_ptr + row * columns + j, code.to(tl.uint8), inside)
        w -= error[:, None] * tl.where(column > j, u, 0.0)[None, :]

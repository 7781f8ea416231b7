"""How other programs lay out quantized matrices in safetensors files, read by definition: tensors in, Ŵ (out, in) out.

==============  ======================================================================================================
layout          what lies in the file, and what it means
==============  ======================================================================================================
pack-quantized  compressed-tensors. ``weight_packed`` int32 (out, words): the codes of a row, along in; ``weight_scale``
                (out, groups); ``weight_zero_point`` int32 (words, groups), packed along out, or int8 (out, groups), if
                asymmetric; ``weight_g_idx`` (in,) if columns were reordered. Packed values are q + 2^(b-1).
int-quantized   compressed-tensors. ``weight`` int8 (out, in), ``weight_scale``, and ``weight_zero_point`` int8
gptq            AutoGPTQ. ``qweight`` int32 (words, out): the codes of a column, along in; ``qzeros`` int32 (groups, words),
                along out, each zero point minus 1; ``scales`` (groups, out); ``g_idx`` (in,), the group of each input
gptq_v2         the same with zero points as they are
awq             AutoAWQ's GEMM, 4 bits. ``qweight`` int32 (in, out / 8) and ``qzeros`` int32 (groups, out / 8), packed along
                out in the order 0 2 4 6 1 3 5 7; ``scales`` (groups, out)
==============  ======================================================================================================

All mean Ŵ = scale · (code - zero point). Codes are packed densely, the least significant bit first: code i
has the bits i·b to i·b + b - 1 of its row of words. Sources: `compressed_tensors` 0.20 (compressors/pack_quantized), GPTQModel
7.6 (nn_modules/qlinear, quantization/awq/utils/packing_utils.py), AutoGPTQ 0.7 (qlinear_cuda.py).
"""

from __future__ import annotations

import torch

PACKED, INTEGER, GPTQ, GPTQ_V2, AWQ = "pack-quantized", "int-quantized", "gptq", "gptq_v2", "awq"
LAYOUTS = (PACKED, INTEGER, GPTQ, GPTQ_V2, AWQ)
# The parts of a linear by layout: those that it must have, and those that it may have.
PARTS = {
    PACKED: (("weight_packed", "weight_scale"), ("weight_shape", "weight_zero_point", "weight_g_idx")),
    INTEGER: (("weight", "weight_scale"), ("weight_zero_point",)),
    GPTQ: (("qweight", "qzeros", "scales"), ("g_idx",)),
    GPTQ_V2: (("qweight", "qzeros", "scales"), ("g_idx",)),
    AWQ: (("qweight", "qzeros", "scales"), ()),
}
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def unpack(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The first `count` codes of each row of words: (rows, words) int32 → (rows, count) int32 in [0, 2^bits - 1].

    Raises:
        ValueError: the rows are not as long as that many codes take.
    """
    needed = -(-count * bits // 32)
    if words.dtype != torch.int32 or words.ndim != 2 or words.shape[1] != needed:
        raise ValueError(
            f"{tuple(words.shape)} {words.dtype}, expected (rows, {needed}) int32 for {count} codes of {bits} bits"
        )
    start = torch.arange(count, device=words.device) * bits
    low, offset = start // 32, start % 32
    wide = words.long() & 0xFFFFFFFF
    codes = wide[:, low] >> offset
    # A code may straddle two words.
    codes |= wide[:, (low + 1).clamp(max=needed - 1)] << (32 - offset)
    return (codes & (2**bits - 1)).int()


def dequantize(layout: str, parts: dict[str, torch.Tensor], bits: int, symmetric: bool, group: int | None) -> torch.Tensor:
    """Ŵ (out, in) in float32.

    Args:
        layout: one of `LAYOUTS`.
        parts: of the linear, by the names that the layout gives them.
        bits: of a code.
        symmetric: whether the zero point is that of the middle of the codes.
        group: consecutive inputs that share a scale; None is a whole row.

    Raises:
        ValueError: a part is missing, or has a shape or values that the layout does not have.
    """
    needed, more = PARTS[layout]
    if missing := [name for name in needed if name not in parts]:
        raise ValueError(f"no {missing[0]}, which {layout} has")
    if unknown := sorted(set(parts) - {*needed, *more}):
        raise ValueError(f"{unknown[0]} is no part of {layout}")
    read = {PACKED: _packed, INTEGER: _integer, GPTQ: _gptq, GPTQ_V2: _gptq_v2, AWQ: _awq}[layout]
    codes, zero, scale, columns = read(parts, bits, symmetric)
    width = codes.shape[1]
    if columns is None:
        columns = torch.arange(width, device=codes.device) // (group or width)
    if columns.shape != (width,) or columns.min() < 0 or columns.max() >= scale.shape[1] or len(scale) != len(codes):
        raise ValueError(f"scales {tuple(scale.shape)} do not fit {tuple(codes.shape)} codes in groups of {group or 'a row'}")
    if zero.shape != scale.shape:
        raise ValueError(f"zero points {tuple(zero.shape)} beside scales {tuple(scale.shape)}")
    return (codes - zero[:, columns]).float() * scale.float()[:, columns]


def _packed(parts: dict[str, torch.Tensor], bits: int, symmetric: bool) -> tuple:
    """Codes (out, in), zero points and scales (out, groups), and the group of each column if it is not by position."""
    packed, scale = parts["weight_packed"], parts["weight_scale"]
    shape = parts["weight_shape"].tolist() if "weight_shape" in parts else [len(packed), packed.shape[1] * 32 // bits]
    codes = unpack(packed, bits, int(shape[1]))
    return codes, _zero_points(parts, bits, symmetric, scale), scale, parts.get("weight_g_idx")


def _integer(parts: dict[str, torch.Tensor], bits: int, symmetric: bool) -> tuple:
    """As `_packed`."""
    if parts["weight"].dtype != torch.int8:
        raise ValueError(f"weight is {parts['weight'].dtype}, expected int8")
    scale = parts["weight_scale"]
    zero = _zero_points(parts, bits, symmetric, scale)
    return parts["weight"].int() + 2 ** (bits - 1), zero, scale, None


def _zero_points(parts: dict[str, torch.Tensor], bits: int, symmetric: bool, scale: torch.Tensor) -> torch.Tensor:
    """Zero points (out, groups) int32 of compressed-tensors, of codes that are not negative."""
    middle = 2 ** (bits - 1)
    zero = parts.get("weight_zero_point")
    if zero is None:
        if not symmetric:
            raise ValueError("no weight_zero_point, which an asymmetric format has")
        return torch.full_like(scale, middle, dtype=torch.int32)
    if zero.dtype == torch.int32 and zero.shape != scale.shape:
        return unpack(zero.T.contiguous(), bits, len(scale)).T
    return zero.int() + middle


def _gptq(parts: dict[str, torch.Tensor], bits: int, symmetric: bool) -> tuple:
    """As `_packed`; the zero point 0 is stored as -1, which is the largest code."""
    codes, stored, scale, columns = _gptq_v2(parts, bits, False)
    zero = (stored + 1) & (2**bits - 1)
    _check_middle(zero, bits, symmetric, GPTQ_V2)
    return codes, zero, scale, columns


def _gptq_v2(parts: dict[str, torch.Tensor], bits: int, symmetric: bool) -> tuple:
    """As `_packed`."""
    scale = parts["scales"].T
    qweight = parts["qweight"]
    codes = unpack(qweight.T.contiguous(), bits, len(qweight) * 32 // bits)
    zero = unpack(parts["qzeros"], bits, len(scale)).T
    _check_middle(zero, bits, symmetric, GPTQ)
    columns = parts.get("g_idx")
    return codes, zero, scale, None if columns is None else columns.long()


def _check_middle(zero: torch.Tensor, bits: int, symmetric: bool, other: str) -> None:
    """Refuse symmetric zero points that are those of the other version: some programs write one and say the other."""
    middle = 2 ** (bits - 1)
    if symmetric and (zero != middle).any():
        raise ValueError(f"its zero points are not {middle}, those of a symmetric format; is its checkpoint_format {other}?")


def _awq(parts: dict[str, torch.Tensor], bits: int, symmetric: bool) -> tuple:
    """As `_packed`."""
    qweight, scale = parts["qweight"], parts["scales"].T
    return _awq_columns(qweight, bits).T, _awq_columns(parts["qzeros"], bits).T, scale, None


def _awq_columns(words: torch.Tensor, bits: int) -> torch.Tensor:
    """(rows, words) int32 → (rows, columns) int32: place i of a word holds its column `_AWQ_ORDER[i]`."""
    codes = unpack(words, bits, words.shape[1] * 32 // bits).view(len(words), -1, len(_AWQ_ORDER))
    in_order = torch.empty_like(codes)
    in_order[..., list(_AWQ_ORDER)] = codes
    return in_order.flatten(1)

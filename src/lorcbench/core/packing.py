"""Codes, scales and zero points in the layouts of other people's files. Rounds nothing.

All of them lay codes of b bits one after another into 32-bit words, the lowest bits first, with no bit between them::

    compressed-tensors, pack-quantized          GPTQ
    weight_packed (out, ceil(in b / 32))        qweight (in b / 32, out)          along the inputs
    weight_zero_point (ceil(out b / 32), g)     qzeros (g, out b / 32)            along the outputs
    weight_scale (out, g)                       scales (g, out)

GPTQ's first version stores z - 1, its second z. Sources: `pack_to_int32` of compressed-tensors 0.20, `pack_block` of
GPTQModel 7.6. Tests compare with both, bit for bit; with the second where it is installed (``make install-gptq``).
"""

from __future__ import annotations

import torch

from lorcbench.core.quantizer import Quantized, pack


def words(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Values (rows, n) below 2^bits as dense 32-bit words (rows, ceil(n · bits / 32)) int32."""
    packed = pack(values.to(torch.uint8), bits)  # dense bytes, the lowest bits first
    count = -(-values.shape[1] * bits // 32)
    filled = torch.nn.functional.pad(packed, (0, -packed.shape[1] % 4))
    return filled.contiguous().view(torch.int32)[:, :count].contiguous()


def zero_points(matrix: Quantized) -> torch.Tensor:
    """The zero points (out, groups) int32, those of a symmetric format too."""
    if matrix.zero is not None:
        return matrix.zero
    return torch.full_like(matrix.scale, 2 ** (matrix.format.bits - 1), dtype=torch.int32)


def pack_quantized(matrix: Quantized, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of a linear in compressed-tensors' ``pack-quantized``, by the end of their names.

    Args:
        dtype: of the scales: that in which the model is loaded, where the library multiplies.
    """
    bits = matrix.format.bits
    tensors = {
        "weight_packed": words(matrix.codes, bits),
        "weight_scale": matrix.scale.to(dtype),
        "weight_shape": torch.tensor(matrix.codes.shape),
    }
    if matrix.zero is not None:
        tensors["weight_zero_point"] = words(matrix.zero.T, bits).T.contiguous()
    return tensors


def int_quantized(matrix: Quantized, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of a linear in compressed-tensors' ``int-quantized``: one signed byte per code.

    Args:
        dtype: of the scales.
    """
    middle = 2 ** (matrix.format.bits - 1)
    tensors = {
        "weight": (matrix.codes.to(torch.int16) - middle).to(torch.int8),
        "weight_scale": matrix.scale.to(dtype),
    }
    if matrix.zero is not None:
        tensors["weight_zero_point"] = (matrix.zero - middle).to(torch.int8)
    return tensors


def gptq(matrix: Quantized) -> dict[str, torch.Tensor]:
    """The tensors of a linear in GPTQ's files: the first version if the format is symmetric, else the second."""
    bits = matrix.format.bits
    width, groups = matrix.codes.shape[1], matrix.scale.shape[1]
    stored = zero_points(matrix) - (1 if matrix.zero is None else 0)
    return {
        "qweight": words(matrix.codes, bits).T.contiguous(),
        "qzeros": words(stored.T, bits),
        "scales": matrix.scale.to(torch.float16).T.contiguous(),
        "g_idx": torch.arange(width, dtype=torch.int32) // (width // groups),
    }

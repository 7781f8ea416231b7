"""Our packers put every bit where those of the libraries put it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorcbench.core import packing
from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import dequantize, quantize

pytestmark = pytest.mark.slow  # imports transformers


def matrix(bits: int, symmetric: bool, rows: int, width: int, group: int | None, seed: int):
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return quantize(weight, WeightFormat(bits, symmetric, group))


@given(st.integers(2, 8), st.booleans(), st.integers(1, 70), st.integers(1, 5), st.sampled_from([None, 8]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_compressed_tensors_packs_the_same_words(bits, symmetric, rows, eighths, group, seed):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    from compressed_tensors.quantization import QuantizationScheme

    quantized = matrix(bits, symmetric, rows, 8 * eighths, group, seed)
    ours = packing.pack_quantized(quantized, torch.float32)
    middle = 2 ** (bits - 1)
    signed = (quantized.codes.to(torch.int16) - middle).to(torch.int8)
    assert torch.equal(ours["weight_packed"], pack_to_int32(signed, bits))
    assert ("weight_zero_point" in ours) != symmetric
    if not symmetric:
        zero = (quantized.zero - middle).to(torch.int8)
        assert torch.equal(ours["weight_zero_point"], pack_to_int32(zero, bits, packed_dim=0))
    strategy = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    scheme = QuantizationScheme(targets=["Linear"], weights={"num_bits": bits, "symmetric": symmetric, **strategy})
    for layout, tensors in (("pack-quantized", ours), ("int-quantized", packing.int_quantized(quantized, torch.float32))):
        back = BaseCompressor.get_value_from_registry(layout).decompress(tensors, scheme)["weight"]
        assert torch.equal(back, dequantize(quantized)), layout


@given(st.sampled_from([2, 3, 4, 8]), st.booleans(), st.sampled_from([None, 32]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_gptq_packs_what_its_published_code_unpacks(bits, symmetric, group, seed):
    """The unpacking of GPTQ's `QuantLinear`, word by word: code c of a column is bits c b … c b + b - 1 of its words."""
    quantized = matrix(bits, symmetric, 32, 64, group, seed)
    tensors = packing.gptq(quantized)
    assert tensors["qweight"].shape == (64 * bits // 32, 32)
    assert torch.equal(_unpacked(tensors["qweight"].T, bits, 64), quantized.codes.int())
    zeros = _unpacked(tensors["qzeros"], bits, 32).T + (1 if symmetric else 0)  # the first version stores one less
    assert torch.equal(zeros, packing.zero_points(quantized))
    groups = tensors["g_idx"].long()
    weight = tensors["scales"].T[:, groups].float() * (quantized.codes - zeros[:, groups])
    assert torch.equal(weight, dequantize(quantized))


def _unpacked(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Codes (rows, count) out of words (rows, …), one bit at a time."""
    all_bits = (words.unsqueeze(-1) >> torch.arange(32)) & 1  # an arithmetic shift, whose lowest bit is right
    grouped = all_bits.flatten(1)[:, : count * bits].unflatten(1, (count, bits))
    return (grouped << torch.arange(bits)).sum(-1).int()

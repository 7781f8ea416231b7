"""Our packers put every bit where those of the libraries put it."""

from __future__ import annotations

import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_exports import needs_gptqmodel

from lorcbench.core import packing
from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import dequantize, quantize
from lorcbench.study import exports

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


_GPTQMODEL = """
import os, sys
os.environ["GPTQMODEL_DISABLE_PACK_EXT"] = "1"  # its extension is compiled at first use
import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from safetensors.torch import load_file, save_file
bits, group = int(sys.argv[1]), int(sys.argv[2])
own = load_file(sys.argv[3])
linear = torch.nn.Linear(own["weight"].shape[1], own["weight"].shape[0], bias=False)
linear.weight.data = own["weight"]
packed = TorchLinear(
    bits=bits, group_size=group, sym=False, desc_act=False, in_features=linear.in_features, out_features=linear.out_features,
    bias=False, pack_dtype=torch.int32, register_buffers=True,
)
packed.pack_block(linear, own["scales"], own["zeros"], own["g_idx"])
save_file({name: getattr(packed, name).contiguous() for name in ("qweight", "qzeros", "scales", "g_idx")}, sys.argv[4])
"""


@pytest.mark.long
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [None, 32])
def test_gptqmodel_packs_the_same_words(tmp_path, bits, symmetric, group):
    """Its own packer, in an interpreter that has it; in memory it keeps the second version, with zero points as they are."""
    needs_gptqmodel()
    quantized = matrix(bits, symmetric, 64, 128, group, bits)
    ours, zeros = packing.gptq(quantized), packing.zero_points(quantized)
    given_, answer = tmp_path / "given.safetensors", tmp_path / "packed.safetensors"
    about = {"weight": dequantize(quantized), "scales": quantized.scale, "zeros": zeros, "g_idx": ours["g_idx"]}
    save_file({name: tensor.contiguous() for name, tensor in about.items()}, given_)
    line = [exports.gptq_python(), "-c", _GPTQMODEL, str(bits), str(group or -1), str(given_), str(answer)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = load_file(answer)
    assert torch.equal(theirs["qweight"], ours["qweight"])
    assert torch.equal(theirs["scales"], ours["scales"])
    assert torch.equal(theirs["g_idx"], ours["g_idx"])
    stored = _unpacked(theirs["qzeros"], bits, 64) - (1 if symmetric else 0)  # the first version stores one less
    assert torch.equal(stored, _unpacked(ours["qzeros"], bits, 64))


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

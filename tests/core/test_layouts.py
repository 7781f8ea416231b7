"""Layouts of other programs: what is read equals what witnesses wrote, and what the public unpacker reads."""

import pytest
import torch
import written

from lorcbench.core import layouts

WIDTH, ROWS = 64, 32
CASES = [
    ("pack-quantized", bits, symmetric, group)
    for bits in (2, 3, 4, 5, 6, 7, 8)
    for symmetric in (True, False)
    for group in (None, 32)
]
CASES += [("int-quantized", 8, symmetric, group) for symmetric in (True, False) for group in (None, 16)]
CASES += [
    (layout, bits, symmetric, group)
    for layout in ("gptq", "gptq_v2")
    for bits in (2, 3, 4, 8)
    for symmetric in (True, False)
    for group in (None, 32)
]
CASES += [("awq", 4, symmetric, group) for symmetric in (True, False) for group in (None, 16, 32)]


def weight(rows: int = ROWS, width: int = WIDTH) -> torch.Tensor:
    """A matrix whose groups are of very different size, some of one sign."""
    draw = torch.Generator().manual_seed(rows * width)
    return torch.randn(rows, width, generator=draw) * torch.rand(rows, 1, generator=draw) + torch.rand(1, width, generator=draw)


@pytest.mark.parametrize(("layout", "bits", "symmetric", "group"), CASES)
def test_what_is_read_is_what_was_written(layout, bits, symmetric, group):
    there = written.matrix(layout, weight(), bits, symmetric, group)
    assert torch.equal(layouts.dequantize(layout, there.parts, bits, symmetric, group), there.weight)


@pytest.mark.parametrize("layout", ["pack-quantized", "gptq", "gptq_v2"])
def test_columns_may_be_of_groups_in_any_order(layout):
    there = written.matrix(layout, weight(), 4, False, 16, reordered=True)
    assert torch.equal(layouts.dequantize(layout, there.parts, 4, False, 16), there.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scales_are_taken_in_their_own_type(dtype):
    there = written.matrix("pack-quantized", weight(), 4, True, 32, dtype=dtype)
    assert torch.equal(layouts.dequantize("pack-quantized", there.parts, 4, True, 32), there.weight)


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_row_need_not_end_with_its_last_word(bits):
    codes = torch.randint(2**bits, (5, 23), generator=torch.Generator().manual_seed(bits))
    assert torch.equal(layouts.unpack(written.words(codes.tolist(), bits), bits, 23), codes.int())


@pytest.mark.slow  # the library imports transformers
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_public_unpacker_reads_the_same_codes(bits):
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = torch.randint(2**bits, (8, 96), generator=torch.Generator().manual_seed(bits))
    packed = helpers.pack_to_int32((codes - 2 ** (bits - 1)).to(torch.int8), bits)
    theirs = helpers.unpack_from_int32(packed, bits, codes.shape).int() + 2 ** (bits - 1)
    ours = layouts.unpack(packed, bits, 96)
    assert torch.equal(ours, codes.int()) and torch.equal(ours, theirs)
    assert torch.equal(packed, written.words(codes.tolist(), bits))


def test_a_zero_point_of_zero_wraps_in_the_first_version_of_gptq():
    there = written.matrix("gptq", weight().abs(), 4, False, 32)  # nothing is negative: all zero points are 0
    assert (there.parts["qzeros"] == -1).all()
    assert torch.equal(layouts.dequantize("gptq", there.parts, 4, False, 32), there.weight)


@pytest.mark.parametrize(("layout", "said"), [("gptq", "gptq_v2"), ("gptq_v2", "gptq")])
def test_symmetric_zero_points_of_the_other_version_are_refused(layout, said):
    there = written.matrix(said, weight(), 4, True, 32)
    with pytest.raises(ValueError, match=f"its zero points are not 8.*is its checkpoint_format {said}"):
        layouts.dequantize(layout, there.parts, 4, True, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.pop("weight_scale"), "no weight_scale, which pack-quantized has"),
        (lambda parts: parts.update(bias=torch.zeros(1)), "bias is no part of pack-quantized"),
        (lambda parts: parts.update(weight_packed=parts["weight_packed"][:, 1:]), "expected .* 64 codes of 4 bits"),
        (lambda parts: parts.update(weight_scale=parts["weight_scale"][:, :1]), "do not fit|zero points"),
        (lambda parts: parts.pop("weight_zero_point"), "no weight_zero_point, which an asymmetric format has"),
    ],
)
def test_what_is_no_such_matrix_is_refused(change, message):
    parts = written.matrix("pack-quantized", weight(), 4, False, 32).parts
    change(parts)
    with pytest.raises(ValueError, match=message):
        layouts.dequantize("pack-quantized", parts, 4, False, 32)

"""The quantizer equals the scalar textbook versions bit for bit, keeps its error bounds, and packs without loss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.core.quantizer import (
    dequantize,
    encode,
    fake_quantize_activations,
    from_stored,
    pack,
    quantize,
    scale_and_zero,
    scale_and_zero_unchecked,
    to_stored,
    unpack,
)

WIDTH = 16
ROWS = {
    "normal": lambda noise: noise,
    "zeros": lambda noise: noise * 0,
    "constant": lambda noise: torch.full_like(noise, float(noise[0])),
    "huge": lambda noise: noise * 2e4,
    "tiny": lambda noise: noise * 1e-6,
    "subnormal": lambda noise: noise * 1e-40,
    "ties": lambda noise: torch.round(noise * 4) / 2 + torch.arange(len(noise)).remainder(2) / 4,
    "outlier": lambda noise: torch.where(torch.arange(len(noise)) == 5, noise * 1000, noise),
    "negative": lambda noise: -noise.abs() - 0.5,
    "positive": lambda noise: noise.abs() + 0.5,
    "offset": lambda noise: noise * 1e-4 + 1000,
    "neighbours": lambda noise: torch.where(noise > 0, 1.99, torch.nextafter(torch.tensor(1.99), torch.tensor(3.0))),
}
GRIDS = [(False, "minmax"), (True, "minmax"), (False, "pow2"), (True, "pow2"), (True, "restricted")]

matrices = st.builds(
    lambda kinds, seed: torch.stack(
        [ROWS[kind](torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed + row))) for row, kind in enumerate(kinds)]
    ),
    st.lists(st.sampled_from(sorted(ROWS)), min_size=1, max_size=4),
    st.integers(0, 10_000),
)
formats = st.builds(
    lambda bits, grid, group, dtype: WeightFormat(bits, grid[0], group, grid[1], dtype),
    st.integers(2, 8),
    st.sampled_from(GRIDS),
    st.sampled_from([None, 2, 8]),
    st.sampled_from(["float16", "float32"]),
)


def few(examples: int):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


def per_weight(groups: torch.Tensor, width: int) -> torch.Tensor:
    return groups.float().repeat_interleave(width // groups.shape[1], dim=1)


@few(250)
@given(matrices, formats)
def test_codes_scales_zeros_and_values_equal_the_textbook_bit_for_bit(matrix, fmt):
    before = matrix.clone()
    quantized = quantize(matrix, fmt)
    codes, scale, zero, decoded = reference.quantize(matrix.numpy(), fmt)
    assert np.array_equal(quantized.scale.float().numpy(), scale)
    if quantized.zero is not None:
        assert np.array_equal(quantized.zero.numpy(), zero)
    assert np.array_equal(quantized.codes.numpy(), codes)
    assert np.array_equal(dequantize(quantized).numpy(), decoded)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("magnitude", [1e-38, 1e30])
def test_magnitudes_beyond_float16_equal_the_textbook_with_float32_scales(magnitude):
    matrix = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(3)) * magnitude
    for symmetric, convention in GRIDS:
        fmt = WeightFormat(4, symmetric, 8, convention, "float32")
        assert np.array_equal(dequantize(quantize(matrix, fmt)).numpy(), reference.quantize(matrix, fmt)[3])


@few(120)
@given(matrices, formats)
def test_rounding_again_with_the_same_scale_and_zero_changes_nothing(matrix, fmt):
    quantized = quantize(matrix, fmt)
    zero = torch.full_like(quantized.scale, 2 ** (fmt.bits - 1)) if quantized.zero is None else quantized.zero
    again = encode(dequantize(quantized), quantized.scale, zero, fmt)
    # DeepSpeed's rule forms z·s in float32: with |z| near 2^23 it cannot hold a step any more.
    fine = (zero.abs() < 2**20).repeat_interleave(matrix.shape[1] // zero.shape[1], dim=1)
    assert torch.equal(again[fine], quantized.codes[fine])


@few(150)
@given(matrices, formats)
def test_error_bounds_of_every_convention(matrix, fmt):
    quantized = quantize(matrix, fmt)
    step = per_weight(quantized.scale, WIDTH)
    error = (matrix - dequantize(quantized)).abs() - matrix.abs() * 2.0**-22
    # A scale rounded to float16 moves the outermost code by up to this many steps.
    slack = 1e-4 + (2**fmt.bits * 2.0**-11 if fmt.scale_dtype == "float16" else 0.0)
    clipped_end = {(False, "pow2"): 1.5, (True, "pow2"): 1.0}.get((fmt.symmetric, fmt.convention), 0.5)
    assert (error <= (clipped_end + slack) * step).all()
    inside = quantized.codes < 2**fmt.bits - 1
    assert (error[inside] <= (0.5 + slack) * step[inside]).all()


def test_pow2_loses_a_whole_step_at_its_clipped_end_and_a_step_and_a_half_at_worst():
    symmetric = WeightFormat(4, True, None, "pow2")
    row = torch.tensor([[-1.0, 0.25, 1.0]])
    assert (row - dequantize(quantize(row, symmetric))).tolist() == [[0.0, 0.0, 0.125]]
    asymmetric = WeightFormat(4, False, None, "pow2")
    row = torch.tensor([[0.5, 8.0, 16.5]])
    assert (row - dequantize(quantize(row, asymmetric))).tolist() == [[0.5, 0.0, 1.5]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("fmt", [WeightFormat(4), WeightFormat(4, True), WeightFormat(4, False, 4, "pow2")], ids=str)
def test_nan_and_infinity_are_refused(value, fmt):
    matrix = torch.ones(2, 8)
    matrix[1, 3] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize(matrix, fmt)
    with pytest.raises(ValueError, match="NaN or infinite"):
        fake_quantize_activations(matrix, ActivationFormat(8))


@pytest.mark.parametrize("fmt", [WeightFormat(4), WeightFormat(4, True), WeightFormat(4, False, 4, "pow2")], ids=str)
def test_without_looking_scales_are_the_same_and_those_of_values_that_are_none_are_not_finite(fmt):
    groups = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for checked, unchecked in zip(scale_and_zero(groups, fmt), scale_and_zero_unchecked(groups, fmt), strict=True):
        assert torch.equal(checked, unchecked)
    for value in (float("nan"), float("inf"), -float("inf"), 1e7):
        groups[1, 2, 3] = value
        assert not torch.isfinite(scale_and_zero_unchecked(groups, fmt)[0][1, 2])


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="groups of 3 do not divide a width of 16"):
        quantize(torch.ones(2, 16), WeightFormat(4, group=3))


def test_a_scale_that_overflows_float16_is_refused_and_float32_takes_it():
    matrix = torch.tensor([[-1e7, 1e7]])
    with pytest.raises(ValueError, match=r"overflows.*fp32scale"):
        quantize(matrix, WeightFormat(4))
    wide = WeightFormat(4, scale_dtype="float32")
    assert torch.isfinite(dequantize(quantize(matrix, wide))).all()


def test_rows_of_zeros_decode_to_exact_zeros():
    for bits, (symmetric, convention), dtype in itertools.product(range(2, 9), GRIDS, ("float16", "float32")):
        fmt = WeightFormat(bits, symmetric, 4, convention, dtype)
        assert torch.equal(dequantize(quantize(torch.zeros(3, 8), fmt)), torch.zeros(3, 8))


def test_zero_itself_is_exact_in_every_convention_that_stretches_its_range():
    matrix = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)) + 0.5
    matrix[:, ::5] = 0
    for symmetric, convention in ((False, "minmax"), (True, "minmax"), (True, "pow2"), (True, "restricted")):
        fmt = WeightFormat(3, symmetric, None, convention)
        assert (dequantize(quantize(matrix, fmt))[:, ::5] == 0).all()


def test_restricted_never_uses_the_lowest_code_and_mirrors_under_negation():
    matrix = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    fmt = WeightFormat(3, True, 16, "restricted")
    there, back = dequantize(quantize(matrix, fmt)), dequantize(quantize(-matrix, fmt))
    assert quantize(-matrix, fmt).codes.min() == 1
    assert torch.equal(there, -back)
    scale, zero = torch.full((1, 1), 0.5), torch.full((1, 1), 4, dtype=torch.int32)
    for chosen, lowest in ((WeightFormat(3, True, None, "restricted"), 1), (WeightFormat(3, True), 0)):
        assert encode(torch.tensor([[-9.0, 9.0]]), scale, zero, chosen).tolist() == [[lowest, 7]]


@few(100)
@given(matrices, formats)
def test_what_an_artifact_stores_comes_back(matrix, fmt):
    quantized = quantize(matrix, fmt)
    if fmt.convention == "minmax" and quantized.zero is not None:  # packed like codes, so they must fit in b bits
        assert quantized.zero.min() >= 0
        assert quantized.zero.max() < 2**fmt.bits
    again = from_stored(to_stored(quantized), fmt, WIDTH)
    assert again.format == fmt
    assert torch.equal(again.codes, quantized.codes)
    assert torch.equal(again.scale, quantized.scale)
    assert (again.zero is None) if quantized.zero is None else torch.equal(again.zero, quantized.zero)


def test_rows_below_the_normal_numbers_of_float16_keep_zero_points_that_fit_their_codes():
    matrix = -torch.rand(64, 16, generator=torch.Generator().manual_seed(0)) * 1.25e-6
    for bits in range(2, 9):
        fmt = WeightFormat(bits)
        quantized = quantize(matrix, fmt)
        assert quantized.zero.max() < 2**bits
        assert torch.equal(from_stored(to_stored(quantized), fmt, 16).zero, quantized.zero)
        step = per_weight(quantized.scale, 16)
        assert ((matrix - dequantize(quantized)).abs() <= 0.5001 * step).all()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("width", [1, 7, 8, 9, 24, 61])
def test_packing_equals_python_integers_and_comes_back(bits, width):
    codes = torch.randint(0, 2**bits, (5, width), generator=torch.Generator().manual_seed(width)).to(torch.uint8)
    packed = pack(codes, bits)
    assert np.array_equal(packed.numpy(), reference.pack(codes, bits))
    assert torch.equal(unpack(packed, bits, width), codes)


def test_packing_many_rows_equals_packing_them_one_by_one():
    codes = torch.randint(0, 8, (2050, 11), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    packed = pack(codes, 3)
    for row in (0, 1023, 1024, 2049):
        assert torch.equal(packed[row : row + 1], pack(codes[row : row + 1], 3))
    assert torch.equal(unpack(packed, 3, 11), codes)


@few(80)
@given(matrices, st.integers(4, 8), st.sampled_from(GRIDS), st.sampled_from([None, 2, 8]))
def test_activations_are_rounded_token_by_token_as_the_textbook_does(tokens, bits, grid, group):
    fmt = ActivationFormat(bits, grid[0], group, grid[1])
    decoded = reference.quantize(tokens.numpy(), fmt)[3]
    assert np.array_equal(fake_quantize_activations(tokens, fmt).numpy(), decoded)
    batch = torch.stack([tokens, tokens.flip(0)])
    assert np.array_equal(fake_quantize_activations(batch, fmt)[1].flip(0).numpy(), decoded)


def test_activations_keep_their_type_their_shape_and_a16_is_the_identity():
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    rounded = fake_quantize_activations(x.transpose(0, 1), ActivationFormat(8, True, 8))
    assert rounded.dtype == torch.bfloat16
    expected = reference.quantize(x.transpose(0, 1).reshape(6, 16).float(), ActivationFormat(8, True, 8))[3]
    assert torch.equal(rounded, torch.from_numpy(expected).view(3, 2, 16).to(torch.bfloat16))
    assert fake_quantize_activations(x, ActivationFormat(16)) is x


def test_a_token_does_not_see_its_neighbours():
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    louder = x.clone()
    louder[2] *= 100
    kept = [0, 1, 3]
    for fmt in (ActivationFormat(8), ActivationFormat(8, True, 4)):
        before, after = fake_quantize_activations(x, fmt), fake_quantize_activations(louder, fmt)
        assert torch.equal(before[kept], after[kept])
        assert not torch.equal(before[2], after[2])


def test_smaller_groups_and_more_bits_lower_the_error():
    matrix = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    for symmetric, convention in GRIDS:
        by_group = [WeightFormat(4, symmetric, group, convention) for group in (None, 64, 32, 16)]
        by_bits = [WeightFormat(bits, symmetric, None, convention) for bits in range(2, 9)]
        for family in (by_group, by_bits):
            errors = [float((matrix - dequantize(quantize(matrix, fmt))).norm()) for fmt in family]
            assert errors == sorted(errors, reverse=True)


def test_scales_are_rounded_to_their_stored_type_before_zeros_are_found():
    groups = torch.randn(64, 4, 16, generator=torch.Generator().manual_seed(2))
    half, half_zero = scale_and_zero(groups, WeightFormat(8, scale_dtype="float16"))
    single, _ = scale_and_zero(groups, WeightFormat(8, scale_dtype="float32"))
    assert half.dtype == torch.float16
    assert torch.equal(half, single.to(torch.float16))
    assert torch.equal(half_zero, torch.round(-groups.amin(-1).clamp(max=0) / half.float()).to(torch.int32))

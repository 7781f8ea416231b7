"""LoRC: as good as Eckart and Young allow, never worse with rank, and a slice of what is stored is the smaller rank."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
import torch

from lorcbench.core import quantizer
from lorcbench.core.formats import WeightFormat
from lorcbench.core.lorc import correction, decoded, decompose, factor_bits, store, stored_bits

SHAPES = [(48, 32), (32, 48), (40, 40)]


def error_matrix(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """The error of 3 bits on weights with a few strong directions."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*shape, generator=generator) * 0.05
    weight += torch.randn(shape[0], 3, generator=generator) @ torch.randn(3, shape[1], generator=generator) * 0.1
    fmt = WeightFormat(3)
    return weight - quantizer.dequantize(quantizer.quantize(weight, fmt))


def left_over(error: torch.Tensor, corrected: torch.Tensor) -> float:
    return float((error.double() - corrected.double()).norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_at_every_rank_is_the_smallest_possible(shape):
    error = error_matrix(shape)
    b, a = decompose(error, 0)
    for rank in range(min(shape) * 3 // 4 + 1):
        smallest = reference.smallest_error(error, rank)
        product = b[:, :rank].double() @ a[:rank].double()
        assert smallest * (1 - 1e-5) <= left_over(error, product) <= smallest * (1 + 1e-5)
    assert left_over(error, b @ a) <= 1e-5 * error.norm()


def test_the_product_is_the_textbook_low_rank_matrix_and_both_factors_carry_the_root():
    error = error_matrix((32, 48))
    b, a = decompose(error, 5)
    assert (b.shape, a.shape) == ((32, 5), (5, 48))
    assert np.allclose((b @ a).numpy(), reference.low_rank(error, 5), atol=1e-6)
    torch.testing.assert_close(b.norm(dim=0), a.norm(dim=1))
    gram = b.T @ b
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=0, atol=1e-5 * float(gram.max()))


@pytest.mark.parametrize("bits", [4, 8, 16, None])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_never_rises_with_the_rank(shape, bits):
    error = error_matrix(shape, seed=1)
    b, a = decompose(error, 0)
    stored = {"B": b, "A": a} if bits is None else store(b, a, bits)
    errors = [left_over(error, correction(stored, rank)) for rank in range(min(shape) + 1)]
    assert errors[0] == pytest.approx(float(error.double().norm()))
    # Past the point where a component is smaller than the rounding of those before it, only rounding is left.
    assert all(after <= before + 1e-6 * errors[0] for before, after in itertools.pairwise(errors))
    assert errors[-1] <= {None: 1e-5, 16: 1e-3, 8: 2e-2, 4: 0.2}[bits] * errors[0]


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_slice_of_the_stored_factors_is_the_file_of_the_smaller_rank(bits):
    error = error_matrix((48, 32), seed=2)
    big = store(*decompose(error, 24), bits)
    for rank in (1, 8, 24):
        small = store(*decompose(error, rank), bits)
        assert torch.equal(big["B"][:, :rank], small["B"])
        assert all(torch.equal(big[name][:rank], small[name]) for name in small if name != "B")
        assert torch.equal(correction(big, rank), correction(small, rank))


def test_int8_codes_are_the_nearest_and_use_their_whole_range():
    b, a = decompose(error_matrix((48, 32)), 8)
    stored = store(b, a, 8)
    for codes, scale, factor in (
        (stored["B"].T, stored["B_scale"], b.T),
        (stored["A"], stored["A_scale"], a),
    ):
        step = scale.float().unsqueeze(1)
        assert codes.dtype == torch.int8
        assert ((codes.float() * step - factor).abs() <= 0.5 * step + 1e-6 + 127 * 2.0**-11 * step).all()
        assert (codes.int().abs().amax(1) == 127).all()


def test_int4_codes_are_the_nearest_on_a_scale_per_32_values_and_use_their_whole_range():
    error = error_matrix((40, 64), seed=3)
    b, a = decompose(error, 8)
    stored = store(b, a, 4)
    decoded_b, decoded_a = decoded(stored, 8)
    for meant, scale, factor in ((decoded_b.T, stored["B_scale"], b.T), (decoded_a, stored["A_scale"], a)):
        assert scale.shape == (8, -(-factor.shape[1] // 32))
        for group in range(scale.shape[1]):
            step = scale[:, group : group + 1].float()
            columns = slice(32 * group, 32 * (group + 1))
            assert ((meant[:, columns] - factor[:, columns]).abs() <= 0.5 * step + 1e-6 + 7 * 2.0**-11 * step).all()
            assert (torch.round(meant[:, columns] / step).abs().amax(1) == 7).all()


def test_int4_factors_with_half_a_byte_left_over_are_refused():
    with pytest.raises(ValueError, match="even number of values per component, not 13; expected 8 bits"):
        store(*decompose(error_matrix((13, 20)), 4), 4)


@pytest.mark.parametrize("rank", [0, 1, 8])
def test_stored_bits_are_those_of_the_slice_with_its_scales(rank):
    b, a = decompose(error_matrix((48, 32)), 8)
    assert stored_bits(store(b, a, 16), rank) == 16 * rank * (48 + 32)
    assert stored_bits(store(b, a, 8), rank) == 8 * rank * (48 + 32) + 2 * 16 * rank
    assert stored_bits(store(b, a, 4), rank) == 4 * rank * (48 + 32) + (2 + 1) * 16 * rank


def test_stored_bits_equal_the_bytes_of_the_tensors_that_a_file_of_that_rank_holds():
    error = error_matrix((40, 40))
    for bits in (4, 8, 16):
        assert stored_bits(store(*decompose(error, 24), bits), 8) == factor_bits(8, 40, 40, bits)
        held = sum(tensor.numel() * tensor.element_size() for tensor in store(*decompose(error, 8), bits).values())
        assert stored_bits(store(*decompose(error, 24), bits), 8) == 8 * held


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_an_error_of_zero_is_corrected_by_exact_zeros(bits):
    stored = store(*decompose(torch.zeros(12, 20), 4), bits)
    assert torch.equal(correction(stored, 4), torch.zeros(12, 20))


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_factors_that_float16_cannot_hold_are_refused(bits):
    b, a = decompose(error_matrix((12, 20)) * 1e16, 4)
    with pytest.raises(ValueError, match="LoRC factor overflows float16"):
        store(b, a, bits)


def test_other_widths_of_factors_are_refused():
    with pytest.raises(ValueError, match="4, 8 or 16 bits, not 5"):
        store(*decompose(error_matrix((12, 20)), 4), 5)


def test_factors_are_the_same_on_every_call_and_the_error_is_not_changed():
    error = error_matrix((48, 32))
    before = error.clone()
    first, second = decompose(error, 8), decompose(error, 8)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(error, before)

"""Second moments: however tokens arrive, the sum is theirs; triangles hold a symmetric matrix without loss."""

from __future__ import annotations

import pytest
import torch

from lorcbench.core import moments
from lorcbench.core.moments import SecondMoment, from_triangle, to_triangle


def tokens(count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7, 1, 32, 20]])
def test_a_stream_of_batches_equals_one_product(sizes):
    x = tokens(60, 12)
    moment = SecondMoment(12)
    for part in x.split(sizes):
        moment.add(part)
    expected = x.double().T @ x.double() / 60
    assert moment.tokens == 60
    assert (moment.mean().double() - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("width", [1, 8, 12, 13])
def test_the_bands_that_a_gpu_multiplies_hold_the_lower_triangle_once(width, monkeypatch):
    monkeypatch.setattr(moments, "_BAND", 4)
    times = torch.zeros(width, width)
    for band, seen in moments._lower_bands(width):
        times[band, seen] += 1
    assert times.tril().equal(torch.ones(width, width).tril())
    assert times.max() == 1


@pytest.mark.parametrize("width", [4, 12, 13])
def test_the_mean_is_symmetric_also_after_the_bands_that_a_gpu_multiplies(width, monkeypatch):
    """A triangle left empty once made GPTQ on a GPU ignore every correlation of inputs in different bands."""
    monkeypatch.setattr(moments, "_BAND", 4)
    monkeypatch.setattr(moments, "_add_gram", moments._add_in_bands)
    x = tokens(60, width)
    moment = SecondMoment(width)
    for part in x.split(20):
        moment.add(part)
    expected = x.double().T @ x.double() / 60
    assert torch.equal(moment.mean(), moment.mean().T)
    assert (moment.mean().double() - expected).norm() <= 1e-6 * expected.norm()


def test_all_axes_but_the_last_are_tokens_and_half_precision_is_summed_in_float32():
    x = tokens(60, 8).to(torch.float16)
    flat, nested = SecondMoment(8), SecondMoment(8)
    flat.add(x.float())
    nested.add(x.view(3, 5, 4, 8))
    assert nested.tokens == 60
    assert nested.mean().dtype == torch.float32
    assert torch.equal(nested.mean(), flat.mean())


def test_an_outlier_feature_does_not_overflow():
    moment = SecondMoment(2)
    moment.add(torch.full((100, 2), 6e4, dtype=torch.float16))
    torch.testing.assert_close(moment.mean(), torch.full((2, 2), 6e4**2))


def test_inputs_are_not_changed_and_mean_may_be_asked_for_twice():
    x = tokens(10, 4)
    before = x.clone()
    moment = SecondMoment(4)
    moment.add(x)
    assert torch.equal(moment.mean(), moment.mean())
    assert torch.equal(x, before)


def test_no_token_is_an_error():
    with pytest.raises(ValueError, match="no calibration token"):
        SecondMoment(4).mean()


@pytest.mark.parametrize("width", [1, 2, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_symmetric_matrix_survives_its_triangle(width, dtype):
    x = tokens(20, width).to(dtype)
    matrix = x.T @ x
    matrix = (matrix + matrix.T) / 2
    triangle = to_triangle(matrix)
    assert triangle.shape == (width * (width + 1) // 2,)
    assert torch.equal(from_triangle(triangle), matrix)
    assert torch.equal(to_triangle(from_triangle(triangle)), triangle)


def test_the_triangle_is_the_lower_one_row_by_row():
    matrix = torch.tensor([[1.0, 2.0, 4.0], [2.0, 3.0, 5.0], [4.0, 5.0, 6.0]])
    assert to_triangle(matrix).tolist() == [1, 2, 3, 4, 5, 6]

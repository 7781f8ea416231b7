"""The inverse-Hessian factor and the truncated SVD: defining relations, and what happens when a matrix is bad."""

from __future__ import annotations

import pytest
import torch

from lorcbench.linalg import DAMPING_LADDER, inverse_factor, truncated_svd


def correlated(width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=dtype) / (2 * width**0.5)
    x = torch.randn(6 * width, width, generator=generator, dtype=dtype) @ (mixing + torch.eye(width, dtype=dtype))
    return x.T @ x / len(x)


def with_spectrum(eigenvalues: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64))
    return ((q * eigenvalues) @ q.T).float()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
@pytest.mark.parametrize("damp", [0.0, 0.01, 1.0])
def test_the_factor_is_upper_triangular_and_its_gram_matrix_is_the_damped_inverse(dtype, tolerance, damp):
    hessian = correlated(48, dtype=dtype)
    before = hessian.clone()
    factor = inverse_factor(hessian, damp)
    damped = hessian.double() + damp * hessian.double().diagonal().mean() * torch.eye(48, dtype=torch.float64)
    expected = torch.linalg.inv(damped)
    upper = factor.upper.double()
    assert (upper.T @ upper - expected).norm() <= tolerance * expected.norm()
    assert torch.equal(factor.upper, factor.upper.triu())
    assert (factor.upper.diagonal() > 0).all()
    assert factor.upper.dtype == dtype
    assert factor.damp == damp
    assert torch.equal(hessian, before)


def test_the_factor_equals_the_published_chain_of_three_factorizations():
    hessian = correlated(32, seed=3, dtype=torch.float64)
    published = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    torch.testing.assert_close(inverse_factor(hessian, 0.0).upper, published, rtol=1e-10, atol=1e-12)


def test_an_indefinite_matrix_climbs_the_ladder_and_the_damping_it_took_is_recorded():
    eigenvalues = torch.linspace(0.5, 1.5, 24, dtype=torch.float64)
    eigenvalues[0] = -0.05
    hessian = with_spectrum(eigenvalues)
    factor = inverse_factor(hessian, 0.01)
    assert factor.damp == pytest.approx(0.1)
    damped = hessian.double() + 0.1 * hessian.double().diagonal().mean() * torch.eye(24)
    assert (factor.upper.double().T @ factor.upper.double() @ damped - torch.eye(24)).abs().max() < 1e-3


def test_a_singular_matrix_climbs_until_float32_sees_the_damping():
    ones = torch.ones(2, 2)
    climbed = inverse_factor(ones, 1e-10).damp
    assert climbed in [pytest.approx(1e-10 * step) for step in DAMPING_LADDER[1:]]


@pytest.mark.parametrize("damp", [0.0, 1e-13])
def test_the_end_of_the_ladder_is_an_error_that_names_the_damping(damp):
    with pytest.raises(ArithmeticError, match=f"damped by {damp * (1000 if damp else 1):g} of its mean diagonal"):
        inverse_factor(torch.ones(4, 4), damp)


def test_dead_inputs_are_found_and_leave_the_others_alone():
    hessian = correlated(20)
    dead = [3, 11]
    hessian[dead] = 0
    hessian[:, dead] = 0
    alive = [i for i in range(20) if i not in dead]
    factor = inverse_factor(hessian, 0.01)
    assert factor.dead.nonzero().flatten().tolist() == dead
    alone = inverse_factor(hessian[alive][:, alive], 0.01 * len(alive) / 20)  # the same λ
    torch.testing.assert_close(factor.upper[alive][:, alive], alone.upper, rtol=1e-4, atol=1e-5)
    assert (factor.upper[dead][:, alive] == 0).all()
    assert not alone.dead.any()


def test_a_hessian_of_inputs_that_were_all_zero_gives_the_identity():
    factor = inverse_factor(torch.zeros(5, 5), 0.01)
    assert factor.dead.all()
    assert torch.equal(factor.upper, torch.eye(5))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_in_a_hessian_are_refused(value):
    hessian = correlated(6)
    hessian[2, 4] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        inverse_factor(hessian, 0.01)


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_a_truncated_svd_is_the_head_of_the_full_one(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    full = truncated_svd(matrix, min(shape))
    assert torch.linalg.norm(full[0] * full[1] @ full[2] - matrix) <= 1e-5 * torch.linalg.norm(matrix)
    assert (full[1].diff() <= 0).all()
    for rank in (0, 1, 5, min(shape)):
        u, s, vh = truncated_svd(matrix, rank)
        assert torch.equal(u, full[0][:, :rank])
        assert torch.equal(s, full[1][:rank])
        assert torch.equal(vh, full[2][:rank])
    assert [tuple(part.shape) for part in truncated_svd(matrix, 99)] == [tuple(part.shape) for part in full]


def test_the_signs_of_singular_vectors_are_fixed():
    matrix = torch.randn(12, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vh = truncated_svd(matrix, 9)
    assert (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()
    flipped_u, _, flipped_vh = truncated_svd(-matrix, 9)
    torch.testing.assert_close(flipped_u, u)
    torch.testing.assert_close(flipped_vh, -vh)
    torch.testing.assert_close((u * s) @ vh, matrix)


def test_the_svd_of_zeros_is_finite():
    u, s, vh = truncated_svd(torch.zeros(4, 6), 3)
    assert torch.equal(s, torch.zeros(3))
    assert torch.isfinite(u).all()
    assert torch.isfinite(vh).all()

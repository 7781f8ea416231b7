"""The factor of the Hessian and the truncated SVD: defining relations, and what happens when a matrix is bad."""

from __future__ import annotations

import pytest
import torch

from lorcbench.core.linalg import DAMPING_LADDER, hessian_factor, truncated_svd


def correlated(width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=dtype) / (2 * width**0.5)
    x = torch.randn(6 * width, width, generator=generator, dtype=dtype) @ (mixing + torch.eye(width, dtype=dtype))
    return x.T @ x / len(x)


def with_spectrum(eigenvalues: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64))
    return ((q * eigenvalues) @ q.T).float()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("damp", [0.0, 0.01, 1.0])
def test_the_factor_is_upper_triangular_and_its_product_with_its_transpose_is_the_damped_matrix(dtype, tolerance, damp):
    hessian = correlated(48, dtype=dtype)
    before = hessian.clone()
    factor = hessian_factor(hessian, damp)
    expected = hessian.double() + damp * hessian.double().diagonal().mean() * torch.eye(48, dtype=torch.float64)
    upper = factor.upper.double()
    assert (upper @ upper.T - expected).norm() <= tolerance * expected.norm()
    assert torch.equal(factor.upper, factor.upper.triu())
    assert (factor.upper.diagonal() > 0).all()
    assert factor.upper.dtype == dtype
    assert factor.damp == damp
    assert torch.equal(hessian, before)


def test_the_inverse_of_the_factor_equals_the_published_chain_of_three_factorizations():
    hessian = correlated(32, seed=3, dtype=torch.float64)
    published = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    torch.testing.assert_close(torch.linalg.inv(hessian_factor(hessian, 0.0).upper), published, rtol=1e-10, atol=1e-12)


def test_a_factor_that_comes_column_by_column_as_on_a_gpu_is_the_same(monkeypatch):
    hessian = correlated(33)
    expected = hessian_factor(hessian, 0.01).upper
    monkeypatch.setattr("lorcbench.core.linalg._cholesky", lambda matrix: torch.linalg.cholesky_ex(matrix)[0])
    torch.testing.assert_close(hessian_factor(hessian, 0.01).upper, expected)


def test_an_indefinite_matrix_climbs_the_ladder_and_the_damping_it_took_is_recorded():
    eigenvalues = torch.linspace(0.5, 1.5, 24, dtype=torch.float64)
    eigenvalues[0] = -0.05
    hessian = with_spectrum(eigenvalues)
    factor = hessian_factor(hessian, 0.01)
    assert factor.damp == pytest.approx(0.1)
    damped = hessian.double() + 0.1 * hessian.double().diagonal().mean() * torch.eye(24)
    torch.testing.assert_close(factor.upper.double() @ factor.upper.double().T, damped, rtol=0, atol=1e-5)


def test_a_singular_matrix_climbs_until_float32_sees_the_damping():
    ones = torch.ones(2, 2)
    climbed = hessian_factor(ones, 1e-10).damp
    assert climbed in [pytest.approx(1e-10 * step) for step in DAMPING_LADDER[1:]]


@pytest.mark.parametrize("damp", [0.0, 1e-13])
def test_the_end_of_the_ladder_is_an_error_that_names_the_damping(damp):
    with pytest.raises(ArithmeticError, match=f"damped by {damp * (1000 if damp else 1):g} of its mean diagonal"):
        hessian_factor(torch.ones(4, 4), damp)


def test_dead_inputs_are_found_and_leave_the_others_alone():
    hessian = correlated(20)
    dead = [3, 11]
    hessian[dead] = 0
    hessian[:, dead] = 0
    alive = [i for i in range(20) if i not in dead]
    factor = hessian_factor(hessian, 0.01)
    assert factor.dead.nonzero().flatten().tolist() == dead
    alone = hessian_factor(hessian[alive][:, alive], 0.01 * len(alive) / 20)  # the same λ
    torch.testing.assert_close(factor.upper[alive][:, alive], alone.upper, rtol=1e-4, atol=1e-5)
    assert (factor.upper[dead][:, alive] == 0).all()
    assert not alone.dead.any()


def test_a_hessian_of_inputs_that_were_all_zero_gives_the_identity():
    factor = hessian_factor(torch.zeros(5, 5), 0.01)
    assert factor.dead.all()
    assert torch.equal(factor.upper, torch.eye(5))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_in_a_hessian_are_refused(value):
    hessian = correlated(6)
    hessian[2, 4] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        hessian_factor(hessian, 0.01)


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


def flat(shape: tuple[int, int]) -> torch.Tensor:
    """Noise: the spectrum of a quantization error that has no structure, the hardest that there is."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def uneven(shape: tuple[int, int]) -> torch.Tensor:
    """Rows and columns of different sizes, as in a matrix with outlier channels."""
    generator = torch.Generator().manual_seed(2)
    rows, columns = (torch.randn(size, generator=generator).div(2).exp() for size in shape)
    return flat(shape) * rows.unsqueeze(1) * columns


@pytest.mark.parametrize("shape", [(160, 320), (320, 160), (192, 192)])
@pytest.mark.parametrize("kind", [flat, uneven])
def test_the_krylov_svd_finds_99_percent_of_the_energy_and_is_an_orthogonal_projection(shape, kind):
    matrix, rank = kind(shape), 10
    exact = truncated_svd(matrix, rank)
    u, s, vh = truncated_svd(matrix, rank, exact=False)
    assert not torch.equal(s, exact[1])
    assert 0.99 * exact[1].square().sum() <= s.square().sum() <= (1 + 1e-5) * exact[1].square().sum()
    assert (s <= exact[1] * (1 + 1e-5)).all()
    for basis in (u.T, vh):
        torch.testing.assert_close(basis @ basis.T, torch.eye(rank), rtol=0, atol=1e-5)
    if shape[0] > shape[1]:
        torch.testing.assert_close(matrix @ vh.T, u * s, rtol=0, atol=1e-4)
    else:
        torch.testing.assert_close(u.T @ matrix, s.unsqueeze(1) * vh, rtol=0, atol=1e-4)
    assert (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()
    assert torch.equal(truncated_svd(matrix, rank, exact=False)[0], u)


@pytest.mark.parametrize("true_rank", [1, 7, 10, 13, 25])
def test_the_krylov_svd_of_a_matrix_of_low_rank_is_exact(true_rank):
    matrix = flat((200, true_rank)) @ flat((true_rank, 180))
    u, s, vh = truncated_svd(matrix, 10, exact=False)
    best = truncated_svd(matrix, 10)[1].square().sum()
    assert s.square().sum() == pytest.approx(float(best), rel=1e-4)
    torch.testing.assert_close(u.T @ u, torch.eye(10), rtol=0, atol=1e-4)
    left = (matrix - u * s @ vh).square().sum()
    assert left == pytest.approx(float(matrix.square().sum() - best), rel=1e-3, abs=1e-5 * float(best))


@pytest.mark.parametrize("equal", [3, 10, 60])
def test_the_krylov_svd_finds_all_singular_values_that_are_equal(equal):
    generator = torch.Generator().manual_seed(3)
    u, _ = torch.linalg.qr(torch.randn(200, 200, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(300, 200, generator=generator))
    values = torch.full((200,), 0.5)
    values[:equal] = 1.0
    found = truncated_svd(u * values @ v.T, 10, exact=False)[1]
    torch.testing.assert_close(found, values[:10], rtol=1e-4, atol=0)


def test_a_matrix_that_is_small_for_its_rank_is_decomposed_exactly_either_way():
    matrix = flat((64, 80))
    assert torch.equal(truncated_svd(matrix, 8, exact=False)[1], truncated_svd(matrix, 8)[1])


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

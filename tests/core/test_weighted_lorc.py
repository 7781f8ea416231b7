"""Corrections that know the inputs: no other correction of the rank is better, whatever the inputs look like.

The inputs here are those with which the codes of other people went wrong: fewer tokens than inputs, dead inputs, outliers,
repeated, tiny and slightly negative eigenvalues, samples in another order.
"""

from __future__ import annotations

import itertools

import pytest
import reference
import torch

from lorcbench.core.linalg import weighted_left_vectors
from lorcbench.core.lorc import correction, decompose, store, strengths, weighted_norm
from lorcbench.core.moments import LargestMagnitudes, SecondMoment

OUT, IN, RANK = 40, 32, 6
SHAPES = [(48, 32), (32, 48), (40, 40)]


def rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def inputs(kind: str, width: int = IN) -> torch.Tensor:
    """Calibration inputs (tokens, width) of some kind."""
    x = rows(400, width) @ rows(width, width, 1) / width**0.5
    if kind == "few tokens":
        return x[:10]
    if kind == "one token":
        return x[:1]
    if kind == "dead":
        x[:, 3::4] = 0
    if kind == "outliers":
        x[:, :2] *= 1e3
    if kind == "outliers and dead":
        x[:, :2] *= 1e4
        x[:, -5:] = 0
    if kind == "tiny":
        x[:, width // 2 :] *= 1e-6
    if kind == "repeated":
        x = torch.linalg.qr(rows(400, width)).Q[:, :width]  # orthonormal columns: all eigenvalues are equal
    return x


KINDS = ["ordinary", "few tokens", "one token", "dead", "outliers", "outliers and dead", "tiny", "repeated"]


def moment(x: torch.Tensor) -> torch.Tensor:
    found = SecondMoment(x.shape[1])
    found.add(x)
    return found.mean()


def root(metric: torch.Tensor) -> torch.Tensor:
    """R^½ in float64."""
    values, vectors = torch.linalg.eigh(metric.double())
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def left_over(error: torch.Tensor, b: torch.Tensor, a: torch.Tensor, metric: torch.Tensor) -> float:
    """‖(E - BA) R^½‖ in float64."""
    return float(((error.double() - b.double() @ a.double()) @ root(metric)).norm())


def smallest(error: torch.Tensor, metric: torch.Tensor, rank: int) -> float:
    """The least that any correction of the rank leaves, by Eckart and Young: ‖E R^½‖ without its leading singular values."""
    return float(torch.linalg.svdvals(error.double() @ root(metric))[rank:].norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_at_every_rank_no_correction_leaves_less_of_the_output_error(shape, kind):
    error, metric = rows(*shape, 2), moment(inputs(kind, shape[1]))
    b, a = decompose(error, 0, metric=metric)
    assert b.isfinite().all()
    assert a.isfinite().all()
    energy = left_over(error, b[:, :0], a[:0], metric) ** 2
    for rank in range(1, min(shape)):
        # Entries of R and of the factors are float32, so that much of the energy is noise.
        left = left_over(error, b[:, :rank], a[:rank], metric) ** 2
        assert left <= smallest(error, metric, rank) ** 2 * (1 + 1e-5) + 1e-7 * energy


@pytest.mark.parametrize("kind", ["ordinary", "few tokens", "dead", "outliers"])
def test_plain_and_diagonal_corrections_leave_no_less(kind):
    error, x = rows(OUT, IN, 2), inputs(kind)
    metric = moment(x)
    for rank in (1, RANK, 20):
        exact = left_over(error, *decompose(error, rank, metric=metric), metric)
        for other in (None, x.abs().mean(0).square(), metric.diagonal(), rows(IN, IN, 5) @ rows(IN, IN, 5).T):
            assert exact <= left_over(error, *decompose(error, rank, metric=other), metric) * (1 + 1e-6)


def test_the_product_is_the_published_closed_form():
    error, metric = rows(OUT, IN, 2), moment(inputs("ordinary"))
    square_root = root(metric)
    u, s, vh = torch.linalg.svd(error.double() @ square_root, full_matrices=False)
    published = (u[:, :RANK] * s[:RANK]) @ vh[:RANK] @ torch.linalg.inv(square_root)
    b, a = decompose(error, RANK, metric=metric)
    torch.testing.assert_close((b @ a).double(), published, rtol=0, atol=1e-5 * float(published.abs().max()))
    torch.testing.assert_close(strengths(b, a, metric).double(), s[:RANK], rtol=1e-5, atol=0)


def test_a_diagonal_metric_is_that_diagonal_matrix():
    error, diagonal = rows(OUT, IN, 2), rows(1, IN, 3)[0].square()
    b, a = decompose(error, RANK, metric=diagonal)
    whole_b, whole_a = decompose(error, RANK, metric=diagonal.diag())
    torch.testing.assert_close(b @ a, whole_b @ whole_a, rtol=0, atol=1e-5)
    assert weighted_norm(error, diagonal) == pytest.approx(weighted_norm(error, diagonal.diag()), rel=1e-6)
    torch.testing.assert_close(strengths(b, a, diagonal), strengths(b, a, diagonal.diag()))


@pytest.mark.parametrize("metric", [torch.eye(IN), torch.ones(IN), 7 * torch.eye(IN)])
def test_without_a_preference_among_inputs_it_is_lorc(metric):
    error = rows(OUT, IN, 2)
    b, a = decompose(error, RANK)
    weighted_b, weighted_a = decompose(error, RANK, metric=metric)
    torch.testing.assert_close(weighted_b @ weighted_a, b @ a, rtol=0, atol=1e-5)
    torch.testing.assert_close(weighted_b.norm(dim=0), weighted_a.norm(dim=1))


def test_a_scale_of_the_inputs_changes_nothing():
    error, metric = rows(OUT, IN, 2), moment(inputs("ordinary"))
    b, a = decompose(error, RANK, metric=metric)
    for scale in (1e-8, 1e8):
        scaled_b, scaled_a = decompose(error, RANK, metric=metric * scale)
        torch.testing.assert_close(scaled_b @ scaled_a, b @ a, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["ordinary", "outliers"])
def test_the_order_and_the_batches_of_samples_do_not_matter(kind):
    """EoRA's code in GPTQModel gives the first samples about 1/e of the weight of the last."""
    x, error = inputs(kind), rows(OUT, IN, 2)
    metric = moment(x)
    b, a = decompose(error, RANK, metric=metric)
    for other in (moment(x.flip(0)), moment(x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))])):
        assert left_over(error, *decompose(error, RANK, metric=other), metric) <= left_over(error, b, a, metric) * (1 + 1e-6)
    batched = SecondMoment(IN)
    for batch in x.split([1, 99, 7, 293]):
        batched.add(batch)
    assert (batched.mean() - metric).norm() <= 1e-6 * metric.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_moment_in_float32_leaves_as_little_as_one_in_float64(kind):
    """R is neither inverted nor taken a root of, so its rounding errors are not amplified."""
    x, error = inputs(kind), rows(OUT, IN, 2)
    accurate = x.double().T @ x.double() / len(x)
    rounded = left_over(error, *decompose(error, RANK, metric=moment(x)), accurate)
    assert rounded <= smallest(error, accurate, RANK) * (1 + 1e-5) + 1e-6 * float((error.double() @ root(accurate)).norm())


def test_slightly_negative_eigenvalues_do_no_harm():
    """A Gram matrix that was summed in float32 has them; taken a root of and inverted, they made GPTQModel's adapters bad."""
    error, metric = rows(OUT, IN, 2), moment(inputs("few tokens"))
    shifted = metric - 1e-5 * metric.diagonal().mean() * torch.eye(IN)
    assert torch.linalg.eigvalsh(shifted.double())[0] < 0
    b, a = decompose(error, RANK, metric=shifted)
    assert left_over(error, b, a, metric) <= smallest(error, metric, RANK) + 1e-4 * weighted_norm(error, metric)


def test_what_calibration_never_saw_is_not_made_worse():
    """Where R says nothing, the correction takes back a part of the error, too: it is a projection of E."""
    error, metric = rows(OUT, IN, 2), moment(inputs("dead"))
    b, a = decompose(error, RANK, metric=metric)
    dead = metric.diagonal() == 0
    assert dead.sum() == IN // 4
    rest = error - b @ a
    assert rest[:, dead].norm() <= error[:, dead].norm()
    assert rest.norm() <= error.norm()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_slice_of_the_stored_factors_is_the_file_of_the_smaller_rank(bits):
    error, metric = rows(OUT, IN, 2), moment(inputs("outliers"))
    big = store(*decompose(error, 24, metric=metric), bits)
    for rank in (1, 8):
        small = store(*decompose(error, rank, metric=metric), bits)
        assert torch.equal(big["B"][:, :rank], small["B"])
        assert torch.equal(correction(big, rank), correction(small, rank))
    assert not correction(big, 0).any()  # rank 0 is the uncorrected weight


@pytest.mark.parametrize("kind", KINDS)
def test_int8_factors_leave_hardly_more(kind):
    error, metric = rows(OUT, IN, 2), moment(inputs(kind))
    b, a = decompose(error, RANK, metric=metric)
    decoded = correction(store(b, a, 8), RANK)
    rounded = float(((error - decoded).double() @ root(metric)).norm())
    assert rounded <= left_over(error, b, a, metric) + 0.02 * weighted_norm(error, metric)


def test_the_error_never_rises_with_the_rank():
    error, metric = rows(OUT, IN, 2), moment(inputs("outliers"))
    b, a = decompose(error, 0, metric=metric)
    errors = [left_over(error, b[:, :rank], a[:rank], metric) for rank in range(IN + 1)]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(errors[:-1]))
    assert errors[-1] <= 1e-5 * errors[0]


@pytest.mark.parametrize("shape", [(300, 420), (420, 300)])
@pytest.mark.parametrize("kind", ["ordinary", "outliers and dead", "few tokens"])
def test_a_krylov_space_leaves_hardly_more(shape, kind):
    """At most 1 % of the energy of the best components is missing, as of plain ones."""
    error, metric = rows(*shape, 2), moment(inputs(kind, shape[1]))
    rank = 16
    assert min(shape) >= 16 * rank or not kind
    b, a = decompose(error, rank, exact=False, metric=metric)
    whole = weighted_norm(error, metric) ** 2
    taken = whole - left_over(error, b, a, metric) ** 2
    best = whole - smallest(error, metric, rank) ** 2
    assert taken >= 0.99 * best - 1e-5 * whole
    assert b.isfinite().all()


def test_an_error_of_low_rank_is_taken_back_by_a_krylov_space_of_more_components():
    error = rows(300, 3, 2) @ rows(3, 320, 3)
    metric = moment(inputs("ordinary", 320))
    b, a = decompose(error, 16, exact=False, metric=metric)
    assert left_over(error, b, a, metric) <= 1e-4 * weighted_norm(error, metric)
    assert a.isfinite().all()


def test_no_error_is_corrected_by_zeros_and_dead_inputs_alone_by_something_finite():
    metric = moment(inputs("ordinary"))
    b, a = decompose(torch.zeros(OUT, IN), RANK, metric=metric)
    assert not (b @ a).any()
    b, a = decompose(rows(OUT, IN, 2), RANK, metric=torch.zeros(IN, IN))
    assert (b @ a).isfinite().all()


def test_vectors_are_orthonormal_with_fixed_signs_and_the_error_is_not_changed():
    error, metric = rows(OUT, IN, 2), moment(inputs("outliers"))
    before = error.clone()
    u = weighted_left_vectors(error, metric, RANK)
    torch.testing.assert_close(u.T @ u, torch.eye(RANK), rtol=0, atol=1e-5)
    assert torch.equal(u, weighted_left_vectors(-error, metric, RANK))
    assert (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()
    assert torch.equal(error, before)


def test_plain_factors_are_those_of_the_reference():
    error = rows(OUT, IN, 2)
    b, a = decompose(error, RANK, metric=torch.eye(IN))
    assert float((error - b @ a).norm()) == pytest.approx(reference.smallest_error(error, RANK), rel=1e-5)


def test_the_largest_mean_magnitude_is_taken_over_sequences_in_any_order():
    x = rows(5 * 7, IN).view(5, 7, IN)
    whole, single = LargestMagnitudes(IN), LargestMagnitudes(IN)
    whole.add(x)
    for sequence in x.flip(0):
        single.add(sequence[None])
    expected = torch.stack([sequence.abs().mean(0) for sequence in x]).amax(0)
    torch.testing.assert_close(whole.largest, expected)
    torch.testing.assert_close(single.largest, whole.largest)

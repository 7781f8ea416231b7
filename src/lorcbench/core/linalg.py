"""The two factorizations that everything rests on: GPTQ's factor of the Hessian and the truncated SVD."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.linalg import lapack

# What a Hessian that is not positive definite is tried with next, as multiples of the configured damping.
DAMPING_LADDER = (1.0, 10.0, 100.0, 1000.0)
_MOVED_AT_ONCE = 1 << 20  # entries
# A Krylov space pays only while it is much smaller than the matrix: below so many times the rank the full SVD is as fast.
_EXACT_BELOW = 16
# A Krylov space grows until what is to come would add less than this share of the energy found.
_SHORTFALL = 1e-3
# A step that leaves no more than this share of a block outside the space so far found rounding errors, and nothing else.
_EXHAUSTED = 1e-5


@dataclass(frozen=True)
class HessianFactor:
    """R (n, n), upper triangular, with H + λI = R Rᵀ.

    Attributes:
        upper: the factor R.
        damp: λ as a fraction of the mean diagonal of H; above the configured one if the ladder was climbed.
        dead: (n,) bool, inputs that were always zero; their diagonal was set to 1.
    """

    upper: torch.Tensor
    damp: float
    dead: torch.Tensor


def hessian_factor(hessian: torch.Tensor, damp: float) -> HessianFactor:
    """The factor of the damped Hessian that GPTQ sweeps with: one Cholesky factorization, of the reversed matrix, reversed.

    The published code makes the inverse's factor U, (H + λI)⁻¹ = UᵀU, by three factorizations. U is R⁻¹, and a sweep needs no
    more of it than the inverses of R's small diagonal blocks (`lorcbench.core.gptq`).

    Args:
        hessian: (n, n) symmetric positive semidefinite; not changed.
        damp: λ as a fraction of the mean diagonal (GPTQ: 0.01).

    Raises:
        ValueError: the Hessian holds NaN or infinity.
        ArithmeticError: not positive definite even at the end of `DAMPING_LADDER`.
    """
    # The extremes are NaN or infinite if anything is, and are found several times faster than by isfinite.
    if not torch.stack(hessian.aminmax()).isfinite().all():
        raise ValueError("the Hessian holds NaN or infinite values")
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    scale = diagonal.mean()
    for step in DAMPING_LADDER:
        reversed_ = hessian.flip(0, 1)
        reversed_.diagonal().add_(dead.flip(0).to(reversed_) + step * damp * scale)
        lower = _cholesky(reversed_)
        if lower is not None:
            _reverse(lower)
            return HessianFactor(lower, step * damp, dead)
        if damp == 0:
            break
    raise ArithmeticError(f"the Hessian is not positive definite, even damped by {step * damp:g} of its mean diagonal")


def _cholesky(matrix: torch.Tensor) -> torch.Tensor | None:
    """The lower Cholesky factor of a contiguous symmetric matrix, which may be overwritten; None if there is none."""
    if matrix.is_cuda:
        lower, info = torch.linalg.cholesky_ex(matrix)
        return lower if info == 0 else None
    # Through SciPy: its LAPACK does this two to three times as fast as PyTorch's does on the processors we measured.
    potrf = lapack.dpotrf if matrix.dtype == torch.float64 else lapack.spotrf
    # The transpose of a row-major matrix is the column-major one that LAPACK wants, without a copy.
    upper, info = potrf(matrix.numpy().T, lower=0, clean=1, overwrite_a=1)
    return torch.from_numpy(upper.T) if info == 0 else None


def _reverse(matrix: torch.Tensor) -> None:
    """Turn both axes of a matrix around, in place: a third copy of the largest Hessian would be a walk's peak."""
    entries = (matrix if matrix.is_contiguous() else matrix.T).view(-1)  # CUDA's factors come column by column
    for start in range(0, len(entries) // 2, _MOVED_AT_ONCE):
        stop = min(start + _MOVED_AT_ONCE, len(entries) // 2)
        front, back = entries[start:stop], entries[len(entries) - stop : len(entries) - start]
        turned = front.flip(0)
        front.copy_(back.flip(0))
        back.copy_(turned)


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A B of two float matrices that need no gradient.

    On the CPU through NumPy: its BLAS was measured up to twice as fast as PyTorch's on AMD's processors, and as fast elsewhere.
    """
    return a @ b if a.is_cuda else torch.from_numpy(a.numpy() @ b.numpy())


def truncated_svd(matrix: torch.Tensor, rank: int, exact: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U (out, m), S (m,), Vh (m, in) of the `rank` largest singular values, m = min(rank, out, in).

    The sign of every pair is fixed (the entry of U with the largest magnitude is positive), so files are reproducible.

    Args:
        exact: by the full SVD; else from a block Krylov space (Musco & Musco 2015), unless the matrix is too small to gain by
            it. The errors of quantization have flat spectra, for which its accuracy needs no gap between singular values.
            Singular values are then too small by what a larger space would find, about `_SHORTFALL` of their energy.
    """
    if exact or min(matrix.shape) < _EXACT_BELOW * rank:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    elif matrix.shape[0] > matrix.shape[1]:  # the basis is kept orthogonal in the shorter of the two dimensions
        vh_t, s, u_t = _krylov_svd(matrix.T, rank)
        u, vh = u_t.T, vh_t.T
    else:
        u, s, vh = _krylov_svd(matrix, rank)
    sign = torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))
    return u * sign, s, vh * sign.T


def _krylov_svd(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The leading singular triples of E (p, q) within the span of EX, (EEᵀ)EX, (EEᵀ)²EX, … for random X of a few columns.

    A quarter of `rank` columns: with as many as `rank` the same accuracy took up to twice the products (as Meyer, Musco & Musco
    2024 found for single vectors). Where the span maps into itself, as for singular values that are equal, it goes on from new
    random columns.
    """
    generator = torch.Generator().manual_seed(0)
    columns = -(-rank // 4)

    def random_block() -> torch.Tensor:
        start = torch.randn(matrix.shape[1], columns, generator=generator, dtype=matrix.dtype)
        return product(matrix, start.to(matrix.device))

    basis = torch.linalg.qr(random_block()).Q  # K, (p, k)
    projected = product(basis.T, matrix)  # KᵀE, (k, q)
    gram = product(projected, projected.T)
    energies = []
    while 2 * basis.shape[1] < matrix.shape[0]:
        block = _beyond(product(matrix, projected[-columns:].T), basis)
        if block is None and (block := _beyond(random_block(), basis)) is None:
            break  # nothing of E is left outside
        basis, projected = torch.cat([basis, block], 1), torch.cat([projected, product(block.T, matrix)])
        beside = product(projected, projected[-columns:].T)
        gram = torch.cat([torch.cat([gram, beside[:-columns]], 1), beside.T])
        if basis.shape[1] % (4 * columns) == 0:
            energies.append(_energy(gram, rank))
            if _remaining(energies) <= _SHORTFALL * energies[-1]:
                break
    if (missing := rank - basis.shape[1]) > 0:  # E has fewer singular values than that: the others are zero
        rest = torch.randn(matrix.shape[0], missing, generator=generator, dtype=matrix.dtype).to(matrix.device)
        rest = _beyond(rest, basis)
        basis, projected = torch.cat([basis, rest], 1), torch.cat([projected, product(rest.T, matrix)])
        gram = product(projected, projected.T)
    leading = torch.linalg.eigh(gram).eigenvectors[:, -rank:]
    # Eigenvectors of a Gram matrix know small singular values badly; the SVD within their span knows them well.
    u, s, vh = torch.linalg.svd(product(leading.T, projected), full_matrices=False)
    return product(basis, product(leading, u)), s, vh


def _beyond(block: torch.Tensor, basis: torch.Tensor) -> torch.Tensor | None:
    """An orthonormal basis of what of `block` lies outside the span of `basis`; None if that is rounding errors alone."""
    outside = block - product(basis, product(basis.T, block))
    if outside.norm() <= _EXHAUSTED * block.norm():
        return None
    outside = torch.linalg.qr(outside).Q
    return torch.linalg.qr(outside - product(basis, product(basis.T, outside))).Q  # once leaves rounding errors along the basis


def _energy(gram: torch.Tensor, rank: int) -> float:
    """The sum of the `rank` largest squared singular values of a matrix, from its Gram matrix."""
    return float(torch.linalg.eigvalsh(gram)[-rank:].sum())


def _remaining(energies: list[float]) -> float:
    """What a series that grows by a falling factor still has to gain; infinite if it does not fall yet."""
    if len(energies) < 3:
        return float("inf")
    before, last = energies[-2] - energies[-3], energies[-1] - energies[-2]
    if last <= 0:
        return 0.0
    return last * last / (before - last) if last < before else float("inf")

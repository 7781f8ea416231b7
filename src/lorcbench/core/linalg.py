"""The factorizations that everything rests on: GPTQ's factor of the Hessian, and the truncated SVD, weighted or not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.linalg import lapack

# A Hessian that is not positive definite is damped by these multiples of the configured damping, one after another.
DAMPING_LADDER = (1.0, 10.0, 100.0, 1000.0)
_MOVED_AT_ONCE = 1 << 20  # entries
# A Krylov space pays only while it is much smaller than the matrix. If the shorter side of the matrix is less than this
# many times the rank, the full SVD is as fast.
_EXACT_BELOW = 16
# A Krylov space stops growing when all further growth would add less than this share of the energy that it has.
_SHORTFALL = 1e-3
# If at most this share of a new block lies outside the space, that rest consists of rounding errors.
_EXHAUSTED = 1e-5


@dataclass(frozen=True)
class HessianFactor:
    """R (n, n), upper triangular, with H + λI = R Rᵀ.

    Attributes:
        upper: the factor R.
        damp: λ as a fraction of the mean diagonal of H; more than configured if `DAMPING_LADDER` was climbed.
        dead: (n,) bool, inputs that were always zero.
    """

    upper: torch.Tensor
    damp: float
    dead: torch.Tensor


def hessian_factor(hessian: torch.Tensor, damp: float, dead_diagonal: float | None = None) -> HessianFactor:
    """The factor R of the damped Hessian, H + λI = R Rᵀ, that GPTQ sweeps with.

    Cholesky gives a lower factor, and R is upper. So H + λI is reversed in both axes, factored, and the factor L reversed:
    with J the reversal, J (H + λI) J = L Lᵀ gives H + λI = (J L J) (J L J)ᵀ, and J L J is upper triangular.

    The published code computes the factor U of the inverse, (H + λI)⁻¹ = UᵀU, by three factorizations. U is R⁻¹, and of it
    a sweep needs the inverses of R's small diagonal blocks only (`lorcbench.core.gptq`).

    Args:
        hessian: (n, n) symmetric positive semidefinite; not changed.
        damp: λ as a fraction of the mean diagonal (GPTQ: 0.01).
        dead_diagonal: what stands on the diagonal for an input that was always zero, and counts in the mean (GPTQ: 1, if H is
            in its units). None: 1, and the mean counts a zero.

    Raises:
        ValueError: the Hessian holds NaN or infinity.
        ArithmeticError: not positive definite even at the end of `DAMPING_LADDER`.
    """
    # If any entry is NaN or infinite, so is an extreme, and aminmax is several times faster than isfinite.
    if not torch.stack(hessian.aminmax()).isfinite().all():
        raise ValueError("the Hessian holds NaN or infinite values")
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    mean = (diagonal if dead_diagonal is None else torch.where(dead, dead_diagonal, diagonal)).mean()
    filling = dead.to(hessian) * (1 if dead_diagonal is None else dead_diagonal)
    for step in DAMPING_LADDER:
        upper = upper_factor(hessian, filling + step * damp * mean)
        if upper is not None:
            return HessianFactor(upper, step * damp, dead)
        if damp == 0:
            break
    raise ArithmeticError(f"the Hessian is not positive definite, even damped by {step * damp:g} of its mean diagonal")


def upper_factor(matrix: torch.Tensor, shift: torch.Tensor) -> torch.Tensor | None:
    """R (n, n), upper triangular, with M + diag(shift) = R Rᵀ; None if that sum is not positive definite.

    Args:
        matrix: M (n, n), symmetric; not changed.
        shift: (n,).
    """
    reversed_ = matrix.flip(0, 1)
    reversed_.diagonal().add_(shift.flip(0))
    lower = _cholesky(reversed_)
    if lower is not None:
        _reverse(lower)
    return lower


def _cholesky(matrix: torch.Tensor) -> torch.Tensor | None:
    """The lower Cholesky factor of a contiguous symmetric matrix, which may be overwritten; None if there is none."""
    if matrix.is_cuda:
        lower, info = torch.linalg.cholesky_ex(matrix)
        return lower if info == 0 else None
    # SciPy's LAPACK needs 55 to 90 % of the time of PyTorch's: `python benchmarks/cpu_kernels.py`; benchmarks/README.md,
    # "Kernels that are not PyTorch's".
    potrf = lapack.dpotrf if matrix.dtype == torch.float64 else lapack.spotrf
    # LAPACK wants columns one after another: so lies the transpose of our matrix, without a copy. The upper factor that it
    # returns is, transposed back, our lower one.
    upper, info = potrf(matrix.numpy().T, lower=0, clean=1, overwrite_a=1)
    return torch.from_numpy(upper.T) if info == 0 else None


def _reverse(matrix: torch.Tensor) -> None:
    """Reverse both axes of a matrix in place, because one more copy of the largest Hessian would raise a walk's peak memory.

    Reversing both axes is reversing the vector of all entries; it works on the transpose as well.
    """
    entries = (matrix if matrix.is_contiguous() else matrix.T).view(-1)  # CUDA's factors come column by column
    for start in range(0, len(entries) // 2, _MOVED_AT_ONCE):
        stop = min(start + _MOVED_AT_ONCE, len(entries) // 2)
        front = entries[start:stop]
        back = entries[len(entries) - stop : len(entries) - start]
        reversed_front = front.flip(0)
        front.copy_(back.flip(0))
        back.copy_(reversed_front)


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A B of two float matrices that need no gradient; on the CPU through NumPy's BLAS.

    It was seen to take half of PyTorch's time on AMD's processors; on an Intel Xeon it takes 16 to 25 % more: `python
    benchmarks/cpu_kernels.py`; benchmarks/README.md, "Kernels that are not PyTorch's".
    """
    return a @ b if a.is_cuda else torch.from_numpy(a.numpy() @ b.numpy())


def truncated_svd(matrix: torch.Tensor, rank: int, exact: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U (out, m), S (m,), Vh (m, in) of the `rank` largest singular values, m = min(rank, out, in).

    The sign of each pair of vectors is fixed, so that files are reproducible: the entry of U with the largest magnitude is
    positive.

    Args:
        exact: by the full SVD. Otherwise by a block Krylov space (Musco & Musco 2015), unless the matrix is too small to
            gain by it. Quantization errors have flat spectra, and the accuracy of a block Krylov space needs no gap between
            singular values. The energy of the components is then too small by about `_SHORTFALL` of it.
    """
    if exact or min(matrix.shape) < _EXACT_BELOW * rank:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        u = u[:, :rank]
        s = s[:rank]
        vh = vh[:rank]
    elif matrix.shape[0] > matrix.shape[1]:  # vectors of the basis have the shorter of the two lengths
        vh_t, s, u_t = _krylov_svd(matrix.T, rank)
        u = u_t.T
        vh = vh_t.T
    else:
        u, s, vh = _krylov_svd(matrix, rank)
    sign = _signs(u)
    return u * sign, s, vh * sign.T


def weighted_left_vectors(matrix: torch.Tensor, metric: torch.Tensor, rank: int, exact: bool = True) -> torch.Tensor:
    """U (out, m): the left singular vectors of E R^½ of the `rank` largest singular values, m = min(rank, out, in).

    They are the leading eigenvectors of E R Eᵀ, so neither a root nor an inverse of R is ever formed: R may be singular, and
    its rounding errors are not amplified. Signs are fixed as by `truncated_svd`.

    Args:
        matrix: E (out, in).
        metric: R (in, in), symmetric positive semidefinite, or its diagonal (in,) if it has nothing else.
        exact: in float64, from the whole E R Eᵀ. Otherwise as for `truncated_svd`.
    """
    if metric.dim() == 1:
        return truncated_svd(matrix * metric.sqrt(), rank, exact)[0]
    if exact or min(matrix.shape) < _EXACT_BELOW * rank:
        u = _dense_left_vectors(matrix.double(), metric.double(), rank).to(matrix.dtype)
    else:
        basis, _, gram = _krylov_space(matrix, rank, metric)
        u = product(basis, torch.linalg.eigh(gram).eigenvectors[:, -rank:].flip(1).to(basis.dtype))
    return u * _signs(u)


def _dense_left_vectors(matrix: torch.Tensor, metric: torch.Tensor, rank: int) -> torch.Tensor:
    """What `weighted_left_vectors` returns, by an eigendecomposition of the size of the shorter side of E (out, in)."""
    rows = None
    if matrix.shape[0] > matrix.shape[1]:
        rows, matrix = torch.linalg.qr(matrix)  # E = Q T: the left vectors of E R^½ are Q times those of T R^½
    gram = product(product(matrix, metric), matrix.T)
    leading = torch.linalg.eigh((gram + gram.T) / 2).eigenvectors.flip(1)[:, :rank]  # eigenvalues rise
    return leading if rows is None else product(rows, leading)


def _signs(u: torch.Tensor) -> torch.Tensor:
    """(1, m) of 1 and -1, by which the entry of each column of U (out, m) with the largest magnitude becomes positive."""
    return torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))


def _krylov_svd(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The leading singular triples of E (p, q) within a Krylov space."""
    basis, projected, gram = _krylov_space(matrix, rank)
    leading = torch.linalg.eigh(gram).eigenvectors[:, -rank:]  # eigenvalues rise: the last are the largest
    # Eigenvectors of a Gram matrix lose the accuracy of small singular values (their squares vanish beside the largest).
    # Within the span of those eigenvectors an SVD has it again.
    u, s, vh = torch.linalg.svd(leading.T @ projected, full_matrices=False)
    return basis @ (leading @ u), s, vh


def _krylov_space(
    matrix: torch.Tensor, rank: int, metric: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """K (p, k), KᵀE (k, q) and Kᵀ(EREᵀ)K (k, k), where K spans EX, (EREᵀ)EX, (EREᵀ)²EX, … for a random X of few columns.

    X has `rank` / 2 columns. Fewer need fewer columns in all for the same accuracy (Meyer, Musco & Musco 2024 recommend single
    vectors), but each block reads E twice from memory, and more then means more reads: benchmarks/README.md, "LoRC factors",
    has the times. Where the span maps into itself, as with equal singular values, it grows on from new random columns.

    Products with so few columns are PyTorch's: it needs half of the time of NumPy's library for them.

    Args:
        matrix: E (p, q).
        metric: R (q, q); None is the identity. With it the last result is float64: inputs with outliers spread its
            eigenvalues over many orders of magnitude.
    """
    generator = torch.Generator().manual_seed(0)
    columns = -(-rank // 2)  # rounded up

    def random_block() -> torch.Tensor:
        start = torch.randn(matrix.shape[1], columns, generator=generator, dtype=matrix.dtype)
        return matrix @ start.to(matrix.device)

    def weighted(rows: torch.Tensor) -> torch.Tensor:
        return rows if metric is None else rows @ metric

    def gram_of(rows: torch.Tensor, columns_: torch.Tensor) -> torch.Tensor:
        return rows @ columns_.T if metric is None else rows.double() @ columns_.double().T

    basis = torch.linalg.qr(random_block()).Q  # K, (p, k)
    projected = basis.T @ matrix  # KᵀE, (k, q)
    newest = weighted(projected)  # the last rows of KᵀER, (columns, q)
    gram = gram_of(projected, newest)  # KᵀER (KᵀE)ᵀ, (k, k)
    energies = []
    while 2 * basis.shape[1] < matrix.shape[0]:
        block = _beyond(matrix @ newest.T, basis)
        if block is None and (block := _beyond(random_block(), basis)) is None:
            break  # all of E lies within the span
        basis = torch.cat([basis, block], 1)
        projected = torch.cat([projected, block.T @ matrix])
        newest = weighted(projected[-columns:])
        # Only the new columns of the Gram matrix are computed; the new rows are their transpose.
        new_columns = gram_of(projected, newest)
        gram = torch.cat([torch.cat([gram, new_columns[:-columns]], 1), new_columns.T])
        if basis.shape[1] % (4 * columns) == 0:
            energies.append(_energy(gram, rank))
            if _remaining(energies) <= _SHORTFALL * energies[-1]:
                break
    if (missing := rank - basis.shape[1]) > 0:  # E has fewer than `rank` singular values: the others are zero
        filler = torch.randn(matrix.shape[0], missing, generator=generator, dtype=matrix.dtype).to(matrix.device)
        filler = _beyond(filler, basis)
        basis = torch.cat([basis, filler], 1)
        projected = torch.cat([projected, filler.T @ matrix])
        gram = gram_of(projected, weighted(projected))
    return basis, projected, gram


def _beyond(block: torch.Tensor, basis: torch.Tensor) -> torch.Tensor | None:
    """An orthonormal basis of the part of `block` that is orthogonal to `basis`; None if that is rounding errors only."""
    outside = block - basis @ (basis.T @ block)
    if outside.norm() <= _EXHAUSTED * block.norm():
        return None
    outside = torch.linalg.qr(outside).Q
    # A second time, since rounding errors of the first projection lie along the basis.
    return torch.linalg.qr(outside - basis @ (basis.T @ outside)).Q


def _energy(gram: torch.Tensor, rank: int) -> float:
    """The sum of the `rank` largest squared singular values of a matrix, from its Gram matrix."""
    return float(torch.linalg.eigvalsh(gram)[-rank:].sum())


def _remaining(energies: list[float]) -> float:
    """How much a growing series will still gain if its gains go on falling by the last factor; infinite if they do not fall.

    With gains g, g·f, g·f², … the rest of a geometric series is g·f / (1 - f), for g the last gain.
    """
    if len(energies) < 3:
        return float("inf")
    gain_before = energies[-2] - energies[-3]
    gain = energies[-1] - energies[-2]
    if gain <= 0:
        return 0.0
    return gain * gain / (gain_before - gain) if gain < gain_before else float("inf")

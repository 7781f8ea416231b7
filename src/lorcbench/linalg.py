"""The two factorizations that everything rests on: GPTQ's inverse-Hessian factor and the truncated SVD."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.linalg import lapack

# What a Hessian that is not positive definite is tried with next, as multiples of the configured damping.
DAMPING_LADDER = (1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class InverseFactor:
    """U (n, n), upper triangular, with (H + λI)⁻¹ = UᵀU.

    Attributes:
        upper: the factor U.
        damp: λ as a fraction of the mean diagonal of H; above the configured one if the ladder was climbed.
        dead: (n,) bool, inputs that were always zero; their diagonal was set to 1.
    """

    upper: torch.Tensor
    damp: float
    dead: torch.Tensor


def inverse_factor(hessian: torch.Tensor, damp: float) -> InverseFactor:
    """The factor of the damped inverse Hessian that GPTQ sweeps with, by one Cholesky and one triangular inverse.

    With H = R Rᵀ and R upper triangular (the Cholesky factor of the reversed matrix, reversed), U = R⁻¹ gives
    UᵀU = R⁻ᵀR⁻¹ = H⁻¹, so neither the inverse nor its own Cholesky factor is formed as in the published code.

    Args:
        hessian: (n, n) symmetric positive semidefinite; not changed.
        damp: λ as a fraction of the mean diagonal (GPTQ: 0.01).

    Raises:
        ValueError: the Hessian holds NaN or infinity.
        ArithmeticError: not positive definite even at the end of `DAMPING_LADDER`.
    """
    if not torch.isfinite(hessian).all():
        raise ValueError("the Hessian holds NaN or infinite values")
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    scale = diagonal.mean()
    for step in DAMPING_LADDER:
        damped = hessian.clone()
        damped.diagonal().add_(dead.to(damped) + step * damp * scale)
        lower, info = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if info == 0:
            return InverseFactor(_inverse_of_upper(lower.flip(0, 1)), step * damp, dead)
        if damp == 0:
            break
    raise ArithmeticError(f"the Hessian is not positive definite, even damped by {step * damp:g} of its mean diagonal")


def _inverse_of_upper(upper: torch.Tensor) -> torch.Tensor:
    if upper.is_cuda:
        return torch.linalg.solve_triangular(upper, torch.eye(len(upper), out=torch.empty_like(upper)), upper=True)
    trtri = lapack.dtrtri if upper.dtype == torch.float64 else lapack.strtri
    # The transpose of a row-major matrix is the column-major one that LAPACK wants, without a copy.
    inverse, info = trtri(upper.contiguous().numpy().T, lower=1, overwrite_c=1)
    if info:
        raise ArithmeticError(f"a Cholesky factor with a zero at position {info} has no inverse")
    return torch.from_numpy(inverse.T)


def truncated_svd(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U (out, m), S (m,), Vh (m, in) of the `rank` largest singular values, m = min(rank, out, in).

    The sign of every pair is fixed (the entry of U with the largest magnitude is positive), so files are reproducible.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    sign = torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))
    return u * sign, s, vh * sign.T

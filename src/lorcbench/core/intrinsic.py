"""GPTQ with the correction inside its sweep: GPTQ-intrinsic LoRA (Zhang & Saab 2026, arXiv 2606.01412, algorithm 3).

Give a linear r more inputs x V, for V (in, r) the leading eigenvectors of H = E[xᵀx], with weights of zero: [W, 0] is
(out, in + r). Sweep its first columns as GPTQ does, and never round the last r. What the errors of all others have pushed onto
them is T (out, r), and since the new inputs are x V,

    W ≈ Ŵ + T Vᵀ,    B = T,    A = Vᵀ

The Hessian of the wider linear is [[H, H V], [Vᵀ H, Vᵀ H V]]: singular, but damped as GPTQ damps, λ a share of its own mean
diagonal. The paper factors it by an eigendecomposition and QR. Here it is never formed. With the r columns eliminated first,
which leaves what GPTQ needs of the others as it is,

    P = H V (Vᵀ H V + λI)⁻¹,    H' + λI = H + λI - P Vᵀ H,    T = (W - Ŵ) P

so the codes are GPTQ's with H' in place of H: the directions in which the correction will take errors back weigh (almost)
nothing any more. And because H' has lost its largest eigenvalues, it is the better conditioned of the two. This holds for every
V, so V need not be exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorcbench.core import gptq
from lorcbench.core.formats import WeightFormat
from lorcbench.core.gptq import PreparedHessian
from lorcbench.core.linalg import DAMPING_LADDER, HessianFactor, product, truncated_svd, upper_factor
from lorcbench.core.quantizer import Quantized, dequantize
from lorcbench.core.settings import GptqSettings


@dataclass(frozen=True)
class IntrinsicHessian:
    """What the sweep needs of one input; it serves all linears with that input, and all weight formats.

    Attributes:
        rest: H' of the module's docstring, as GPTQ sweeps with it.
        vectors: V (in, r).
        projection: P (in, r), from an error to the part of it that the correction takes back.
    """

    rest: PreparedHessian
    vectors: torch.Tensor
    projection: torch.Tensor


def prepare(
    hessian: torch.Tensor, rank: int, settings: GptqSettings, dead_diagonal: float = 1.0, exact: bool = True
) -> IntrinsicHessian:
    """Factor H (in, in) for corrections of a rank.

    Args:
        dead_diagonal: as for `lorcbench.core.gptq.prepare`.
        exact: as for `lorcbench.core.linalg.truncated_svd`, of the eigenvectors.

    Raises:
        ValueError: H holds NaN or infinity.
        ArithmeticError: not positive definite even at the end of `DAMPING_LADDER`.
    """
    if not torch.stack(hessian.aminmax()).isfinite().all():
        raise ValueError("the Hessian holds NaN or infinite values")
    vectors = truncated_svd(hessian, rank, exact)[0]  # of a symmetric matrix without negative eigenvalues: its eigenvectors
    images = product(hessian, vectors)  # H V, (in, r)
    small = product(vectors.T, images).double()  # Vᵀ H V, (r, r)
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    filling = dead.to(hessian) * (dead_diagonal if settings.dead == "published" else 1)
    counted = diagonal + filling if settings.dead == "published" else diagonal
    mean = (counted.sum() + small.trace()) / (len(diagonal) + len(small))  # of the wider Hessian's diagonal
    order = torch.argsort(counted, descending=True, stable=True) if settings.act_order else None
    for step in DAMPING_LADDER:
        shift = float(step * settings.damp * mean)
        damped = small + shift * torch.eye(len(small), dtype=small.dtype, device=small.device)
        projection = torch.linalg.solve(damped, images.T.double()).T.to(hessian.dtype)
        rest = hessian - product(projection, images.T)
        rest = rest if order is None else rest[order][:, order]
        upper = upper_factor(rest, (filling if order is None else filling[order]) + shift)
        if upper is not None:
            factor = HessianFactor(upper, step * settings.damp, dead if order is None else dead[order])
            return IntrinsicHessian(PreparedHessian(factor, order), vectors, projection)
    raise ArithmeticError(f"the Hessian is not positive definite, even damped by {step * settings.damp:g} of its mean diagonal")


def quantize(
    weight: torch.Tensor, hessian: IntrinsicHessian, fmt: WeightFormat, settings: GptqSettings
) -> tuple[Quantized, torch.Tensor, torch.Tensor]:
    """Codes of W (out, in), B (out, r) and A (r, in), float32; a column of B is as long as the row of A.

    Raises:
        ValueError: as `lorcbench.core.gptq.quantize`.
    """
    quantized = gptq.quantize(weight, hessian.rest, fmt, settings)
    b = product(weight.float() - dequantize(quantized), hessian.projection)
    root = b.norm(dim=0).sqrt()  # rows of A have length 1
    return quantized, b / torch.where(root == 0, 1, root), root.unsqueeze(1) * hessian.vectors.T

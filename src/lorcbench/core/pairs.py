"""Codes and factors that are made for one another: W ≈ Ŵ + B A, where Ŵ depends on the rank of B A.

`joint` alternates: round what the correction does not hold, correct what rounding has lost. Its first round is the ordinary
order, codes and then a correction of their error. LoftQ (arXiv 2310.08659) alternates so with unweighted corrections, CALDERA
(2405.18886) with weighted ones; it keeps its best round, too.

`split` (SRR, arXiv 2602.02001) holds k of the r components of W back before rounding, and spends the other r - k on the error:

    B₁A₁ = the best k components of W,    Ŵ = quantize(W - B₁A₁),    B₂A₂ = the best r - k of W - B₁A₁ - Ŵ

"best" is weighted with the inputs as in `lorcbench.core.lorc`. With k = 0 it is the ordinary order. k is the one with the least
product of two shares, of what k components leave of W and of what r - k leave of an error:

    k* = argmin ρ_k(W R^½) · ρ_{r-k}(P R^½),    ρ_k(M) = Σ_{i>k} σ_i² / Σ σ_i²

The error is not known before k is, so a matrix P of uniform random numbers stands for it: the first factor says how much there
is to round, since scales follow the weights, the second how much of rounding's error stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from lorcbench.core.lorc import decompose, strengths, weighted_norm
from lorcbench.core.quantizer import Quantized, dequantize

Quantizer = Callable[[torch.Tensor], Quantized]  # W (out, in) → its codes


class Pair(NamedTuple):
    """Codes of a matrix, and the factors that go with them.

    Attributes:
        quantized: Ŵ (out, in).
        b, a: B (out, r) and A (r, in), float32.
        notes: what is to be said of how they came about; values for JSON.
    """

    quantized: Quantized
    b: torch.Tensor
    a: torch.Tensor
    notes: dict[str, Any]

    def error(self, weight: torch.Tensor) -> torch.Tensor:
        """What is left of W (out, in) in float32: W - Ŵ - B A."""
        return weight - dequantize(self.quantized) - self.b @ self.a


def joint(
    weight: torch.Tensor, metric: torch.Tensor, quantizer: Quantizer, rank: int, rounds: int, kind: str, exact: bool = True
) -> Pair:
    """The best of some rounds of rounding and correcting W (out, in) float32: with the least tr(E R Eᵀ), E = W - Ŵ - B A.

    Each round starts from the factors of the one before, not of the best. A round that changes nothing is the last. The note
    `errors` has ‖E R^½‖ of each round, `round` which one is kept, from 1 on.

    Args:
        metric: R (in, in) of the inputs.
        kind: of the correction: ``exact`` weighs the error with R, ``plain`` does not; rounds are compared by R in both cases.
        exact: as for `lorcbench.core.lorc.decompose`.
    """
    best, errors, correction = None, [], None
    for number in range(1, rounds + 1):
        quantized = quantizer(weight if correction is None else weight - correction)
        b, a = decompose(weight - dequantize(quantized), rank, exact, metric if kind == "exact" else None)
        pair = Pair(quantized, b, a, {"round": number})
        errors.append(weighted_norm(pair.error(weight), metric))
        if best is None or errors[-1] < errors[best.notes["round"] - 1]:
            best = pair
        after = b @ a
        if correction is not None and torch.equal(after, correction):
            break
        correction = after
    return best._replace(notes=best.notes | {"errors": errors})


def split(
    weight: torch.Tensor,
    metric: torch.Tensor,
    quantizer: Quantizer,
    rank: int,
    preserved: int | None = None,
    exact: bool = True,
) -> Pair:
    """Round W (out, in) float32 without its first k components, correct with the other r - k; the note `preserved` is k.

    Args:
        metric: R (in, in) of the inputs.
        preserved: k; None measures k*.
        exact: as for `lorcbench.core.lorc.decompose`.
    """
    rank = min(rank, *weight.shape)
    k = components_to_preserve(weight, metric, rank, exact) if preserved is None else min(preserved, rank)
    parts = [decompose(weight, k, exact, metric)] if k else []
    rest = weight - parts[0][0] @ parts[0][1] if k else weight
    quantized = quantizer(rest)
    if k < rank:
        parts.append(decompose(rest - dequantize(quantized), rank - k, exact, metric))
    b, a = torch.cat([b for b, _ in parts], 1), torch.cat([a for _, a in parts])
    return Pair(quantized, b, a, {"preserved": k})


def components_to_preserve(weight: torch.Tensor, metric: torch.Tensor, rank: int, exact: bool = True) -> int:
    """k* of W (out, in); of equally good ones the least."""
    of_weight = _tails(weight, metric, rank, exact)
    of_error = _tails(probe(weight.shape).to(weight.device), metric, rank, exact)
    return int((of_weight * of_error.flip(0)).argmin())


def probe(shape: tuple[int, int]) -> torch.Tensor:
    """Uniform random numbers in [-1, 1], float32: always the same for one shape."""
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(0)) - 1


def _tails(matrix: torch.Tensor, metric: torch.Tensor, rank: int, exact: bool) -> torch.Tensor:
    """ρ_k of M (out, in) for k = 0 … r (r + 1,) in float64: the share of ‖M R^½‖² that k components leave."""
    whole = weighted_norm(matrix, metric) ** 2
    energies = strengths(*decompose(matrix, rank, exact, metric), metric).double().square().cpu()
    shares = torch.cat([energies.new_zeros(1), energies.cumsum(0)]) / (whole or 1)
    return (1 - shares).clamp(min=0)

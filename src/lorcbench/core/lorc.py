"""LoRC: a low-rank correction of the quantization error (ZeroQuant-V2, section 5), and its successors that know the inputs.

    E = W - Ŵ = U Σ Vᵀ,    B = U_m Σ_m^½ (out, m),    A = Σ_m^½ V_mᵀ (m, in),    W ≈ Ŵ + B A

    y = x Ŵᵀ + (x Aᵀ) Bᵀ ≈ x Wᵀ,    x (tokens, in),    y (tokens, out)

That leaves the least ‖E - BA‖. What matters is the output, so with R = E[xᵀx] of the inputs the error is better weighted:

    the least ‖(E - BA) R^½‖ is at    BA = SVD_m(E R^½) R^-½ = U_m U_mᵀ E,    U the left singular vectors of E R^½

The middle form is the published one: QERA-exact (arXiv 2410.06040), EoRA (2410.21271) and OLrC (2606.01412) are the same
optimum. The last form follows, because SVD_m(E R^½) = U_m U_mᵀ E R^½. It needs no inverse, so R may be singular: with fewer
tokens than inputs, or an input that is always zero, it is still a minimizer, and where R says nothing it takes back the part of
E that lies along U. With a diagonal R the same holds: LQER's weights are the mean magnitudes of inputs (2402.02446),
QERA-approx's are their root mean squares. With R = I it is LoRC.

One decomposition serves every rank: rank r is the first r columns of B and the first r rows of A. INT8 factors have one
symmetric scale per component, INT4 factors one per 32 values of a component, so the first r components are exactly what rank r
would have stored. With one scale per component, INT4 loses up to four fifths of what plain factors remove of the error, with
groups of 32 one fifth (benchmarks/README.md, "Factors in INT4"). (The paper prints x W, with U and V exchanged; W here is
(out, in), as checkpoints store it.)
"""

from __future__ import annotations

import math

import torch

from lorcbench.core.linalg import product, truncated_svd, weighted_left_vectors

_INT4_GROUP = 32  # values of a component that share a scale


def decompose(
    error: torch.Tensor, components: int, exact: bool = True, metric: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """B (out, m) and A (m, in), float32, of the error E (out, in); a column of B is as long as the row of A.

    Args:
        components: m; 0 means all min(out, in).
        exact: as for `lorcbench.core.linalg.truncated_svd`.
        metric: R (in, in) of the inputs, or its diagonal (in,) alone; None is the identity, LoRC as published.
    """
    components = components or min(error.shape)
    if metric is None:
        u, s, vh = truncated_svd(error, components, exact)
        root = s.sqrt()
        return u * root, root.unsqueeze(1) * vh
    u = weighted_left_vectors(error, metric, components, exact)
    rows = product(u.T, error)
    root = rows.norm(dim=1).sqrt()
    return u * root, rows / torch.where(root == 0, 1, root).unsqueeze(1)


def weighted_norm(error: torch.Tensor, metric: torch.Tensor | None) -> float:
    """‖E R^½‖ of E (out, in), for R as `decompose` takes it: how far the outputs are off, as a root mean square over tokens."""
    if metric is None:
        return float(error.norm())
    weighted = error * metric if metric.dim() == 1 else product(error, metric)
    return math.sqrt(max(0.0, float((weighted * error).sum(dtype=torch.float64))))


def strengths(b: torch.Tensor, a: torch.Tensor, metric: torch.Tensor | None) -> torch.Tensor:
    """‖b_i a_i R^½‖ (m,) of each component of B (out, m) and A (m, in): without a metric the singular values of E."""
    if metric is None:
        return b.norm(dim=0) * a.norm(dim=1)
    weighted = a * metric if metric.dim() == 1 else product(a, metric)
    return b.norm(dim=0) * (weighted * a).sum(1).clamp(min=0).sqrt()


def share(error: torch.Tensor, inputs: torch.Tensor) -> float:
    """How much of ‖E‖² (out, in) lies in the columns of some inputs (in,) bool: 0 to 1; 0 if there is no error at all."""
    total = error.square().sum(dtype=torch.float64)
    return float(error[:, inputs].square().sum(dtype=torch.float64) / total) if total else 0.0


def store(b: torch.Tensor, a: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """The tensors that an artifact keeps of B (out, m) and A (m, in): 16 bits in float16, 8 and 4 bits as codes and scales.

    With 8 bits each component has one scale in B and one in A: ``B_scale`` (m,) and ``A_scale`` (m,). With 4 bits every 32
    values of a component have one: ``B_scale`` (m, out / 32) and ``A_scale`` (m, in / 32), rounded up; two codes lie in one
    byte, so that the codes are (out / 2, m) and (m, in / 2) uint8.

    Raises:
        ValueError: `bits` is not 4, 8 or 16, a factor does not fit its type, or 4 bits do not fill whole bytes.
    """
    if bits == 16:
        stored = {"B": b.to(torch.float16), "A": a.to(torch.float16)}
        if not all(torch.isfinite(factor).all() for factor in stored.values()):
            raise ValueError("a LoRC factor overflows float16")
        return stored
    if bits not in (4, 8):
        raise ValueError(f"LoRC factors have 4, 8 or 16 bits, not {bits}")
    rounded = _int4 if bits == 4 else _int8
    b_codes, b_scale = rounded(b.T)  # components are B's columns and A's rows
    a_codes, a_scale = rounded(a)
    return {"B": b_codes.T.contiguous(), "B_scale": b_scale, "A": a_codes, "A_scale": a_scale}


def correction(stored: dict[str, torch.Tensor], rank: int) -> torch.Tensor:
    """B A (out, in) in float32, of the first `rank` components of stored factors."""
    b, a = decoded(stored, rank)
    return b @ a


def product_as_stored(b: torch.Tensor, a: torch.Tensor, bits: int) -> torch.Tensor:
    """B A (out, in) of the factors as `store` rounds them; gradients pass straight through the rounding."""
    with torch.no_grad():
        rounded_b, rounded_a = decoded(store(b, a, bits), len(a))
    # The value is the rounded factor, but only `b` and `a` have a gradient.
    return (b + (rounded_b - b).detach()) @ (a + (rounded_a - a).detach())


def stored_bits(stored: dict[str, torch.Tensor], rank: int) -> int:
    """Bits that the first `rank` components take, scales included."""
    parts = {name: tensor[:, :rank] if name == "B" else tensor[:rank] for name, tensor in stored.items()}
    return 8 * sum(part.numel() * part.element_size() for part in parts.values())


def factor_bits(rank: int, rows: int, width: int, bits: int) -> int:
    """Bits that factors of a matrix (rows, width) will take, as `stored_bits` says of them once they are there."""
    rank = min(rank, rows, width)
    scales = {16: 0, 8: 2, 4: -(-rows // _INT4_GROUP) + -(-width // _INT4_GROUP)}
    return rank * (bits * (rows + width) + 16 * scales[bits])


def decoded(stored: dict[str, torch.Tensor], rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """B (out, rank) and A (rank, in) in float32, of the first `rank` components of stored factors."""
    b, a = stored["B"][:, :rank], stored["A"][:rank]
    if "B_scale" not in stored:
        return b.float(), a.float()
    return _meaning(b.T, stored["B_scale"][:rank]).T, _meaning(a, stored["A_scale"][:rank])


def _meaning(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Components (m, n) in float32 out of the codes and scales of `_int8` or `_int4`."""
    if codes.dtype == torch.int8:
        return codes.float() * scale.float().unsqueeze(1)
    pairs = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(1)
    steps = scale.float().repeat_interleave(_INT4_GROUP, dim=1)[:, : pairs.shape[1]]
    return (pairs.float() - 8) * steps


def _int8(components: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (m, n) int8 and scales (m,) float16 of m components (m, n)."""
    scale = _steps(components.abs().amax(1), 127)
    codes = torch.round(components / scale.float().unsqueeze(1)).clamp(-127, 127)
    return codes.to(torch.int8), scale


def _int4(components: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (m, n / 2) uint8, two to a byte, the first in its low half, and scales (m, n / 32) float16 of components (m, n)."""
    length = components.shape[1]
    if length % 2:
        raise ValueError(f"LoRC factors of 4 bits need an even number of values per component, not {length}; expected 8 bits")
    padded = torch.nn.functional.pad(components, (0, -length % _INT4_GROUP)).unflatten(1, (-1, _INT4_GROUP))
    scale = _steps(padded.abs().amax(2), 7)
    codes = torch.round(padded / scale.float().unsqueeze(2)).clamp(-7, 7).flatten(1)[:, :length]
    shifted = (codes + 8).to(torch.uint8)
    return shifted[:, 0::2] | shifted[:, 1::2] << 4, scale


def _steps(largest: torch.Tensor, top: int) -> torch.Tensor:
    """Symmetric scales in float16 of values up to `largest`, whose codes reach to `top` on both sides."""
    scale = (largest / top).to(torch.float16)
    if not torch.isfinite(scale).all():
        raise ValueError("the scale of a LoRC factor overflows float16")
    return torch.where(scale == 0, torch.full_like(scale, 2.0**-24), scale)  # float16's smallest positive number

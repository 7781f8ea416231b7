"""Slow textbook versions, in float64, of the methods that make codes and factors for one another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from reference import Sweep, gptq, quantize


def roots(metric) -> tuple[np.ndarray, np.ndarray]:
    """R^½ and R^-½ of a positive definite R."""
    values, vectors = np.linalg.eigh(np.asarray(metric, dtype=np.float64))
    return vectors * np.sqrt(values) @ vectors.T, vectors / np.sqrt(values) @ vectors.T


def weighted_error(error, metric) -> float:
    """tr(E R Eᵀ)."""
    error = np.asarray(error, dtype=np.float64)
    return float(np.trace(error @ np.asarray(metric, dtype=np.float64) @ error.T))


def best(matrix, metric, rank: int) -> np.ndarray:
    """SVD_r(M R^½) R^-½: QERA's closed form."""
    root, inverse = roots(metric)
    u, s, vh = np.linalg.svd(np.asarray(matrix, dtype=np.float64) @ root, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank] @ inverse


def rtn_codes(fmt) -> Callable:
    """W → codes and what they mean."""
    return lambda weight: quantize(np.asarray(weight, dtype=np.float32), fmt)[::3]


def gptq_codes(hessian, fmt, static: bool) -> Callable:
    """W → codes and what they mean, with the damping of 0.01 that GPTQ's code has."""

    def codes(weight) -> tuple[np.ndarray, np.ndarray]:
        sweep = gptq(weight, hessian, 0.01, fmt, static)
        return sweep.codes, decoded(sweep, fmt)

    return codes


def decoded(sweep: Sweep, fmt) -> np.ndarray:
    """What the codes of a sweep mean."""
    size = sweep.codes.shape[1] // sweep.scale.shape[1]
    scale, zero = np.repeat(sweep.scale, size, 1).astype(float), np.repeat(sweep.zero, size, 1)
    return (sweep.codes - zero) * scale


def intrinsic(weight, hessian, rank: int, damp: float, fmt, corrected: bool = False) -> tuple[Sweep, np.ndarray]:
    """Zhang & Saab's algorithm 3: the sweep of [W, 0] with the wider Hessian, whose last `rank` columns are never rounded.

    The factor comes by an eigendecomposition and QR. Columns are swept one by one; scales of groups come from W as it is before
    the sweep, or when their first column comes (`corrected`). Returns the sweep and the product of the factors, T Vᵀ.
    """
    h = np.asarray(hessian, dtype=np.float64)
    rows, width = np.shape(weight)
    v = np.linalg.eigh(h)[1][:, ::-1][:, :rank]
    wider = np.block([[h, h @ v], [v.T @ h, v.T @ h @ v]])
    wider += damp * np.diag(wider).mean() * np.eye(width + rank)
    values, vectors = np.linalg.eigh(wider)
    upper = np.linalg.qr(vectors / np.sqrt(values) @ vectors.T)[1]  # UᵀU is the inverse of the wider Hessian
    upper *= np.sign(np.diag(upper))[:, None]
    w = np.hstack([np.asarray(weight, dtype=np.float64), np.zeros((rows, rank))])
    before = w.copy()
    size = fmt.group or width
    sweep = Sweep.empty(rows, width, size)
    for j in range(width):
        if j % size == 0:
            sweep.params(j // size, (w if corrected else before)[:, j : j + size], fmt)
        error = (w[:, j] - sweep.column(j, w[:, j], j // size, fmt)) / upper[j, j]
        w[:, j:] -= np.outer(error, upper[j, j:])
    return sweep, w[:, width:] @ v.T


def split(weight, metric, codes: Callable, rank: int, preserved: int) -> tuple[np.ndarray, np.ndarray]:
    """SRR: the codes, and Ŵ + B A."""
    weight = np.asarray(weight, dtype=np.float64)
    held = best(weight, metric, preserved)
    chosen, approximate = codes(weight - held)
    return chosen, held + approximate + best(weight - held - approximate, metric, rank - preserved)


def preserved(weight, probe, metric, rank: int) -> int:
    """SRR's k*: the least product of the shares of energy that k components leave of W, and r - k of the probe."""
    root, _ = roots(metric)
    shares = []
    for matrix in (weight, probe):
        energies = np.linalg.svd(np.asarray(matrix, dtype=np.float64) @ root, compute_uv=False) ** 2
        shares.append([energies[k:].sum() / energies.sum() for k in range(rank + 1)])
    return int(np.argmin([shares[0][k] * shares[1][rank - k] for k in range(rank + 1)]))


def joint(weight, metric, codes: Callable, rank: int, rounds: int, plain: bool = False) -> list[tuple[np.ndarray, float]]:
    """Each round's codes and tr(E R Eᵀ)."""
    weight = np.asarray(weight, dtype=np.float64)
    correction, found = np.zeros_like(weight), []
    for _ in range(rounds):
        chosen, approximate = codes(weight - correction)
        error = weight - approximate
        correction = best(error, np.eye(error.shape[1]) if plain else metric, rank)
        found.append((chosen, weighted_error(error - correction, metric)))
    return found

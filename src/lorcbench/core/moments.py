"""Streaming statistics of a linear's inputs: what calibration keeps of the data."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import torch
from numba.extending import get_cython_function_address

_ROWS_AT_ONCE = 512
_BAND = 2048  # rows of XᵀX in one product on a GPU
# BLAS's symmetric update computes one triangle only: 1.2 to 1.8 times as fast as PyTorch's product (`python
# benchmarks/cpu_kernels.py`; benchmarks/README.md, "Kernels that are not PyTorch's"). It is called through ctypes because
# SciPy's own wrapper lets no other thread of Python run, and `lorcbench.models.observe` adds beside the forward pass.
_SSYRK = ctypes.CFUNCTYPE(None, *10 * [ctypes.c_void_p])(get_cython_function_address("scipy.linalg.cython_blas", "ssyrk"))


class SecondMoment:
    """E[xᵀx] over tokens x (1, n), accumulated batch by batch; any batching gives the same sum.

    The published GPTQ's Hessian is 2 · tokens per sequence times this matrix. The factor changes neither the codes nor the
    damping, which is relative; only the 1 that stands for dead inputs there is another number here: `dead_diagonal`.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.sum = torch.zeros(width, width, dtype=torch.float32, device=device)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        """Add inputs (…, width): all but the last axis are tokens."""
        rows = x.reshape(-1, x.shape[-1])  # (…, width) → (tokens, width)
        if rows.is_cuda:
            _add_in_bands(rows, self.sum)
        else:
            _add_gram(rows.float().contiguous(), self.sum)
        self.tokens += len(rows)

    def mean(self) -> torch.Tensor:
        """E[xᵀx] (width, width), float32.

        Raises:
            ValueError: no token was added.
        """
        if not self.tokens:
            raise ValueError("no calibration token reached this linear")
        return _symmetric(self.sum / self.tokens)  # both ways of adding leave the upper triangle unfinished


class LargestMagnitudes:
    """The largest mean magnitude of each input over sequences: LQER's weights of the error (arXiv 2402.02446).

    The mean of |x| (tokens,) within each sequence, then the largest over the sequences.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.largest = torch.zeros(width, dtype=torch.float32, device=device)

    def add(self, x: torch.Tensor) -> None:
        """Add inputs (sequences, tokens, width)."""
        torch.maximum(self.largest, x.abs().float().mean(1).amax(0), out=self.largest)


def dead_diagonal(tokens_per_sequence: int) -> float:
    """The published GPTQ's 1, in the units of E[xᵀx]: its Hessian is 2/n Σ xᵀx over n sequences, not over tokens."""
    return 1 / (2 * tokens_per_sequence)


def _lower_bands(width: int) -> list[tuple[slice, slice]]:
    """Bands of rows of a (width, width) matrix, each with the columns up to the end of its diagonal block.

    Together they hold the lower triangle, and little more than half of the matrix.
    """
    return [(slice(start, start + _BAND), slice(min(start + _BAND, width))) for start in range(0, width, _BAND)]


def _add_in_bands(rows: torch.Tensor, total: torch.Tensor) -> None:
    """Add the lower triangle of XᵀX to that of `total` (n, n), for X (k, n) on a GPU: little more than half the work."""
    # A product of two 16-bit numbers is exact in float32, so the tensor cores lose nothing.
    precision = {} if rows.dtype == torch.float32 else {"out_dtype": torch.float32}
    for band, columns in _lower_bands(rows.shape[1]):
        part = total[band, columns]
        torch.addmm(part, rows[:, band].T, rows[:, columns], out=part, **precision)


def _add_gram(rows: torch.Tensor, total: torch.Tensor) -> None:
    """Add the lower triangle of XᵀX to that of `total` (n, n), for X (k, n): half the work of a product."""
    tokens, width = (ctypes.byref(ctypes.c_int(size)) for size in rows.shape)
    one = ctypes.byref(ctypes.c_float(1.0))
    # BLAS reads matrices column by column, ours lie row by row: it sees Xᵀ (n, k) where X (k, n) lies, and the upper
    # triangle (U) where our lower one lies. So the call says: total ← 1 · Xᵀ (Xᵀ)ᵀ + 1 · total, nothing transposed (N).
    _SSYRK(b"U", b"N", width, tokens, one, rows.data_ptr(), width, one, total.data_ptr(), width)


def to_triangle(matrix: torch.Tensor) -> torch.Tensor:
    """The lower triangle of a (n, n) matrix, row after row, as a vector of n (n + 1) / 2: half of a symmetric matrix's file."""
    return torch.cat([matrix[row, : row + 1] for row in range(len(matrix))])


def from_triangle(triangle: torch.Tensor) -> torch.Tensor:
    """The symmetric (n, n) matrix whose lower triangle is the vector `triangle`."""
    return _symmetric(lower_from_triangle(triangle))


def lower_from_triangle(triangle: torch.Tensor) -> torch.Tensor:
    """The lower triangular (n, n) matrix whose rows follow one another in the vector `triangle` of n (n + 1) / 2."""
    width = (math.isqrt(8 * len(triangle) + 1) - 1) // 2  # solves n (n + 1) / 2 = length for n
    entries = triangle.numpy()
    matrix = np.zeros((width, width), dtype=entries.dtype)
    start = 0
    for row in range(width):
        matrix[row, : row + 1] = entries[start : start + row + 1]
        start += row + 1
    return torch.from_numpy(matrix)


def _symmetric(matrix: torch.Tensor) -> torch.Tensor:
    """Copy the lower triangle of a (n, n) matrix over its upper one, in place; band by band, so without a second matrix."""
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        stop = start + _ROWS_AT_ONCE
        band = slice(start, stop)
        square = matrix[band, band].tril()  # on the diagonal: half of it is right
        matrix[band, band] = square + square.tril(-1).T
        matrix[band, stop:] = matrix[stop:, band].T  # right of the diagonal: what lies below it
    return matrix

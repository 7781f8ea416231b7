"""Streaming second moments of a linear's inputs: what calibration keeps of the data."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import torch
from numba.extending import get_cython_function_address

_ROWS_AT_ONCE = 512
# Not by SciPy's own wrapper, which keeps every other thread of Python waiting: see `lorcbench.models.observe`.
_SSYRK = ctypes.CFUNCTYPE(None, *10 * [ctypes.c_void_p])(get_cython_function_address("scipy.linalg.cython_blas", "ssyrk"))


class SecondMoment:
    """E[xᵀx] over tokens x (1, n), accumulated batch by batch; any batching gives the same sum.

    GPTQ's Hessian is twice this matrix; the factor changes neither its codes nor its relative damping.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.sum = torch.zeros(width, width, dtype=torch.float32, device=device)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        """Add inputs (…, width): all but the last axis are tokens."""
        rows = x.reshape(-1, x.shape[-1])
        if not rows.is_cuda:
            _add_gram(rows.float().contiguous(), self.sum)
        elif rows.dtype != torch.float32:
            # Products of 16-bit numbers are exact in float32, so the tensor cores lose nothing that float32 would keep.
            self.sum += torch.mm(rows.T, rows, out_dtype=torch.float32)
        else:
            self.sum.addmm_(rows.T, rows)
        self.tokens += len(rows)

    def mean(self) -> torch.Tensor:
        """E[xᵀx] (width, width), float32.

        Raises:
            ValueError: no token was added.
        """
        if not self.tokens:
            raise ValueError("no calibration token reached this linear")
        mean = self.sum / self.tokens
        return mean if mean.is_cuda else _symmetric(mean)


def _add_gram(rows: torch.Tensor, total: torch.Tensor) -> None:
    """Add the lower triangle of XᵀX to that of `total` (n, n), for rows X (k, n): half the work of a product."""
    tokens, width = (ctypes.byref(ctypes.c_int(size)) for size in rows.shape)
    one = ctypes.byref(ctypes.c_float(1.0))
    # BLAS counts columns first: it sees Xᵀ (n, k), and the lower triangle as the upper one.
    _SSYRK(b"U", b"N", width, tokens, one, rows.data_ptr(), width, one, total.data_ptr(), width)


def to_triangle(matrix: torch.Tensor) -> torch.Tensor:
    """The lower triangle of a (n, n) matrix as a vector of n (n + 1) / 2: half the file of a symmetric matrix."""
    return torch.cat([matrix[row, : row + 1] for row in range(len(matrix))])


def from_triangle(triangle: torch.Tensor) -> torch.Tensor:
    """The symmetric (n, n) matrix whose lower triangle is the vector `triangle`."""
    return _symmetric(lower_from_triangle(triangle))


def lower_from_triangle(triangle: torch.Tensor) -> torch.Tensor:
    """The lower triangular (n, n) matrix whose rows are in the vector `triangle` of n (n + 1) / 2."""
    width = (math.isqrt(8 * len(triangle) + 1) - 1) // 2
    matrix = np.zeros((width, width), dtype=triangle.numpy().dtype)
    start = 0
    for row in range(width):
        matrix[row, : row + 1] = triangle.numpy()[start : start + row + 1]
        start += row + 1
    return torch.from_numpy(matrix)


def _symmetric(matrix: torch.Tensor) -> torch.Tensor:
    """Copies the lower triangle of a (n, n) matrix over its upper one, in place, a band of rows at a time."""
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        band = slice(start, start + _ROWS_AT_ONCE)
        square = matrix[band, band].tril()
        matrix[band, band] = square + square.tril(-1).T
        matrix[band, start + _ROWS_AT_ONCE :] = matrix[start + _ROWS_AT_ONCE :, band].T
    return matrix

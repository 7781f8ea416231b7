"""Streaming second moments of a linear's inputs: what calibration keeps of the data."""

from __future__ import annotations

import torch


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
        if rows.is_cuda and rows.dtype != torch.float32:
            # Products of 16-bit numbers are exact in float32, so the tensor cores lose nothing that float32 would keep.
            self.sum += torch.mm(rows.T, rows, out_dtype=torch.float32)
        else:
            self.sum.addmm_(rows.float().T, rows.float())
        self.tokens += len(rows)

    def mean(self) -> torch.Tensor:
        """E[xᵀx] (width, width), float32.

        Raises:
            ValueError: no token was added.
        """
        if not self.tokens:
            raise ValueError("no calibration token reached this linear")
        return self.sum / self.tokens


def to_triangle(matrix: torch.Tensor) -> torch.Tensor:
    """The lower triangle of a symmetric (n, n) matrix as a vector of n (n + 1) / 2: half the file."""
    return torch.cat([matrix[row, : row + 1] for row in range(len(matrix))])


def from_triangle(triangle: torch.Tensor, width: int) -> torch.Tensor:
    """The symmetric (n, n) matrix whose lower triangle is the vector `triangle`."""
    matrix = torch.zeros(width, width, dtype=triangle.dtype)
    for row, part in enumerate(triangle.split(list(range(1, width + 1)))):
        matrix[row, : row + 1] = part
    return matrix + matrix.tril(-1).T

"""Slow textbook versions, written from the published descriptions alone: what the fast code must equal.

Quantizers are scalar loops in IEEE float32 (numpy scalars), GPTQ is float64, packing goes through Python's integers.
Formats are read by attribute only; nothing here calls the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

F = np.float32


def find_params(values, fmt) -> tuple[np.float32, int]:
    """Scale (as stored) and zero point of one group of numbers.

    GPTQ's `quant.py` (minmax), DeepSpeed's `compression/utils.py` (pow2) and the symmetric divisor 2^(b-1) - 1
    (restricted). The rules for groups without a range and for scales too small for their type are this project's.
    """
    low, high = F(min(values)), F(max(values))
    if fmt.symmetric:
        largest = max(abs(low), abs(high))
        if fmt.convention == "minmax":
            scale = (largest - -largest) / F(2**fmt.bits - 1)
        elif fmt.convention == "pow2":
            scale = F(2) * largest / F(2**fmt.bits)
        else:
            scale = largest / F(2 ** (fmt.bits - 1) - 1)
        return _stored(F(1) if largest == 0 else scale, fmt), 2 ** (fmt.bits - 1)
    if fmt.convention == "minmax":
        low, high = min(low, F(0)), max(high, F(0))
        scale = (high - low) / F(2**fmt.bits - 1)
    else:
        scale = max((high - low) / F(2**fmt.bits), abs(low) * F(2.0**-23))
    if low == high:
        scale = F(1) if low == 0 else abs(low)
    scale = _stored(scale, fmt)
    return scale, -round(float(low / scale))


def shrunk(values, fmt) -> np.float32:
    """What the range of one group is multiplied by so that its squared error is least: of 1, 0.99, …, 0.21 the first best."""
    best, least = F(1), math.inf
    for i in range(80):
        p = F(1 - i / 100)
        scale, zero = find_params([p * F(min(values)), p * F(max(values))], fmt)
        error = sum((float(value) - (code_of(value, scale, zero, fmt) - zero) * float(scale)) ** 2 for value in values)
        if error < least:
            best, least = p, error
    return best


def _stored(scale, fmt) -> np.float32:
    if getattr(fmt, "scale_dtype", "float32") == "float32":
        return max(scale, F(2.0**-126))
    if scale < 2.0**-14:
        return F(max(1, math.ceil(float(scale) * 2**24)) / 2**24)
    return F(np.float16(scale))


def code_of(value, scale, zero: int, fmt) -> int:
    """The unsigned code of one number, in the precision of `value`."""
    middle = 2 ** (fmt.bits - 1)
    if fmt.convention == "restricted":
        return middle + min(max(round(float(value / scale)), 1 - middle), middle - 1)
    if fmt.convention == "pow2" and fmt.symmetric:
        return middle + min(max(round(float(value / scale)), -middle), middle - 1)
    if fmt.convention == "pow2":
        zero_point = F(-zero) * scale
        return min(max(round(float((value - zero_point) / scale)), 0), 2**fmt.bits - 1)
    return min(max(round(float(value / scale)) + zero, 0), 2**fmt.bits - 1)


def quantize(matrix, fmt, clip: str = "none") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales, zero points and decoded values of round-to-nearest."""
    matrix = np.asarray(matrix, dtype=F)
    rows, width = matrix.shape
    size = fmt.group or width
    codes, decoded = np.zeros((rows, width), np.uint8), np.zeros((rows, width), F)
    scales, zeros = np.zeros((rows, width // size), F), np.zeros((rows, width // size), np.int64)
    for row in range(rows):
        for group in range(width // size):
            values = matrix[row, group * size : (group + 1) * size]
            p = shrunk(values, fmt) if clip == "mse" else F(1)
            scale, zero = find_params([p * min(values), p * max(values)], fmt)
            scales[row, group], zeros[row, group] = scale, zero
            for column in range(group * size, (group + 1) * size):
                code = code_of(matrix[row, column], scale, zero, fmt)
                codes[row, column], decoded[row, column] = code, F(code - zero) * scale
    return codes, scales, zeros, decoded


def pack(codes, bits: int) -> np.ndarray:
    """Each row as one long integer, first code lowest, in whole groups of eight codes."""
    rows = []
    for row in np.asarray(codes):
        number = sum(int(code) << (bits * position) for position, code in enumerate(row))
        rows.append(list(number.to_bytes(math.ceil(len(row) / 8) * bits, "little")))
    return np.array(rows, dtype=np.uint8)


@dataclass
class Sweep:
    """What a GPTQ sweep found; `margin` is how far the number behind each code was from a rounding tie, in steps."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    margin: np.ndarray
    clip: str = "none"

    @classmethod
    def empty(cls, rows: int, width: int, size: int, clip: str = "none") -> Sweep:
        shape = (rows, width // size)
        return cls(np.zeros((rows, width), int), np.zeros(shape, F), np.zeros(shape, int), np.full((rows, width), 1.0), clip)

    def params(self, group: int, weights: np.ndarray, fmt) -> None:
        """Find the scales of one group from `weights` (rows, group)."""
        size = self.codes.shape[1] // self.scale.shape[1]
        for row, values in enumerate(weights):
            p = shrunk(values, fmt) if self.clip == "mse" else F(1)
            scale, self.zero[row, group] = find_params([p * F(values.min()), p * F(values.max())], fmt)
            self.scale[row, group] = scale
            if not fmt.symmetric:
                low = float(p) * (min(values.min(), 0.0) if fmt.convention == "minmax" else values.min())
                self.margin[row, group * size : (group + 1) * size] = _from_tie(low / float(scale))

    def column(self, j: int, weights: np.ndarray, group: int, fmt) -> np.ndarray:
        """Round column j, given as `weights` (rows,); returns the rounded values."""
        rounded = np.zeros(len(weights))
        for row, value in enumerate(weights):
            scale, zero = self.scale[row, group], int(self.zero[row, group])
            self.codes[row, j] = code_of(value, scale, zero, fmt)
            self.margin[row, j] = min(self.margin[row, j], _from_tie(value / float(scale)))
            rounded[row] = (self.codes[row, j] - zero) * float(scale)
        return rounded


def _from_tie(steps: float) -> float:
    return abs(steps - math.floor(steps) - 0.5)


def damped_hessian(hessian, damp: float) -> np.ndarray:
    """H + λI in float64, λ a fraction of the mean diagonal."""
    h = np.asarray(hessian, dtype=np.float64)
    return h + damp * np.diag(h).mean() * np.eye(len(h))


def gptq(weight, hessian, damp: float, fmt, static: bool = True, clip: str = "none") -> Sweep:
    """Unblocked float64 GPTQ as Optimal Brain Quantization in a fixed order.

    Column j is rounded, the error is spread by the inverse of the Hessian of the columns that remain, and that inverse
    loses column j by one step of Gaussian elimination (OBC, Frantar & Alistarh 2022, lemma 1). Scales come from the
    given weights (`static`), else from the corrected ones when the sweep reaches their group.
    """
    w, inverse = np.asarray(weight, dtype=np.float64).copy(), np.linalg.inv(damped_hessian(hessian, damp))
    rows, width = w.shape
    size = fmt.group or width
    sweep = Sweep.empty(rows, width, size, clip)
    for group in range(width // size if static else 0):
        sweep.params(group, w[:, group * size : (group + 1) * size], fmt)
    for j in range(width):
        if not static and j % size == 0:
            sweep.params(j // size, w[:, j : j + size], fmt)
        error = w[:, j] - sweep.column(j, w[:, j], j // size, fmt)
        w -= np.outer(error / inverse[j, j], inverse[j])
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return sweep


def published_hessian(sequences) -> np.ndarray:
    """2/n Σ XᵀX over n sequences X (tokens, in), in float64: sequences are counted, not tokens."""
    return 2 / len(sequences) * sum(np.asarray(x, dtype=np.float64).T @ np.asarray(x, dtype=np.float64) for x in sequences)


def gptq_published(
    weight, hessian, damp: float, fmt, block: int = 128, static: bool = False, act_order: bool = False, clip: str = "none"
) -> Sweep:
    """What the published `fasterquant` does, in float64 and step by step; inputs may be dead.

    1. A row's only scale is found on W as it came. 2. Where H's diagonal is 0 it becomes 1, and W's column 0. 3. Static groups
    are measured on that W. 4. `act_order` sorts columns by the diagonal, largest first. 5. λ is a share of the mean diagonal.
    6. Columns are swept in blocks; a group that is not static is measured when its first column comes, on W, which has the
    corrections of the blocks before, not on the block's copy, which has those of the block as well.
    """
    w, h = np.asarray(weight, dtype=np.float64).copy(), np.asarray(hessian, dtype=np.float64).copy()
    rows, width = w.shape
    size = fmt.group or width
    sweep = Sweep.empty(rows, width, size, clip)
    if fmt.group is None:
        sweep.params(0, w, fmt)
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    if fmt.group and static:
        for group in range(width // size):
            sweep.params(group, w[:, group * size : (group + 1) * size], fmt)
    order = np.argsort(-np.diag(h), kind="stable") if act_order else np.arange(width)
    w, upper = w[:, order], np.linalg.cholesky(np.linalg.inv(damped_hessian(h[order][:, order], damp))).T
    for first in range(0, width, block):
        last = min(first + block, width)
        copy, errors = w[:, first:last].copy(), np.zeros((rows, last - first))
        for j in range(first, last):
            column = order[j]
            if fmt.group and not static and column % size == 0:
                sweep.params(column // size, w[:, j : j + size], fmt)
            i = j - first
            errors[:, i] = (copy[:, i] - sweep.column(column, copy[:, i], column // size, fmt)) / upper[j, j]
            copy[:, i:] -= np.outer(errors[:, i], upper[j, j:last])
        w[:, last:] -= errors @ upper[first:last, last:]
    return sweep


def assert_follows(codes, sweep: Sweep, near: float = 1e-3) -> None:
    """Codes equal the reference's, except that a row may part from it at a rounding tie that float32 cannot decide."""
    codes = np.asarray(codes).astype(int)
    parted = [row for row in range(len(codes)) if (codes[row] != sweep.codes[row]).any()]
    for row in parted:
        first = int(np.argmax(codes[row] != sweep.codes[row]))
        assert sweep.margin[row, first] < near, (
            f"row {row} parts from the reference at column {first}: code {codes[row, first]}, not "
            f"{sweep.codes[row, first]}, {sweep.margin[row, first]:.4f} steps from a tie"
        )
    assert len(parted) <= 0.1 * len(codes), f"{len(parted)} of {len(codes)} rows part from the reference"


def low_rank(error, rank: int) -> np.ndarray:
    """The best rank-m matrix, one singular triple after another, in float64."""
    u, s, vh = np.linalg.svd(np.asarray(error, dtype=np.float64))
    total = np.zeros(np.shape(error))
    for i in range(rank):
        total += s[i] * np.outer(u[:, i], vh[i])
    return total


def smallest_error(error, rank: int) -> float:
    """Eckart-Young: the Frobenius norm that no rank-m approximation can go below."""
    s = np.linalg.svd(np.asarray(error, dtype=np.float64), compute_uv=False)
    return float(np.sqrt((s[rank:] ** 2).sum()))

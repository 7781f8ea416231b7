"""Functions that Numba compiles, and rows of a matrix that threads share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import torch


def compiled(function: Callable) -> Callable:
    """A function that Numba compiles when it is first called, and keeps on disk where there is a place for that."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the folder of the function's file nor a cache in the user's home can be written
        return numba.njit(nogil=True, error_model="numpy")(function)


def over_rows(work: Callable[[int, int], None], rows: int, tile: int = 1) -> None:
    """Call `work(start, stop)` so that all rows are covered, each once, in PyTorch's number of threads.

    Args:
        work: a compiled function, which lets other threads run.
        tile: rows that stay together.
    """
    rows_per_thread = tile * -(-rows // (tile * torch.get_num_threads()))  # whole tiles, rounded up
    parts = [(first, min(first + rows_per_thread, rows)) for first in range(0, rows, rows_per_thread)]
    if len(parts) == 1:
        work(*parts[0])
    elif parts:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(lambda part: work(*part), parts))

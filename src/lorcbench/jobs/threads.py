"""How many threads the kernels of a job use. Every stage runs under this, so its code is part of every stage's version."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def kernel_threads(count: int) -> AbstractContextManager:
    """While open, libraries that are loaded already use `count` threads; those that are loaded later read the environment.

    The number is fixed because sums change their last bits with it.
    """
    for variable in _VARIABLES:
        os.environ[variable] = str(count)
    return threadpool_limits(count, user_api="blas")

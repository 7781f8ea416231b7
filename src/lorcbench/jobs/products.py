"""How fast one core multiplies matrices, by number type and library: a program of its own, for `lorcbench.pipeline.machine`.

python -m lorcbench.jobs.products
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
from threadpoolctl import threadpool_limits

_TOKENS, _WIDTH, _FFN = 512, 768, 3072  # of the products that are timed: OPT-125m's feed-forward part
_REPEATS = 5


def rates() -> dict[str, float]:
    """Floating-point operations per second, as `lorcbench.pipeline.machine.Rates` has them.

    Every product runs on one thread, and its CPU time counts, so that other work on the machine changes little.
    """
    torch.set_num_threads(1)
    x, w = torch.randn(_TOKENS, _WIDTH), torch.randn(_WIDTH, _FFN)
    half = x.bfloat16(), w.bfloat16()
    with threadpool_limits(1):
        of_numpy = _rate(lambda: x.numpy() @ w.numpy())
    return {"float32": of_numpy, "float32_torch": _rate(lambda: x @ w), "bfloat16": _rate(lambda: half[0] @ half[1])}


def _rate(work: Callable[[], object]) -> float:
    """The fastest of several runs, behind one that is not counted."""
    work()
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.thread_time()
        work()
        best = min(best, time.thread_time() - started)
    return 2 * _TOKENS * _WIDTH * _FFN / best


if __name__ == "__main__":
    print(json.dumps(rates()))

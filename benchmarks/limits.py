"""What this machine can do at best: rates of the operations that quantization is made of, and the work of each benchmark.

    python benchmarks/limits.py [--threads 2]            (half a minute)

Rates are the best of several runs on sizes that the benchmarks use: a limit is what cannot be beaten, not what is usual. Work
is counted in multiplications and additions, each one operation, of the algorithm as we run it. A *limit* is the time that the
work takes at those rates if everything else were free.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from common import environment, machine, measure, parser, publish, report
from scipy.linalg import blas, lapack

Rates = dict[str, float]


def best(work, operations: float, repeats: int = 5) -> float:
    """Operations a second of the fastest of several runs."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return operations / min(seconds)


def measured() -> Rates:
    """Operations a second by kind, full-matrix equivalents nowhere: a symmetric update counts n·k², not 2·n·k²."""
    tokens, width, ffn = 2048, 768, 3072
    x, w = torch.randn(tokens, ffn), torch.randn(ffn, width)
    products = {"float32": (x, w), "bfloat16": (x.bfloat16(), w.bfloat16())}
    found = {
        f"product {name}": best(lambda pair=pair: pair[0] @ pair[1], 2 * tokens * ffn * width)
        for name, pair in products.items()
    }
    # PyTorch's library and NumPy's differ by up to a factor of two, by processor: a limit is the faster.
    numpy_rate = best(lambda: x.numpy() @ w.numpy(), 2 * tokens * ffn * width)
    found["product float32"] = max(found["product float32"], numpy_rate)
    total = torch.zeros(ffn, ffn)
    found["rank-k update float32"] = best(
        lambda: blas.ssyrk(1.0, x.numpy().T, beta=1.0, c=total.numpy().T, lower=0, overwrite_c=1), tokens * ffn**2
    )
    definite = x.T @ x / tokens + torch.eye(ffn)
    found["Cholesky float32"] = best(lambda: lapack.spotrf(definite.numpy().T, lower=0), ffn**3 / 3)
    large = torch.randn(1 << 27)
    target = torch.empty_like(large)
    found["copy bytes"] = best(lambda: target.copy_(large), 8 * large.numel(), 3)
    return found


def rates(bench: Path, threads: int) -> Rates:
    """`measured` in a fresh process."""
    found = measure(
        [sys.executable, __file__, "--threads", str(threads), "--bench", str(bench), "--measure"], environment(threads)
    )
    return {name: rate for name, rate in found.items() if name not in ("wall", "cpu", "rss")}


def sweep_operations(rows: int, width: int) -> float:
    """One pass over W (rows, width): products of what is done with R, and the updates inside blocks of 128 columns."""
    return rows * width * (width + 2 * 128)


def block_work(hidden: int, ffn: int, tokens: int, length: int, passes: int = 2) -> dict[str, float]:
    """Operations of GPTQ on one OPT block, by kind; of two passes, the observing one leaves out the last product."""
    weights, attention = 4 * hidden**2 + 2 * hidden * ffn, 4 * tokens * length * hidden
    forward = passes * (2 * tokens * weights + attention) - (2 * tokens * hidden * ffn if passes == 2 else 0)
    inputs, rows = (hidden, hidden, hidden, ffn), (3 * hidden, hidden, ffn, hidden)
    return {
        "forward": forward,
        "Hessians": sum(tokens * width**2 for width in inputs),
        "factors": sum(width**3 / 3 for width in inputs),
        "sweeps": sum(sweep_operations(*pair) for pair in zip(rows, inputs, strict=True)),
    }


def seconds(work: dict[str, float], machine_rates: Rates, forward: str = "float32") -> float:
    """The limit of `block_work` on this machine."""
    kinds = {"forward": f"product {forward}", "Hessians": "rank-k update float32", "factors": "Cholesky float32"}
    return sum(amount / machine_rates[kinds.get(name, "product float32")] for name, amount in work.items())


def describe(machine_rates: Rates) -> str:
    """The rates in one line."""
    parts = [f"{name} {rate / 1e9:.0f}" for name, rate in machine_rates.items() if name != "copy bytes"]
    return f"Rates in GFLOP/s: {', '.join(parts)}; copying {machine_rates['copy bytes'] / 1e9:.0f} GB/s (read and written)"


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--measure", action="store_true", help="measure in this process")
    given = arguments.parse_args()
    if given.measure:
        torch.set_num_threads(given.threads)
        report(measured())
        return
    found = rates(given.bench, given.threads)
    publish(given.bench, "limits", f"{machine(given.threads)}\n\n{describe(found)}", {"rates": found})


if __name__ == "__main__":
    main()

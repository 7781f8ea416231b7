"""The kernels that we do not take from PyTorch, each beside PyTorch's own call, at the shapes of OPT-125m.

    python benchmarks/cpu_kernels.py --threads 1            (half a minute)

Both sides run in one process, in turn; the table gives medians of CPU seconds, which with one thread other load of the machine
hardly moves. `lorcbench` uses the left column:

linear      `lorcbench.models.numpy_linears`: NumPy's product behind `torch.nn.functional.linear`
product     `lorcbench.core.linalg.product`: NumPy's product of two matrices
moment      `lorcbench.core.moments`: BLAS's symmetric update, which computes one triangle of XᵀX
Cholesky    `lorcbench.core.linalg`: SciPy's LAPACK
sweep       `lorcbench.core.gptq`: one column block by the compiled kernel; beside it, by plain tensor operations
finite      `lorcbench.models.checkpoint`: the extremes of a tensor are finite, so all of it is
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
from common import environment, machine, measure, parser, publish, report, timed
from torch.nn.functional import linear

from lorcbench.core.formats import WeightFormat
from lorcbench.core.gptq import Grid, _sweep_block_compiled, sweep_block_reference
from lorcbench.core.grids import grouped
from lorcbench.core.linalg import _cholesky, product
from lorcbench.core.moments import SecondMoment
from lorcbench.core.quantizer import scale_and_zero
from lorcbench.models.numpy_linears import NumPyLinears

TOKENS, HIDDEN, FFN = 2048, 768, 3072

Sides = tuple[Callable[[], object], Callable[[], object]]


def kernels() -> dict[str, Sides]:
    """By name: our call, and PyTorch's."""
    pairs: dict[str, Sides] = {}
    for width, rows in ((HIDDEN, HIDDEN), (HIDDEN, FFN), (FFN, HIDDEN)):
        x, weight, bias = torch.randn(TOKENS, width), torch.randn(rows, width), torch.randn(rows)

        def ours(x=x, weight=weight, bias=bias) -> torch.Tensor:
            with NumPyLinears():
                return linear(x, weight, bias)

        pairs[f"linear, {width} → {rows}"] = ours, lambda x=x, weight=weight, bias=bias: linear(x, weight, bias)
    done, upper = torch.randn(HIDDEN, FFN), torch.randn(FFN, 128)
    pairs[f"product, ({HIDDEN}, {FFN}) · ({FFN}, 128)"] = lambda: product(done, upper), lambda: done @ upper
    for width in (HIDDEN, FFN):
        x, moment, total = torch.randn(TOKENS, width), SecondMoment(width), torch.zeros(width, width)
        pairs[f"moment of {width} inputs"] = (
            lambda x=x, moment=moment: moment.add(x),
            lambda x=x, total=total: total.addmm_(x.T, x),
        )
        definite = x.T @ x / TOKENS + torch.eye(width)
        pairs[f"Cholesky of {width} inputs"] = (
            lambda definite=definite: _cholesky(definite.clone()),
            lambda definite=definite: torch.linalg.cholesky_ex(definite),
        )
    fmt = WeightFormat.parse("w4-asym-g128")
    weights, codes = torch.randn(FFN, 128), torch.empty(FFN, 128, dtype=torch.uint8)
    inverse = torch.eye(128) + 0.01 * torch.randn(128, 128).triu(1)
    grid = Grid(fmt, *scale_and_zero(grouped(weights, 128), fmt), torch.zeros(128, dtype=torch.int64))
    pairs[f"sweep of ({FFN}, 128), beside plain tensor operations"] = (
        lambda: _sweep_block_compiled(weights.clone(), inverse, grid, codes),
        lambda: sweep_block_reference(weights.clone(), inverse, grid, codes),
    )
    for dtype in (torch.float32, torch.float16):
        large = torch.randn(FFN, FFN).to(dtype)
        pairs[f"finite, ({FFN}, {FFN}) in {str(dtype).removeprefix('torch.')}"] = (
            lambda large=large: torch.stack(large.aminmax()).isfinite().all(),
            lambda large=large: large.isfinite().all(),
        )
    return pairs


@torch.no_grad()
def measured(repeats: int) -> dict[str, list[list[float]]]:
    """CPU seconds of both sides of each kernel, one pair per repeat; a first call of each is not counted."""
    seconds: dict[str, list[list[float]]] = {}
    for name, sides in kernels().items():
        for side in sides:
            side()
        seconds[name] = [[timed(side)["cpu_seconds"] for side in sides] for _ in range(repeats)]
    return seconds


def describe(seconds: dict[str, list[list[float]]]) -> str:
    """A Markdown table of medians in milliseconds, and the ratio with its range."""
    lines = ["| kernel | ours, ms | PyTorch's, ms | PyTorch's over ours |", "| --- | ---: | ---: | ---: |"]
    for name, pairs in seconds.items():
        ours, theirs = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = sorted(their / our for our, their in pairs)
        quartiles = f"{ratios[len(ratios) // 4]:.2f}–{ratios[3 * len(ratios) // 4]:.2f}"
        lines.append(f"| {name} | {ours:.2f} | {theirs:.2f} | **{theirs / ours:.2f}** ({quartiles}) |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.set_defaults(threads=1, repeats=41)
    arguments.add_argument("--measure", action="store_true", help="measure in this process")
    options = arguments.parse_args()
    if options.measure:
        torch.set_num_threads(options.threads)
        report({"seconds": measured(options.repeats)})
        return
    command = [sys.executable, __file__, "--measure", "--threads", str(options.threads), "--repeats", str(options.repeats)]
    seconds = measure(command, environment(options.threads))["seconds"]
    publish(options.bench, "cpu_kernels", f"{machine(options.threads)}\n\n{describe(seconds)}", {"seconds": seconds})


if __name__ == "__main__":
    main()

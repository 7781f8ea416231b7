"""How the cost of a cell grows with the model, with the calibration tokens and with the rank: exponents, and why.

    python benchmarks/growth.py            (about four minutes; with --repeats 1 ninety seconds)

CPU seconds of one decoder block on one thread: GPTQ of `w4-sym-g128`, propagated Hessians, and LoRC's factors of its errors,
medians of three. Along each axis the rest stays: OPT-125m's shape, 8,192 tokens, rank 32. An exponent is the slope of a line
through the logarithms. Beside it stands the exponent of the arithmetic alone, as `limits.py` counts it.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from pathlib import Path

from common import machine, parser, publish

from lorcbench.common.process import SLEEPING

os.environ |= SLEEPING  # before torch and NumPy are loaded

import checkpoints
import limits
import torch
from checkpoints import SHAPES, VOCABULARY
from threadpoolctl import threadpool_limits

from lorcbench.core import gptq
from lorcbench.core.formats import WeightFormat
from lorcbench.core.lorc import decompose
from lorcbench.core.quantizer import dequantize
from lorcbench.models import discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.observe import last_linear_skipped, observed
from lorcbench.models.surgery import install_weights

FORMAT, SETTINGS, LENGTH = WeightFormat.parse("w4-sym-g128"), gptq.GptqSettings(), 512
MODELS, TOKENS, RANKS = ("opt-125m", "opt-350m", "opt-1.3b"), (2048, 8192, 32768), (8, 32, 128)
PARTS = ("forward and Hessians", "factor", "sweep", "forward of the quantized block", "LoRC's factors")


def block_seconds(folder: Path, shape: str, tokens: int, rank: int) -> dict[str, float]:
    """CPU seconds of each part, for one block."""
    path = folder / shape
    checkpoints.write(path, (1, *SHAPES[shape][1:]), torch.float32)
    walk = BlockWalk(discovery.opened(path), torch.float32)
    windows = torch.randint(4, VOCABULARY, (tokens // LENGTH, LENGTH), generator=torch.Generator().manual_seed(0))
    hidden, seconds, started = walk.embed(windows), dict.fromkeys(PARTS, 0.0), time.process_time()

    def passed(part: str) -> None:
        nonlocal started
        now = time.process_time()
        seconds[part] += now - started
        started = now

    with walk.block(0) as block:
        started = time.process_time()
        with observed(block, walk.architecture) as moments, last_linear_skipped(block, walk.architecture):
            for _, states in walk.fetched(hidden):
                walk.forward(block, states)
        passed("forward and Hessians")
        for group in walk.architecture.linears:
            prepared = gptq.prepare(moments.pop(group[0]).mean(), SETTINGS)
            passed("factor")
            weights = [block.get_submodule(name).weight for name in group]
            solved = gptq.quantize_stacked(weights, prepared, FORMAT, SETTINGS)
            passed("sweep")
            errors = [weight - dequantize(matrix) for weight, matrix in zip(weights, solved, strict=True)]
            install_weights(block, {name: dequantize(matrix) for name, matrix in zip(group, solved, strict=True)})
            started = time.process_time()
            for error in errors:
                decompose(error, rank, exact=False)
            passed("LoRC's factors")
        walk.advance(block, hidden)
        passed("forward of the quantized block")
    return seconds


def exponent(sizes: list[float], values: list[float]) -> float:
    """The slope of the line through the logarithms, by least squares."""
    x, y = ([math.log(number) for number in numbers] for numbers in (sizes, values))
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def weights_of(shape: str) -> int:
    """Weights in the linears of a block."""
    hidden, ffn = SHAPES[shape][1:3]
    return 4 * hidden**2 + 2 * hidden * ffn


def main() -> None:
    """Measure along three axes, and print a table of each."""
    arguments = parser(__doc__)
    arguments.set_defaults(repeats=3, threads=1)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    axes = {
        "weights per block": {weights_of(shape): (shape, 8192, 32) for shape in MODELS},
        "calibration tokens": {tokens: ("opt-125m", tokens, 32) for tokens in TOKENS},
        "rank": {rank: ("opt-125m", 8192, rank) for rank in RANKS},
    }
    text, record = [machine(1)], {}
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1, user_api="blas"), torch.no_grad():
        block_seconds(Path(folder), "opt-125m", 2048, 8)  # what is compiled at the first call
        for axis, points in axes.items():
            found = [[block_seconds(Path(folder), *point) for _ in range(given.repeats)] for point in points.values()]
            record[axis] = dict(zip(map(str, points), found, strict=True))
            text += ["", f"| CPU seconds, by {axis} | {' | '.join(f'{size:,}' for size in points)} | exponent |"]
            text.append("| --- |" + " ---: |" * (len(points) + 1))
            medians = [{part: statistics.median(run[part] for run in runs) for part in PARTS} for runs in found]
            rows = {part: [of_point[part] for of_point in medians] for part in PARTS}
            rows["**all**"] = [sum(of_point.values()) for of_point in medians]
            for name, values in rows.items():
                slope = exponent(list(points), values)
                text.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} | {slope:.2f} |")
            works = [
                sum(limits.block_work(*SHAPES[shape][1:3], tokens, LENGTH).values()) for shape, tokens, _ in points.values()
            ]
            if works[0] != works[-1]:
                slope = exponent(list(points), works)
                text.append(
                    f"| GPTQ's arithmetic, TFLOP | {' | '.join(f'{work / 1e12:.2f}' for work in works)} | {slope:.2f} |"
                )
    publish(given.bench, "growth", "\n".join(text), record)


if __name__ == "__main__":
    main()

"""Corrections weighted with the inputs: what they cost beside plain LoRC, and how their factors are best stored.

    python benchmarks/corrections.py time                              (two minutes)
    python benchmarks/corrections.py storage RESULTS MODEL WEIGHT      (a minute)

time     all linears of a block of OPT-1.3b's shape, rank 32, E and R given: seconds of each kind, in turn, medians. E is the
         error of rounding random weights to 3 bits in groups of 128; R is of inputs with outliers, of fewer tokens than the
         widest input has numbers.
storage  over all linears of a model that was rounded to nearest, with its statistics, in the folder ``results`` of a finished
         study with a weighted correction: the output error ‖(E - BA) R^½‖ of rank 8, with INT8 factors over FP32 ones. INT8 has
         one scale per component: of the rows of A as we store them, and of the rows of A D with D = diag(R)^½ (in FP16), which
         gives inputs with large magnitudes finer steps.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

import torch
from common import machine, parser

from lorcbench.common.paths import Wildcards
from lorcbench.core import lorc
from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import dequantize, quantize
from lorcbench.jobs import sources
from lorcbench.jobs import statistics as inputs
from lorcbench.jobs.quantized import QuantizedModel
from lorcbench.jobs.shards import Shards
from lorcbench.study.stages import CALIBRATE

HIDDEN, FFN, RANK, TOKENS = 2048, 8192, 32, 4096
STORED_RANK = 8


def block() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """E (out, in) and R (in, in) of every linear."""
    generator = torch.Generator().manual_seed(0)
    metrics = {}
    for width in (HIDDEN, FFN):
        x = torch.randn(TOKENS, width, generator=generator) * torch.rand(width, generator=generator)
        x[:, :4] *= 30
        metrics[width] = x.T @ x / TOKENS
    problems = []
    for rows, width in [(HIDDEN, HIDDEN)] * 4 + [(FFN, HIDDEN), (HIDDEN, FFN)]:
        weight = torch.randn(rows, width, generator=generator) * 0.02
        problems.append((weight - dequantize(quantize(weight, WeightFormat(3, group=128))), metrics[width]))
    return problems


def timing(repeats: int) -> None:
    """Print the seconds of each kind for one block, and how many times as long as plain factors it takes."""
    problems = block()
    metric_of = {
        "plain": lambda metric: None,
        "diag-rms": lambda metric: metric.diagonal().contiguous(),
        "exact": lambda metric: metric,
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in metric_of}
    for _ in range(repeats):
        for kind, of in metric_of.items():
            start = time.perf_counter()
            for error, metric in problems:
                lorc.decompose(error, RANK, exact=False, metric=of(metric))
            seconds[kind].append(time.perf_counter() - start)
    plain = statistics.median(seconds["plain"])
    for kind, values in seconds.items():
        middle = statistics.median(values)
        print(f"{kind:10} {middle:6.2f} s ({min(values):.2f}–{max(values):.2f}), {middle / plain:.2f} times plain")


def storage(results: Path, model: str, weight: str, calibration: str) -> None:
    """Print what INT8 adds to the output error, by both ways of storing A."""
    names = Wildcards(model=model, method="rtn", calibration=calibration, weight=weight)
    os.chdir(results.parent)
    checkpoint = sources.checkpoint(names)
    quantized = QuantizedModel(names, WeightFormat.parse(weight))
    cached = Shards(CALIBRATE.folder(names) / "result.json", CALIBRATE.kind)
    ratios: dict[str, list[float]] = {"A": [], "A D": []}
    for index in range(checkpoint.depth):
        metric_of = inputs.from_cache(cached.block(index), "exact", "cpu")
        approximate = quantized.block(index)
        for group in checkpoint.architecture.linears:
            metric = metric_of(group[0])
            d = metric.diagonal().sqrt().half().float().clamp(min=2.0**-14)
            for name in group:
                error = checkpoint.linears(index)[name].float() - approximate[name]
                b, a = lorc.decompose(error, STORED_RANK, metric=metric)
                best = lorc.weighted_norm(error - b @ a, metric)
                for kind, scale in (("A", torch.ones_like(d)), ("A D", d)):
                    product = lorc.correction(lorc.store(b, a * scale, 8), STORED_RANK) / scale
                    ratios[kind].append(lorc.weighted_norm(error - product, metric) / best - 1)
    for kind, values in ratios.items():
        print(f"INT8 of {kind:3}: mean {100 * statistics.mean(values):+.3f} %, largest {100 * max(values):+.3f} %")


def main() -> None:
    """Measure what the command line names."""
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=("time", "storage"))
    arguments.add_argument("rest", nargs="*", help="RESULTS MODEL WEIGHT [CALIBRATION]")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    print(machine(given.threads))
    if given.what == "time":
        timing(given.repeats)
    elif len(given.rest) in (3, 4):
        results, model, weight, *calibration = given.rest
        storage(Path(results).resolve(), model, weight, *(calibration or ["stdlib"]))
    else:
        sys.exit("storage: expected RESULTS MODEL WEIGHT [CALIBRATION]")


if __name__ == "__main__":
    main()

"""Has a change doubled the work? Our code beside the plain code that it replaces: ratios that hold on a busy machine.

    python benchmarks/guard.py            (make bench-guard: about two minutes, on a busy machine too)

Each line is the CPU time of the plain way over ours: one thread, the two sides in turn, medians, with the middle half of
the ratios. Where a ratio is below its floor, the command says so and fails. A floor is about half of what was measured when
its line was written (on an Intel Xeon): a change that doubles our work is seen, and a change of 20 % is not. Those are for
`benchmarks/speed.py`, on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from common import machine

from lorcbench.common.process import SLEEPING

os.environ |= SLEEPING  # before torch and NumPy are loaded

import checkpoints
import torch
from problems import hessian
from threadpoolctl import threadpool_limits

from lorcbench.core import clip, gptq, quantizer
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.core.linalg import hessian_factor, truncated_svd, weighted_left_vectors
from lorcbench.core.moments import SecondMoment
from lorcbench.models import discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.perplexity import window_losses

ROWS, WIDTH = 768, 768  # OPT-125m's attention
SETTINGS, FORMAT = gptq.GptqSettings(), WeightFormat.parse("w4-asym-g128")
SHAPE = (4, 768, 3072, 12)  # of the model: four of OPT-125m's blocks


class Pair(NamedTuple):
    """Two ways to the same result.

    Attributes:
        ours, plain: each does the work once.
        floor: the least CPU time of the plain way over ours that is not a fault.
    """

    ours: Callable[[], object]
    plain: Callable[[], object]
    floor: float


def pairs(folder: Path) -> Iterator[tuple[str, Pair]]:
    """All that is watched, each made when its turn comes."""
    generator = torch.Generator().manual_seed(0)
    weight = checkpoints.matrix(generator, (ROWS, WIDTH))
    moments = hessian(generator, WIDTH)
    prepared = gptq.prepare(moments, SETTINGS)
    yield (
        "GPTQ's factor: cholesky, cholesky_inverse, cholesky",
        Pair(lambda: hessian_factor(moments, SETTINGS.damp), lambda: _three_steps(moments), 1.0),
    )

    def sweep() -> object:
        return gptq.quantize(weight, prepared, FORMAT, SETTINGS)

    yield (
        "GPTQ's sweep: column by column in tensors",
        Pair(sweep, lambda: _replacing(gptq, "_sweep_block_compiled", gptq.sweep_block_reference, sweep), 3.0),
    )
    inputs = torch.randn(2048, 3072, generator=generator)
    yield "second moment of 3,072 inputs: xᵀx", Pair(lambda: SecondMoment(3072).add(inputs), lambda: inputs.T @ inputs, 0.8)
    whole = checkpoints.matrix(generator, (ROWS, 2 * WIDTH))
    error = whole - quantizer.dequantize(quantizer.quantize(whole, FORMAT))
    yield (
        "LoRC's factors, rank 32: torch.linalg.svd",
        Pair(lambda: truncated_svd(error, 32, exact=False), lambda: torch.linalg.svd(error, full_matrices=False), 2.0),
    )
    metric = hessian(generator, 2 * WIDTH)
    yield (
        "weighted factors, rank 32: the root of R, then torch.linalg.svd",
        Pair(lambda: weighted_left_vectors(error, metric, 32, exact=False), lambda: _by_root(error, metric), 6.0),
    )
    fine = WeightFormat.parse("w3-asym-g64")

    def search() -> object:
        return quantizer.quantize(weight, fine, "mse")

    yield (
        "clip search: all candidates in tensors",
        Pair(search, lambda: _replacing(clip, "_search_compiled", clip.search_reference, search), 15.0),
    )
    stored = quantizer.to_stored(quantizer.quantize(weight, fine))
    yield (
        "unpacking a quantized matrix: quantizing it",
        Pair(
            lambda: quantizer.dequantize(quantizer.from_stored(stored, fine, WIDTH)),
            lambda: quantizer.quantize(weight, fine),
            0.35,
        ),
    )
    yield from _perplexity(folder)


def _three_steps(moments: torch.Tensor) -> torch.Tensor:
    damped = moments + SETTINGS.damp * moments.diagonal().mean() * torch.eye(len(moments))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def _replacing(module: ModuleType, compiled: str, plain: Callable, work: Callable[[], object]) -> object:
    """What `work` returns while plain tensor operations stand in the place of a compiled function."""
    kept = getattr(module, compiled)
    setattr(module, compiled, plain)
    try:
        return work()
    finally:
        setattr(module, compiled, kept)


def _by_root(error: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(metric)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return torch.linalg.svd(error @ root, full_matrices=False).U[:, :32]


def _perplexity(folder: Path) -> Iterator[tuple[str, Pair]]:
    """The walk over blocks beside transformers' own forward, which has all weights in memory."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    checkpoints.write(folder, SHAPE, torch.float32)
    checkpoint = discovery.opened(folder)
    windows = torch.randint(4, checkpoints.VOCABULARY, (8, 512), generator=torch.Generator().manual_seed(0))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def ours() -> object:
        walk = BlockWalk(checkpoint, torch.float32)
        return window_losses(walk, {"windows": windows}, lambda index: {}, ActivationFormat(16))

    @torch.no_grad()
    def plain() -> None:
        for batch in windows.split(4):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    yield "perplexity, four blocks: transformers' forward", Pair(ours, plain, 0.45)


def measured(pair: Pair, budget: float) -> tuple[float, float, list[float]]:
    """Median CPU seconds of both sides, and the ratios of all turns, within `budget` seconds; five turns at least."""
    sides = {"ours": pair.ours, "plain": pair.plain}
    for work in sides.values():
        work()  # what is compiled or loaded at the first call
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    started = time.perf_counter()
    while len(seconds["plain"]) < 5 or (time.perf_counter() - started < budget and len(seconds["plain"]) < 41):
        for side, work in sides.items():
            before = time.process_time()
            work()
            seconds[side].append(time.process_time() - before)
    ratios = [plain / ours for ours, plain in zip(seconds["ours"], seconds["plain"], strict=True)]
    return statistics.median(seconds["ours"]), statistics.median(seconds["plain"]), sorted(ratios)


def main() -> None:
    """Measure all pairs; fail if one is below its floor."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--budget", type=float, default=8.0, help="seconds per line, if five turns take no longer (default: 8)")
    budget = given.parse_args().budget
    torch.set_num_threads(1)
    print(machine(1), "", "| the plain way | ours, ms | plain, ms | ratio (middle half) | floor |", sep="\n")
    print("| --- | ---: | ---: | ---: | ---: |")
    slow = []
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1, user_api="blas"):
        for name, pair in pairs(Path(folder) / "opt"):
            ours, plain, ratios = measured(pair, budget)
            ratio, quarter = statistics.median(ratios), len(ratios) // 4
            spread = f"{ratio:.2f} ({ratios[quarter]:.2f}–{ratios[-1 - quarter]:.2f})"
            print(f"| {name} | {1e3 * ours:.1f} | {1e3 * plain:.1f} | {spread} | {pair.floor} |", flush=True)
            if ratio < pair.floor:
                slow.append(f"{name}: {ratio:.2f}, expected at least {pair.floor}")
    if slow:
        sys.exit("our code has become slower beside:\n" + "\n".join(slow))


if __name__ == "__main__":
    main()

"""What the search for clipped scales costs: one decoder block of OPT-125m's shape, with `clip=mse` and without.

    python benchmarks/clip.py --threads 1            (a minute)

Both run in one process, in turn; the table gives medians of CPU seconds over the repeats, and the ratio of each pair with its
middle half. Weights are random numbers; 16 × 512 tokens.

rtn      rounding all six linears
solve    GPTQ: factoring four Hessians, and the sweeps
block    GPTQ: the same, and second moments of four inputs, and the linears of two forward passes (attention is left out)
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
from common import environment, machine, measure, parser, publish, report, timed
from torch.nn.functional import linear

from lorcbench.core import quantizer
from lorcbench.core.formats import WeightFormat
from lorcbench.core.gptq import GptqSettings, prepare, quantize_stacked
from lorcbench.core.moments import SecondMoment

TOKENS, SEQUENCE = 16 * 512, 512
# By input: its width, and the rows of the linears that share it.
INPUTS = [(768, [768, 768, 768]), (768, [768]), (768, [3072]), (3072, [768])]
FORMATS = ["w4-asym-g128", "w3-asym-g32", "w4-asym-row", "w4-sym-g128"]


def works(inputs: list[tuple[torch.Tensor, list[torch.Tensor]]]) -> dict[str, Callable[[WeightFormat, str], None]]:
    """By name: what is timed, given a format and a `clip`."""
    moments = [moment_of(x) for x, _ in inputs]

    def rtn(fmt: WeightFormat, clip: str) -> None:
        for _, weights in inputs:
            for weight in weights:
                quantizer.quantize(weight, fmt, clip)

    def solve(fmt: WeightFormat, clip: str, moments: list[torch.Tensor] = moments) -> None:
        settings = GptqSettings(clip=clip)
        for moment, (_, weights) in zip(moments, inputs, strict=True):
            quantize_stacked(weights, prepare(moment.clone(), settings), fmt, settings)

    def block(fmt: WeightFormat, clip: str) -> None:
        solve(fmt, clip, [moment_of(x) for x, _ in inputs])
        for _ in range(2):
            for x, weights in inputs:
                for states in x.split(SEQUENCE):
                    for weight in weights:
                        linear(states, weight)

    return {"rtn": rtn, "solve": solve, "block": block}


def moment_of(x: torch.Tensor) -> torch.Tensor:
    """E[xᵀx] of x (tokens, in)."""
    moment = SecondMoment(x.shape[1])
    for states in x.split(4 * SEQUENCE):
        moment.add(states)
    return moment.mean()


@torch.no_grad()
def measured(formats: list[str], repeats: int) -> dict[str, list[list[float]]]:
    """By work and format: CPU seconds without and with the search, one pair per repeat; a first call of each is not counted."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for width, rows in INPUTS:
        mixing = torch.randn(width, width, generator=generator) / width**0.5 + torch.eye(width)
        x = torch.randn(TOKENS, width, generator=generator) @ mixing
        inputs.append((x, [0.02 * torch.randn(count, width, generator=generator) for count in rows]))
    seconds: dict[str, list[list[float]]] = {}
    for name, work in works(inputs).items():
        for fmt in map(WeightFormat.parse, formats):
            sides = [partial(work, fmt, clip) for clip in ("none", "mse")]
            for side in sides:
                side()
            seconds[f"{name}, {fmt}"] = [[timed(side)["cpu_seconds"] for side in sides] for _ in range(repeats)]
    return seconds


def describe(seconds: dict[str, list[list[float]]]) -> str:
    """A Markdown table of medians in milliseconds, and the ratio with its middle half."""
    lines = ["| | `clip=none`, ms | `clip=mse`, ms | ratio |", "| --- | ---: | ---: | ---: |"]
    for name, pairs in seconds.items():
        without, clipped = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = sorted(after / before for before, after in pairs)
        quartiles = f"{ratios[len(ratios) // 4]:.2f}–{ratios[3 * len(ratios) // 4]:.2f}"
        lines.append(f"| {name} | {without:.0f} | {clipped:.0f} | **{statistics.median(ratios):.2f}** ({quartiles}) |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.set_defaults(threads=1, repeats=9)
    arguments.add_argument("--formats", nargs="+", default=FORMATS)
    arguments.add_argument("--measure", action="store_true", help="measure in this process")
    options = arguments.parse_args()
    if options.measure:
        torch.set_num_threads(options.threads)
        report({"seconds": measured(options.formats, options.repeats)})
        return
    numbers = ["--threads", str(options.threads), "--repeats", str(options.repeats), "--formats", *options.formats]
    seconds = measure([sys.executable, __file__, "--measure", *numbers], environment(options.threads))["seconds"]
    publish(options.bench, "clip", f"{machine(options.threads)}\n\n{describe(seconds)}", {"seconds": seconds})


if __name__ == "__main__":
    main()

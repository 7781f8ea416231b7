"""One side of a kernel benchmark, in a process of its own: `speed.py solve` and `speed.py svd` run it.

    python benchmarks/problems.py solve reference --gptq CHECKOUT
    python benchmarks/problems.py solve ours
    python benchmarks/problems.py svd exact
    python benchmarks/problems.py svd ours

The problems are all linears of one decoder block in OPT-1.3b's shape (2048, ffn 8192), W4 groups of 128, symmetric, float32,
made once and kept under ``.bench/problems``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import torch
from checkpoints import matrix
from common import BENCH, report, timed
from safetensors.torch import load_file, save_file

from lorcbench.core import gptq, linalg
from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import dequantize, quantize

HIDDEN, FFN, RANK = 2048, 8192, 32
FORMAT = WeightFormat.parse("w4-sym-g128-fp32scale")
SETTINGS = gptq.GptqSettings()
GROUPS = {"qkv": ("q", "k", "v"), "out": ("out",), "fc1": ("fc1",), "fc2": ("fc2",)}
SIZES = {**dict.fromkeys(("q", "k", "v", "out", "fc2"), HIDDEN), "fc1": FFN}


def hessian(generator: torch.Generator, width: int) -> torch.Tensor:
    """E[xᵀx] (width, width) of correlated inputs, with a spectrum that falls as 1/k."""
    x = torch.randn(width, width, generator=generator) * torch.arange(1, width + 1).float().rsqrt()
    x = x @ torch.randn(width, width, generator=generator) / width**0.5
    return x.T @ x / width


def problems(bench: Path, scale: int) -> dict[str, torch.Tensor]:
    """Weights by linear and Hessians ``H.GROUP`` by input; as `hessian` makes them.

    Args:
        scale: divides the shape; 1 is OPT-1.3b's.
    """
    file = bench / "problems" / f"block-{scale}.safetensors"
    if not file.exists():
        generator = torch.Generator().manual_seed(0)
        made = {}
        for group, names in GROUPS.items():
            width = (FFN if group == "fc2" else HIDDEN) // scale
            made[f"H.{group}"] = hessian(generator, width)
            for name in names:
                made[name] = matrix(generator, (SIZES[name] // scale, width), heavy_tails=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(made, file)
    return load_file(file)


def errors(bench: Path, scale: int, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What quantization leaves: rounding normal weights (a flat spectrum), and GPTQ of heavy-tailed weights at 4 and 3 bits."""
    file = bench / "problems" / f"errors-{scale}.safetensors"
    if not file.exists():
        made, generator = {}, torch.Generator().manual_seed(0)
        for group, names in GROUPS.items():
            prepared = gptq.prepare(given[f"H.{group}"], SETTINGS)
            for name in names:
                weight = matrix(generator, given[name].shape)
                made[f"normal-rtn4.{name}"] = weight - dequantize(quantize(weight, FORMAT))
                for bits in (4, 3):
                    fmt = WeightFormat(bits, group=128 // scale)
                    found = dequantize(gptq.quantize(given[name], prepared, fmt, SETTINGS))
                    made[f"heavy-gptq{bits}.{name}"] = given[name] - found
        save_file(made, file)
    return load_file(file)


def solve_ours(given: dict[str, torch.Tensor]) -> tuple[dict, dict[str, torch.Tensor]]:
    """Factor each Hessian once, sweep the linears that share it together."""
    found: dict[str, torch.Tensor] = {}
    small = gptq.prepare(torch.eye(128), SETTINGS)
    gptq.quantize(torch.eye(128), small, FORMAT, SETTINGS)  # loads the compiled sweep

    def work() -> None:
        for group, names in GROUPS.items():
            prepared = gptq.prepare(given[f"H.{group}"], SETTINGS)
            matrices = gptq.quantize_stacked([given[name] for name in names], prepared, FORMAT, SETTINGS)
            found.update({name: dequantize(made) for name, made in zip(names, matrices, strict=True)})

    return timed(work), found


def solve_reference(given: dict[str, torch.Tensor], checkout: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """The public code, linear by linear, as its `opt.py` does."""
    sys.path.insert(0, str(checkout))
    torch.cuda.synchronize = lambda *_: None
    code, quant = importlib.import_module("gptq"), importlib.import_module("quant")
    tasks = {}
    for group, names in GROUPS.items():
        for name in names:
            linear = torch.nn.Linear(given[name].shape[1], given[name].shape[0], bias=False).requires_grad_(False)
            linear.weight.data = given[name].clone()
            tasks[name] = code.GPTQ(linear)
            tasks[name].H = given[f"H.{group}"].clone()
            tasks[name].quantizer = quant.Quantizer()
            tasks[name].quantizer.configure(FORMAT.bits, perchannel=True, sym=FORMAT.symmetric, mse=False)

    def work() -> None:
        for task in tasks.values():
            task.fasterquant(percdamp=SETTINGS.damp, groupsize=FORMAT.group, blocksize=SETTINGS.block)

    with torch.no_grad():
        return timed(work), {name: task.layer.weight.data for name, task in tasks.items()}


def svd(given: dict[str, torch.Tensor], exact: bool) -> tuple[dict, dict[str, torch.Tensor]]:
    """B·A of rank `RANK` of every error matrix; seconds are summed over the linears of each kind of error."""
    measured, found = {}, {}
    for kind in sorted({name.partition(".")[0] for name in given}):
        triples = {}

        def work(kind: str = kind, triples: dict = triples) -> None:
            for name, error in given.items():
                if name.startswith(kind + "."):
                    if exact:
                        u, s, vh = torch.linalg.svd(error, full_matrices=False)
                        triples[name] = u[:, :RANK], s[:RANK], vh[:RANK]
                    else:
                        triples[name] = linalg.truncated_svd(error, RANK, exact=False)

        measured |= {f"{key}.{kind}": value for key, value in timed(work).items()}
        found |= {name: (u * s) @ vh for name, (u, s, vh) in triples.items()}
    return measured, found


def main() -> None:
    """Make the problems if need be, solve them, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("solve", "svd"))
    parser.add_argument("side", choices=("ours", "reference", "exact", "problems"))
    parser.add_argument("--bench", type=Path, default=BENCH)
    parser.add_argument("--gptq", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=int, default=1, help="divides the shape, for a quick try")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tensors = problems(given.bench, given.scale)
    if given.what == "svd":
        tensors = errors(given.bench, given.scale, tensors)
    if given.side == "problems":
        return
    if given.what == "svd":
        measured, found = svd(tensors, given.side == "exact")
        kinds = sorted({name.partition(".")[0] for name in tensors})
        for kind in kinds:  # of E, what the approximation removes
            of_kind = [name for name in tensors if name.startswith(kind + ".")]
            removed = sum(
                float(tensors[name].square().sum() - (tensors[name] - found[name]).square().sum()) for name in of_kind
            )
            measured[f"removed.{kind}"] = removed / sum(float(tensors[name].square().sum()) for name in of_kind)
    elif given.side == "ours":
        measured, found = solve_ours(tensors)
    else:
        measured, found = solve_reference(tensors, given.gptq)
    if given.out:
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, given.out)
    report(measured)


if __name__ == "__main__":
    main()

"""How far results move when sums are taken in another order: cells of a finished study again, with other threads or kernels.

    python benchmarks/threads.py --results DEMO/results                                (ten minutes on two quiet cores)
    python benchmarks/threads.py --results DEMO/results --threads 1 --kernels avx2

For each model of the study, for RTN and GPTQ in each weight format, at A16: the share of codes that are others in the first
block and in all, and the perplexity (the mean over the corpora) before and after. The study's own results are not touched. Its
checkpoints, tokens and calibration are read.
"""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

import torch
from common import machine

from lorcbench.common.artifacts import read_json
from lorcbench.common.paths import CACHE, Wildcards
from lorcbench.common.process import SLEEPING
from lorcbench.config.compose import RUNTIME_VARIABLE
from lorcbench.core.formats import WeightFormat
from lorcbench.jobs.job import Job
from lorcbench.jobs.quantized import stored_matrix
from lorcbench.jobs.shards import Shards
from lorcbench.jobs.threads import kernel_threads
from lorcbench.stages import evaluate, quantize
from lorcbench.study.stages import EVALUATE, QUANTIZE

METHODS = ("rtn", "gptq")
_READ = ("checkpoint", "text", "tokens", "calibration")  # parts of the cache
# What PyTorch, oneDNN, MKL and OpenBLAS are told, so that they choose the kernels of another processor.
_KERNELS = {
    "native": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
}


def cells(results: Path) -> list[Wildcards]:
    """The names of the evaluations of RTN and GPTQ at A16 that a study has left."""
    found = []
    for folder in sorted((results / "cache" / "evaluate").glob("*/*/*/*/a16/a16/*")):
        model, method, calibration, weight, _, _, protocol = folder.parts[-7:]
        if method in METHODS:
            found.append(Wildcards(model=model, method=method, calibration=calibration, weight=weight, protocol=protocol))
    return found


def codes(folder: Path, names: Wildcards) -> list[torch.Tensor]:
    """All codes of each block."""
    shards = Shards(folder / QUANTIZE.folder(names).relative_to("results") / "result.json", QUANTIZE.kind)
    fmt, widths = WeightFormat.parse(names.weight), shards.result["widths"]
    blocks = (shards.block(index) for index in range(shards.depth))
    return [
        torch.cat([stored_matrix(block, linear, fmt, width).codes.flatten() for linear, width in widths.items()])
        for block in blocks
    ]


def perplexity(folder: Path, names: Wildcards) -> float:
    """The mean over the corpora, without LoRC."""
    evaluation = read_json(folder / EVALUATE.folder(names).relative_to("results") / "result.json", EVALUATE.kind)
    losses = evaluation["variants"]["r0"]["nll"].values()
    return float(torch.stack([torch.tensor(nll, dtype=torch.float64).mean().exp() for nll in losses]).mean())


def again(names: Wildcards) -> None:
    """Quantize and evaluate one cell, in this folder and this process."""
    given = [f"{key}={getattr(names, key)}" for key in ("model", "method", "calibration", "weight")]
    quantize.main(Job("quantize", given))
    evaluate.main(Job("evaluate", [given[0], f"eval={names.protocol}", "variants=[r0]"]))  # what the cell is compared with
    evaluate.main(Job("evaluate", [*given, f"eval={names.protocol}", "variants=[r0]"]))


def compare(results: Path, names: Wildcards) -> str:
    """Compute one cell anew, and say in a row of the table what moved."""
    again(names)
    pairs = list(zip(codes(results, names), codes(Path("results"), names), strict=True))
    moved = [float((before != after).float().mean()) for before, after in pairs]
    before, after = perplexity(results, names), perplexity(Path("results"), names)
    changes = [f"{100 * moved[0]:.3f} %", f"{100 * sum(moved) / len(moved):.2f} %"]
    values = [f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}", f"{after / before - 1:+.0e}"]
    return "| " + " | ".join([names.model, names.method, names.weight, *changes, *values]) + " |"


def arguments() -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="of a finished study with one thread")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kernels", choices=_KERNELS, default="native")
    parser.add_argument("--models", nargs="+", help="default: all of the study")
    parser.add_argument("--formats", nargs="+", default=["w4-asym-g32", "w3-asym-row", "w2-asym-row", "w2-asym-g32"])
    return parser.parse_args()


def main() -> None:
    """Print the table, row by row."""
    given = arguments()
    environment = _KERNELS[given.kernels] | SLEEPING
    if not environment.items() <= os.environ.items():  # libraries read them when they are loaded: start anew
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | environment)
    results = given.results.resolve()
    todo = [names for names in cells(results) if names.weight in given.formats]
    todo = [names for names in todo if names.model in (given.models or [names.model])]
    if not todo:
        sys.exit(f"--results={given.results}: no such evaluation of RTN or GPTQ there; expected those of a finished study")
    print(f"{machine(given.threads)}; kernels: {given.kernels}", "", sep="\n")
    print("| model | method | format | codes, block 0 | codes, all | perplexity | again | difference | share |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    os.environ[RUNTIME_VARIABLE] = f"runtime.threads={given.threads}"
    with tempfile.TemporaryDirectory() as folder, kernel_threads(given.threads):
        os.chdir(folder)
        Path(CACHE).mkdir(parents=True)
        for part in _READ:
            if (results / "cache" / part).is_dir():
                (Path(CACHE) / part).symlink_to(results / "cache" / part)
        for names in todo:
            print(compare(results, names), flush=True)
        os.chdir("/")


if __name__ == "__main__":
    main()

"""Does everything hold on a GPU, and how near is it to what the card can do? For a machine that is at hand for minutes.

    python benchmarks/gpu_check.py FOLDER [--parts a,b,c,d,e,f,g] [--gptq CHECKOUT] [--prepared FOLDER]
    python benchmarks/gpu_check.py FOLDER --device cpu --tiny --gptq CHECKOUT        a dry run, under a minute

a  the Triton sweep, the factor, second moments and LoRC's spaces beside plain code and beside the CPU
b  every stage of a study of stand-ins on both devices; GPTQ block by block; how far whole models drift
c  OPT-6.7b's shape, random weights: GPTQ, LoRC and perplexity, each with its share of the arithmetic limit, and peak memory
d  the public GPTQ code on the first two blocks of that model (CHECKOUT: of github.com/IST-DASLab/gptq)
e  lm-eval over staged documents on both devices
f  corrections that know the inputs, and codes made for them: both devices, and the seconds of OPT-6.7b's linears
g  the same shape: cached Hessians, distillation, four ranks in one walk, hidden states on the host

Every result is a line of FOLDER/results.jsonl as soon as it is known; a table is printed at the end. Neither network nor our
environment is needed: src on PYTHONPATH, and hydra-core, lm-eval and datasets beside torch, transformers, scipy and numba.
Part b also leaves the seconds of every stage in FOLDER/stages.jsonl.
Stand-ins are trained first (two minutes) unless --prepared names a folder in which an earlier run left them.
"""

from __future__ import annotations

import argparse
import os
import time
import traceback
from pathlib import Path

from lorcbench.common.process import SLEEPING

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **SLEEPING}  # before torch and NumPy are loaded

import torch
from gpu.record import Record, Settings, describe
from threadpoolctl import threadpool_limits

_THREADS = 4  # of the CPU


def main() -> None:
    """Run the parts asked for, one after another; one that fails is a result, and the next one runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", default="a,b,c,d,e,f,g")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="shapes of a dry run")
    parser.add_argument("--gptq", type=Path, help="a checkout of the public GPTQ code, for part d")
    parser.add_argument("--prepared", type=Path, help="a folder with stand-ins, for parts b and e; made if there are none")
    parser.add_argument("--layers", type=int, default=32, help="blocks of the large model (default: 32)")
    parser.add_argument("--batch-tokens", type=int, default=16384)
    given = parser.parse_args()
    folder = given.folder.resolve()
    layers = 2 if given.tiny else given.layers
    settings = Settings(given.device, given.tiny, folder, given.gptq and given.gptq.resolve(), layers, given.batch_tokens)
    base = (given.prepared or folder / "base").resolve()
    record = Record(folder)
    describe(record, settings)
    for part in given.parts.split(","):
        start = time.perf_counter()
        try:
            with threadpool_limits(_THREADS, user_api="blas"):
                torch.set_num_threads(_THREADS)
                _run(part, record, settings, base)
        except Exception as error:
            traceback.print_exc()
            record.add(part, "FAILED", f"{type(error).__name__}: {error}")
        record.add(part, "all of this part", time.perf_counter() - start, "s", "≤ 75")
        if settings.device == "cuda":
            torch.cuda.empty_cache()
    (folder / "table.md").write_text(record.table() + "\n", encoding="utf-8")
    print(record.table())


def _run(part: str, record: Record, settings: Settings, base: Path) -> None:
    if part in "be":
        from gpu import stages

        (stages.run if part == "b" else stages.harness)(record, settings, base)
    elif part in "acdfg":
        from gpu import corrections, kernels, large, public, variants

        {"a": kernels, "c": large, "d": public, "f": corrections, "g": variants}[part].run(record, settings)
    else:
        raise ValueError(f"no part {part!r}; there are a, b, c, d, e, f, g")


if __name__ == "__main__":
    main()

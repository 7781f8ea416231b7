"""How near the perplexity of a quantized model comes to the rate at which this machine multiplies.

    python benchmarks/perplexity.py              OPT-125m's shape, 64 × 512 tokens     (about 6 minutes a repeat)
    python benchmarks/perplexity.py --shape opt-1.3b --layers 2 --only float32         (about 3 minutes a repeat)

Beside our stage ``evaluate`` (rank 0; ranks 0, 4, 8 and 16; without the comparison with full precision) runs transformers' own
forward of the same checkpoint on the same windows. Imports are left out on both sides, and transformers' reading of the model
too; ours reads and unpacks the weights block by block, which is counted. The *limit* is the time of the products alone, at the
machine's best rate of the type.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import checkpoints
import limits
import torch
from checkpoints import SHAPES, VOCABULARY, folder, prepared, stage, write_conf
from common import Sample, environment, interleaved, machine, measure, median, parser, publish, removed, report, table, timed

from lorcbench.study.stages import TOKENS

WINDOWS, LENGTH = 64, 512
CELL = ["method=rtn", "calibration=none", "weight=w4-sym-g128"]
COLUMNS = {"seconds": "seconds", "cpu_seconds": "CPU seconds", "rss": "peak memory, GiB"}
RANKS = "[r0,plain-int8/r4,plain-int8/r8,plain-int8/r16]"


def operations(layers: int, hidden: int, ffn: int) -> float:
    """Multiplications and additions of the products of a forward pass over all windows, the head's too."""
    tokens = WINDOWS * LENGTH
    block = 2 * tokens * (4 * hidden**2 + 2 * hidden * ffn) + 4 * tokens * LENGTH * hidden
    return layers * block + 2 * tokens * hidden * VOCABULARY


def protocol(work: Path) -> None:
    """A protocol of 64 windows of 512 tokens, in either type."""
    for name, dtype in (("scored", "float32"), ("scored-bf16", "bfloat16")):
        lines = ["defaults: [/schema/eval@_here_: eval, _self_]", f"corpora: {{random: {{text: bench, windows: {WINDOWS}}}}}"]
        lines += [f"window: {LENGTH}", f"dtype: {dtype}", "divergence: false"]
        (work / f"conf/eval/{name}.yaml").write_text("\n".join(lines) + "\n")


def ours(given, work: Path, named: list[str], protocol_name: str, variants: str) -> Sample:
    """One evaluation from nothing."""
    removed(work / "results/cache/evaluate" / given.model)
    return stage(work, given.threads, "evaluate", *named, *CELL, f"eval={protocol_name}", f"variants={variants}", timed=True)


def theirs(given, model: Path, tokens: Path, dtype: str) -> Sample:
    """transformers' forward, in a process of its own."""
    line = [sys.executable, __file__, "--measure", dtype, "--model", str(model), "--tokens", str(tokens)]
    return measure([*line, "--threads", str(given.threads)], environment(given.threads))


def forward(given) -> None:
    """The mean loss of each window, by transformers; four windows in a batch, as ours has them."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(given.threads)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.measure)).eval()
    (windows,) = load_file(given.tokens).values()

    @torch.no_grad()
    def score() -> None:
        for batch in windows.long().split(4):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    report(timed(score))


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--shape", choices=SHAPES, default="opt-125m")
    arguments.add_argument("--layers", type=int, help="blocks, fewer for a quick try")
    arguments.add_argument("--only", default="", help="runs with this in their name, such as bfloat16")
    arguments.add_argument("--measure", help="measure transformers in this process, in this type")
    arguments.add_argument("--model", type=Path)
    arguments.add_argument("--tokens", type=Path)
    given = arguments.parse_args()
    if given.measure:
        forward(given)
        return
    work, shape = given.bench / "perplexity", SHAPES[given.shape]
    given.layers = given.layers or shape[0]
    path = given.bench / "checkpoints" / f"{given.shape}-{given.layers}"
    checkpoints.write(path, (given.layers, *shape[1:]), torch.float32)
    checkpoints.write_tokenizer(path)
    write_conf(work, (16, LENGTH), LENGTH)
    protocol(work)
    given.model, named = path.name, folder(path.name, path)
    prepared(work, given.threads, named, "bench", "eval=scored", "eval=scored-bf16")
    stage(work, given.threads, "quantize", *named, *CELL)
    removed(work / "results/cache/lorc" / path.name)
    factors = stage(work, given.threads, "lorc", *named, *CELL, "lorc=plain-int8", "cap=32", timed=True)
    tokens = work / TOKENS.pattern.format(model=path.name, protocol="scored") / "tokens.safetensors"
    runs = {
        "ours, float32": partial(ours, given, work, named, "scored", "[r0]"),
        "transformers, float32": partial(theirs, given, path, tokens, "float32"),
        "ours, bfloat16": partial(ours, given, work, named, "scored-bf16", "[r0]"),
        "transformers, bfloat16": partial(theirs, given, path, tokens, "bfloat16"),
        "ours, float32, four ranks": partial(ours, given, work, named, "scored", RANKS),
        "ours, bfloat16, four ranks": partial(ours, given, work, named, "scored-bf16", RANKS),
    }
    runs = {name: run for name, run in runs.items() if given.only in name}
    header, found = machine(given.threads), limits.rates(given.bench, given.threads)
    samples = interleaved(runs, given.repeats)
    amount = operations(given.layers, *shape[1:3])
    lines = [header, "", f"{path.name}, {WINDOWS} × {LENGTH} tokens, {given.repeats} repeats.", "", table(samples, COLUMNS), ""]
    lines += [limits.describe(found), ""]
    lines.append(f"- LoRC's factors up to rank 32, before all this: {factors['seconds']:.1f} s, {factors['rss']:.2f} GiB")
    for name, taken in samples.items():
        dtype, walks = "bfloat16" if "bfloat16" in name else "float32", 4 if "four" in name else 1
        least = walks * amount / found[f"product {dtype}"]
        lines.append(f"- {name}: limit {least:.1f} s, reached {least / median(taken, 'seconds'):.0%} of it")
    publish(given.bench, "perplexity", "\n".join(lines), {"samples": samples, "rates": found, "work": amount})


if __name__ == "__main__":
    main()

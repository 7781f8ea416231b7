"""Peak memory of quantization and perplexity, which does not grow with depth, and a model that barely fits.

    python benchmarks/memory.py depth                     OPT-1.3b's shape, 24 blocks against 6    (about 15 minutes)
    python benchmarks/memory.py large --scratch FOLDER    OPT-6.7b's shape, 13 GB of shards        (about 40 minutes)

Every stage is a process of its own, as the workflow starts it; its peak is what the kernel says at its end (`ru_maxrss`).
That counts pages of the checkpoint that are mapped, too. `depth`: GPTQ (W4, groups of 128, 16 × 512 calibration tokens,
propagated Hessians) and the perplexity of 4 windows of 2,048 tokens. `large`: round-to-nearest and LoRC at rank 8 of all 32
blocks and a score on 4 windows; then GPTQ on 4 × 256 tokens of a model of the first 8 blocks, by a second config.json over
the same shards: blocks are alike, and memory does not grow with their number, as `depth` shows. Fails if a target is missed.
"""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import torch
from checkpoints import SHAPES, folder, prepared, stage
from common import Sample, machine, parser, publish, removed

TYPE = torch.float16
VOCABULARY = 50272
RATIO, DEPTH_GIB, LARGE_GIB = 1.1, 2.5, 7.0


def quantized_and_scored(
    given, work: Path, named: list[str], cell: list[str], ranks: tuple[int, ...] = (0,)
) -> dict[str, Sample]:
    """What each stage of one cell took, from nothing."""
    name = named[1].partition("=")[2]
    removed(*((work / "results/cache").joinpath(part, name) for part in ("quantize", "lorc", "evaluate")))
    taken = {"quantize": stage(work, given.threads, "quantize", *named, *cell)}
    if any(ranks):
        taken["lorc"] = stage(work, given.threads, "lorc", *named, *cell, "lorc=plain-int8", "cap=32")
    protocol = tokens(given)[1]
    stage(work, given.threads, "evaluate", *named, protocol, "variants=[r0]")  # full precision, which the cell is compared with
    variants = ",".join(f"plain-int8/r{rank}" if rank else "r0" for rank in ranks)
    taken["evaluate"] = stage(work, given.threads, "evaluate", *named, *cell, protocol, f"variants=[{variants}]")
    return taken


def tokens(given) -> tuple[str, str]:
    """The calibration and the protocol, in the type asked for."""
    changed = "" if given.dtype == "float32" else f"+dtype={given.dtype}"
    return f"calibration=bench{changed}", f"eval=bench{changed}"


def as_lines(name: str, taken: dict[str, Sample]) -> list[str]:
    """Rows of the table."""
    return [f"| {name} | {part} | {one['rss']:.2f} | {one['wall']:.0f} | {one['cpu']:.0f} |" for part, one in taken.items()]


HEAD = ["| model | stage | peak memory, GiB | wall, s | CPU, s |", "| --- | --- | ---: | ---: | ---: |"]


def depth(given) -> None:
    """24 blocks against 6."""
    work, found = given.bench / "memory", {}
    checkpoints.write_conf(work, (16, 512), 2048, VOCABULARY)
    layers, *shape = SHAPES["opt-1.3b"]
    for blocks in (layers // 4, layers):
        path = given.scratch / "checkpoints" / f"opt-1.3b-{blocks}"
        checkpoints.write(path, (blocks, *shape), TYPE, VOCABULARY)
        checkpoints.write_tokenizer(path, VOCABULARY)
        named = folder(path.name, path)
        prepared(work, given.threads, named, "bench", *tokens(given))
        found[blocks] = quantized_and_scored(given, work, named, ["method=gptq", tokens(given)[0], "weight=w4-asym-g128"])
    peaks = {blocks: max(one["rss"] for one in taken.values()) for blocks, taken in found.items()}
    few, many = sorted(peaks)
    lines = [machine(given.threads), "", f"OPT-1.3b's shape, float16 on disk, forward in {given.dtype}.", "", *HEAD]
    for blocks, taken in found.items():
        lines += as_lines(f"{blocks} blocks", taken)
    lines += ["", f"- {many} blocks over {few}: {peaks[many] / peaks[few]:.3f} (target ≤ {RATIO})"]
    lines.append(f"- largest peak {peaks[many]:.2f} GiB (target ≤ {DEPTH_GIB})")
    publish(
        given.bench,
        f"memory-depth-{given.dtype}",
        "\n".join(lines),
        {"stages": {str(blocks): taken for blocks, taken in found.items()}},
    )
    if peaks[many] > RATIO * peaks[few] or peaks[many] > DEPTH_GIB:
        raise SystemExit("missed")


def large(given) -> None:
    """The shape of OPT-6.7b."""
    work, path = given.bench / "memory-large", given.scratch / "checkpoints" / "opt-6.7b"
    checkpoints.write_conf(work, (4, 256), 2048, VOCABULARY)
    checkpoints.write(path, SHAPES["opt-6.7b"], TYPE, VOCABULARY)
    checkpoints.write_tokenizer(path, VOCABULARY)
    named, first = (
        folder(path.name, path),
        folder("opt-6.7b-8", first_blocks(path, given.scratch / "checkpoints/opt-6.7b-8", 8)),
    )
    taken = {}
    for model, wanted in ((named, tokens(given)[1:]), (first, tokens(given))):
        prepared(work, given.threads, model, "bench", *wanted)
    taken["32 blocks, rtn w4-asym-g128, LoRC rank 8"] = quantized_and_scored(
        given, work, named, ["method=rtn", "weight=w4-asym-g128"], (0, 8)
    )
    taken["8 blocks, gptq w4-asym-g128"] = quantized_and_scored(
        given, work, first, ["method=gptq", tokens(given)[0], "weight=w4-asym-g128"]
    )
    peak = max(one["rss"] for stages in taken.values() for one in stages.values())
    lines = [machine(given.threads), "", f"OPT-6.7b's shape, float16 on disk, forward in {given.dtype}.", "", *HEAD]
    for name, stages in taken.items():
        lines += as_lines(name, stages)
    lines += ["", f"- largest peak {peak:.2f} GiB (target ≤ {LARGE_GIB})"]
    publish(given.bench, f"memory-large-{given.dtype}", "\n".join(lines), {"stages": taken})
    if peak > LARGE_GIB:
        raise SystemExit("missed")


def first_blocks(whole: Path, target: Path, blocks: int) -> Path:
    """A checkpoint of the first blocks of another, by links to its shards."""
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((whole / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "num_hidden_layers": blocks}))
    index = json.loads((whole / "model.safetensors.index.json").read_text())
    shards = {"outside.safetensors", *(f"block{block:03d}.safetensors" for block in range(blocks))}
    weight_map = {name: shard for name, shard in index["weight_map"].items() if shard in shards}
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for name in [*shards, *(file.name for file in whole.glob("*token*.json"))]:
        if not (target / name).exists():
            (target / name).symlink_to((whole / name).resolve())
    return target


WHAT = {"depth": depth, "large": large}


def main() -> None:
    """Measure one thing."""
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=WHAT)
    arguments.add_argument(
        "--scratch", type=Path, help="checkpoints of random weights, up to 17 GB (default: the benchmark folder)"
    )
    arguments.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the forward passes"
    )
    given = arguments.parse_args()
    given.scratch = (given.scratch or given.bench).resolve()
    WHAT[given.what](given)


if __name__ == "__main__":
    main()

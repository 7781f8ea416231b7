"""How fast, beside code that we did not write: interleaved repeats in fresh processes, threads pinned alike on both sides.

    python benchmarks/speed.py single    GPTQ of one cell, OPT-125m's shape           (about 4 minutes a repeat with four peers)
    python benchmarks/speed.py single --shape opt-1.3b --layers 3                     (about 3 minutes a repeat with one peer)
    python benchmarks/speed.py sweep     12 cells with LoRC, against 12 single ones   (about 3 minutes a repeat)
    python benchmarks/speed.py sweep --method gptq                                    (about 5 minutes a repeat)
    python benchmarks/speed.py solve     factor and sweep of one OPT-1.3b block       (about 1 minute a repeat)
    python benchmarks/speed.py svd       LoRC factors of one OPT-1.3b block           (about 3 minutes a repeat)

Peers are those that `peers.py` has installed, and the public GPTQ code if ``--gptq CHECKOUT`` (or GPTQ_CHECKOUT) says where
it is; without any, our side is measured alone. Every process runs once uncounted where a peer compiles something at its first
use.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import checkpoints
import limits
import torch
from checkpoints import SHAPES, folder, prepared, stage, tokens_file
from common import ROOT, Sample, environment, interleaved, machine, measure, median, parser, publish, removed, table
from peers import LABELS, available, checkout, run
from quality import standin_differences

from lorcbench.common.process import SLEEPING

TOKENS, LENGTH, SHAPE = 16 * 512, 512, "opt-125m"
SWEEP = [f"w{bits}-sym-{group}" for bits in (2, 3, 4) for group in ("row", "g256", "g128", "g64")]
RANKS = [0, 4, 8, 16]
COLUMNS = {"seconds": "seconds, imports and loading left out", "cpu_seconds": "CPU seconds of it", "wall": "whole process, s"}
COLUMNS |= {"cpu": "CPU seconds of it ", "rss": "peak memory, GiB"}


def work_folder(given) -> tuple[Path, list[str]]:
    """The folder with conf and results, and the arguments that name the model; checkpoint and tokens are there afterwards."""
    given.layers = given.layers or SHAPES[given.shape][0]
    work = given.bench / "work"
    model = given.bench / "checkpoints" / f"{given.shape}-{given.layers}"
    checkpoints.write(model, (given.layers, *SHAPES[given.shape][1:]), torch.float32)
    checkpoints.write_tokenizer(model)
    checkpoints.write_conf(work, (TOKENS // LENGTH, LENGTH), LENGTH)
    named = folder(model.name, model)
    prepared(work, given.threads, named, "bench", "calibration=bench", "calibration=bench+dtype=bfloat16", "eval=bench")
    return work, named


def run_ours(given, work: Path, named: list[str], calibration: str = "bench") -> Sample:
    """One quantize stage from nothing."""
    removed(work / "results/cache/quantize" / given.model)
    cell = ["method=gptq", f"calibration={calibration}", "weight=w4-sym-g128"]
    return stage(work, given.threads, "quantize", *named, *cell, timed=True)


def single(given) -> None:
    """GPTQ of one cell."""
    work, named = work_folder(given)
    given.model = Path(named[-1].partition("=")[2]).name
    model, tokens = given.bench / "checkpoints" / given.model, tokens_file(work, given.model)
    runs = {"ours": partial(run_ours, given, work, named)}
    for peer in available(given.bench, given.gptq):
        runs[LABELS[peer]] = partial(run, given, peer, model, tokens)
    runs["ours, forward in bfloat16"] = partial(run_ours, given, work, named, "bench+dtype=bfloat16")
    if not given.cold:
        interleaved(runs, 1)
    header, found = machine(given.threads), limits.rates(given.bench, given.threads)
    samples = interleaved(runs, given.repeats)
    lines = [header, "", f"{given.model}, {TOKENS // LENGTH} × {LENGTH} tokens, w4-sym-g128, {given.repeats} repeats.", ""]
    lines += [table(samples, COLUMNS), "", limits.describe(found), ""]
    amount = limits.block_work(*SHAPES[given.shape][1:3], TOKENS, LENGTH)
    for name, forward in (("ours", "float32"), ("ours, forward in bfloat16", "bfloat16")):
        least = given.layers * limits.seconds(amount, found, forward)
        lines.append(f"- {name}: limit {least:.1f} s, reached {least / median(samples[name], 'seconds'):.0%} of it")
    lines += ratios(samples, "seconds")
    if given.quality:
        lines += ["", *standin_differences(given, ("bfloat16",))]
    publish(given.bench, "single", "\n".join(lines), {"samples": samples, "rates": found, "work": amount})


def ratios(samples: dict[str, list[Sample]], key: str, factor: float = 1.0) -> list[str]:
    """The fastest peer's median over each of ours."""
    peers = {name: median(taken, key) for name, taken in samples.items() if not name.startswith("ours")}
    if not peers:
        return []
    fastest = min(peers, key=peers.get)
    return [
        f"- {fastest}, the fastest peer, over {name}: {factor * peers[fastest] / median(taken, key):.2f}"
        for name, taken in samples.items()
        if name.startswith("ours")
    ]


def sweep(given) -> None:
    """12 cells with LoRC at four ranks by the workflow, evaluation apart; and the fastest peer's single cell, 12 times."""
    work, named = work_folder(given)
    given.model = Path(named[-1].partition("=")[2]).name
    model = given.bench / "checkpoints" / given.model
    study = work / "conf/study/bench-sweep.yaml"
    study.parent.mkdir(exist_ok=True)
    axes = {"calibrations": "[bench]", "lorc": "[plain-int8]", "ranks": str(RANKS)}
    lines = ["defaults: [/schema/study@_here_: study, _self_]", "title: Twelve cells", "eval: bench"]
    lines += [f"{axis}: {values}" for axis, values in axes.items()]
    lines.append(f"grids: [{{methods: [{given.method}], weights: [{', '.join(SWEEP)}]}}]")
    study.write_text("\n".join(lines) + "\n")
    apart = given.bench / "sweep"  # a results folder of its own: the workflow's tokens are made by the workflow
    workflow = partial(snakemake, given, work, apart, "bench-sweep", model)
    runs = {"ours, the workflow": partial(from_nothing, apart, given.model, workflow)}
    for peer in available(given.bench, given.gptq):
        if given.fastest in (None, peer):
            runs[LABELS[peer]] = partial(run, given, peer, model, tokens_file(work, given.model))
    removed(apart)
    workflow("--until", "calibration_tokens", "prepare")
    if not given.cold:
        workflow("--until", "lorc")  # once uncounted: everything compiled and cached that will be
    header = machine(given.threads)
    samples = interleaved(runs, given.repeats)
    for taken in samples["ours, the workflow"]:
        taken["seconds"] = taken["wall"]
    text = [
        header,
        "",
        f"{given.model}: {len(SWEEP)} weight formats × ranks {RANKS}, {given.method}, {given.repeats} repeats.",
        "",
    ]
    text += [table(samples, COLUMNS), "", *ratios(samples, "seconds", len(SWEEP))]
    if given.quality:
        text += ["", *standin_differences(given, ("cached",))]
    publish(given.bench, "sweep", "\n".join(text), {"samples": samples})


def from_nothing(apart: Path, model: str, workflow) -> Sample:
    """The study without what earlier repeats made, checkpoint and tokens kept."""
    cache = apart / "results/cache"
    removed(cache / "quantize", cache / "lorc", *(cache / "calibration" / model / "bench").glob("[!t]*"))
    taken = workflow("--until", "lorc")
    # Jobs are forked from a warm process, whose children nobody waits for: their CPU seconds are in their records alone.
    made = [*cache.glob("quantize/**/run.json"), *cache.glob("lorc/**/run.json")]
    made += cache.glob(f"calibration/{model}/bench/[!t]*/**/run.json")
    jobs = sum(json.loads(file.read_text(encoding="utf-8"))["cpu_seconds"] for file in made)
    return {**taken, "cpu": taken["cpu"] + jobs}


def snakemake(given, work: Path, apart: Path, study: str, model: Path, *targets: str) -> Sample:
    """The workflow as a user would start it, with a conf folder of his own."""
    apart.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", str(given.threads)]
    command += ["--workflow-profile", str(ROOT / "profiles/default"), "--directory", str(apart)]
    command += ["--config", f"study={study}", f"model_path={model}", f"overrides=runtime.threads={given.job_threads}"]
    return measure([*command, *targets], environment(given.job_threads, LORCBENCH_CONF=str(work / "conf")), apart)


def sides_of(given, what: str, sides: dict[str, str]) -> dict[str, list[Sample]]:
    """Interleaved runs of problems.py, the sides by label; problems are made first."""
    command = [sys.executable, str(Path(__file__).with_name("problems.py")), what]
    options = ["--bench", str(given.bench), "--threads", str(given.threads), "--scale", str(given.scale)]
    options += ["--gptq", str(given.gptq)] if given.gptq else []
    variables = environment(given.threads)
    measure([*command, "problems", *options], variables)
    asleep = {**variables, **SLEEPING}  # as in our stages; others were measured to be slower with it
    runs = {}
    for label, side in sides.items():
        out = ["--out", str(given.bench / "problems" / f"{what}-{side}.safetensors")] if what == "solve" else []
        runs[label] = partial(measure, [*command, side, *options, *out], asleep if side == "ours" else variables)
    return interleaved(runs, given.repeats)


def solve(given) -> None:
    """Factor and sweep of all linears of one OPT-1.3b block."""
    header, found = machine(given.threads), limits.rates(given.bench, given.threads)
    sides = {"ours": "ours"} | ({LABELS["reference"]: "reference"} if given.gptq else {})
    samples = sides_of(given, "solve", sides)
    hidden, ffn = (size // given.scale for size in SHAPES["opt-1.3b"][1:3])
    amount = {key: value for key, value in limits.block_work(hidden, ffn, 1, 1).items() if key in ("factors", "sweeps")}
    least = limits.seconds(amount, found)
    lines = [header, "", f"One block ({hidden}, ffn {ffn}), w4-sym-g128, {given.repeats} repeats.", ""]
    lines += [table(samples, {"seconds": "seconds", "cpu_seconds": "CPU seconds", "rss": "peak memory, GiB"}, 2), ""]
    lines += [limits.describe(found), "", *ratios(samples, "seconds")]
    lines.append(f"- limit of ours {least:.2f} s, reached {least / median(samples['ours'], 'seconds'):.0%} of it")
    if given.gptq:
        lines.append(f"- weights equal within 1e-5 of the largest: {_equal(given.bench / 'problems'):.3%}")
    publish(given.bench, "solve", "\n".join(lines), {"samples": samples, "rates": found, "work": amount})


def _equal(problems: Path) -> float:
    from safetensors.torch import load_file

    ours, theirs = (load_file(problems / f"solve-{side}.safetensors") for side in ("ours", "reference"))
    close = [((ours[name] - theirs[name]).abs() <= 1e-5 * theirs[name].abs().max()).float().mean() for name in ours]
    return float(torch.stack(close).mean())


def svd(given) -> None:
    """LoRC factors at rank 32 of all linears of one OPT-1.3b block."""
    header = machine(given.threads)
    samples = sides_of(given, "svd", {"ours": "ours", "torch.linalg.svd": "exact"})
    kinds = sorted(key.partition(".")[2] for key in samples["ours"][0] if key.startswith("seconds."))
    by_kind = {}
    for kind in kinds:
        for label, taken in samples.items():
            parts = [{key.removesuffix(f".{kind}"): value for key, value in one.items() if key.endswith(kind)} for one in taken]
            by_kind[f"{kind}: {label}"] = parts
    lines = [header, "", f"Rank 32 of six linears, {given.repeats} repeats.", ""]
    lines += [table(by_kind, {"seconds": "seconds", "cpu_seconds": "CPU seconds", "removed": "share of ‖E‖² removed"}, 4), ""]
    for kind in kinds:
        ours, exact = (by_kind[f"{kind}: {label}"] for label in samples)
        ratio = median(exact, "seconds") / median(ours, "seconds")
        kept = median(ours, "removed") / median(exact, "removed")
        lines.append(f"- {kind}: torch.linalg.svd over ours {ratio:.1f}; ours removes {kept:.2%} of what exact rank 32 removes")
        if kept < 0.99:
            raise SystemExit(f"{kind}: {kept:.2%} is below the 99 % that is claimed")
    publish(given.bench, "svd", "\n".join(lines), {"samples": samples})


WHAT = {"single": single, "sweep": sweep, "solve": solve, "svd": svd}


def main() -> None:
    """Measure one thing."""
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=WHAT)
    arguments.add_argument("--gptq", type=Path, default=checkout(), help="checkout of the public GPTQ code")
    arguments.add_argument("--layers", type=int, help="blocks of single and sweep, fewer for a quick try")
    arguments.add_argument("--shape", choices=SHAPES, default=SHAPE, help="of the model of single and sweep")
    arguments.add_argument("--method", default="gptq-cached", help="of the sweep: gptq is the published, propagated one")
    arguments.add_argument("--scale", type=int, default=1, help="divides the shape of solve and svd, for a quick try")
    arguments.add_argument("--fastest", help="sweep: measure this peer alone (by default all)")
    arguments.add_argument(
        "--job-threads", type=int, default=1, help="sweep: kernel threads a job; the jobs share --threads cores"
    )
    arguments.add_argument("--cold", action="store_true", help="no uncounted first run")
    arguments.add_argument("--no-quality", dest="quality", action="store_false", help="no ΔPPL on a trained stand-in")
    given = arguments.parse_args()
    WHAT[given.what](given)


if __name__ == "__main__":
    main()

"""The same trained checkpoint quantized by us and by code that we did not write, settings matched, beside our own perplexity.

    python benchmarks/quality.py [--gptq CHECKOUT] [--formats w4-asym-g32 …]        (about 10 minutes with four peers)

The checkpoint is opt-standin-m, which the project trains itself (two minutes, once); calibration is its 64 × 128 tokens,
float32 throughout. Every result, ours and a peer's, becomes weights in float32 and is measured by the project's own
evaluation on the same windows. A cell has the perplexity; the proxy loss tr((W - Ŵ) H (W - Ŵ)ᵀ) over tr(W H Wᵀ), H of the
unquantized model, each summed over all linears; and the share of levels (code minus zero point) that agree with ours and, in
brackets, how many of block 0 do not. Behind it small differences feed on themselves: a level that rounds the other way changes
the inputs of all that follows.

Ours have scales in float32, as theirs are: GPTQ as published; with all group scales found before the sweep (`static groups`),
as one of the peers does; symmetric rounding with the other published divisor (`restricted`). A peer is compared with the
nearest of them. Our default scales, in float16, are a row, too. The run fails if the public code's levels in block 0 agree
with ours in less than 99 %, or a peer's perplexity differs by more than 0.5 % from the nearest of ours.
"""

from __future__ import annotations

import shutil
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import torch
from checkpoints import current, perplexity, prepared, stage, tokens_file, write_conf
from common import machine, parser, publish
from peers import LABELS, available, checkout, run
from safetensors.torch import load_file, save_file

from lorcbench.common.paths import Wildcards
from lorcbench.core.formats import WeightFormat
from lorcbench.core.moments import from_triangle
from lorcbench.jobs import sources
from lorcbench.jobs.quantized import QuantizedModel, stored_matrix
from lorcbench.jobs.shards import Shards
from lorcbench.models import discovery
from lorcbench.study.stages import CALIBRATE, PREPARE

MODEL, NAMED = "opt-standin-m", ["model=opt-standin-m"]
METHODS = ("gptq", "rtn")
FORMATS = ["w4-asym-g32", "w3-asym-g32", "w4-sym-g32", "w3-asym-row"]
FIRST = ".layers.0."
NO_RTN = ("gptqmodel",)  # it rounds only where GPTQ failed

Matrices = dict[str, dict[str, torch.Tensor]]  # linear of the whole model → weight, scale


def standin(given) -> Path:
    """Train the stand-in and stage its tokens and Hessians if they are not there; returns the work folder."""
    work = given.bench / "work"
    write_conf(work, (16, 512), 512)
    prepared(work, given.threads, NAMED, "stdlib", "calibration=stdlib", "eval=stdlib")
    if not current(work / CALIBRATE.pattern.format(model=MODEL, calibration="stdlib"), "statistics"):
        stage(work, given.threads, "calibrate", *NAMED, "calibration=stdlib")
    return work


def ours(given, work: Path, method: str, fmt: WeightFormat) -> tuple[Matrices, float]:
    """Our weights and scales, and their perplexity."""
    calibration = "none" if method == "rtn" else "stdlib"
    cell = [f"method={method}", f"calibration={calibration}", f"weight={fmt}"]
    stage(work, given.threads, "quantize", *NAMED, *cell)
    names = Wildcards(model=MODEL, method=method, calibration=calibration, weight=str(fmt))
    found = {}
    with chdir(work):
        opened = QuantizedModel(names, fmt)
        for index in range(len(opened.shards.result["shards"])):
            tensors, weights = opened.shards.block(index), opened.block(index)
            for linear, width in opened.shards.result["widths"].items():
                scale = stored_matrix(tensors, linear, fmt, width).scale.float()
                found[f"model.decoder.layers.{index}.{linear}"] = {"weight": weights[linear], "scale": scale}
    return found, perplexity(work, given.threads, *NAMED, *cell, "eval=stdlib")


def theirs(given, work: Path, peer: str, method: str, fmt: WeightFormat) -> tuple[Matrices, float]:
    """A peer's weights and scales, and their perplexity, of a checkpoint that holds them."""
    source = work / PREPARE.pattern.format(model=MODEL)
    out = work / "peers" / f"{peer}-{method}-{fmt}.safetensors"
    options = ["--bits", str(fmt.bits), "--group", str(fmt.group or 0), "--method", method, "--out", str(out)]
    run(given, peer, source, tokens_file(work, MODEL, "stdlib"), *options, *([] if fmt.symmetric else ["--asymmetric"]))
    found: Matrices = {}
    for name, tensor in load_file(out).items():
        linear, _, part = name.rpartition(".")
        found.setdefault(linear, {})[part] = tensor
    made = work / "peers" / out.stem
    made.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.suffix == ".json" and file.name not in ("result.json", "run.json"):
            shutil.copy(file, made)
    tensors = {name: tensor.float() for name, tensor in load_file(source / "model.safetensors").items()}
    for linear, parts in found.items():
        key = f"{linear}.weight"
        if tensors[key].shape != parts["weight"].shape:
            raise SystemExit(f"{peer}: {linear} is {tuple(parts['weight'].shape)}, expected {tuple(tensors[key].shape)}")
        tensors[key] = parts["weight"]
    save_file(tensors, made / "model.safetensors", {"format": "pt"})
    named = ["model=folder", f"model.name={out.stem}", f"model.path={made}"]
    stage(work, given.threads, "prepare", *named)
    stage(work, given.threads, "tokens", *named, "eval=stdlib")
    return found, perplexity(work, given.threads, *named, "eval=stdlib")


def agreement(one: Matrices, other: Matrices, within: str = "") -> tuple[float, float, int]:
    """Shares of levels, and of scales within 0.1 %, that are equal, and how many levels are not; of linears with `within`."""
    equal = total = near = scales = 0
    for linear, mine in one.items():
        if within not in linear:
            continue
        levels = [_levels(parts) for parts in (mine, other[linear])]
        equal += int((levels[0] == levels[1]).sum())
        total += levels[0].numel()
        near += int(((mine["scale"] / other[linear]["scale"].view_as(mine["scale"]) - 1).abs() < 1e-3).sum())
        scales += mine["scale"].numel()
    return equal / total, near / scales, total - equal


def _levels(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    scale = parts["scale"].reshape(len(parts["weight"]), -1)
    return (parts["weight"] / scale.repeat_interleave(parts["weight"].shape[1] // scale.shape[1], 1)).round()


def proxy_loss(work: Path, found: Matrices) -> float:
    """tr((W - Ŵ) H (W - Ŵ)ᵀ) / tr(W H Wᵀ), both summed over all linears."""
    with chdir(work):
        checkpoint = discovery.opened(sources.checkpoint_folder(Wildcards(model=MODEL)))
        statistics = Shards(CALIBRATE.folder(Wildcards(model=MODEL, calibration="stdlib")) / "result.json", "statistics")
        lost = whole = 0.0
        for index in range(checkpoint.depth):
            hessians = statistics.block(index)
            for linear, weight in checkpoint.linears(index).items():
                w = weight.double()
                h = from_triangle(hessians[checkpoint.architecture.input_of(linear)]).double()
                error = w - found[f"model.decoder.layers.{index}.{linear}"]["weight"].double()
                lost, whole = lost + float(((error @ h) * error).sum()), whole + float(((w @ h) * w).sum())
    return lost / whole


def variants(method: str, fmt: WeightFormat) -> dict[str, tuple[str, WeightFormat]]:
    """What of ours others are held against, by its row's name: method and format as the project spells them."""
    exact = replace(fmt, scale_dtype="float32")
    found = {method: (method, exact)}
    if method == "gptq" and fmt.group:
        found["static groups"] = ("gptq+static_groups=true", exact)
    if method == "rtn" and fmt.symmetric:
        found["restricted"] = ("rtn", replace(exact, convention="restricted"))
    return found


def compared(given, work: Path, method: str, fmt: WeightFormat) -> list[dict]:
    """All rows of one method and format."""
    mine, rows = {}, []

    def add(who: str, found: Matrices, ppl: float, **row) -> None:
        shares = {kind: agreement(matrices, found) for kind, matrices in mine.items()}
        row = {"method": method, "weight": str(fmt), "who": who, "proxy": proxy_loss(work, found), "ppl": ppl, **row}
        if "of_ours" not in row:
            nearest = max(shares, key=lambda kind: shares[kind][0])
            row |= {"nearest": nearest, "levels": shares[nearest][0], "scales": shares[nearest][1]}
            row["first"], _, row["differ"] = agreement(mine[nearest], found, FIRST)
        rows.append(row)

    for kind, (spelled, used) in variants(method, fmt).items():
        mine[kind], ppl = ours(given, work, spelled, used)
        add(f"ours, `{spelled}`, `{used}`", mine[kind], ppl, of_ours=kind)
    add(f"ours, `{method}`, `{fmt}`", *ours(given, work, method, fmt))
    for peer in available(given.bench, given.gptq):
        if method == "gptq" or peer not in NO_RTN:
            add(LABELS[peer], *theirs(given, work, peer, method, fmt), peer=peer)
    return rows


def as_table(rows: list[dict], method: str) -> str:
    """Markdown, who by format: perplexity, proxy loss, levels that agree (how many of block 0 do not, with which of ours)."""
    formats = list(dict.fromkeys(row["weight"] for row in rows))
    lines = ["| " + " | ".join([method, *formats]) + " |", "| --- " * (1 + len(formats)) + "|"]
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["method"] != method:
            continue
        text = f"{row['ppl']:.4f}, {row['proxy']:.3e}"
        if "levels" in row:
            other = "" if row["nearest"] == method else f", {row['nearest']}"
            text += f", {row['levels']:.2%} ({row['differ']}{other})"
        who = row["who"].replace(row["weight"], "FORMAT")
        cells.setdefault(who, {})[row["weight"]] = text
    lines += ["| " + " | ".join([who, *(of.get(fmt, "") for fmt in formats)]) + " |" for who, of in cells.items()]
    return "\n".join(lines)


def check(rows: list[dict]) -> None:
    """Stop if the public code's first block, or anybody's perplexity, is further from ours than is claimed."""
    mine = {(row["method"], row["weight"], row["of_ours"]): row["ppl"] for row in rows if "of_ours" in row}
    for row in rows:
        if "peer" not in row:
            continue
        what = f"{row['who']}, {row['method']} {row['weight']}"
        if row["peer"] == "reference" and row["first"] < 0.99:
            raise SystemExit(f"{what}: only {row['first']:.2%} of block 0 agree")
        nearest = mine[row["method"], row["weight"], row["nearest"]]
        if abs(row["ppl"] / nearest - 1) > 0.005:
            raise SystemExit(f"{what}: perplexity {row['ppl']:.4f}, ours {nearest:.4f}")


def standin_differences(given, kinds: tuple[str, ...]) -> list[str]:
    """ΔPPL on the trained stand-in of what our fast runs do differently: ``bfloat16`` forwards, ``cached`` Hessians."""
    work = standin(given)
    if "bfloat16" in kinds:
        prepared(work, given.threads, NAMED, "stdlib", "calibration=stdlib+dtype=bfloat16")
    if "cached" in kinds:
        stage(work, given.threads, "factor", *NAMED, "calibration=stdlib")
    other = {"bfloat16": ("gptq", "stdlib+dtype=bfloat16"), "cached": ("gptq-cached", "stdlib")}
    names = {"bfloat16": "forward in bfloat16", "cached": "cached Hessians"}
    lines = [f"Perplexity of {MODEL} (three corpora, mean), propagated Hessians in float32 against", ""]
    for fmt in ("w4-sym-g128", "w4-asym-g32", "w3-sym-g128", "w3-asym-g32", "w2-asym-g32"):
        found = {}
        for kind, (method, calibration) in {"float32": ("gptq", "stdlib"), **{kind: other[kind] for kind in kinds}}.items():
            cell = [f"method={method}", f"calibration={calibration}", f"weight={fmt}"]
            stage(work, given.threads, "quantize", *NAMED, *cell)
            found[kind] = perplexity(work, given.threads, *NAMED, *cell, "eval=stdlib")
        for kind in kinds:
            difference = found[kind] - found["float32"]
            lines.append(f"- {names[kind]}, {fmt}: {found['float32']:.3f} → {found[kind]:.3f} (Δ {difference:+.3f})")
    return lines


def main() -> None:
    """Compare, print, check."""
    arguments = parser(__doc__)
    arguments.add_argument("--gptq", type=Path, default=checkout(), help="checkout of the public GPTQ code")
    arguments.add_argument("--formats", nargs="+", default=FORMATS)
    given = arguments.parse_args()
    if not available(given.bench, given.gptq):
        raise SystemExit("no peer can run here")
    header, work = machine(given.threads), standin(given)
    full = perplexity(work, given.threads, *NAMED, "eval=stdlib")
    rows = []
    for fmt in given.formats:
        for method in METHODS:
            rows += compared(given, work, method, WeightFormat.parse(fmt))
    tables = "\n\n".join(as_table(rows, method) for method in METHODS)
    text = f"{header}\n\n{MODEL}, full precision {full:.4f}\n\n{tables}"
    publish(given.bench, "quality", text, {"rows": rows, "full": full})
    check(rows)


if __name__ == "__main__":
    main()

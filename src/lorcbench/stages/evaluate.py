"""Perplexity of one quantized model, at every LoRC rank that the study asks for, in one process and one file.

Ranks that the file already holds with the same inputs are kept: a study that adds a rank measures that rank alone, and torch
is not even imported when nothing is missing.
"""

from __future__ import annotations

from pathlib import Path

from lorcbench import paths
from lorcbench.artifacts import ArtifactError, fingerprint, read_json
from lorcbench.formats import cap
from lorcbench.job import Job, input_digest, run
from lorcbench.versions import code_version


def main(job: Job) -> None:
    """Bring the file up to the variants asked for."""
    folder = job.at(paths.EVALUATION)
    wanted = {variant: variant_identity(job, variant, job.eval.protocol()) for variant in job.cfg.variants}
    before = finished(folder, "perplexity")
    missing = {name: mark for name, mark in wanted.items() if before.get(name, {}).get("identity") != mark}
    found = _measure(job, missing) if missing else {}
    job.log(f"measured {sorted(found)}")
    job.finish("perplexity", {"stage": "evaluate"}, {"variants": {**before, **found}})


def finished(folder: Path, kind: str) -> dict:
    """The variants that an earlier run measured; none if there is no intact file."""
    try:
        return read_json(folder / "result.json", kind)["variants"]
    except ArtifactError:
        return {}


def variant_identity(job: Job, variant: str, settings: dict) -> str:
    """What the numbers of one variant depend on; only digests are read, no tensor."""
    sources = {"checkpoint": input_digest(Path(paths.CHECKPOINT.format(**job.names)), "checkpoint")}
    if job.stage == "evaluate":
        sources["tokens"] = input_digest(Path(paths.TOKENS.format(**job.names)), "tokens")
    else:
        sources["text"] = input_digest(Path(paths.TEXT.format(text=job.eval.text)), "text")
    if job.names["method"] != "none":
        sources["quantized"] = input_digest(Path(paths.QUANTIZED.format(**job.names)), "quantized")
    lorc, rank = split(variant)
    if rank:
        names = {**job.names, "lorc": lorc, "cap": cap(rank)}
        sources["factors"] = input_digest(Path(paths.FACTORS.format(**names)), "factors")
    return fingerprint([job.names["activation"], settings, variant, sources, code_version(job.stage), job.threads])


def split(variant: str) -> tuple[str, int]:
    """``plain-int8/r8`` → (plain-int8, 8); ``r0`` → (none, 0)."""
    lorc, _, rank = variant.rpartition("/r")
    return (lorc, int(rank)) if lorc else ("none", 0)


def _measure(job: Job, variants: dict[str, str]) -> dict:
    import torch

    from lorcbench import inputs
    from lorcbench.blocks import BlockWalk
    from lorcbench.checkpoint import Checkpoint
    from lorcbench.perplexity import window_losses

    torch.set_num_threads(job.threads)
    windows, _ = inputs.tokens(Path(paths.TOKENS.format(**job.names)))
    walk = BlockWalk(
        Checkpoint(inputs.checkpoint_folder(job.names)),
        getattr(torch, job.eval.dtype),
        job.runtime.device,
        job.runtime.batch_tokens,
    )
    found = {}
    for number, (variant, identity) in enumerate(variants.items()):
        model = inputs.CellWeights(job.names, *split(variant))
        losses = window_losses(walk, windows, model, job.names["activation"])
        found[variant] = {"identity": identity, "nll": losses, **model.size(), "attention": walk.attention}
        job.progress(number + 1, len(variants), "rank")
    return found


if __name__ == "__main__":
    run("evaluate", main)

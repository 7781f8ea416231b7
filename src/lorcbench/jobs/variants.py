"""One result file for all LoRC ranks of a quantized model: what it holds is kept, what is missing is measured.

A study that adds a rank measures that rank alone, and a rank that fails takes no other with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorcbench.common import paths
from lorcbench.common.artifacts import ArtifactError, fingerprint, read_json
from lorcbench.common.versions import code_version
from lorcbench.config import compose
from lorcbench.jobs.job import Job, input_digest


class VariantsFailed(Exception):
    """Some ranks could not be measured; `variants` says which, and why."""

    def __init__(self, variants: dict[str, str]) -> None:
        super().__init__("; ".join(f"{variant}: {reason}" for variant, reason in variants.items()))
        self.variants = variants


def split(variant: str) -> tuple[str, int]:
    """``plain-int8/r8`` → (plain-int8, 8); ``r0`` → (none, 0)."""
    lorc, _, rank = variant.rpartition("/r")
    return (lorc, int(rank)) if lorc else ("none", 0)


def bring_up_to_date(
    job: Job, kind: str, settings: dict, sources: dict[str, str], about: dict, opened: Callable[[Job], Callable[[str], dict]]
) -> None:
    """Bring the result file in the job's folder up to the variants asked for.

    Args:
        kind: of the result file.
        settings: what the numbers depend on besides inputs and code.
        sources: digests of the inputs, besides the checkpoint, weights and factors.
        about: what else the result says of all its numbers.
        opened: loads the model and returns a function variant → entry; called only if something is missing.

    Raises:
        VariantsFailed: after all others were measured and written.
    """
    identity = {"stage": job.stage, "settings": settings}
    wanted = {variant: _identity(job, variant, settings, sources) for variant in job.cfg.variants}
    before = _finished(job.folder, kind)
    missing = [variant for variant, mark in wanted.items() if before.get(variant, {}).get("identity") != mark]
    kept = {variant: entry for variant, entry in before.items() if variant not in missing}
    if len(kept) < len(before):  # numbers of other inputs must not be taken for these, whatever happens next
        job.write_result(kind, {"identity": identity, **about, "variants": kept})
    failures = {}
    measure = opened(job) if missing else None
    for number, variant in enumerate(missing):
        try:
            kept[variant] = {"identity": wanted[variant], **measure(variant)}
        except (ArtifactError, ArithmeticError, ValueError, RuntimeError) as error:
            failures[variant] = f"{type(error).__name__}: {error}"
        job.progress(number + 1, len(missing), "rank")
    job.log(f"measured {missing}, failed {sorted(failures)}")
    job.finish(kind, identity, {**about, "variants": kept})
    if failures:
        raise VariantsFailed(failures)


def _finished(folder: Path, kind: str) -> dict[str, Any]:
    try:
        return read_json(folder / "result.json", kind)["variants"]
    except ArtifactError:
        return {}


def _identity(job: Job, variant: str, settings: dict, sources: dict[str, str]) -> str:
    """What the numbers of one variant depend on; only digests are read, no tensor."""
    sources = {**sources, "checkpoint": input_digest(Path(paths.CHECKPOINT.format(**job.names)), "checkpoint")}
    if job.names["method"] != "none":
        sources["quantized"] = input_digest(Path(paths.QUANTIZED.format(**job.names)), "quantized")
    lorc, rank = split(variant)
    if rank:
        names = {**job.names, "lorc": lorc, "cap": compose.components(lorc, rank)}
        sources["factors"] = input_digest(Path(paths.FACTORS.format(**names)), "factors")
    return fingerprint([job.names["activation"], settings, variant, sources, code_version(job.stage), job.threads])

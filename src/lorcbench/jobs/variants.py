"""One result file for all LoRC ranks of a quantized model: what it holds is kept, what is missing is measured.

A study that adds a rank measures that rank alone, and a rank that fails takes no other with it. Snakemake deletes the result of
a job that fails or is killed; so what a job has measured lies beside its result until it has measured all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lorcbench.common.artifacts import FAILURES, ArtifactError, fingerprint, read_json, write_json
from lorcbench.common.gpus import AUTO, CPU, CUDA
from lorcbench.common.versions import code_version
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.jobs.job import Job
from lorcbench.jobs.progress import Ranks
from lorcbench.study.stages import LORC, PREPARE, QUANTIZE

Found = Iterable[tuple[str, dict | Exception]]  # variant → its entry, or why there is none
MEASURED = "measured.json"  # in the folder of a job that measures several ranks: those that are done, while it is at work


class VariantsFailed(Exception):
    """Some ranks could not be measured; `variants` says which, and why."""

    def __init__(self, variants: dict[str, str]) -> None:
        super().__init__("; ".join(f"{variant}: {reason}" for variant, reason in variants.items()))
        self.variants = variants


def split(variant: str) -> tuple[str, int]:
    """``plain-int8/r8`` → (plain-int8, 8); ``r0`` → (none, 0)."""
    lorc, _, rank = variant.rpartition("/r")
    return (lorc, int(rank)) if lorc else ("none", 0)


def one_by_one(job: Job, measure: Callable[[str], dict]) -> Callable[[list[str]], Found]:
    """What `bring_up_to_date` calls, of a function that measures one variant."""

    def measured(variants: list[str]) -> Iterator[tuple[str, dict | Exception]]:
        for number, variant in enumerate(variants):
            job.ranks = Ranks(number, number + 1, len(variants), variant)
            try:
                entry = measure(variant)
            except FAILURES as error:
                yield variant, error
            else:
                yield variant, entry

    return measured


def bring_up_to_date(job: Job, settings: dict, about: dict, open_model: Callable[[Job], Callable[[list[str]], Found]]) -> None:
    """Bring the result file in the job's folder up to the variants asked for.

    Every number depends on what the job uses, on its checkpoint, weights and factors.

    Args:
        settings: what the numbers depend on besides inputs and code.
        about: what else the result says of all its numbers.
        open_model: loads the model and returns a function that measures variants, in any order; called only if something is
            missing. What it has found of one is written before the next one is asked for.

    Raises:
        VariantsFailed: after all others were measured and written.
    """
    job.use(PREPARE)
    if job.names.method != "none":
        job.use(QUANTIZE)
    identity = {"stage": job.stage, "settings": settings, "code": code_version(job.stage), "threads": job.threads}
    marks = {variant: mark(job, variant, settings) for variant in job.config.variants}
    before, outdated = _finished(job)
    kept = {
        variant: entry
        for variant, entry in before.items()
        if not _is_outdated(job, variant, entry, marks, settings)
        and not (variant in marks and (_is_of_other_device(job, entry) or _lacks_states(job, entry)))
    }
    missing = [variant for variant in marks if variant not in kept]
    # The ranks of other studies that have to be measured again, for `Pipeline.held`.
    outdated = sorted({*outdated, *before} - {*kept, *marks})
    about = {**about, **({"outdated": outdated} if outdated else {})}
    if len(kept) < len(before):  # numbers of other inputs must not be taken for these, whatever happens next
        job.write_result({"identity": identity, **about, "variants": kept})
    measured = {
        variant: entry
        for variant, entry in _measured(job).items()
        if entry["identity"] == marks.get(variant) and not (_is_of_other_device(job, entry) or _lacks_states(job, entry))
    }
    missing = [variant for variant in missing if variant not in measured]
    on_device = {"device": CUDA} if job.device == CUDA else {}
    failures = {}
    for number, (variant, found) in enumerate(open_model(job)(missing) if missing else ()):
        if isinstance(found, Exception):
            failures[variant] = job.reason(found)
        else:
            measured[variant] = {"identity": marks[variant], **on_device, **found}
        if len(missing) > 1:
            write_json(job.folder / MEASURED, MEASURED, {"variants": measured})
        job.ranks = Ranks()
        job.progress(number + 1, len(missing), "rank")
    job.log(f"measured {missing}, failed {sorted(failures)}")
    job.finish(identity, {**about, "variants": kept | measured})
    if failures:
        raise VariantsFailed(failures)
    (job.folder / MEASURED).unlink(missing_ok=True)


def _is_of_other_device(job: Job, entry: dict) -> bool:
    """Whether a number was measured on the other kind of device than the one that the user named; `auto` names none."""
    return job.cfg.runtime.device != AUTO and entry.get("device", CPU) != job.device


def _lacks_states(job: Job, entry: dict) -> bool:
    """Whether the hidden states that an entry names were deleted."""
    return "states" in entry and not (job.folder / entry["states"]["file"]).is_file()


def _measured(job: Job) -> dict[str, dict]:
    """The variants that an earlier run of this job measured before it was killed, or a rank failed."""
    try:
        return read_json(job.folder / MEASURED, MEASURED)["variants"]
    except ArtifactError:
        return {}


def _finished(job: Job) -> tuple[dict[str, Any], list[str]]:
    """The variants that the result file has, and the outdated that it had; none if there is no file that can be read."""
    try:
        result = job.read_result()
    except ArtifactError:
        return {}, []
    return result["variants"], result.get("outdated", [])


def _is_outdated(job: Job, variant: str, entry: dict, marks: dict[str, str], settings: dict) -> bool:
    """Whether numbers are of other inputs than there are now.

    Numbers of a rank that another study asked for are looked at too: this file becomes newer than their factors, so nothing
    would make that study measure them again. If those factors are gone, they are newer than this file once they are back.
    """
    try:
        current = marks[variant] if variant in marks else mark(job, variant, settings)
    except (ArtifactError, ConfigError):
        return False
    return entry["identity"] != current


def mark(job: Job, variant: str, settings: dict) -> str:
    """What the numbers of one variant depend on, as one short string; only digests are read, no tensor."""
    inputs = job.inputs
    lorc, rank = split(variant)
    if rank:
        inputs[LORC.artifact] = job.digest(LORC, lorc=lorc, cap=str(compose.components(lorc, rank)))
    return fingerprint([job.names.activation, settings, variant, inputs, code_version(job.stage), job.threads])

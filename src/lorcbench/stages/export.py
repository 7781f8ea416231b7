"""A cell as a folder that other libraries load: written, loaded by one of them, compared, and only then published."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from lorcbench.common.artifacts import fingerprint, read_json
from lorcbench.common.gpus import CPU
from lorcbench.common.paths import Wildcards
from lorcbench.common.spelling import counted
from lorcbench.config import compose
from lorcbench.jobs import inputs, records, sources
from lorcbench.jobs.export import check, folder
from lorcbench.jobs.export.cell import ExportedCell
from lorcbench.jobs.job import Job
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.report import card as cards
from lorcbench.stages import run_by_old_name
from lorcbench.study import exports
from lorcbench.study.cells import Cell
from lorcbench.study.exports import PUBLISHED
from lorcbench.study.stages import EVALUATE, EXPORT, LORC, PREPARE, QUANTIZE, TOKENS

_BEING_MADE = "model.part"
_FULL_PRECISION = {"method": "none", "calibration": "none", "weight": "w16", "trained": "a16", "activation": "a16"}


def main(job: Job) -> None:
    """Write the cell, have a library load it in a process of its own, and publish it if that agrees with us."""
    place = job.at(EXPORT)
    torch.set_num_threads(job.threads)
    for name in (PUBLISHED, _BEING_MADE):
        shutil.rmtree(place / name, ignore_errors=True)
    cell = _cell(job)
    checkpoint = sources.checkpoint(job.names)
    _refuse(cell, job, checkpoint)
    _use(job)
    settings = {"export": job.names.export, "verify": job.names.verify, "lorc": cell.lorc, "rank": cell.rank}
    identity = job.identity(settings, **_measured(job, cell))
    part = place / _BEING_MADE
    part.mkdir()
    weights = inputs.CellWeights(_factor_names(job), job.weight_format, checkpoint, cell.lorc, cell.rank)
    exported = ExportedCell(weights, job.names.export, job.activation_format)
    job.phase(f"writing {counted(checkpoint.depth, 'block')} as {job.names.export}")
    digests = folder.write(exported, part, lambda done, total: job.progress(done, total, "exporting block"))
    agreement = _checked(job, exported, part, digests)
    card = _card(job, cell, exported, agreement, part)
    (part / "README.md").write_text(cards.render(card), encoding="utf-8")
    cards.draw(card, part / cards.PICTURE)
    os.replace(part, place / PUBLISHED)
    job.finish(identity, {"folder": PUBLISHED, "bytes": folder.size(place / PUBLISHED), **asdict(agreement)})
    job.say(f"{place / PUBLISHED}: {agreement.compared} tensors equal to the bit, {_words(agreement)}")


def _cell(job: Job) -> Cell:
    names = job.names
    rank = job.config.rank
    return Cell(names.model, names.method, names.calibration, names.weight, names.trained, names.activation, names.lorc, rank)


def _factor_names(job: Job) -> Wildcards:
    """The names of the job, with those of its factors."""
    return replace(job.names, cap=str(compose.components(job.names.lorc, job.config.rank)))


def _refuse(cell: Cell, job: Job, checkpoint: Checkpoint) -> None:
    """Refuse a format that does not hold the cell, or its model."""
    architecture = checkpoint.architecture
    exports.checked(cell, job.names.export, job.names.verify, architecture.model_type)
    shapes = {name: tuple(weight.shape) for name, weight in checkpoint.linears(0).items()}
    if reason := exports.shape_refusal(job.names.export, cell.weight_format, shapes, architecture.transposed):
        raise exports.refuse(cell, job.names.export, reason, ["merged", *(["adapter"] if cell.rank else [])])
    check.interpreter(job.names.export)


def _use(job: Job) -> None:
    """Make the results that the export is made from part of its identity, and look at those that its card shows."""
    for stage in (PREPARE, QUANTIZE, TOKENS):
        job.use(stage)
    if job.config.rank:
        job.use(LORC, cap=_factor_names(job).cap)
    # Files of several ranks: what the card shows of them is in the identity, not all of the file.
    job.digest(EVALUATE)
    job.digest(EVALUATE, **_FULL_PRECISION)


def _evaluations(job: Job, cell: Cell) -> tuple[dict, dict]:
    """What was measured of the cell and of full precision."""
    own = read_json(job.folder_of(EVALUATE) / "result.json", EVALUATE.kind)["variants"]
    full = read_json(job.folder_of(EVALUATE, **_FULL_PRECISION) / "result.json", EVALUATE.kind)["variants"]
    if cell.variant not in own:
        raise ValueError(f"{cell.key} is not measured; its evaluation has {', '.join(sorted(own))}")
    return own[cell.variant], full["r0"]


def _measured(job: Job, cell: Cell) -> dict[str, str]:
    own, full = _evaluations(job, cell)
    return {"measured": fingerprint([own["nll"], own["bits_per_weight"], full["nll"]])}


def _checked(job: Job, exported: ExportedCell, part: Path, digests: dict[str, str]) -> check.Agreement:
    """What the library loaded, which agrees with us.

    Raises:
        ExportError: it does not.
    """
    verify = job.names.verify
    windows = check.some(sources.read_windows(job.folder_of(TOKENS))) if verify == "whole" else {}
    library = "gptqmodel" if exported.export == "gptq" else "transformers"
    job.phase(f"loading it with {library}, which takes most of the time")
    answer = check.loaded(exported, part, verify, windows, job.threads)
    ours = {}
    if verify == "whole":
        job.phase("measuring the same text by our own code, to compare")
        walk = BlockWalk(exported.checkpoint, exported.dtype, CPU, job.runtime.batch_tokens)
        ours = check.our_losses(exported, walk, windows)
        rename = str
    else:
        rename = exported.architecture.full_name
    return check.compared(exported, answer, digests, ours, rename)


def _words(agreement: check.Agreement) -> str:
    if not agreement.ours:
        return "the model was not run"
    return f"perplexity {agreement.difference:.1e} from ours, {len(agreement.generated)} tokens generated"


def _card(job: Job, cell: Cell, exported: ExportedCell, agreement: check.Agreement, part: Path) -> cards.Card:
    """What there is to say of the export."""
    own, full = _evaluations(job, cell)
    prepared = read_json(job.folder_of(PREPARE) / "result.json", PREPARE.kind)
    protocol = job.eval
    tokens = read_json(job.folder_of(TOKENS) / "result.json", TOKENS.kind)
    versions = records.versions()
    facts = {
        "calibration": f"`{cell.calibration}`" if cell.calibration != "none" else "none is needed",
        "protocol": f"`{job.names.protocol}`, hash `{fingerprint([protocol.protocol(), tokens['digest']])}`",
        "device": "a GPU" if own.get("device") == "cuda" else "CPU",
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers")),
    }
    repo = prepared.get("repo")
    licence = cards.licence(repo, exported.checkpoint.folder)
    return cards.Card(
        cell=cell,
        export=job.names.export,
        verify=job.names.verify,
        base={"repo": repo, "revision": prepared.get("revision"), "licence": licence},
        nll={corpus: np.asarray(values) for corpus, values in own["nll"].items()},
        baseline={corpus: np.asarray(values) for corpus, values in full["nll"].items()},
        independent=frozenset(name for name, corpus in protocol.corpora.items() if corpus.sampling == "documents"),
        bits=own["bits_per_weight"],
        facts=facts,
        agreement=asdict(agreement),
        bytes=folder.size(part),
        has_adapter=exported.has_adapter,
        is_standin=prepared.get("standin", False),
    )


if __name__ == "__main__":
    run_by_old_name(__spec__.name)

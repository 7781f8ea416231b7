"""What an evaluation is compared with: the final hidden states that the evaluation of the unquantized model stored.

Its entry says ``states``: the file beside its result, the digest of that, and the digests of what they were made from.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from lorcbench.common.artifacts import ArtifactError, check_digest, digest_once, read_json
from lorcbench.config.checks import ConfigError
from lorcbench.jobs.job import Job
from lorcbench.models import final_states
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.final_states import FinalStates
from lorcbench.study.graph import full_precision
from lorcbench.study.stages import EVALUATE

STATES = "states.safetensors"  # in the folder of the evaluation of an unquantized model


def check_room(job: Job, walk: BlockWalk, windows: dict[str, torch.Tensor]) -> None:
    """Refuse to begin a walk whose final hidden states the disk has no room for.

    Raises:
        ConfigError: as said.
    """
    width = walk.model.config.get_text_config(decoder=True).hidden_size
    size = sum(tokens.numel() for tokens in windows.values()) * width * walk.dtype.itemsize
    free = shutil.disk_usage(job.folder).free
    if free < size:
        expected = f"expected {size / 1e9:.1f} GB for final hidden states, or eval={job.names.protocol}+divergence=false"
        raise ConfigError(f"{job.folder / STATES}: {free / 1e9:.1f} GB are free, {expected}")


def store(job: Job, hidden: dict[str, torch.Tensor]) -> dict:
    """Write the final hidden states (n, length, hidden) of this job's windows; returns what its entry says of them.

    Raises:
        OSError: the disk is full.
    """
    return {"file": STATES, "sha256": final_states.write(job.folder / STATES, hidden), "made_from": job.inputs}


def stored(job: Job, windows: dict[str, torch.Tensor]) -> FinalStates | None:
    """The states that this job compares with, verified; None if it compares with none.

    Raises:
        ArtifactError: they are missing, damaged, or of another checkpoint or other windows.
    """
    full = full_precision(job.names)
    if full is None:
        return None
    path, made_from = verified_states(full.folder)
    for artifact, digest in made_from.items():
        if job.inputs[artifact] != digest:
            again = f"delete the folder {full.folder} and run again"
            raise ArtifactError(f"{path}: made from another {artifact} than the one that is there; {again}")
    return FinalStates(path, windows, getattr(torch, job.eval.dtype))


def verified_states(folder: Path) -> tuple[Path, dict[str, str]]:
    """The file of states that the evaluation in `folder` stored, after a check, and the digests of what they were made from.

    Raises:
        ArtifactError: there is none, or it is missing or damaged.
    """
    entry = read_json(folder / "result.json", EVALUATE.kind)["variants"].get("r0", {})
    if "states" not in entry:
        again = f"delete the folder {folder} and run again"
        raise ArtifactError(f"{folder}/result.json: names no final hidden states to compare with; {again}")
    about = entry["states"]
    path = folder / about["file"]
    check_digest(path, digest_once(path), about["sha256"], folder)
    return path, about["made_from"]

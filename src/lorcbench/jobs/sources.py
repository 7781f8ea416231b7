"""Open what all methods start from: prepared checkpoints, their tokenizers, and token windows.

Apart from `lorcbench.jobs.inputs`, so that a stage that knows nothing of quantized weights does not depend on their code.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lorcbench.common.artifacts import ArtifactError, check_digest, file_digest, read_json, read_shard, verified
from lorcbench.common.paths import TOKENIZER, Wildcards
from lorcbench.models.architecture import Architecture
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.study.stages import PREPARE


def checkpoint_folder(names: Wildcards, *files: str) -> Path:
    """The folder of a prepared checkpoint, after a check that its files, or only those named, are as they were prepared.

    Raises:
        ArtifactError: as `verified`.
    """
    folder = PREPARE.folder(names)
    return folder / verified(folder, "checkpoint", *files)["folder"]


def checkpoint(names: Wildcards) -> Checkpoint:
    """A prepared checkpoint, with the record of its architecture that was found when it was prepared.

    Raises:
        ArtifactError: as `verified`, or the record is missing.
    """
    folder = PREPARE.folder(names)
    prepared = verified(folder, PREPARE.kind)
    if "architecture" not in prepared:
        raise ArtifactError(f"{folder}/result.json: no record of the architecture; delete the folder {folder} and run again")
    return Checkpoint(folder / prepared["folder"], Architecture(**prepared["architecture"]))


def tokenizer_file(names: Wildcards) -> Path:
    """The tokenizer as it was saved with a prepared checkpoint.

    Raises:
        ArtifactError: it is missing, damaged or foreign.
    """
    folder = PREPARE.folder(names)
    prepared = read_json(folder / "result.json", "checkpoint")
    saved = folder / TOKENIZER
    check_digest(saved, file_digest(saved) if saved.is_file() else None, prepared["tokenizer"], folder)
    return saved


def read_windows(folder: Path) -> dict[str, torch.Tensor]:
    """Token windows (n, length) int64 by corpus, in the order of their names: a safetensors file has its tensors in any order.

    Raises:
        ArtifactError: as `read_json` and `read_shard`.
    """
    result = read_json(folder / "result.json", "tokens")
    (file,) = result["shards"]
    windows = read_shard(folder / file["file"], file["sha256"])
    return {corpus: tokens.long() for corpus, tokens in sorted(windows.items())}

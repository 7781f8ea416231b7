"""A checkpoint that was quantized elsewhere as the quantized weights of a cell.

The result of the stage ``quantize`` names the folder and the digests of its files, as that of ``prepare`` does; no weights are
copied. They are dequantized when a block is read.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lorcbench.common.artifacts import ArtifactError, file_digest, verified
from lorcbench.common.paths import Wildcards
from lorcbench.config import folders, foreign
from lorcbench.config.checks import ConfigError
from lorcbench.jobs.job import Job
from lorcbench.jobs.shards import Shards
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.models.foreign import ForeignCheckpoint
from lorcbench.study.stages import QUANTIZE


def given(job: Job) -> tuple[Path, foreign.Layout]:
    """The folder that the command line gives, and how it is quantized.

    Raises:
        ConfigError: it is another folder, or of another format, than the names of the job say.
    """
    key = foreign.KEY
    if not job.config.foreign:
        raise ConfigError(f"method={job.names.method}: expected {key}=FOLDER beside it")
    folder = folders.resolved(job.config.foreign, key)
    if (name := folders.model_name(folder)) != job.method.of:
        raise ConfigError(f"{key}={folder}: its method is {foreign.method(folder)}, not of={job.method.of}; {name} is its name")
    layout = foreign.layout(folder)
    if layout.weight != job.weight_format:
        raise ConfigError(f"weight={job.weight_format}: {folder} has {layout.weight}")
    return folder, layout


def record(job: Job, checkpoint: Checkpoint) -> dict:
    """Read every tensor of the given folder, and hold it against the base model; returns what the result says.

    Raises:
        ConfigError, CheckpointError: as `given`, and `ForeignCheckpoint`.
    """
    folder, layout = given(job)
    read = ForeignCheckpoint(folder, checkpoint, layout)
    read.check_outside()
    notes, bits, weights = [], 0, 0
    for index in range(checkpoint.depth):
        block = read.block(index)
        bits += block.bits
        weights += sum(weight.numel() for weight in block.weights.values())
        notes.append({"unquantized": block.unquantized} if block.unquantized else {})
        job.progress(index + 1, checkpoint.depth, "read block")
    files = [folder / "config.json", *read.checkpoint.shards]
    return {
        "folder": str(folder),
        "files": {path.name: file_digest(path) for path in files},
        "layout": layout.name,
        "activation": str(layout.activation),
        "widths": {name: width for name, (_, width) in checkpoint.shapes(0).items()},
        "weights": weights,
        "bits_per_weight": bits / weights,
        "notes": notes,
        "max_damp": None,
        "shards": [],
    }


class ForeignModel:
    """Its weights, read one block at a time and decoded on `device`: what `lorcbench.jobs.quantized.QuantizedModel` is of ours.

    Raises:
        ArtifactError: its files are not those that were recorded.
    """

    def __init__(self, names: Wildcards, base: Checkpoint, device: str = "cpu") -> None:
        place = QUANTIZE.folder(names)
        folder = Path(verified(place, QUANTIZE.kind)["folder"])
        self.device = device
        self.shards = Shards(place / "result.json", QUANTIZE.kind)
        self.digest = self.shards.result["digest"]
        try:
            self._checkpoint = ForeignCheckpoint(folder, base, foreign.layout(folder))
        except ConfigError as error:
            raise ArtifactError(str(error)) from None

    def block(self, index: int) -> dict[str, torch.Tensor]:
        """Ŵ (out, in) float32 of block `index` by linear, and its biases and norms by name in the block."""
        block = self._checkpoint.block(index)
        return {name: tensor.to(self.device) for name, tensor in (block.weights | block.others).items()}

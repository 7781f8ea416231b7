"""Stages that distil, run in this process on tiny checkpoints, and what their teacher and their blocks compute."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import tiny
import torch
from recorded import identity

from lorcbench.common.artifacts import read_json, write_json, write_shard
from lorcbench.common.paths import Wildcards
from lorcbench.config.schema import ModelConfig
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.jobs import inputs
from lorcbench.jobs.job import Job
from lorcbench.jobs.quantized import QuantizedModel
from lorcbench.models import discovery, observe
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.models.surgery import install_weights, round_inputs
from lorcbench.study.stages import CALIBRATION_TOKENS, PREPARE, QUANTIZE

NAMES = {"model": "tiny", "calibration": "stdlib", "weight": "w2-asym-row", "trained": "a16", "lorc": "plain-fp16", "cap": "0"}
WINDOWS = tiny.windows(12, 16)
QUICK = "+held_out=0.25+iterations=24+lr=0.01"


def prepare(folder: Path, kind: str) -> Path:
    """Make in `folder` what `run` reads: a tiny checkpoint in float16, and calibration tokens. Returns the checkpoint."""
    return prepare_folder(folder, tiny.checkpoint(folder / kind, kind, dtype=torch.float16))


def prepare_folder(folder: Path, checkpoint: Path) -> Path:
    """The same of a checkpoint that is there."""
    names = Wildcards(**NAMES)
    model = ModelConfig(name="tiny", source="folder", path=str(folder.resolve() / "unused"))
    source = {"folder": str(checkpoint), "files": {}, "identity": identity(PREPARE, names, model)}
    source["architecture"] = asdict(discovery.found(checkpoint))
    write_json(folder / PREPARE.folder(names) / "result.json", "checkpoint", source)
    tokens = folder / CALIBRATION_TOKENS.folder(names)
    digest = write_shard(tokens / "tokens.safetensors", {"calibration": WINDOWS.int()}, "tokens")
    shards = [{"file": "tokens.safetensors", "sha256": digest}]
    write_json(tokens / "result.json", "tokens", {"shards": shards, "identity": identity(CALIBRATION_TOKENS, names)})
    return checkpoint


ARGUMENTS = ("method", "calibration", "weight", "trained", "activation", "lorc", "cap")


def run(work, method: str, trained: str = "a16", activation: str = "a16", **changed: str) -> Wildcards:
    """Run a stage in this process; returns the names of its paths."""
    names = NAMES | {"method": method, "trained": trained, "activation": activation, **changed}
    arguments = [f"{key}={names[key]}" for key in ARGUMENTS]
    work(Job("quantize", ["model=folder", "model.name=tiny", "model.path=unused", *arguments]))
    return Wildcards(**names)


def quantized_model(names: Wildcards) -> QuantizedModel:
    """The quantized weights that a run of quantize left."""
    return QuantizedModel(names, WeightFormat.parse(names.weight))


def cell_weights(names: Wildcards, checkpoint: Checkpoint, lorc: str = "none", rank: int = 0) -> inputs.CellWeights:
    """What the blocks of a cell hold."""
    return inputs.CellWeights(names, WeightFormat.parse(names.weight), checkpoint, lorc, rank)


def result(names: Wildcards) -> dict:
    """The result.json of the quantized weights."""
    return read_json(QUANTIZE.folder(names) / "result.json", "quantized")


def outputs(
    folder: Path,
    names: Wildcards | None,
    hidden: list[torch.Tensor],
    activation: str = "a16",
    lorc: str = "none",
    rank: int = 0,
) -> list[torch.Tensor]:
    """What each block makes of the hidden states given for it, with the cell's weights or the checkpoint's."""
    walk = BlockWalk(discovery.opened(folder), torch.float32)
    walk.embed(WINDOWS)
    states = []
    weights = cell_weights(names or Wildcards(), walk.checkpoint, lorc, rank)
    for index in range(walk.depth):
        with walk.block(index) as block:
            install_weights(block, weights.block(index))
            hooks = round_inputs(block, walk.architecture.linear_names, ActivationFormat.parse(activation))
            states.append(walk.forward(block, hidden[index]).clone())
            for hook in hooks:
                hook.remove()
    return states


def seen(checkpoint: Checkpoint, weights_of_block: Callable[[int], dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """The inputs (tokens, in) of every linear of every block, by the model with these weights.

    Args:
        weights_of_block: index → what is installed into the block; ``lambda index: {}`` leaves the unquantized model.
    """
    walk = BlockWalk(checkpoint, torch.float32)
    hidden = walk.embed(WINDOWS)
    inputs = []
    for index in range(walk.depth):
        with walk.block(index) as block, ExitStack() as stack:
            install_weights(block, weights_of_block(index))
            of_block = {name: stack.enter_context(observe.recorded(block, name)) for name in walk.architecture.linear_names}
            walk.advance(block, hidden)
        inputs.append({name: torch.cat([part.flatten(0, -2) for part in parts]) for name, parts in of_block.items()})
    return inputs


def expected_metric(kind: str, x: torch.Tensor) -> torch.Tensor:
    """What `lorcbench.jobs.statistics.from_cache` gives of the inputs (tokens, in) of a linear, by the plain formulas."""
    if kind == "exact":
        return x.T @ x / len(x)
    if kind == "diag-rms":
        return x.square().mean(0)
    return x.view(*WINDOWS.shape, -1).abs().mean(1).amax(0).square()


def teacher(folder: Path) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Hidden states that enter each block of the unquantized model, and that leave it."""
    walk = BlockWalk(discovery.opened(folder), torch.float32)
    states, hidden = [], walk.embed(WINDOWS)
    for index in range(walk.depth):
        states.append(hidden.clone())
        with walk.block(index) as block:
            walk.advance(block, hidden)
    return states, [*states[1:], hidden]

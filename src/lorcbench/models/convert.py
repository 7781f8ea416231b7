"""Pickled ``pytorch_model*.bin`` weights → safetensors: once, shard by shard, and never without ``weights_only``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import save_file

from lorcbench.common.artifacts import replacing, write_text
from lorcbench.models.checkpoint import CheckpointError

_BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model")


def to_safetensors(source: Path, folder: Path) -> None:
    """Write the checkpoint in `source` to `folder`: safetensors shards and their index; tokenizer and config are copied.

    Tensors that share memory, such as a tied head and its embedding, are written once, under the first of their names.

    Raises:
        CheckpointError: there is no ``pytorch_model*.bin``, or one holds more than tensors.
    """
    shards = sorted(source.glob("pytorch_model*.bin"))
    if not shards:
        raise CheckpointError(f"{source}: neither *.safetensors nor pytorch_model*.bin")
    folder.mkdir(parents=True, exist_ok=True)
    for path in (path for pattern in _BESIDE_WEIGHTS for path in source.glob(pattern)):
        if not path.name.endswith(".bin.index.json"):
            with replacing(folder / path.name) as temporary:
                shutil.copyfile(path, temporary)
    weight_map = {}
    for shard in shards:
        target = folder / f"{shard.stem}.safetensors"
        tensors = _tensors(shard)
        with replacing(target) as temporary:
            save_file(tensors, temporary)
            temporary.chmod(0o644)
        weight_map |= dict.fromkeys(tensors, target.name)
    write_text(folder / "model.safetensors.index.json", json.dumps({"weight_map": weight_map}, indent=1) + "\n")


def _tensors(shard: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickled shard; of those that share memory, the first.

    Raises:
        CheckpointError: the shard is damaged, or holds more than tensors.
    """
    try:
        loaded = torch.load(shard, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{shard}: holds more than tensors, or is damaged ({reason})") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CheckpointError(f"{shard}: expected a dictionary of tensors")
    tensors = {}
    places = set()
    for name, tensor in loaded.items():
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape)
        if place not in places:
            places.add(place)
            tensors[name] = tensor.contiguous()
    return tensors

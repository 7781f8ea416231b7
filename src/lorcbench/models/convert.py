"""Pickled ``pytorch_model*.bin`` weights → safetensors: once, shard by shard, and never without ``weights_only``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import save_file

from lorcbench.common.artifacts import replacing, write_text
from lorcbench.models.checkpoint import INDEX, CheckpointError, read_index, refuse_adapter

_BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model")
_WHOLE = "pytorch_model.bin"
_OTHER_FORMATS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")


def to_safetensors(source: Path, folder: Path) -> None:
    """Write the checkpoint in `source` to `folder`: safetensors shards and their index; tokenizer and config are copied.

    A tied head and its embedding, which are one tensor, are written once, under the first of their names.

    Raises:
        CheckpointError: there is no ``pytorch_model*.bin``, or one holds more than tensors.
    """
    refuse_adapter(source)
    shards = _shards(source)
    folder.mkdir(parents=True, exist_ok=True)
    for path in (path for pattern in _BESIDE_WEIGHTS for path in source.glob(pattern)):
        if not path.name.endswith(".bin.index.json"):
            with replacing(folder / path.name) as temporary:
                shutil.copyfile(path, temporary)
    weight_map, size = {}, 0
    for shard in shards:
        target = folder / f"{shard.stem}.safetensors"
        tensors = _tensors(shard)
        with replacing(target) as temporary:
            save_file(tensors, temporary)
            temporary.chmod(0o644)
        weight_map |= dict.fromkeys(tensors, target.name)
        size += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")


def _shards(source: Path) -> list[Path]:
    """The pickled files that transformers would read: the whole one, or those of the index, or all that there are.

    Raises:
        CheckpointError: there is none, or the index is damaged, or names a file that is missing.
    """
    if (source / _WHOLE).is_file():
        return [source / _WHOLE]
    if (index := source / f"{_WHOLE}.index.json").is_file():
        return read_index(index)
    if shards := sorted(source.glob("pytorch_model*.bin")):
        return shards
    others = sorted(path.name for path in source.iterdir() if path.suffix in _OTHER_FORMATS) if source.is_dir() else []
    there = f"; what is there ({', '.join(others[:5])}) is no whole model that can be read" if others else ""
    raise CheckpointError(f"{source}: neither *.safetensors nor pytorch_model*.bin{there}; expected model.safetensors")


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
    places, storages = set(), set()
    for name, tensor in loaded.items():
        storage = tensor.untyped_storage().data_ptr()
        place = (storage, tensor.storage_offset(), tensor.shape, tensor.stride())
        if place in places:
            continue
        # A part of another tensor's memory gets memory of its own, which the writer wants; so does each transposed one.
        tensors[name] = tensor.clone() if storage in storages else tensor
        tensors[name] = tensors[name].detach().contiguous()
        places.add(place)
        storages.add(storage)
    return tensors

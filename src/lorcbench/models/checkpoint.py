"""Read a Hugging Face checkpoint folder tensor by tensor, without transformers; only tensors that are asked for are loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lorcbench.models.architecture import Architecture

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_COMPUTED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Buffers that older versions of transformers saved with every block. Newer ones compute them and pass over what is saved.
_OLD_BUFFERS = re.compile(r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|masked_bias|causal_mask)$")
# What wraps a model while it is trained → how the model is saved without it.
_WRAPPERS = {
    "base_model.model.": "PEFT: save what merge_and_unload() returns",
    "module.": "DistributedDataParallel or DeepSpeed: save model.module",
    "_orig_mod.": "torch.compile: save model._orig_mod",
    "_fsdp_wrapped_module.": "FSDP: save the full state dict of the model",
}


class CheckpointError(Exception):
    """A folder is no checkpoint that we can read; the message names the file and what would be right."""


def has_safetensors(folder: Path) -> bool:
    """Whether a folder has the files that `Checkpoint` reads; others of their kind hold adapters, optimizers and the like."""
    return (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder with a PEFT adapter: transformers would put it on a model that lies elsewhere.

    Raises:
        CheckpointError: there is one.
    """
    if (folder / ADAPTER).is_file():
        mend = "save what merge_and_unload() returns to a folder of its own"
        raise CheckpointError(f"{folder}/{ADAPTER}: this is a PEFT adapter, not a whole model; {mend}")


class Checkpoint:
    """``config.json`` and safetensors shards of one folder.

    Args:
        folder: where they are.
        architecture: the record that `prepare` found.

    Raises:
        CheckpointError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self.folder = Path(folder)
        self.architecture = architecture
        self.config = read_config(self.folder)

    @cached_property
    def files(self) -> dict[str, tuple[Path, str]]:
        """Full tensor name → (shard, name in the shard), without buffers that older versions of transformers saved.

        Raises:
            CheckpointError: a shard is missing or damaged, or the files hold other blocks than config.json says.
        """
        places = {
            self.architecture.full_name(name): place for name, place in self.stored.items() if not _OLD_BUFFERS.search(name)
        }
        self._check_blocks(places)
        return places

    @cached_property
    def stored(self) -> dict[str, tuple[Path, str]]:
        """Name of a tensor in its shard → (shard, that name).

        Raises:
            CheckpointError: a shard is missing or damaged.
        """
        places = {}
        for shard in self._shards():
            try:
                with safe_open(shard, framework="pt") as file:
                    names = list(file.keys())  # the open file is no dictionary, though it has keys
            except SafetensorError as error:
                raise CheckpointError(f"{shard}: damaged ({error})") from None
            places.update({name: (shard, name) for name in names})
        return places

    def _check_blocks(self, places: dict[str, tuple[Path, str]]) -> None:
        """Refuse files that hold other blocks than config.json says, or that name them otherwise."""
        prefix = self.architecture.blocks + "."
        indices = {name.removeprefix(prefix).partition(".")[0] for name in places if name.startswith(prefix)}
        if not indices:
            self._refuse_wrapped([name for _, name in places.values()])
        if wrong := indices ^ set(map(str, range(self.depth))):
            first = min(wrong, key=lambda index: (len(index), index))  # by number, for indices that are numbers
            state = "there too" if first in indices else "missing"
            raise CheckpointError(f"{self.folder}: config.json says {self.depth} blocks, but block {first} is {state}")

    def _refuse_wrapped(self, names: list[str]) -> None:
        """Refuse tensors whose names begin with what a wrapper of the model put there."""
        blocks = self.architecture.blocks.removeprefix(self.architecture.root)  # the base model's name of them
        for name in names:
            before, found, _ = name.partition(f"{blocks}.0.")
            prefix = before.removesuffix(self.architecture.root)
            if found and prefix.endswith("."):
                known = (mend for start, mend in _WRAPPERS.items() if prefix.startswith(start))
                mend = next(known, "rename the tensors, or save the model by its save_pretrained()")
                raise CheckpointError(f"{self.folder}: names of tensors begin with {prefix!r}, such as {name}; {mend}")

    def _shards(self) -> list[Path]:
        """The files that transformers would read: ``model.safetensors``, or those that the index names.

        Raises:
            CheckpointError: neither is there, the index is damaged, or it names a file that is missing or not beside it.
        """
        whole = self.folder / WEIGHTS
        index = self.folder / INDEX
        if whole.is_file():
            return [whole]
        if not index.is_file():
            raise CheckpointError(f"{self.folder}: neither {whole.name} nor {index.name}")
        return read_index(index)

    @property
    def shards(self) -> list[Path]:
        """The safetensors files that tensors are read from."""
        return sorted({shard for shard, _ in self.files.values()})

    @property
    def depth(self) -> int:
        """Number of decoder blocks."""
        return self.architecture.layers

    def tensors(self, names: list[str]) -> dict[str, torch.Tensor]:
        """The named tensors, in the checkpoint's own type; each shard is opened once.

        Raises:
            CheckpointError: a tensor is missing, is of a type that is not computed with, or holds NaN or infinity.
        """
        if missing := [name for name in names if name not in self.files]:
            raise CheckpointError(f"{self.folder}: no tensor {missing[0]}")
        tensors = {}
        for shard in sorted({self.files[name][0] for name in names}):
            with safe_open(shard, framework="pt") as file:
                for name in (name for name in names if self.files[name][0] == shard):
                    tensors[name] = self._read(file, name)
        for name, tensor in tensors.items():
            # If any number is NaN or infinite, so is an extreme. In float16 aminmax is eight to ten times as fast as
            # isfinite: `python benchmarks/cpu_kernels.py`; benchmarks/README.md, "Kernels that are not PyTorch's".
            if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
                raise CheckpointError(f"{self.folder}: {name} holds NaN or infinite values")
        return tensors

    def _read(self, file, name: str) -> torch.Tensor:
        """A tensor out of its open shard."""
        stored = self.files[name][1]
        try:
            tensor = file.get_tensor(stored)
        except (SafetensorError, AttributeError):  # a type that this version of torch has not
            tensor = None
        if tensor is None or tensor.dtype not in _COMPUTED:
            dtype = file.get_slice(stored).get_dtype()
            raise CheckpointError(
                f"{self.folder}: {name} is of type {dtype}, expected one of F16, BF16, F32, F64; "
                "of a model that is quantized already, take the one that it was made from"
            )
        return tensor

    def names(self, index: int) -> list[str]:
        """The names of all tensors of decoder block `index`, relative to the block."""
        prefix = f"{self.architecture.blocks}.{index}."
        return [name.removeprefix(prefix) for name in self.files if name.startswith(prefix)]

    def block(self, index: int, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
        """The tensors of decoder block `index`, named relative to the block; weights of linears are (out, in).

        Args:
            names: which; None is all.
        """
        prefix = f"{self.architecture.blocks}.{index}."
        tensors = self.tensors([prefix + name for name in (self.names(index) if names is None else names)])
        transposed = {f"{prefix}{name}.weight" for name in self.architecture.transposed}
        return {
            name.removeprefix(prefix): tensor.T.contiguous() if name in transposed else tensor
            for name, tensor in tensors.items()
        }

    def linears(self, index: int) -> dict[str, torch.Tensor]:
        """The weights (out, in) of the linears of block `index`, in forward order.

        Raises:
            CheckpointError: the weight of a linear is missing, is no matrix, or holds NaN or infinity.
        """
        names = self.architecture.linear_names
        weights = self.block(index, [f"{name}.weight" for name in names])
        for name, weight in weights.items():
            if weight.ndim != 2:
                full_name = f"{self.architecture.blocks}.{index}.{name}"
                raise CheckpointError(f"{self.folder}: {full_name} is {tuple(weight.shape)}, expected a matrix")
        return {name: weights[f"{name}.weight"] for name in names}

    def shapes(self, index: int) -> dict[str, tuple[int, int]]:
        """(out, in) of each linear of block `index`; no tensor is read."""
        shapes = {}
        for name in self.architecture.linear_names:
            shard, stored = self.files[f"{self.architecture.blocks}.{index}.{name}.weight"]
            with safe_open(shard, framework="pt") as file:
                rows, width = file.get_slice(stored).get_shape()[:2]  # `linears` refuses what is no matrix
                shapes[name] = (width, rows) if name in self.architecture.transposed else (rows, width)
        return shapes

    def outside(self, names: set[str] | None = None) -> dict[str, torch.Tensor]:
        """The tensors outside the decoder blocks, or those of them that are among `names`; others are not read."""
        outside = [name for name in self.files if not name.startswith(self.architecture.blocks + ".")]
        return self.tensors([name for name in outside if names is None or name in names])


def read_config(folder: Path) -> dict:
    """The content of a checkpoint's ``config.json``.

    Raises:
        CheckpointError: there is none, it is damaged, or the folder holds an adapter.
    """
    refuse_adapter(folder)
    return _json_object(folder / "config.json")


def read_index(index: Path) -> list[Path]:
    """The shards that an index names.

    Raises:
        CheckpointError: the index is damaged, or it names a file that is missing or not beside it.
    """
    weight_map = _json_object(index).get("weight_map")  # tensor name → file name
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: damaged (no weight_map)")
    names = weight_map.values()
    if outside := next((name for name in names if not isinstance(name, str) or Path(name).name != name), None):
        raise CheckpointError(f"{index}: names {outside!r}, expected names of files beside it")
    shards = [index.parent / name for name in sorted(set(names))]
    if missing := [shard for shard in shards if not shard.is_file()]:
        raise CheckpointError(f"{index.parent}: shard {missing[0].name} is named in the index but missing")
    return shards


def _json_object(path: Path) -> dict:
    """The object in a JSON file.

    Raises:
        CheckpointError: the file cannot be read, is no JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content

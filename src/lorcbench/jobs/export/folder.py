"""The folder of an export: safetensors files written as tensors come, the model's configuration, its tokenizer, its adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorcbench.common.process import give_back_memory
from lorcbench.jobs.export.cell import ExportedCell
from lorcbench.models import formats
from lorcbench.models.checkpoint import INDEX, WEIGHTS
from lorcbench.models.network import empty_network

ADAPTER = "adapter"  # the folder of the factors, in that of the checkpoint
_FILE_BYTES = 256 << 20  # a file of weights is closed once it holds as many; they are in memory until then
_SMALL_FILES = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_SMALL_FILES += ("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model")
_SMALL_FILES += ("chat_template.jinja", "chat_template.json")


class TensorFiles:
    """Tensors of a checkpoint, written to as many files as their size asks for; one is called ``model.safetensors``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, torch.Tensor] = {}
        self._files: list[list[str]] = []  # names of the tensors of each file
        self.bytes = 0

    def add(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take tensors, and write those that fill a file."""
        for name, tensor in tensors.items():
            self._waiting[name] = tensor.contiguous()
            self.bytes += tensor.nbytes
            if sum(waiting.nbytes for waiting in self._waiting.values()) >= _FILE_BYTES:
                self._write()

    def close(self) -> None:
        """Write what is left, and the index if there are several files."""
        if self._waiting:
            self._write()
        count = len(self._files)
        if count == 1:
            self._part(0).rename(self._folder / WEIGHTS)
            return
        weight_map = {}
        for number, names in enumerate(self._files):
            file = self._folder / f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            self._part(number).rename(file)
            weight_map |= dict.fromkeys(names, file.name)
        index = {"metadata": {"total_size": self.bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (self._folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number}"

    def _write(self) -> None:
        save_file(self._waiting, self._part(len(self._files)), metadata={"format": "pt"})
        self._part(len(self._files)).chmod(0o644)  # save_file lets nobody else read it
        self._files.append(list(self._waiting))
        self._waiting = {}


def write(exported: ExportedCell, folder: Path, progress) -> dict[str, str]:
    """Write the checkpoint and the adapter of a cell; returns the digests of what a library must load from it.

    Args:
        folder: empty.
        progress: told how many blocks are written, and of how many.
    """
    checkpoint = exported.checkpoint
    digests: dict[str, str] = {}
    adapter: dict[str, torch.Tensor] = {}
    files = TensorFiles(folder)
    depth = checkpoint.depth
    outside = sum(not name.startswith(exported.architecture.blocks + ".") for name in checkpoint.files)
    for number, part in enumerate(exported.parts()):
        files.add(part.stored)
        adapter |= part.adapter
        digests |= part.digests
        del part
        give_back_memory()
        progress(max(0, number + 1 - outside), depth)
    files.close()
    config = checkpoint.config | {"dtype": str(exported.dtype).removeprefix("torch.")}
    config.pop("torch_dtype", None)
    config |= {"quantization_config": quantization} if (quantization := _quantization(exported)) else {}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in _SMALL_FILES:
        if (source := checkpoint.folder / name).is_file():
            shutil.copyfile(source, folder / name)
    if exported.has_adapter:
        _write_adapter(exported, folder / ADAPTER, adapter)
    return digests


def _quantization(exported: ExportedCell) -> dict | None:
    """What ``config.json`` says of the codes; None if there are none.

    Without ``dequantize`` transformers 5.23 does not load packed zero points, and PEFT 0.21 finds no weights to add to. With it
    activations are not rounded, so that a cell with rounded activations goes without.
    """
    fmt, activation = exported.format, exported.activation
    if exported.export == "gptq":
        return formats.gptq(fmt)
    if exported.export != "compressed-tensors":
        return None
    asymmetric = any(not one.symmetric for one in exported.formats)
    dequantize = activation.is_full_precision and (asymmetric or exported.has_adapter)
    config = formats.compressed_tensors(exported.targets(), activation, exported.layout, _not_packed(exported))
    return config | ({"dequantize": True} if dequantize else {})


def _not_packed(exported: ExportedCell) -> list[str]:
    """The linears outside the decoder blocks, and those in them that stay as they are."""
    network = empty_network(exported.checkpoint.folder, exported.checkpoint.config, exported.dtype)
    blocks, packed = exported.architecture.blocks + ".", set(exported.architecture.linear_names)
    linears = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    return [name for name in linears if not (name.startswith(blocks) and name.removeprefix(blocks).partition(".")[2] in packed)]


def _write_adapter(exported: ExportedCell, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The factors, as PEFT stores them."""
    folder.mkdir()
    names = exported.architecture.linear_names
    formats.write_lora_config(folder, exported.ranks, names, bool(exported.architecture.transposed))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_model.safetensors").chmod(0o644)


def size(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

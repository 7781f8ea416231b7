"""The folder of an export: safetensors files written as tensors come, the model's configuration, its tokenizer, its adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorcbench.common.process import give_back_memory
from lorcbench.jobs.export.cell import ExportedCell
from lorcbench.models.checkpoint import INDEX, WEIGHTS

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
        give_back_memory()


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
    """What ``config.json`` says of the codes; None if there are none."""
    if exported.export == "gptq":
        fmt = exported.format
        version = "gptq" if fmt.symmetric else "gptq_v2"
        return {
            "quant_method": "gptq",
            "checkpoint_format": version,
            "bits": fmt.bits,
            "group_size": fmt.group or -1,
            "desc_act": False,
            "sym": fmt.symmetric,
            "lm_head": False,
            "pack_dtype": "int32",
        }
    return _compressed_tensors(exported) if exported.export == "compressed-tensors" else None


def _compressed_tensors(exported: ExportedCell) -> dict:
    """What compressed-tensors says of the codes, by its own schema, which refuses what it does not know.

    Without ``dequantize`` transformers 5.23 does not load packed zero points, and PEFT 0.21 finds no weights to add to. With it
    activations are not rounded, so that a cell with rounded activations goes without.
    """
    from compressed_tensors.quantization import QuantizationConfig

    fmt = exported.format
    per_group = {"strategy": "group", "group_size": fmt.group} if fmt.group else {"strategy": "channel"}
    group = {
        "targets": ["Linear"],
        "format": exported.layout,
        "weights": {"num_bits": fmt.bits, "type": "int", "symmetric": fmt.symmetric, "dynamic": False, **per_group},
    }
    activation = exported.activation
    if not activation.is_full_precision:
        about = {"num_bits": activation.bits, "type": "int", "symmetric": activation.symmetric}
        group["input_activations"] = {**about, "strategy": "token", "dynamic": True}
    quantization = QuantizationConfig(
        config_groups={"group_0": group},
        format=exported.layout,
        quantization_status="compressed",
        ignore=_not_packed(exported),
    )
    dequantize = activation.is_full_precision and (not fmt.symmetric or exported.has_adapter)
    config = json.loads(quantization.model_dump_json(exclude_none=True))
    return config | ({"dequantize": True} if dequantize else {})


def _not_packed(exported: ExportedCell) -> list[str]:
    """The linears outside the decoder blocks, and those in them that stay as they are."""
    from lorcbench.models.network import empty_network

    network = empty_network(exported.checkpoint.folder, exported.checkpoint.config, exported.dtype)
    blocks, packed = exported.architecture.blocks + ".", set(exported.architecture.linear_names)
    linears = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    return [name for name in linears if not (name.startswith(blocks) and name.removeprefix(blocks).partition(".")[2] in packed)]


def _write_adapter(exported: ExportedCell, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The factors, as PEFT stores them: of each module with its own rank, and multiplied with 1."""
    from peft import LoraConfig

    folder.mkdir()
    ranks = exported.ranks
    common = max(ranks.values(), key=list(ranks.values()).count)
    others = {module: rank for module, rank in ranks.items() if rank != common}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=common,
        lora_alpha=common,
        rank_pattern=others,
        alpha_pattern=dict(others),
        target_modules=sorted(exported.architecture.linear_names),
        fan_in_fan_out=bool(exported.architecture.transposed),
        lora_dropout=0.0,
        bias="none",
        inference_mode=True,
    )
    config.save_pretrained(folder)
    written = folder / "adapter_config.json"
    about = json.loads(written.read_text(encoding="utf-8"))
    about["target_modules"] = sorted(about["target_modules"])  # PEFT writes a set, in no fixed order
    written.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_model.safetensors").chmod(0o644)


def size(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

"""Read a Hugging Face checkpoint folder tensor by tensor, without transformers and without loading what is not asked for."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lorcbench.architectures import ARCHITECTURES, Architecture


class CheckpointError(Exception):
    """A folder that is no checkpoint that we can read; the message names the file and what would be right."""


class Checkpoint:
    """``config.json`` and safetensors shards of one folder.

    Raises:
        CheckpointError: a file is missing or damaged, or the family is unknown.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            self.config: dict = json.loads((self.folder / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.folder}/config.json: {error}") from None
        model_type = self.config.get("model_type")
        if model_type not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise CheckpointError(f"{self.folder}/config.json: model_type {model_type!r}; known families are {known}")
        self.architecture: Architecture = ARCHITECTURES[model_type]

    @cached_property
    def files(self) -> dict[str, tuple[Path, str]]:
        """Full tensor name → (shard, name in the shard)."""
        shards = sorted(self.folder.glob("*.safetensors"))
        if not shards:
            raise CheckpointError(f"{self.folder}: no *.safetensors file")
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            named = set(json.loads(index.read_text())["weight_map"].values())
            if missing := sorted(named - {shard.name for shard in shards}):
                raise CheckpointError(f"{self.folder}: shard {missing[0]} is named in the index but missing")
            shards = [self.folder / name for name in sorted(named)]
        found = {}
        for shard in shards:
            try:
                with safe_open(shard, framework="pt") as file:
                    found.update({self._full_name(name): (shard, name) for name in file.keys()})
            except SafetensorError as error:
                raise CheckpointError(f"{shard}: damaged ({error})") from None
        return found

    def _full_name(self, name: str) -> str:
        root = self.architecture.root
        return name if name.startswith((root, "lm_head.")) else root + name

    @property
    def depth(self) -> int:
        """Number of decoder blocks."""
        return self.config[self.architecture.shape[0]]

    def tensors(self, names: list[str]) -> dict[str, torch.Tensor]:
        """The named tensors, in the checkpoint's type; each shard is opened once."""
        if missing := [name for name in names if name not in self.files]:
            raise CheckpointError(f"{self.folder}: no tensor {missing[0]}")
        found = {}
        for shard in sorted({self.files[name][0] for name in names}):
            with safe_open(shard, framework="pt") as file:
                found.update({name: file.get_tensor(self.files[name][1]) for name in names if self.files[name][0] == shard})
        return found

    def block(self, index: int) -> dict[str, torch.Tensor]:
        """All tensors of decoder block `index`, named relative to the block."""
        prefix = f"{self.architecture.blocks}.{index}."
        names = [name for name in self.files if name.startswith(prefix)]
        if not names:
            raise CheckpointError(f"{self.folder}: config.json says {self.depth} blocks, but block {index} has no tensors")
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors(names).items()}

    def linears(self, index: int) -> dict[str, torch.Tensor]:
        """The weights (out, in) of the linears of block `index`, in forward order.

        Raises:
            CheckpointError: a linear is missing or holds NaN or infinity.
        """
        prefix = f"{self.architecture.blocks}.{index}."
        names = self.architecture.linear_names
        weights = self.tensors([f"{prefix}{name}.weight" for name in names])
        for name, weight in weights.items():
            if weight.ndim != 2 or not torch.isfinite(weight).all():
                raise CheckpointError(f"{self.folder}: {name} is no finite matrix")
        return {name: weights[f"{prefix}{name}.weight"] for name in names}

    def outside(self) -> dict[str, torch.Tensor]:
        """All tensors outside the decoder blocks."""
        return self.tensors([name for name in self.files if not name.startswith(self.architecture.blocks + ".")])

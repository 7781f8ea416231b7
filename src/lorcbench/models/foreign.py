"""A checkpoint that was quantized elsewhere, read block by block beside the model that it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open

from lorcbench.config.foreign import Layout
from lorcbench.core import layouts
from lorcbench.models.checkpoint import Checkpoint, CheckpointError

_PARTS = {part for needed, more in layouts.PARTS.values() for part in (*needed, *more)}
_HEAD = "lm_head.weight"


@dataclass
class ForeignBlock:
    """One decoder block.

    Attributes:
        weights: Ŵ (out, in) float32 by linear.
        others: biases, norms and the like, by name in the block, in the file's type.
        bits: that the files have for its linears: codes, scales, zero points, the order of columns.
        unquantized: the linears that the files have as they are.
    """

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    others: dict[str, torch.Tensor] = field(default_factory=dict)
    bits: int = 0
    unquantized: list[str] = field(default_factory=list)


class ForeignCheckpoint:
    """The blocks of a quantized checkpoint, dequantized by our own reading of its layout.

    Args:
        folder: where it is.
        base: the checkpoint that it was made from, whose architecture it has.
        layout: of `lorcbench.config.foreign.layout`.

    Raises:
        CheckpointError: it has no safetensors files that can be read, or linears that are stored the other way round.
    """

    def __init__(self, folder: Path, base: Checkpoint, layout: Layout) -> None:
        self.base = base
        self.layout = layout
        self.checkpoint = Checkpoint(folder, base.architecture)
        if base.architecture.transposed:
            name = base.architecture.transposed[0]
            raise CheckpointError(f"{folder}: {name} is a Conv1D, which packed layouts store in ways that are not read here")

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.checkpoint.folder

    def block(self, index: int) -> ForeignBlock:
        """Block `index`.

        Raises:
            CheckpointError: its tensors are not those of the base model's block, or not what the layout has.
        """
        prefix = f"{self.base.architecture.blocks}.{index}."
        tensors = {name.removeprefix(prefix): tensor for name, tensor in self._read(self._names_in(prefix)).items()}
        shapes = self._base_shapes(prefix)
        block = ForeignBlock()
        for linear in self.base.architecture.linear_names:
            parts = {part: tensors.pop(f"{linear}.{part}") for part in _PARTS if f"{linear}.{part}" in tensors}
            weight = self._weight(prefix + linear, parts, block, linear)
            expected = shapes.pop(f"{linear}.weight")
            if tuple(weight.shape) != expected:
                raise self._differs(f"{prefix}{linear} is {tuple(weight.shape)}, that of the base model {expected}")
            block.weights[linear] = weight
            block.bits += 8 * sum(part.numel() * part.element_size() for part in parts.values())
        self._take_others(prefix, tensors, shapes, block)
        return block

    def check_outside(self) -> None:
        """Refuse a checkpoint whose embeddings, head and last norm are not the base model's, in the coarser of both types.

        Raises:
            CheckpointError: the first tensor that is another.
        """
        blocks = self.base.architecture.blocks + "."
        own = {name for name in self.checkpoint.files if not name.startswith(blocks)}
        theirs = {name for name in self.base.files if not name.startswith(blocks)}
        embedding = None
        for name in sorted(theirs):
            (expected,) = self.base.tensors([name]).values()
            if embedding is None or expected.numel() > embedding.numel():
                embedding = expected
            if name not in own:
                raise self._differs(f"it has no {name}")
            self._check_same(name, self._read([name])[name], expected)
        for name in sorted(own - theirs):
            if name != _HEAD:  # a head that is the embedding may be saved too
                raise self._differs(f"it has {name}, and the base model has not")
            self._check_same(name, self._read([name])[name], embedding)

    def _names_in(self, prefix: str) -> list[str]:
        return [name for name in self.checkpoint.files if name.startswith(prefix)]

    def _read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Tensors of any type by full name; each shard is opened once."""
        places = {name: self.checkpoint.files[name] for name in names}
        tensors = {}
        for shard in sorted({shard for shard, _ in places.values()}):
            with safe_open(shard, framework="pt") as file:
                tensors |= {name: file.get_tensor(stored) for name, (place, stored) in places.items() if place == shard}
        return tensors

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the base model's tensors; none is read."""
        shapes = {}
        for shard in self.base.shards:
            with safe_open(shard, framework="pt") as file:
                for name, (place, stored) in self.base.files.items():
                    if place == shard:
                        shapes[name] = tuple(file.get_slice(stored).get_shape())
        return shapes

    def _base_shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors of one of the base model's blocks, by name in the block."""
        return {name.removeprefix(prefix): shape for name, shape in self._shapes.items() if name.startswith(prefix)}

    def _weight(self, name: str, parts: dict[str, torch.Tensor], block: ForeignBlock, linear: str) -> torch.Tensor:
        """One linear, which the files may have as it is."""
        if set(parts) == {"weight"} and parts["weight"].is_floating_point():
            block.unquantized.append(linear)
            return self._finite(name, parts["weight"].float())
        if not parts:
            raise self._differs(f"it has no {name}")
        fmt = self.layout.weight
        try:
            weight = layouts.dequantize(self.layout.name, parts, fmt.bits, fmt.symmetric, fmt.group)
        except ValueError as error:
            raise CheckpointError(f"{self.folder}: {name}: {error}") from None
        return self._finite(name, weight)

    def _finite(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.isfinite().all():
            raise CheckpointError(f"{self.folder}: {name} holds NaN or infinite values")
        return tensor

    def _take_others(
        self, prefix: str, tensors: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], block: ForeignBlock
    ) -> None:
        """Biases and norms, which AWQ changes; some programs write biases of zeros where the model has none."""
        for name, shape in shapes.items():
            if name not in tensors:
                raise self._differs(f"it has no {prefix}{name}")
            tensor = tensors.pop(name)
            if tuple(tensor.shape) != shape:
                raise self._differs(f"{prefix}{name} is {tuple(tensor.shape)}, that of the base model {shape}")
            block.others[name] = self._finite(prefix + name, tensor)
        for name, tensor in tensors.items():
            if not (name.endswith(".bias") and not tensor.any()):
                raise self._differs(f"it has {prefix}{name}, and the base model has not")

    def _check_same(self, name: str, own: torch.Tensor, expected: torch.Tensor) -> None:
        if own.shape != expected.shape:
            raise self._differs(f"{name} is {tuple(own.shape)}, that of the base model {tuple(expected.shape)}")
        if not torch.equal(own, expected.to(own.dtype)) and not torch.equal(own.to(expected.dtype), expected):
            raise self._differs(f"{name} has other numbers")

    def _differs(self, what: str) -> CheckpointError:
        """The one line for tensors that are not the base model's."""
        expected = "expected the model that it was made from"
        return CheckpointError(f"{self.folder} was not made from {self.base.folder}: {what}; {expected}")

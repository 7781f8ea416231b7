"""A quantized decoder block: what a method makes, how its shard stores it, and how it is read back.

A shard holds, for each linear, the parts ``<linear>.codes`` (packed), ``<linear>.scale`` and, for an asymmetric format,
``<linear>.zero``. Distillation trains biases and norms too. They lie in the same shard under ``trained.`` and their own name,
in the checkpoint's type, and are installed with the weights wherever a block is built. They replace the checkpoint's own at the
same size, so `bits_per_weight` does not count them, as it does not count those of other methods.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from lorcbench.common.paths import Wildcards
from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import Quantized, check, dequantize, from_stored, to_stored
from lorcbench.jobs.shards import Shards, ShardWriter
from lorcbench.study.cells import weight_format
from lorcbench.study.stages import QUANTIZE

TRAINED = "trained."  # prefix of a trained parameter's name in a shard
DEAD = ".dead"  # after a linear's name in a shard: its inputs that calibration never saw other than zero
FACTORS = (".B", ".A")  # after the name of a matrix in a shard: the factors that the method made with its codes
_PARTS = ("codes", "scale", "zero")


@dataclass(frozen=True)
class QuantizedBlock:
    """A quantized block, to the bit what its shard holds.

    Attributes:
        matrices: the quantized weights, by linear.
        trained: biases and norms that were trained with the weights, by name in the block; empty for most methods.
        dead: (in,) bool, inputs that were zero on every calibration token, by linear; only of linears that have any.
        notes: what the method reports of each linear, or of the whole ``block``: the damping that was needed, for example.
        factors: B (out, r) and A (r, in) float32 that the method made with its codes, by linear, or by the q, k or v of a fused
            one; empty for most methods. They are kept for the stage ``lorc``, which stores and counts them.
    """

    matrices: dict[str, Quantized]
    trained: dict[str, torch.Tensor] = field(default_factory=dict)
    dead: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: dict[str, dict] = field(default_factory=dict)
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def weights(self) -> dict[str, torch.Tensor]:
        """Ŵ (out, in) float32 by linear, and the trained parameters by full name: what `install_weights` takes."""
        return {name: dequantize(matrix) for name, matrix in self.matrices.items()} | self.trained

    def in_types_of(self, tensors: dict[str, torch.Tensor]) -> QuantizedBlock:
        """This block with its trained parameters in the types of the checkpoint's `tensors`, as its shard will hold them.

        What comes after a block must not depend on whether the block was made now or kept from an earlier run.
        """
        return replace(self, trained={name: tensor.to(tensors[name].dtype) for name, tensor in self.trained.items()})

    def stored(self) -> dict[str, torch.Tensor]:
        """The tensors that a shard keeps of this block, by name."""
        tensors = {TRAINED + name: tensor for name, tensor in self.trained.items()}
        tensors |= {name + DEAD: mask for name, mask in self.dead.items()}
        for name, pair in self.factors.items():
            tensors |= {name + end: factor.contiguous() for end, factor in zip(FACTORS, pair, strict=True)}
        for name, matrix in self.matrices.items():
            tensors |= {f"{name}.{part}": tensor for part, tensor in to_stored(matrix).items()}
        return tensors


def stored_matrix(tensors: dict[str, torch.Tensor], linear: str, fmt: WeightFormat, width: int) -> Quantized:
    """The quantized weights of one linear with `width` inputs, out of the tensors of a shard."""
    names = {part: f"{linear}.{part}" for part in _PARTS}
    return from_stored({part: tensors[name] for part, name in names.items() if name in tensors}, fmt, width)


def stored_trained(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The trained biases and norms, by name in the block, out of the tensors of a shard."""
    return {name.removeprefix(TRAINED): tensor for name, tensor in tensors.items() if name.startswith(TRAINED)}


def stored_dead(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The dead inputs by linear, of those that have any, out of the tensors of a shard."""
    return {name.removesuffix(DEAD): tensor for name, tensor in tensors.items() if name.endswith(DEAD)}


def stored_factors(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """B (out, r) and A (r, in) that the method made, by matrix, out of the tensors of a shard; empty of most methods."""
    b, a = FACTORS
    return {name.removesuffix(b): (tensors[name], tensors[name.removesuffix(b) + a]) for name in tensors if name.endswith(b)}


class QuantizedBlocks:
    """The blocks that one job of the stage ``quantize`` makes, each kept from an earlier run or written.

    Args:
        shards: where they go.
        method: that makes them, as messages name it.
        formats: of each linear, one entry per block.
        shapes: (out, in) of each linear, one entry per block.
    """

    def __init__(
        self,
        shards: ShardWriter,
        method: str,
        formats: list[dict[str, WeightFormat]],
        shapes: list[dict[str, tuple[int, int]]],
    ) -> None:
        self._shards = shards
        self._method = method
        self.formats = formats
        self._shapes = shapes
        self._stored_bits = 0
        self._weight_count = 0

    def kept(self, index: int) -> QuantizedBlock | None:
        """Block `index` as an earlier, killed run of the same job wrote it; None if the block must be made."""
        shard = self._shards.kept(index)
        if shard is None:
            return None
        tensors = shard.tensors()
        formats = self.formats[index]
        matrices = {
            name: stored_matrix(tensors, name, formats[name], width) for name, (_, width) in self._shapes[index].items()
        }
        block = QuantizedBlock(matrices, stored_trained(tensors), stored_dead(tensors), shard.notes, stored_factors(tensors))
        self._count(block, tensors)
        return block

    def write(self, index: int, block: QuantizedBlock) -> None:
        """Write block `index`.

        Raises:
            ValueError: the block is not what its shard would say that it is.
        """
        self._check(index, block)
        tensors = block.stored()
        self._count(block, tensors)
        self._shards.write(index, tensors, block.notes)

    def _check(self, index: int, block: QuantizedBlock) -> None:
        """Refuse a block that lacks a linear, or has one that does not fit its format: it would be read as other weights."""
        where, formats, shapes = f"method {self._method}, block {index}", self.formats[index], self._shapes[index]
        if block.matrices.keys() != shapes.keys():
            lacking, others = sorted(shapes.keys() - block.matrices.keys()), sorted(block.matrices.keys() - shapes.keys())
            wrong = [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"has {', '.join(others)}"] * bool(others)
            raise ValueError(f"{where}: {' and '.join(wrong)}; expected {', '.join(shapes)}")
        for name, matrix in block.matrices.items():
            try:
                check(matrix, formats[name], *shapes[name])
            except ValueError as error:
                raise ValueError(f"{where}, {name}: {error}") from None

    def _count(self, block: QuantizedBlock, tensors: dict[str, torch.Tensor]) -> None:
        """Add up the weights of the linears and the bits that are stored for them: codes, scales and zero points."""
        counted = [tensor for name, tensor in tensors.items() if name.endswith(tuple("." + part for part in _PARTS))]
        self._stored_bits += 8 * sum(tensor.numel() * tensor.element_size() for tensor in counted)
        self._weight_count += sum(matrix.codes.numel() for matrix in block.matrices.values())

    def payload(self) -> dict:
        """What the result says, once every block was kept or written."""
        notes = self._shards.notes
        damps = [note["damp"] for block in notes for note in block.values() if "damp" in note]
        return {
            **self._shards.payload(),
            "widths": {name: _same_everywhere([shapes[name][1] for shapes in self._shapes]) for name in self._shapes[0]},
            "weights": self._weight_count,
            "bits_per_weight": self._stored_bits / self._weight_count,
            "notes": notes,
            "max_damp": max(damps, default=None),
        }


def _same_everywhere(widths: list[int]) -> int | list[int]:
    """The width of a linear in all blocks, or in each block, where blocks differ."""
    return widths[0] if len(set(widths)) == 1 else widths


class QuantizedModel:
    """The quantized weights of one model, read one block at a time and decoded on `device`."""

    def __init__(self, names: Wildcards, fmt: WeightFormat, device: str = "cpu") -> None:
        self.device = device
        self.shards = Shards(QUANTIZE.folder(names) / "result.json", QUANTIZE.kind)
        self.format = fmt
        self.digest = self.shards.result["digest"]

    def formats(self, index: int) -> dict[str, WeightFormat]:
        """The format of each linear of block `index`."""
        if self.format.is_mixed:
            return {name: weight_format(spelled) for name, spelled in self.shards.result["formats"][index].items()}
        return dict.fromkeys(self.shards.result["widths"], self.format)

    def widths(self, index: int) -> dict[str, int]:
        """The number of inputs of each linear of block `index`."""
        widths = self.shards.result["widths"].items()
        return {name: width if isinstance(width, int) else width[index] for name, width in widths}

    def block(self, index: int) -> dict[str, torch.Tensor]:
        """Ŵ (out, in) float32 of block `index` by linear, and the parameters trained with them by full name."""
        tensors = {name: tensor.to(self.device) for name, tensor in self.shards.block(index).items()}
        # One matrix after another: the unpacked codes of a whole block would be a quarter of its weights.
        formats = self.formats(index)
        weights = {
            linear: dequantize(stored_matrix(tensors, linear, formats[linear], width))
            for linear, width in self.widths(index).items()
        }
        return weights | stored_trained(tensors)

    def dead_inputs(self, index: int) -> dict[str, torch.Tensor]:
        """(in,) bool, inputs of block `index` that were zero on all calibration tokens, by linear; only where there are any."""
        if not any(note.get("dead") for note in self.shards.result["notes"][index].values()):
            return {}
        return {name: mask.to(self.device) for name, mask in stored_dead(self.shards.block(index)).items()}

    def factors(self, index: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """B (out, r) and A (r, in) float32 of block `index` that the method made with its codes, by matrix."""
        tensors = {name: tensor.to(self.device) for name, tensor in self.shards.block(index).items() if name.endswith(FACTORS)}
        return stored_factors(tensors)

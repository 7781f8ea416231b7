"""What an export holds of a cell, one decoder block at a time: the tensors of its files, and the digests of what they mean."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch

from lorcbench.common.artifacts import ArtifactError
from lorcbench.core import lorc, packing
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.core.quantizer import Quantized
from lorcbench.jobs.inputs import CellWeights
from lorcbench.jobs.quantized import stored_matrix
from lorcbench.models.architecture import Architecture
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.study import exports

ADAPTER_PREFIX = "base_model.model."  # of every name in an adapter's file


class Tensors(NamedTuple):
    """A part of a model.

    Attributes:
        stored: the tensors of the checkpoint's files, by name in the checkpoint.
        adapter: those of the adapter's file.
        digests: SHA-256 of what the model's parameters must be once they are loaded, by their name in its class.
    """

    stored: dict[str, torch.Tensor]
    adapter: dict[str, torch.Tensor]
    digests: dict[str, str]


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of the bytes of a tensor, row after row."""
    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()


def type_of(export: str, stored: torch.dtype, scales: str, activation: ActivationFormat) -> torch.dtype:
    """The type in which an export is loaded.

    A merged checkpoint keeps its type. Packed codes are multiplied with their scales by the library in this type, so it holds
    the scales, for which bfloat16 has too few digits; nor does it hold weights to which a small correction is added. GPTQ's
    library computes in no other type than float16 and bfloat16. Activations are rounded in it: in float16 their scales would
    have other last digits than ours, and codes would differ.

    Args:
        stored: type of the checkpoint's weights.
        scales: type of the cell's scales.
        activation: how the library rounds the inputs of the linears.
    """
    if export == "merged":
        return stored
    if export == "gptq":
        return torch.float16
    wide = stored in (torch.float32, torch.float64) or not activation.is_full_precision
    if export == "compressed-tensors" and scales == "float32":
        wide = True
    return torch.float32 if wide else torch.float16


class ExportedCell:
    """A cell in one format.

    Args:
        weights: of the cell.
        export: one of `lorcbench.study.exports.FORMATS`.
        activation: how the inputs of the linears are rounded.
    """

    def __init__(self, weights: CellWeights, export: str, activation: ActivationFormat) -> None:
        self.weights = weights
        self.checkpoint: Checkpoint = weights.checkpoint
        self.architecture: Architecture = self.checkpoint.architecture
        self.export = export
        self.format = weights.quantized.format
        blocks = range(self.checkpoint.depth) if self.format.is_mixed else [0]
        # The formats that occur, from few bits to many: one, unless they are mixed.
        used = {fmt for index in blocks for fmt in weights.quantized.formats(index).values()}
        self.formats = sorted(used, key=lambda fmt: (fmt.bits, str(fmt)))
        # A merged or dequantized checkpoint cannot say that activations are rounded.
        self.activation = activation if export == "compressed-tensors" else ActivationFormat(16)
        first = f"{self.architecture.blocks}.0.{self.architecture.linear_names[0]}.weight"
        stored = self.checkpoint.tensors([first])[first].dtype
        scales = max((fmt.scale_dtype for fmt in self.formats), key=lambda name: name == "float32")
        self.dtype = type_of(export, stored, scales, self.activation)
        self.ranks: dict[str, int] = {}  # of the adapter, by the name of a module; filled while blocks are read

    @property
    def has_adapter(self) -> bool:
        """Whether the factors lie beside the checkpoint."""
        return self.weights.factors is not None and self.export != "merged"

    @property
    def layout(self) -> str:
        """How compressed-tensors stores the codes."""
        return "pack-quantized" if exports.is_packed(self.formats, self.activation) else "int-quantized"

    def parts(self) -> Iterator[Tensors]:
        """Yields all tensors: one outside the blocks after another, then block after block."""
        inside = self.architecture.blocks + "."
        for name in self.checkpoint.files:
            if not name.startswith(inside):
                own = self.checkpoint.tensors([name])[name]
                typed = self._typed(name, own)
                tensor = _narrower(own, typed)
                yield Tensors({self._stored(name): tensor}, {}, {name: digest(typed)})
        for index in range(self.checkpoint.depth):
            yield self.block(index)

    def block(self, index: int) -> Tensors:
        """The tensors of decoder block `index`."""
        prefix = f"{self.architecture.blocks}.{index}."
        linears = {f"{name}.weight": name for name in self.architecture.linear_names}
        # Everything but the linears' own weights is the checkpoint's, or was trained with them.
        weights = self.weights.block(index) if self.export == "merged" else self.weights.quantized.block(index)
        others = self.checkpoint.block(index, [name for name in self.checkpoint.names(index) if name not in linears])
        stored, digests = {}, {}
        for name, tensor in others.items():
            own = weights.get(name, tensor)
            typed = self._typed(prefix + name, own)
            stored[self._stored(prefix + name)] = _narrower(own, typed)
            digests[prefix + name] = digest(typed)
        matrices = self._matrices(index) if self.export not in ("merged", "adapter") else {}
        for name, linear in linears.items():
            dense = self._typed(prefix + name, weights[linear])
            dense = dense.T.contiguous() if linear in self.architecture.transposed else dense
            digests[prefix + name] = digest(dense)
            module = self._stored(prefix + name).removesuffix("weight")
            packed = self._packed(matrices[linear]) if matrices else {"weight": dense}
            stored |= {module + part: tensor for part, tensor in packed.items()}
        adapter = self._adapter(index) if self.has_adapter else {}
        return Tensors(stored, adapter, digests | {name: digest(tensor.float()) for name, tensor in adapter.items()})

    def _stored(self, name: str) -> str:
        """The name of a tensor in the checkpoint's files."""
        return self.checkpoint.files[name][1]

    def _typed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor in the type of the export, in which it must be finite."""
        typed = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        if typed.is_floating_point() and typed.numel() and not torch.stack(typed.aminmax()).isfinite().all():
            raise ArithmeticError(f"{name} is too large for {self.dtype}, in which the export is loaded")
        return typed

    def _matrices(self, index: int) -> dict[str, Quantized]:
        """The codes, scales and zero points of a block, by linear."""
        quantized = self.weights.quantized
        tensors, formats = quantized.shards.block(index), quantized.formats(index)
        return {name: stored_matrix(tensors, name, formats[name], width) for name, width in quantized.widths(index).items()}

    def targets(self) -> dict[WeightFormat, list[str]]:
        """Which linears have which format, as compressed-tensors names them: all of their class, or each of mixed ones."""
        if not self.format.is_mixed:
            return {self.format: ["Linear"]}
        found: dict[WeightFormat, list[str]] = {fmt: [] for fmt in self.formats}
        for index in range(self.checkpoint.depth):
            for name, fmt in self.weights.quantized.formats(index).items():
                found[fmt].append(f"{self.architecture.blocks}.{index}.{name}")
        return found

    def _packed(self, matrix: Quantized) -> dict[str, torch.Tensor]:
        """The tensors of one linear, by the end of their names."""
        if self.export == "gptq":
            return packing.gptq(matrix)
        pack = packing.pack_quantized if self.layout == "pack-quantized" else packing.int_quantized
        return pack(matrix, self.dtype)

    def _adapter(self, index: int) -> dict[str, torch.Tensor]:
        """A (r, in) and B (out, r) of every linear of a block, as PEFT names them; exact, in float16 if that holds them.

        Factors stored in 8 bits have a scale each, and their product has more digits than float16.
        """
        tensors = {}
        for linear, (b, a) in factors(self.weights, index).items():
            module = f"{self.architecture.blocks}.{index}.{linear}"
            self.ranks[module] = len(a)
            tensors[f"{ADAPTER_PREFIX}{module}.lora_A.weight"] = a
            tensors[f"{ADAPTER_PREFIX}{module}.lora_B.weight"] = b
        return tensors


def _narrower(own: torch.Tensor, typed: torch.Tensor) -> torch.Tensor:
    """What the file holds of a tensor: as it is, if the type of the export holds all its digits, else in that type."""
    return own if own.element_size() < typed.element_size() else typed


def factors(weights: CellWeights, index: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """B (out, r) and A (r, in) of every linear of a block at the cell's rank.

    A fused linear that was corrected in parts has one factor pair for all of them: the components of its parts one after the
    other, each of which is zero in the rows of the others.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.factors.shards.block(index).items():
        matrix, _, part = name.rpartition(".")
        parts.setdefault(matrix, {})[part] = tensor
    dtype = torch.float32 if any("B_scale" in part for part in parts.values()) else torch.float16
    pairs = {
        name: tuple(factor.to(dtype).contiguous() for factor in lorc.decoded(stored, weights.factors.rank))
        for name, stored in parts.items()
    }
    architecture = weights.checkpoint.architecture
    return {
        linear: pairs[linear] if linear in pairs else _joined(pairs, linear, architecture)
        for linear in architecture.linear_names
    }


def _joined(
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]], linear: str, architecture: Architecture
) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors of a fused linear, out of those of its parts."""
    own = {name: pairs[f"{linear}.{name}"] for name, _ in architecture.fused[linear]["parts"]}
    rows = architecture.part_rows(linear, sum(len(b) for b, _ in own.values()))
    if rows is None:
        raise ArtifactError(f"{linear}: its factors are of parts, and it has none")
    a = torch.cat([part for _, part in own.values()])
    b = a.new_zeros(sum(map(len, rows.values())), len(a))
    start = 0
    for name, (part, _) in own.items():
        b[rows[name], start : start + part.shape[1]] = part
        start += part.shape[1]
    return b, a

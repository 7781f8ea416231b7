"""Open the weights that earlier stages left: LoRC factors, and what the blocks of a whole cell hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from lorcbench.common.artifacts import ArtifactError, read_json
from lorcbench.common.paths import Wildcards
from lorcbench.config import compose, foreign
from lorcbench.core import lorc
from lorcbench.core.formats import WeightFormat
from lorcbench.jobs.foreign import ForeignModel
from lorcbench.jobs.quantized import QuantizedModel
from lorcbench.jobs.shards import Shards
from lorcbench.models.architecture import Architecture
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.study.stages import LORC, PREPARE


def _check_made_from(shards: Shards, source: str, digest: str) -> None:
    """Refuse shards whose input `source` was not the one with this digest."""
    if shards.result["identity"]["inputs"][source] != digest:
        raise ArtifactError(f"{shards.folder}: made from another {source} than the one that is there; delete it and run again")


class Factors:
    """The LoRC factors of one quantized model, read one block at a time and multiplied on `device`.

    Args:
        ranks: of each linear, one entry per block, if a method has chosen them; none is above `rank`.
    """

    def __init__(
        self,
        names: Wildcards,
        lorc_name: str,
        rank: int,
        device: str = "cpu",
        ranks: list[dict[str, int]] | None = None,
    ) -> None:
        self.device = device
        self.ranks = ranks
        folder = LORC.folder(replace(names, lorc=lorc_name, cap=str(compose.components(lorc_name, rank))))
        self.shards = Shards(folder / "result.json", "factors")
        self.rank = rank
        self.digest = self.shards.result["digest"]

    def block(
        self, index: int, architecture: Architecture, read: Callable[[int], dict] | None = None
    ) -> tuple[dict[str, torch.Tensor], int]:
        """B·A (out, in) float32 of every linear of block `index`, and the bits that their factors take at this rank.

        Args:
            read: used instead of reading the shard, for ranks that share one.
        """
        # ``fc1.B`` and ``fc1.A`` of the shard → ``B`` and ``A`` of ``fc1``.
        stored: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in (read or self.shards.block)(index).items():
            matrix, _, part = name.rpartition(".")
            stored.setdefault(matrix, {})[part] = tensor.to(self.device)
        ranks = {matrix: self._rank(index, matrix) for matrix in stored}
        bits = sum(lorc.stored_bits(factors, ranks[matrix]) for matrix, factors in stored.items())
        products = {matrix: lorc.correction(factors, ranks[matrix]) for matrix, factors in stored.items()}
        return by_linear(products, architecture), bits

    def _rank(self, index: int, matrix: str) -> int:
        """The rank of a matrix of block `index`: a linear, or a part of a fused one."""
        if self.ranks is None:
            return self.rank
        of_block = self.ranks[index]
        return min(self.rank, of_block[matrix if matrix in of_block else matrix.rpartition(".")[0]])


def by_linear(products: dict[str, torch.Tensor], architecture: Architecture) -> dict[str, torch.Tensor]:
    """Corrections (out, in) by linear, out of corrections by matrix.

    A fused linear may have been corrected in parts, as ``<linear>.q``, ``.k`` and ``.v``, whose rows it interleaves.
    """
    corrections = {}
    for linear in architecture.linear_names:
        if linear in products:
            corrections[linear] = products[linear]
            continue
        parts = {name: products[f"{linear}.{name}"] for name, _ in architecture.fused[linear]["parts"]}
        count = sum(map(len, parts.values()))
        whole = next(iter(parts.values())).new_empty(count, next(iter(parts.values())).shape[1])
        for name, indices in architecture.part_rows(linear, count).items():
            whole[indices] = parts[name]
        corrections[linear] = whole
    return corrections


def _quantized(
    names: Wildcards, fmt: WeightFormat, checkpoint: Checkpoint, device: str
) -> QuantizedModel | ForeignModel | None:
    """The weights that a method made, or that somebody else did; None of full precision."""
    if names.method == "none":
        return None
    if compose.load("method", names.method).kind == foreign.METHOD:
        return ForeignModel(names, checkpoint, device)
    return QuantizedModel(names, fmt, device)


class _Latest:
    """What the ranks of one cell read: each source keeps the block that was read last, as soon as there are two ranks."""

    def __init__(self) -> None:
        self.ranks = 1
        self._blocks: dict[Path, tuple[int, dict]] = {}

    def block(self, folder: Path, read: Callable[[int], dict], index: int) -> dict:
        """What `read` says of block `index` of the shards in a folder."""
        if self.ranks == 1:
            return read(index)
        if self._blocks.get(folder, (None,))[0] != index:
            self._blocks.pop(folder, None)  # the one before is freed first
            self._blocks[folder] = index, read(index)
        return self._blocks[folder][1]


class CellWeights:
    """What the blocks of one cell hold: Ŵ, or Ŵ + B·A, and trained biases and norms; full precision keeps the checkpoint's.

    The correction is added in float32 before the weight is rounded to the forward's type: x Ŵᵀ + x Aᵀ Bᵀ up to rounding.

    Args:
        beside: the same cell at another rank. What both need of a block is read and unpacked once, if the one asks for it next
            after the other.
    """

    def __init__(
        self,
        names: Wildcards,
        fmt: WeightFormat,
        checkpoint: Checkpoint,
        lorc_name: str,
        rank: int,
        device: str = "cpu",
        beside: CellWeights | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.quantized = beside.quantized if beside else _quantized(names, fmt, checkpoint, device)
        self._latest = beside._latest if beside else _Latest()
        self._latest.ranks += beside is not None
        ranks = self.quantized.shards.result.get("ranks") if self.quantized else None
        self.factors = Factors(names, lorc_name, rank, device, ranks) if rank else None
        if self.quantized:
            prepared = read_json(PREPARE.folder(names) / "result.json", "checkpoint")
            _check_made_from(self.quantized.shards, "checkpoint", prepared["digest"])
        if self.factors:
            _check_made_from(self.factors.shards, "quantized", self.quantized.digest)
        self._factor_bits = 0

    def block(self, index: int) -> dict[str, torch.Tensor]:
        """What to install into block `index`: weights (out, in) float32 by linear, trained parameters by full name."""
        if self.quantized is None:
            return {}
        weights = self._latest.block(self.quantized.shards.folder, self.quantized.block, index)
        if self.factors is None:
            return weights
        shards = self.factors.shards
        stored = partial(self._latest.block, shards.folder, shards.block)
        corrections, bits = self.factors.block(index, self.checkpoint.architecture, stored)
        self._factor_bits += bits
        return weights | {name: weights[name] + correction for name, correction in corrections.items()}

    def size(self) -> dict[str, float]:
        """Bits per weight that are stored, with the factors of the blocks read so far, and the largest damping."""
        if self.quantized is None:
            return {}
        result = self.quantized.shards.result
        bits = result["bits_per_weight"] + self._factor_bits / result["weights"]
        return {"bits_per_weight": bits, "max_damp": result["max_damp"]}

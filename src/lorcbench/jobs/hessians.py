"""Prepared Hessians of the unquantized model, stored: factored once, and swept with by every weight format of every study."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from lorcbench.common import paths
from lorcbench.common.artifacts import Shards
from lorcbench.core.gptq import PreparedHessian
from lorcbench.core.linalg import HessianFactor
from lorcbench.core.moments import lower_from_triangle, to_triangle


def to_stored(prepared: PreparedHessian) -> dict[str, torch.Tensor]:
    """The tensors that a shard keeps of the Hessian of one input, by part."""
    stored = {"factor": to_triangle(prepared.factor.upper.T), "dead": prepared.factor.dead}
    return stored if prepared.order is None else {**stored, "order": prepared.order.to(torch.int32)}


class HessianFactors:
    """The prepared Hessians of one model, read a block at a time."""

    def __init__(self, names: dict[str, str]) -> None:
        self.shards = Shards(Path(paths.HESSIAN_FACTORS.format(**names)) / "result.json", "hessians")

    def block(self, index: int) -> dict[str, Callable[[], PreparedHessian]]:
        """For each input of block `index`, by its first linear, what unfolds its Hessian when it is needed, once."""
        tensors = self.shards.block(index)
        return {name: partial(self._prepared, tensors, name, damp) for name, damp in self.shards.result["damps"][index].items()}

    def _prepared(self, tensors: dict[str, torch.Tensor], name: str, damp: float) -> PreparedHessian:
        dead, order = tensors.pop(f"{name}.dead"), tensors.pop(f"{name}.order", None)
        upper = lower_from_triangle(tensors.pop(f"{name}.factor")).T
        return PreparedHessian(HessianFactor(upper, damp, dead), None if order is None else order.long())

"""The prepared Hessians of a block, as GPTQ sweeps with them: from its inputs as they are now, or from the cache.

Both come as a function: the first linear of those that share an input → the prepared Hessian of that input. It is called once
per input, when GPTQ needs the Hessian, and frees what it was made from: the largest Hessian is as large as the whole block.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from lorcbench.core import gptq
from lorcbench.core.gptq import GptqSettings, PreparedHessian
from lorcbench.core.linalg import HessianFactor
from lorcbench.core.moments import SecondMoment, dead_diagonal, lower_from_triangle, to_triangle
from lorcbench.jobs.shards import Shards
from lorcbench.study.stages import FACTOR

HessianOf = Callable[[str], PreparedHessian]


def from_moments(moments: dict[str, SecondMoment], settings: GptqSettings, tokens_per_sequence: int) -> HessianOf:
    """The Hessians of observed inputs, each factored at its call.

    Args:
        moments: second moment of each input, by its first linear; emptied by the calls.
        tokens_per_sequence: of the calibration.
    """

    def hessian_of(linear: str) -> PreparedHessian:
        return gptq.prepare(moments.pop(linear).mean(), settings, dead_diagonal(tokens_per_sequence))

    return hessian_of


def to_stored(prepared: PreparedHessian) -> dict[str, torch.Tensor]:
    """The tensors that a shard keeps of the Hessian of one input, by part."""
    # Rᵀ is lower triangular: its rows, cut at the diagonal, are what is kept.
    stored = {"factor": to_triangle(prepared.factor.upper.T.cpu()), "dead": prepared.factor.dead}
    return stored if prepared.order is None else {**stored, "order": prepared.order.to(torch.int32)}


class HessianFactors:
    """The prepared Hessians of one unquantized model, factored once, and swept with by every weight format of every study."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.device = device
        self.shards = Shards(folder / "result.json", FACTOR.kind)

    def block(self, index: int) -> HessianOf:
        """The Hessians of block `index`, each unfolded at its call, and moved to the device."""
        tensors = self.shards.block(index)
        damps = self.shards.result["damps"][index]

        def hessian_of(linear: str) -> PreparedHessian:
            dead = tensors.pop(f"{linear}.dead")
            order = tensors.pop(f"{linear}.order", None)
            upper = lower_from_triangle(tensors.pop(f"{linear}.factor")).to(self.device).T
            factor = HessianFactor(upper, damps[linear], dead.to(self.device))
            return PreparedHessian(factor, None if order is None else order.long().to(self.device))

        return hessian_of

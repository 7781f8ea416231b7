"""The choice of mixed formats, and of ranks, for a model: sizes from its shapes, scores from what earlier stages measured."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from lorcbench.common.artifacts import read_json
from lorcbench.config import compose
from lorcbench.config.mixed import MixedMethod
from lorcbench.core import allocation
from lorcbench.core.formats import WeightFormat
from lorcbench.core.lorc import factor_bits
from lorcbench.jobs.job import Job
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.study.stages import LORC, SENSITIVITY, sensitivities, spectra


@dataclass(frozen=True)
class Choice:
    """What each linear got.

    Attributes:
        formats: per block, by linear.
        payload: what the result says of the choice.
    """

    formats: list[dict[str, WeightFormat]]
    payload: dict


def use(job: Job) -> None:
    """Make what the choice is made from part of a job's identity."""
    for candidate in (*sensitivities(job.names), *spectra(job.names)):
        names, stage = candidate.names, candidate.stage
        own = {"method": names.method, "weight": names.weight, "lorc": names.lorc, "cap": names.cap}
        job.use(stage, f"{stage.artifact} {names.weight}", **own)


def choose(job: Job, checkpoint: Checkpoint) -> Choice:
    """The formats, and ranks if the method chooses them, of all linears under the job's budget.

    Raises:
        ValueError: the budget is too small for the model, or groups do not divide a width.
    """
    method: MixedMethod = job.method
    options = list(itertools.product(range(len(method.candidates)), method.choice_of_ranks or (0,)))  # format and rank
    groups = [(index, group) for index in range(checkpoint.depth) for group in checkpoint.architecture.linears]
    sizes = [_Sizes(checkpoint, index, method) for index in range(checkpoint.depth)]
    costs = [[sizes[index].bits(group, *option) for option in options] for index, group in groups]
    weights = sum(of_block.weights for of_block in sizes)
    budget = int(method.bits * weights)
    scores = _scores(job, groups, options)
    try:
        chosen = allocation.least(scores, costs, budget) if scores else allocation.first_ones_dearest(costs, budget)
    except ValueError as error:
        raise ValueError(f"method.bits={method.bits} of {weights:,} weights: {error}") from None
    formats: list[dict[str, WeightFormat]] = [{} for _ in range(checkpoint.depth)]
    ranks: list[dict[str, int]] = [{} for _ in range(checkpoint.depth)]
    for (index, group), option in zip(groups, chosen, strict=True):
        candidate, rank = options[option]
        formats[index] |= dict.fromkeys(group, method.candidates[candidate])
        ranks[index] |= dict.fromkeys(group, rank)
    about = {
        "by": method.by,
        "budget": budget,
        "bits": sum(of_group[option] for of_group, option in zip(costs, chosen, strict=True)),
        "score": sum(of_group[option] for of_group, option in zip(scores, chosen, strict=True)) if scores else None,
    }
    payload = {"formats": [{name: str(fmt) for name, fmt in block.items()} for block in formats], "choice": about}
    return Choice(formats, payload | ({"ranks": ranks} if method.choice_of_ranks else {}))


class _Sizes:
    """What the linears of one block take."""

    def __init__(self, checkpoint: Checkpoint, index: int, method: MixedMethod) -> None:
        self._method = method
        self._factor_bits = compose.load("lorc", method.factors).bits
        self._split = compose.load("lorc", method.factors).fused_qkv == "split"
        self._architecture = checkpoint.architecture
        self._shapes = {name: tuple(weight.shape) for name, weight in checkpoint.linears(index).items()}
        self.weights = sum(rows * width for rows, width in self._shapes.values())

    def bits(self, group: list[str], candidate: int, rank: int) -> int:
        """Codes, scales and zero points of a group of linears, and factors."""
        fmt, total = self._method.candidates[candidate], 0
        for name in group:
            rows, width = self._shapes[name]
            if fmt.group and width % fmt.group:
                raise ValueError(f"{fmt}: groups of {fmt.group} do not divide the {width} inputs of {name}")
            parts = self._architecture.part_rows(name, rows) if self._split else None
            counts = [len(part) for part in parts.values()] if parts else [rows]
            total += fmt.stored_bits(rows, width)
            total += sum(factor_bits(rank, count, width, self._factor_bits) for count in counts) if rank else 0
        return total


def _scores(job: Job, groups: list[tuple[int, list[str]]], options: list[tuple[int, int]]) -> list[list[float]] | None:
    """The score of each group of linears with each format and rank; None if the method wants none."""
    jobs = sensitivities(job.names)
    if not jobs:
        return None
    measured = [read_json(one.folder / "result.json", SENSITIVITY.kind)[job.method.by] for one in jobs]
    errors = [read_json(one.folder / "result.json", LORC.kind) for one in spectra(job.names)]
    return [
        [
            measured[candidate][index][group[0]] * (_left(errors[candidate], index, group, rank) if rank else 1.0)
            for candidate, rank in options
        ]
        for index, group in groups
    ]


def _left(factors: dict, index: int, group: list[str], rank: int) -> float:
    """The share of Σ ‖E R^½‖² of a group of linears that the first `rank` components of its factors leave."""
    whole = left = 0.0
    for matrix, norm in factors["error_norm"][index].items():
        if matrix in group or matrix.rpartition(".")[0] in group:
            whole += norm**2
            left += max(0.0, norm**2 - sum(value**2 for value in factors["singular_values"][index][matrix][:rank]))
    return left / whole if whole else 1.0

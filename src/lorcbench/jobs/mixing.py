"""The choice of mixed formats for a model: sizes from its shapes, scores from the stage ``sensitivity``, or neither."""

from __future__ import annotations

from dataclasses import dataclass

from lorcbench.common.artifacts import read_json
from lorcbench.config.mixed import MixedMethod
from lorcbench.core import allocation
from lorcbench.core.formats import WeightFormat
from lorcbench.jobs.job import Job
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.study.stages import SENSITIVITY, sensitivities


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
    for candidate in sensitivities(job.names):
        names = candidate.names
        job.use(SENSITIVITY, f"sensitivity {names.weight}", method=names.method, weight=names.weight)


def choose(job: Job, checkpoint: Checkpoint) -> Choice:
    """The formats of all linears under the job's budget.

    Raises:
        ValueError: the budget is too small for the model, or groups do not divide a width.
    """
    method: MixedMethod = job.method
    candidates = method.candidates
    groups = [(index, group) for index in range(checkpoint.depth) for group in checkpoint.architecture.linears]
    shapes = [{name: tuple(weight.shape) for name, weight in checkpoint.linears(i).items()} for i in range(checkpoint.depth)]
    costs = [[sum(_bits(fmt, name, shapes[index][name]) for name in group) for fmt in candidates] for index, group in groups]
    weights = sum(rows * width for block in shapes for rows, width in block.values())
    budget = int(method.bits * weights)
    scores = _scores(job, groups)
    try:
        chosen = allocation.least(scores, costs, budget) if scores else allocation.first_ones_dearest(costs, budget)
    except ValueError as error:
        raise ValueError(f"method.bits={method.bits} of {weights:,} weights: {error}") from None
    formats: list[dict[str, WeightFormat]] = [{} for _ in range(checkpoint.depth)]
    for (index, group), candidate in zip(groups, chosen, strict=True):
        formats[index] |= dict.fromkeys(group, candidates[candidate])
    about = {
        "by": method.by,
        "budget": budget,
        "bits": sum(of_group[candidate] for of_group, candidate in zip(costs, chosen, strict=True)),
        "score": sum(of_group[candidate] for of_group, candidate in zip(scores, chosen, strict=True)) if scores else None,
    }
    spelled = [{name: str(fmt) for name, fmt in block.items()} for block in formats]
    return Choice(formats, {"formats": spelled, "choice": about})


def _bits(fmt: WeightFormat, name: str, shape: tuple[int, int]) -> int:
    """What a linear takes in a format."""
    rows, width = shape
    if fmt.group and width % fmt.group:
        raise ValueError(f"{fmt}: groups of {fmt.group} do not divide the {width} inputs of {name}")
    return fmt.stored_bits(rows, width)


def _scores(job: Job, groups: list[tuple[int, list[str]]]) -> list[list[float]] | None:
    """The score of each group of linears in each candidate; None if the method wants none."""
    jobs = sensitivities(job.names)
    if not jobs:
        return None
    measured = [read_json(one.folder / "result.json", SENSITIVITY.kind)[job.method.by] for one in jobs]
    return [[of_format[index][group[0]] for of_format in measured] for index, group in groups]

"""What is known of the inputs of a block's linears, from the cache or just observed, and how corrections weigh errors by it.

A shard of the stage ``calibrate`` holds, for each input, under the name of its first linear, the lower triangle of E[xᵀx], and
under ``<linear>.magnitude`` the largest mean magnitude over sequences (in,), if sequences could be told apart.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lorcbench.core.moments import LargestMagnitudes, SecondMoment, from_triangle, to_triangle

MAGNITUDE = ".magnitude"  # after the name of an input's first linear in a shard

# The first linear of those that share an input → R of that input (in, in), or its diagonal (in,): what
# `lorcbench.core.lorc.decompose` weighs the error with. Called once per input, in forward order.
MetricOf = Callable[[str], torch.Tensor]


def to_stored(moments: dict[str, SecondMoment], largest: dict[str, LargestMagnitudes]) -> dict[str, torch.Tensor]:
    """The tensors that a shard keeps of a block; `moments` is emptied, so that a sum is freed once its triangle is there."""
    stored = {name: to_triangle(moments.pop(name).mean().cpu()) for name in list(moments)}
    return stored | {name + MAGNITUDE: magnitudes.largest.cpu() for name, magnitudes in largest.items()}


def triangles(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The second moments alone, by the first linear of their input, out of the tensors of a shard."""
    return {name: tensor for name, tensor in stored.items() if not name.endswith(MAGNITUDE)}


def from_cache(stored: dict[str, torch.Tensor], kind: str, device: str) -> MetricOf:
    """R of each input of a block, from the tensors of a shard.

    A call takes the input's tensor out of `stored`, so that memory holds each once: a second call for the same input fails.

    Args:
        stored: what `to_stored` made.
        kind: of a correction. ``exact``: all of E[xᵀx] (in, in). ``diag-rms``: its diagonal, the mean squares E[x²] (in,); the
            correction multiplies errors with their roots, hence its name. ``diag-abs``: squares of the largest mean magnitudes.
        device: where R is to be.
    """

    def metric_of(linear: str) -> torch.Tensor:
        if kind == "diag-abs":
            return _squared(stored.get(linear + MAGNITUDE), linear).to(device)
        moment = from_triangle(stored.pop(linear)).to(device)
        return moment.diagonal().contiguous() if kind == "diag-rms" else moment

    return metric_of


def from_observed(moments: dict[str, SecondMoment], largest: dict[str, LargestMagnitudes], kind: str) -> MetricOf:
    """As `from_cache`, from inputs that were observed; the calls empty `moments`."""

    def metric_of(linear: str) -> torch.Tensor:
        if kind == "diag-abs":
            return _squared(largest[linear].largest if linear in largest else None, linear)
        moment = moments.pop(linear).mean()
        return moment.diagonal().contiguous() if kind == "diag-rms" else moment

    return metric_of


def _squared(magnitude: torch.Tensor | None, linear: str) -> torch.Tensor:
    """The square of a magnitude, as the diagonal of R is a mean of squares.

    Raises:
        ValueError: there is none.
    """
    if magnitude is None:
        raise ValueError(
            f"lorc.kind=diag-abs: {linear} sees tokens of which nobody knows the sequence; expected diag-rms or exact"
        )
    return magnitude.square()

"""How uneven the channels of a linear's inputs are: a few may be far larger than the others, and some always zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def largest_inputs(block: nn.Module, linears: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every forward of `block` raises the maxima yielded: the largest |x| of each channel (in,), float32.

    There is one vector per linear, by its name; of linears that share an input, one is enough.
    """
    maxima, hooks = {}, []
    try:
        for name in linears:
            linear = block.get_submodule(name)
            maxima[name] = torch.zeros(linear.in_features, device=linear.weight.device)

            def watch(module: nn.Module, args: tuple, maximum: torch.Tensor = maxima[name]) -> None:
                torch.maximum(maximum, args[0].flatten(0, -2).abs().amax(0).float(), out=maximum)

            hooks.append(linear.register_forward_pre_hook(watch))
        yield maxima
    finally:
        for hook in hooks:
            hook.remove()


def unevenness(largest: torch.Tensor) -> dict[str, float | int | None]:
    """What stands out among the largest |x| (in,) of channels.

    ``channel`` is the one with the largest, ``max`` that number, ``max_over_median`` the same over the median channel's
    (None if that one is always zero), ``dead`` how many channels are zero throughout.
    """
    median = float(largest.median())
    ratio = float(largest.max() / largest.median()) if median else None
    about = {"max_over_median": ratio, "dead": int((largest == 0).sum())}
    return about | {"channel": int(largest.argmax()), "max": float(largest.max())}

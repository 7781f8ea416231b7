"""Watch the inputs of a block's linears while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lorcbench.architectures import Architecture
from lorcbench.statistics import SecondMoment


@contextmanager
def observed(block: nn.Module, architecture: Architecture, outputs: bool = True) -> Iterator[dict[str, SecondMoment]]:
    """While open, every forward of `block` adds to the second moments yielded, one an input: q, k and v share theirs.

    Args:
        outputs: whether what the forward returns is wanted. If not, the last linear, behind which nothing is observed, returns
            zeros: a third of the products of an OPT or BLOOM block are its.
    """
    moments, hooks = {}, []
    for group in architecture.linears:
        linear = block.get_submodule(group[0])
        moment = moments[group[0]] = SecondMoment(linear.in_features, linear.weight.device)
        hooks.append(linear.register_forward_pre_hook(lambda module, args, moment=moment: moment.add(args[0])))
    last = block.get_submodule(architecture.linear_names[-1])
    if not outputs:
        last.forward = lambda x: x.new_zeros(()).expand(*x.shape[:-1], last.out_features)
    try:
        yield moments
    finally:
        if not outputs:
            del last.forward
        for hook in hooks:
            hook.remove()


@contextmanager
def recorded(block: nn.Module, linear: str) -> Iterator[list[torch.Tensor]]:
    """While open, every forward of `block` appends the input of the named linear to the list yielded."""
    inputs: list[torch.Tensor] = []
    hook = block.get_submodule(linear).register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    try:
        yield inputs
    finally:
        hook.remove()

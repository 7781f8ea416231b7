"""Watch the inputs of a block's linears while it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from lorcbench.core.moments import SecondMoment
from lorcbench.models.architectures import Architecture

_WAITING = 2  # inputs that wait for the second thread


@contextmanager
def observed(
    block: nn.Module, architecture: Architecture, outputs: bool = True, beside: bool = False
) -> Iterator[dict[str, SecondMoment]]:
    """While open, every forward of `block` adds to the second moments yielded, one an input: q, k and v share theirs.

    Args:
        outputs: whether what the forward returns is wanted. If not, the last linear, behind which nothing is observed, returns
            zeros: a third of the products of an OPT or BLOOM block are its.
        beside: add in a second thread, in the same order and so to the same bits, while the forward goes on. The moments are
            complete when this is closed.
    """
    moments, hooks = {}, []
    last = block.get_submodule(architecture.linear_names[-1])
    if not outputs:
        last.forward = lambda x: x.new_zeros(()).expand(*x.shape[:-1], last.out_features)
    try:
        with _second_thread() if beside else nullcontext(SecondMoment.add) as add:
            for group in architecture.linears:
                linear = block.get_submodule(group[0])
                moment = moments[group[0]] = SecondMoment(linear.in_features, linear.weight.device)
                # Without a norm before it the first linear sees the hidden states, which the block's output will overwrite.
                overwritten = beside and group is architecture.linears[0]

                def watch(module: nn.Module, args: tuple, moment=moment, overwritten=overwritten) -> None:
                    add(moment, args[0].clone() if overwritten else args[0])

                hooks.append(linear.register_forward_pre_hook(watch))
            yield moments
    finally:
        if not outputs:
            del last.forward
        for hook in hooks:
            hook.remove()


@contextmanager
def _second_thread() -> Iterator[Callable[[SecondMoment, torch.Tensor], None]]:
    """What adds inputs to their moments, one after another, in a thread of its own; all are added when this is closed."""
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(1) as thread:

        def add(moment: SecondMoment, x: torch.Tensor) -> None:
            waiting.append(thread.submit(moment.add, x))
            if len(waiting) > _WAITING:
                waiting.popleft().result()

        yield add
        for one in waiting:
            one.result()


@contextmanager
def recorded(block: nn.Module, linear: str) -> Iterator[list[torch.Tensor]]:
    """While open, every forward of `block` appends the input of the named linear to the list yielded."""
    inputs: list[torch.Tensor] = []
    hook = block.get_submodule(linear).register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    try:
        yield inputs
    finally:
        hook.remove()

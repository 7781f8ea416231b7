"""Watch the inputs of a block's linears while it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from lorcbench.core.moments import LargestMagnitudes, SecondMoment
from lorcbench.models.architecture import Architecture

_WAITING = 2  # inputs that wait for the second thread; each keeps its tensor alive


@contextmanager
def observed(block: nn.Module, architecture: Architecture, second_thread: bool = False) -> Iterator[dict[str, SecondMoment]]:
    """While open, every forward of `block` adds to the second moments yielded: one per input, by its first linear.

    Linears that share an input (query, key and value) share its moment.

    Args:
        second_thread: add in a second thread while the forward goes on. Inputs are added in the same order, so the sums are
            the same to the bit. They are complete once the context is closed.
    """
    moments, entered = {}, []  # the memory of the hidden states that entered the block
    hooks = [block.register_forward_pre_hook(lambda module, args: entered.__setitem__(slice(None), [_memory(args[0])]))]
    try:
        with _adding_beside() if second_thread else nullcontext(SecondMoment.add) as add:
            for group in architecture.linears:
                linear = block.get_submodule(group[0])
                moment = moments[group[0]] = SecondMoment(linear.in_features, linear.weight.device)

                def watch(module: nn.Module, args: tuple, moment=moment) -> None:
                    # Without a norm before it a linear sees the hidden states themselves. The block's output overwrites
                    # them, perhaps before the second thread has read them.
                    overwritten = second_thread and _memory(args[0]) in entered
                    add(moment, args[0].clone() if overwritten else args[0])

                hooks.append(linear.register_forward_pre_hook(watch))
            yield moments
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def magnitudes(block: nn.Module, architecture: Architecture) -> Iterator[dict[str, LargestMagnitudes]]:
    """While open, every forward of `block` adds to the magnitudes yielded: one per input, by its first linear.

    An expert sees the tokens that are routed to it, of which nobody knows the sequence. Once that happened to an input, it has
    no entry.
    """
    found: dict[str, LargestMagnitudes] = {}
    entered: list[torch.Size] = []  # the shape of the hidden states (sequences, tokens, hidden) that entered the block
    unknown: set[str] = set()
    hooks = [block.register_forward_pre_hook(lambda module, args: entered.__setitem__(slice(None), [args[0].shape[:2]]))]
    for group in architecture.linears:
        linear = block.get_submodule(group[0])
        found[group[0]] = LargestMagnitudes(linear.in_features, linear.weight.device)

        def watch(module: nn.Module, args: tuple, name: str = group[0]) -> None:
            if args[0][..., 0].numel() == entered[0].numel():  # all tokens, perhaps flattened into one list
                found[name].add(args[0].view(*entered[0], -1))
            else:
                unknown.add(name)

        hooks.append(linear.register_forward_pre_hook(watch))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for name in unknown:
            del found[name]


def _memory(tensor: torch.Tensor) -> int:
    """Where the memory of a tensor begins, the same for all views of it."""
    return tensor.untyped_storage().data_ptr()


@contextmanager
def _adding_beside() -> Iterator[Callable[[SecondMoment, torch.Tensor], None]]:
    """A function that adds inputs to their moments, one after another, in a thread of its own.

    All are added once the context is closed. An error of the thread is raised here.
    """
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(1) as thread:

        def add(moment: SecondMoment, x: torch.Tensor) -> None:
            waiting.append(thread.submit(moment.add, x))
            if len(waiting) > _WAITING:
                waiting.popleft().result()

        yield add
        for addition in waiting:
            addition.result()


@contextmanager
def last_linear_skipped(block: nn.Module, architecture: Architecture) -> Iterator[None]:
    """While open, the last linear of `block` returns zeros, so the block's output is meaningless.

    For a forward that is only observed: nothing behind the last linear is, and it does a third of the multiplications of an OPT
    or BLOOM block. Its own input is still observed.
    """
    last = block.get_submodule(architecture.linear_names[-1])
    # An attribute of the instance hides the method of the class. Some blocks add to the output in place.
    last.forward = lambda x: x.new_zeros(*x.shape[:-1], last.out_features)
    try:
        yield
    finally:
        del last.forward


@contextmanager
def recorded(block: nn.Module, linear: str) -> Iterator[list[torch.Tensor]]:
    """While open, every forward of `block` appends the input of the named linear to the list yielded."""
    inputs: list[torch.Tensor] = []
    hook = block.get_submodule(linear).register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    try:
        yield inputs
    finally:
        hook.remove()

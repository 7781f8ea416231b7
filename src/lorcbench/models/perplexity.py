"""The loss of each window of a cell, by the block walk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from lorcbench.core.formats import ActivationFormat
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.channels import largest_inputs, unevenness
from lorcbench.models.states import KeptStates
from lorcbench.models.surgery import install_weights, rounded_inputs


def window_losses(
    walk: BlockWalk,
    windows: dict[str, torch.Tensor],
    weights_of_block: Callable[[int], dict[str, torch.Tensor]],
    activation: ActivationFormat,
    channels: dict[str, list[dict]] | None = None,
    kept: KeptStates | None = None,
    progress: Callable[[float, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """Mean loss of each test window, in nats per token, by corpus.

    Args:
        windows: token windows (n, length) of each corpus; all corpora pass through a block while it is loaded.
        weights_of_block: index of a block → the tensors to install into it: weights (out, in) by the name of their linear,
            others by their full name. Asked for every block, also for those that a killed walk had passed.
        activation: the format in which the inputs of the linears are rounded.
        channels: if given, what `lorcbench.models.channels.unevenness` says of each input over all windows is added: one entry
            per block, by the first linear that reads that input.
        kept: where hidden states are kept, and what a killed walk left there, behind which this one goes on.
        progress: told how many blocks the windows have passed, with the part of the next one, and how many there are.

    Raises:
        ArithmeticError: a loss is NaN or infinite.
    """
    first = [group[0] for group in walk.architecture.linears]
    hidden = {corpus: walk.embed(tokens) for corpus, tokens in windows.items()}
    start, notes = kept.restore(hidden) if kept else (0, None)
    for index in range(start):
        weights_of_block(index)
    if start and channels is not None:
        channels.update(notes)
    progress(start, walk.depth)
    count = sum(len(tokens) for tokens in windows.values())
    for index in range(start, walk.depth):
        with walk.block(index) as block:
            install_weights(block, weights_of_block(index))
            watched = nullcontext({}) if channels is None else largest_inputs(block, first)
            counted = _counted(block, lambda share, index=index: progress(index + share, walk.depth), count)
            with watched as maxima, counted, rounded_inputs(block, walk.architecture.linear_names, activation):
                for states in hidden.values():
                    walk.advance(block, states)
            for name, largest in maxima.items():
                channels.setdefault(name, []).append(unevenness(largest))
        if kept:
            kept.keep(index + 1, hidden, channels)
    losses = {corpus: walk.score(hidden[corpus], tokens) for corpus, tokens in windows.items()}
    for corpus, values in losses.items():
        if not values.isfinite().all():
            overflow = f"a number is too large for {walk.dtype}, in which the model is evaluated"
            raise ArithmeticError(
                f"corpus {corpus}: the loss of {int((~values.isfinite()).sum())} windows is no number: {overflow}"
            )
    return {corpus: values.tolist() for corpus, values in losses.items()}


@contextmanager
def _counted(block: nn.Module, told: Callable[[float], None], count: int) -> Iterator[None]:
    """While open, every forward of `block` tells which part of `count` windows has passed it."""
    passed = 0

    def add(module: nn.Module, args: tuple, output) -> None:
        nonlocal passed
        passed += len(args[0])
        told(passed / count)

    hook = block.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()

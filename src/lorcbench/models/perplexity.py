"""The loss of each window of a cell, and how far its predictions are from full precision's, by the block walk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from lorcbench.core.formats import ActivationFormat
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.channels import largest_inputs, unevenness
from lorcbench.models.states import KeptStates
from lorcbench.models.surgery import install_weights, rounded_inputs

Scores = dict[str, dict[str, list[float]]]  # what is measured → corpus → one number per window


def window_losses(*args: Any, **named: Any) -> dict[str, list[float]]:
    """Mean loss of each test window, in nats per token, by corpus; arguments as of `window_scores`."""
    return window_scores(*args, **named)["nll"]


def window_scores(
    walk: BlockWalk,
    windows: dict[str, torch.Tensor],
    weights_of_block: Callable[[int], dict[str, torch.Tensor]],
    activation: ActivationFormat,
    channels: dict[str, list[dict]] | None = None,
    kept: KeptStates | None = None,
    progress: Callable[[float, int], None] = lambda done, total: None,
    full: Callable[[str, slice], torch.Tensor] | None = None,
    store: Callable[[dict[str, torch.Tensor]], None] = lambda hidden: None,
) -> Scores:
    """What is measured of each test window, by corpus: a mean over its tokens.

    That is ``nll``, the loss in nats per token; with `full` also ``kl``, the divergence of the predictions from full
    precision's in nats per token, and ``agree``, the share of tokens that both models hold for the most likely one.

    Args:
        windows: token windows (n, length) of each corpus; all corpora pass through a block while it is loaded.
        weights_of_block: index of a block → the tensors to install into it: weights (out, in) by the name of their linear,
            others by their full name. Asked for every block, also for those that a killed walk had passed.
        activation: the format in which the inputs of the linears are rounded.
        channels: if given, what `lorcbench.models.channels.unevenness` says of each input over all windows is added: one entry
            per block, by the first linear that reads that input.
        kept: where hidden states are kept, and what a killed walk left there, behind which this one goes on.
        progress: told how many blocks the windows have passed, with the part of the next one, and how many there are.
        full: corpus and slice of its windows → their final hidden states (m, length, hidden) at full precision.
        store: given the final hidden states (n, length, hidden) of each corpus.

    Raises:
        ArithmeticError: a number is NaN or infinite.
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
    store(hidden)
    scores: Scores = {}
    for corpus, tokens in windows.items():
        if full is None:
            of_corpus = {"nll": walk.score(hidden[corpus], tokens)}
        else:
            of_corpus = walk.compare(hidden[corpus], tokens, partial(full, corpus))._asdict()
        for name, values in of_corpus.items():
            _check_finite(walk, corpus, name, values)
            scores.setdefault(name, {})[corpus] = values.tolist()
    return scores


def _check_finite(walk: BlockWalk, corpus: str, name: str, values: torch.Tensor) -> None:
    """Refuse windows of which something is no number."""
    if count := int((~values.isfinite()).sum()):
        measured = {"nll": "loss"}.get(name, "divergence from full precision")
        overflow = f"a number is too large for {walk.dtype}, in which the model is evaluated"
        raise ArithmeticError(f"corpus {corpus}: the {measured} of {count} windows is no number: {overflow}")


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

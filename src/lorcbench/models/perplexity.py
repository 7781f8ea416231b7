"""The loss of each window of a cell, and how far its predictions are from full precision's, by the block walk, at all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from lorcbench.common.artifacts import FAILURES
from lorcbench.core.formats import ActivationFormat
from lorcbench.models.blocks import SCORED_AT_ONCE, BlockWalk
from lorcbench.models.channels import largest_inputs, unevenness
from lorcbench.models.states import KeptStates
from lorcbench.models.surgery import install_weights, rounded_inputs

Scores = dict[str, dict[str, list[float]]]  # what is measured → corpus → one number per window
WeightsOf = Callable[[int], dict[str, torch.Tensor]]  # index of a block → what to install into it


def window_losses(*args: Any, **named: Any) -> dict[str, list[float]]:
    """Mean loss of each test window, in nats per token, by corpus; arguments as of `window_scores`."""
    return window_scores(*args, **named)["nll"]


def window_scores(
    walk: BlockWalk, windows: dict[str, torch.Tensor], weights_of_block: WeightsOf, *args: Any, **named: Any
) -> Scores:
    """`scores_of_ranks` of one model alone.

    Raises:
        ArithmeticError: a number is NaN or infinite; and whatever `weights_of_block` raises.
    """
    (scores,) = scores_of_ranks(walk, windows, {"": weights_of_block}, *args, **named).values()
    if isinstance(scores, Exception):
        raise scores
    return scores


def scores_of_ranks(
    walk: BlockWalk,
    windows: dict[str, torch.Tensor],
    weights_of_block: dict[str, WeightsOf],
    activation: ActivationFormat,
    channels: dict[str, list[dict]] | None = None,
    kept: KeptStates | None = None,
    progress: Callable[[float, int], None] = lambda done, total: None,
    full: Callable[[str, slice], torch.Tensor] | None = None,
    store: Callable[[dict[str, torch.Tensor]], None] = lambda hidden: None,
) -> dict[str, Scores | Exception]:
    """What is measured of each test window at every rank of a model, by corpus: a mean over its tokens.

    That is ``nll``, the loss in nats per token; with `full` also ``kl``, the divergence of the predictions from full
    precision's in nats per token, and ``agree``, the share of tokens that both models hold for the most likely one.

    All ranks walk together, each with hidden states of its own, so that a block is loaded once and full precision's predictions
    are made once. The numbers of a rank do not depend on the others, to the last bit, and what fails at one rank stands in its
    place: an ArithmeticError if a number is NaN or infinite, and what its `weights_of_block` raises.

    Args:
        windows: token windows (n, length) of each corpus; all corpora pass through a block while it is loaded.
        weights_of_block: of each rank, index of a block → the tensors to install into it: weights (out, in) by the name of
            their linear, others by their full name, the same names at every rank. Asked for every block, also for those that
            a killed walk had passed.
        activation: the format in which the inputs of the linears are rounded.
        channels: if given, what `lorcbench.models.channels.unevenness` says of each input over all windows is added: one entry
            per block, by the first linear that reads that input. For one rank alone.
        kept: where hidden states are kept, and what a killed walk left there, behind which this one goes on.
        progress: told how many blocks the windows have passed, with the part of the next one, and how many there are.
        full: corpus and slice of its windows → their final hidden states (m, length, hidden) at full precision.
        store: given the final hidden states (n, length, hidden) of each corpus. For one rank alone.
    """
    first = [group[0] for group in walk.architecture.linears]
    hidden = _embedded(walk, windows, list(weights_of_block))
    failed: dict[str, Exception] = {}
    start, notes = kept.restore(_by_name(hidden)) if kept else (0, None)
    for index in range(start):
        for rank in list(hidden):
            with _alone(rank, hidden, failed):
                weights_of_block[rank](index)
    if start and channels is not None:
        channels.update(notes)
    progress(start, walk.depth)
    count = sum(map(len, windows.values())) * len(weights_of_block)
    for index in range(start, walk.depth):
        with walk.block(index) as block:
            watched = nullcontext({}) if channels is None else largest_inputs(block, first)
            counted = _counted(block, lambda share, index=index: progress(index + share, walk.depth), count)
            with watched as maxima, counted, rounded_inputs(block, walk.architecture.linear_names, activation):
                for rank in list(hidden):
                    with _alone(rank, hidden, failed):
                        install_weights(block, weights_of_block[rank](index))
                        for states in hidden[rank].values():
                            walk.advance(block, states)
            if not hidden:
                break
            for name, largest in maxima.items():
                channels.setdefault(name, []).append(unevenness(largest))
        if kept:
            kept.keep(index + 1, _by_name(hidden), channels)
    for of_rank in hidden.values():
        store(of_rank)
    scores = _scored(walk, windows, hidden, weights_of_block, full)
    return {rank: failed.get(rank) or scores[rank] for rank in weights_of_block}


@contextmanager
def _alone(rank: str, hidden: dict[str, dict[str, torch.Tensor]], failed: dict[str, Exception]) -> Iterator[None]:
    """What fails while this is open ends the walk of one rank, and of no other."""
    try:
        yield
    except FAILURES as error:
        failed[rank] = error
        del hidden[rank]


def _by_name(hidden: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The hidden states of all ranks and corpora, as they are kept."""
    return {f"{rank} {corpus}": states for rank, of_rank in hidden.items() for corpus, states in of_rank.items()}


def bytes_of_rank(walk: BlockWalk, windows: dict[str, torch.Tensor]) -> int:
    """What `scores_of_ranks` holds of each rank: hidden states of all windows, logits, and a block of weights in float32."""
    config = walk.model.config.get_text_config(decoder=True)
    states = sum(tokens.numel() for tokens in windows.values()) * config.hidden_size * walk.dtype.itemsize
    return states + SCORED_AT_ONCE * config.vocab_size * 4 + walk.linear_weights // walk.depth * 4


def _embedded(walk: BlockWalk, windows: dict[str, torch.Tensor], ranks: list[str]) -> dict[str, dict[str, torch.Tensor]]:
    """The hidden states that enter block 0, by rank and corpus: each rank's own."""
    first = {corpus: walk.embed(tokens) for corpus, tokens in windows.items()}
    others = {
        rank: {corpus: walk.buffer(*states.shape).copy_(states) for corpus, states in first.items()} for rank in ranks[1:]
    }
    return {ranks[0]: first, **others}


def _scored(
    walk: BlockWalk,
    windows: dict[str, torch.Tensor],
    hidden: dict[str, dict[str, torch.Tensor]],
    weights_of_block: dict[str, WeightsOf],
    full: Callable[[str, slice], torch.Tensor] | None,
) -> dict[str, Scores | Exception]:
    """What is measured of the final hidden states of each rank; the error of one that is no number."""
    scores: dict[str, Scores | Exception] = {rank: {} for rank in hidden}
    for corpus, tokens in windows.items():
        states = [of_rank[corpus] for of_rank in hidden.values()]
        if full is None:
            measured = [{"nll": walk.score(own, tokens)} for own in states]
        else:
            measured = [found._asdict() for found in walk.compare(states, tokens, partial(full, corpus))]
        for rank, of_rank in zip(hidden, measured, strict=True):
            for name, values in of_rank.items():
                if isinstance(scores[rank], Exception):
                    break
                if count := int((~values.isfinite()).sum()):
                    what = {"nll": "loss"}.get(name, "divergence from full precision")
                    cause = _cause(walk, weights_of_block[rank])
                    scores[rank] = ArithmeticError(f"corpus {corpus}: the {what} of {count} windows is no number: {cause}")
                else:
                    scores[rank].setdefault(name, {})[corpus] = values.tolist()
    return scores


def _cause(walk: BlockWalk, weights_of_block: WeightsOf) -> str:
    """Why something is no number: the first weights that hold NaN or infinity; if there are none, a number outgrew its type."""
    for index in range(walk.depth):
        for name, weight in weights_of_block(index).items():
            if not weight.isfinite().all():
                return f"block {index}, {name}: the weights hold NaN or infinite values"
    return f"a number is too large for {walk.dtype}, in which the model is evaluated"


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

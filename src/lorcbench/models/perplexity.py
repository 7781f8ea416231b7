"""The loss of each window of a cell, by the block walk."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch

from lorcbench.core.formats import ActivationFormat
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.channels import largest_inputs, unevenness
from lorcbench.models.surgery import install_weights, rounded_inputs


def window_losses(
    walk: BlockWalk,
    windows: dict[str, torch.Tensor],
    weights_of_block: Callable[[int], dict[str, torch.Tensor]],
    activation: ActivationFormat,
    channels: dict[str, list[dict]] | None = None,
) -> dict[str, list[float]]:
    """Mean loss of each test window, in nats per token, by corpus.

    Args:
        windows: token windows (n, length) of each corpus; all corpora pass through a block while it is loaded.
        weights_of_block: index of a block → the tensors to install into it: weights (out, in) by the name of their linear,
            others by their full name.
        activation: the format in which the inputs of the linears are rounded.
        channels: if given, what `lorcbench.models.channels.unevenness` says of each input over all windows is added: one entry
            per block, by the first linear that reads that input.

    Raises:
        ArithmeticError: a loss is NaN or infinite.
    """
    first = [group[0] for group in walk.architecture.linears]
    hidden = {corpus: walk.embed(tokens) for corpus, tokens in windows.items()}
    for index in range(walk.depth):
        with walk.block(index) as block:
            install_weights(block, weights_of_block(index))
            watched = nullcontext({}) if channels is None else largest_inputs(block, first)
            with watched as maxima, rounded_inputs(block, walk.architecture.linear_names, activation):
                for states in hidden.values():
                    walk.advance(block, states)
            for name, largest in maxima.items():
                channels.setdefault(name, []).append(unevenness(largest))
    losses = {corpus: walk.score(hidden[corpus], tokens) for corpus, tokens in windows.items()}
    for corpus, values in losses.items():
        if not values.isfinite().all():
            overflow = f"a number is too large for {walk.dtype}, in which the model is evaluated"
            raise ArithmeticError(
                f"corpus {corpus}: the loss of {int((~values.isfinite()).sum())} windows is no number: {overflow}"
            )
    return {corpus: values.tolist() for corpus, values in losses.items()}

"""Put quantized weights, LoRC corrections, trained parameters and activation rounding into a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lorcbench.core.formats import ActivationFormat
from lorcbench.core.quantizer import fake_quantize_activations


def install_weights(block: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Replace the weights (out, in) of the named linears, and parameters named in full. Types and device stay as they were.

    Args:
        weights: by the name of a linear, such as ``fc1``, or of any other parameter, such as ``fc1.bias``.

    Raises:
        ValueError: a shape is not the block's.
        AttributeError: the block has no such linear or parameter.
    """
    parameters = dict(block.named_parameters())
    for name, weight in weights.items():
        full_name = name if name in parameters else f"{name}.weight"  # a linear is named without its ``.weight``
        before = block.get_parameter(full_name)
        if weight.shape != before.shape:
            raise ValueError(f"{name}: weight {tuple(weight.shape)} for a parameter of {tuple(before.shape)}")
        owner, _, attribute = full_name.rpartition(".")
        setattr(block.get_submodule(owner), attribute, nn.Parameter(weight.to(before), requires_grad=False))


def round_inputs(block: nn.Module, linears: tuple[str, ...], fmt: ActivationFormat) -> list:
    """Round the inputs of the named linears in `fmt` from now on.

    Returns:
        The hooks that do it; `remove()` each to undo it.
    """
    if fmt.is_full_precision:
        return []

    def rounded(module: nn.Module, inputs: tuple) -> tuple:
        return (fake_quantize_activations(inputs[0], fmt), *inputs[1:])

    return [block.get_submodule(name).register_forward_pre_hook(rounded) for name in linears]


@contextmanager
def rounded_inputs(block: nn.Module, linears: tuple[str, ...], fmt: ActivationFormat) -> Iterator[None]:
    """Round the inputs of the named linears in `fmt` while open; an error ends it too."""
    hooks = round_inputs(block, linears, fmt)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

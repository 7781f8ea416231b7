"""Put quantized weights, LoRC corrections and activation rounding into a block."""

from __future__ import annotations

import torch
from torch import nn

from lorcbench.formats import ActivationFormat
from lorcbench.quantizer import fake_quantize_activations


def install_weights(block: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Replace the weights (out, in) of the named linears; type and device stay the block's."""
    for name, weight in weights.items():
        linear = block.get_submodule(name)
        if weight.shape != linear.weight.shape:
            raise ValueError(f"{name}: weight {tuple(weight.shape)} for a linear of {tuple(linear.weight.shape)}")
        linear.weight = nn.Parameter(weight.to(linear.weight), requires_grad=False)


def round_inputs(block: nn.Module, linears: tuple[str, ...], fmt: ActivationFormat) -> list:
    """Round the inputs of the named linears in `fmt` from now on; returns the hooks, whose `remove()` undoes it."""
    if fmt.is_full_precision:
        return []

    def rounded(module: nn.Module, inputs: tuple) -> tuple:
        return (fake_quantize_activations(inputs[0], fmt), *inputs[1:])

    return [block.get_submodule(name).register_forward_pre_hook(rounded) for name in linears]

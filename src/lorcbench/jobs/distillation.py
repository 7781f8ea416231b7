"""Distillation in one decoder block: what is trained, on which inputs, towards which outputs.

ZQ-Global trains the parameters of the block, ZQ-Local those of each linear by itself; distilled LoRC trains the factors of a
block whose weights are quantized already. How a unit is trained is `lorcbench.core.zeroquant`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call

from lorcbench.config.lorc import DistilledLorc
from lorcbench.config.recipes import ZeroQuantMethod
from lorcbench.core import lorc
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.core.quantizer import fake_quantize_activations
from lorcbench.core.zeroquant import distill
from lorcbench.jobs.inputs import by_linear
from lorcbench.jobs.quantized import QuantizedBlock
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.surgery import rounded_inputs


def distill_block(
    walk: BlockWalk,
    block: nn.Module,
    block_inputs: torch.Tensor,
    targets: torch.Tensor,
    fmt: WeightFormat,
    activation: ActivationFormat,
    method: ZeroQuantMethod,
) -> QuantizedBlock:
    """ZQ-Global of one block: train the block as a whole.

    Args:
        block: unquantized.
        block_inputs: hidden states that enter it (sequences, length, hidden).
        targets: hidden states that it should make of them (sequences, length, hidden).
        activation: the format that the inputs of its linears are rounded to while it trains.

    Raises:
        ValueError, Diverged: as `lorcbench.core.zeroquant.distill`.
    """
    linears = {f"{name}.weight": name for name in walk.architecture.linear_names}
    parameters = {
        name: parameter for name, parameter in block.named_parameters() if name in linears or method.trainable == "all"
    }

    def forward(values: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return walk.forward(block, x, values)

    with rounded_inputs(block, walk.architecture.linear_names, activation):
        unit = distill(forward, parameters, list(linears), block_inputs, targets, fmt, method)
    matrices = {linears[name]: matrix for name, matrix in unit.quantized.items()}
    return QuantizedBlock(matrices, unit.others, notes={"block": unit.notes})


def distill_linears(
    walk: BlockWalk,
    block: nn.Module,
    block_inputs: torch.Tensor,
    targets: torch.Tensor,
    fmt: WeightFormat,
    activation: ActivationFormat,
    method: ZeroQuantMethod,
) -> QuantizedBlock:
    """ZQ-Local of one block: train each linear by itself, on the inputs that the unquantized block gives it.

    Args, errors: as `distill_block`; `targets` is not used, because the target is each linear's own output.
    """
    quantized = QuantizedBlock({})
    for group in walk.architecture.linears:
        x = _inputs_of(walk, block, group[0], block_inputs)
        for name in group:
            linear = block.get_submodule(name)
            y = _outputs_of(walk, linear, x)
            parameters = dict(linear.named_parameters()) if method.trainable == "all" else {"weight": linear.weight}

            def forward(values: dict[str, torch.Tensor], x: torch.Tensor, linear=linear) -> torch.Tensor:
                return functional_call(linear, values, (fake_quantize_activations(x, activation),))

            unit = distill(forward, parameters, ["weight"], x, y, fmt, method)
            quantized.matrices[name] = unit.quantized["weight"]
            quantized.trained.update({f"{name}.{part}": value for part, value in unit.others.items()})
            quantized.notes[name] = unit.notes
            del y, unit  # before the next are made: those of a feed-forward part are 17 GB in OPT-6.7b
        del x
    return quantized


def distill_factors(
    walk: BlockWalk,
    block: nn.Module,
    block_inputs: torch.Tensor,
    targets: torch.Tensor,
    fmt: WeightFormat,
    activation: ActivationFormat,
    settings: DistilledLorc,
    start: dict[str, tuple[torch.Tensor, torch.Tensor]],
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], dict]:
    """Train the LoRC factors of one block; everything else in it stays as it is.

    Args:
        block: holds the quantized weights.
        block_inputs, targets, activation: as `distill_block`.
        fmt: of those weights.
        start: B (out, m) and A (m, in) of each matrix, on the walk's device.

    Returns:
        The trained B and A of each matrix, and the notes of the training.

    Raises:
        ValueError, Diverged: as `lorcbench.core.zeroquant.distill`.
    """
    quantized = {name: block.get_submodule(name).weight for name in walk.architecture.linear_names}
    parameters = {f"{name}.B": b for name, (b, _) in start.items()}
    parameters |= {f"{name}.A": a for name, (_, a) in start.items()}

    def forward(values: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        products = {name: lorc.product_as_stored(values[f"{name}.B"], values[f"{name}.A"], settings.bits) for name in start}
        corrections = by_linear(products, walk.architecture)
        return walk.forward(block, x, {f"{name}.weight": weight + corrections[name] for name, weight in quantized.items()})

    with rounded_inputs(block, walk.architecture.linear_names, activation):
        unit = distill(forward, parameters, [], block_inputs, targets, fmt, settings)
    return {name: (unit.others[f"{name}.B"], unit.others[f"{name}.A"]) for name in start}, unit.notes


def _outputs_of(walk: BlockWalk, linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """What a linear makes (sequences, length, out) of its inputs (sequences, length, in)."""
    y = walk.buffer(*x.shape[:2], linear.out_features, streamed=False)
    for batch, states in walk.fetched(x):
        y[batch] = linear(states)
    return y


def _inputs_of(walk: BlockWalk, block: nn.Module, linear: str, block_inputs: torch.Tensor) -> torch.Tensor:
    """What the block gives one of its linears as input (sequences, length, in), of hidden states that enter the block."""
    # Here, because it loads Numba: 45 MB that the distillation of whole blocks does without.
    from lorcbench.models.observe import recorded

    x = walk.buffer(*block_inputs.shape[:2], block.get_submodule(linear).in_features, streamed=False)
    with recorded(block, linear) as recordings:
        for batch, states in walk.fetched(block_inputs):
            walk.forward(block, states)
            # Some blocks flatten sequences into one list of tokens before a linear: (batch · length, in) again by sequence.
            x[batch] = recordings.pop().reshape(x[batch].shape)
    return x

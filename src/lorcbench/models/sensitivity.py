"""How much a model's predictions suffer if some linears of it alone are quantized: measured end to end, nothing estimated.

The quantized linears of one input (q, k and v) take the place of the unquantized ones together, and everything else stays as
it is. What counts is KL(full precision ‖ that model), a mean over tokens (`lorcbench.core.divergence`). The loss itself would
need more text: it can fall by chance, while the divergence is 0 for equal predictions and above 0 for all others. This is one
number per group of linears and format, as of ModelOpt's `auto_quantize` and AutoRound's AutoScheme. They estimate it by a
gradient, which holds for small errors; here the real error is there, which at 2 bits is not small (BRASS replays it, too).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lorcbench.models.blocks import BlockWalk
from lorcbench.models.surgery import install_weights


def divergences(
    walk: BlockWalk,
    windows: torch.Tensor,
    weights_of_block: Callable[[int], dict[str, torch.Tensor]],
    progress: Callable[[float, int], None] = lambda done, total: None,
) -> list[dict[str, float]]:
    """The divergence in nats per token with one group of linears quantized: per block, by the first linear of the group.

    Each group has hidden states of its own, from its block on: after the last block there are as many sets of states as groups.
    Each block is loaded once.

    Args:
        windows: token windows (n, length).
        weights_of_block: index of a block → Ŵ (out, in) by linear.
        progress: told how many blocks of how many are passed; the comparison of the predictions counts as one more.

    Raises:
        ArithmeticError: a number is NaN or infinite.
    """
    full = walk.embed(windows)
    states: dict[tuple[int, str], torch.Tensor] = {}
    for index in range(walk.depth):
        quantized = weights_of_block(index)
        with walk.block(index) as block:
            for own in states.values():
                walk.advance(block, own)
            for group in walk.architecture.linears:
                before = {name: block.get_parameter(f"{name}.weight").data for name in group}
                install_weights(block, {name: quantized[name] for name in group})
                own = walk.buffer(*full.shape).copy_(full)
                walk.advance(block, own)
                install_weights(block, before)
                states[index, group[0]] = own
            walk.advance(block, full)
        progress(index + 1, walk.depth + 1)
    found: list[dict[str, float]] = [{} for _ in range(walk.depth)]
    host = full.to("cpu")
    for done, (index, name) in enumerate(list(states)):
        (scores,) = walk.compare([states.pop((index, name))], windows, lambda batch: host[batch])
        if not scores.kl.isfinite().all():
            raise ArithmeticError(f"block {index}, {name} quantized: a number is too large for {walk.dtype}")
        found[index][name] = float(scores.kl.double().mean())
        progress(walk.depth + (done + 1) / (len(states) + done + 1), walk.depth + 1)
    return found

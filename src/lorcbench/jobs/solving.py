"""GPTQ of one decoder block, whichever Hessians it is given. The arithmetic is `lorcbench.core.gptq`."""

from __future__ import annotations

from lorcbench.core.formats import WeightFormat
from lorcbench.core.gptq import GptqSettings, quantize_stacked
from lorcbench.jobs.hessians import HessianOf
from lorcbench.jobs.quantized import QuantizedBlock
from lorcbench.models.checkpoint import Checkpoint


def solve_block(
    checkpoint: Checkpoint, index: int, hessian_of: HessianOf, formats: dict[str, WeightFormat], settings: GptqSettings
) -> QuantizedBlock:
    """Quantize all linears of block `index`; those that share an input share its Hessian, and are swept as one stack of rows.

    Args:
        hessian_of: called once per input, with the first linear that has it, in forward order.
        formats: of each linear; those that share an input have one.

    Raises:
        ValueError, ArithmeticError: as `lorcbench.core.gptq.prepare` and `quantize`.
    """
    weights = checkpoint.linears(index)
    matrices, notes, dead = {}, {}, {}
    for group in checkpoint.architecture.linears:
        hessian = hessian_of(group[0])
        device = hessian.factor.upper.device
        stacked = quantize_stacked([weights[name].to(device) for name in group], hessian, formats[group[0]], settings)
        matrices |= dict(zip(group, stacked, strict=True))
        inputs = hessian.dead_inputs
        notes |= {name: {"damp": hessian.factor.damp, "dead": int(inputs.sum())} for name in group}
        dead |= {name: inputs for name in group} if inputs.any() else {}
    return QuantizedBlock(matrices, notes=notes, dead=dead)

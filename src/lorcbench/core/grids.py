"""Scales, zero points and codes of groups, in all conventions (`lorcbench.core.quantizer` explains them)."""

from __future__ import annotations

import torch

from lorcbench.core.formats import ActivationFormat, WeightFormat

_SMALLEST_SCALE = {torch.float16: 2.0**-24, torch.float32: 2.0**-126}


def grouped(matrix: torch.Tensor, group: int | None) -> torch.Tensor:
    """View (…, width) as (…, groups, group); without a group size each row is one group.

    Raises:
        ValueError: the groups do not divide the width.
    """
    width = matrix.shape[-1]
    if group is not None and width % group:
        raise ValueError(f"groups of {group} do not divide a width of {width}")
    return matrix.unflatten(-1, (-1, group or width))


def scale_and_zero_of_range(
    low: torch.Tensor, high: torch.Tensor, fmt: WeightFormat | ActivationFormat
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of groups whose least and largest values are `low` and `high` (…, groups); nothing is checked."""
    levels = 2**fmt.bits - (fmt.convention == "minmax")
    if fmt.symmetric:
        bound = torch.maximum(-low, high)
        scale = bound / (2 ** (fmt.bits - 1) - 1) if fmt.convention == "restricted" else 2 * bound / levels
        scale = stored_scale(torch.where(bound == 0, torch.ones_like(bound), scale), fmt)
        return scale, torch.full_like(low, 2 ** (fmt.bits - 1), dtype=torch.int32)
    if fmt.convention == "minmax":
        low, high = low.clamp(max=0), high.clamp(min=0)
    # A constant group has no range: the scale |c| makes c itself a code. A range far below its offset (pow2 only) takes
    # a scale that keeps |z| within 2^23: inside int32, exact in float32, and as fine as float32 resolves the offset.
    without_range = torch.where(low == 0, torch.ones_like(low), low.abs())
    scale = torch.maximum((high - low) / levels, low.abs() * 2.0**-23)
    scale = stored_scale(torch.where(low == high, without_range, scale), fmt)
    return scale, -torch.round(low / scale.float()).to(torch.int32)


def stored_scale(scale: torch.Tensor, fmt: WeightFormat | ActivationFormat) -> torch.Tensor:
    """Scales of 0 or more as a format stores them: in its type, and never zero; infinite if too large for that type."""
    dtype = getattr(torch, getattr(fmt, "scale_dtype", "float32"))
    if dtype == torch.float16:
        # Below the normal numbers of float16 (2^-14) neighbours are 2^-24 apart, which is coarse: a scale that was rounded down
        # there would push values and zero points beyond the b bits. So it is rounded up.
        scale = torch.where(scale < 2.0**-14, torch.ceil(scale * 2.0**24) * 2.0**-24, scale)
    return scale.to(dtype).clamp(min=_SMALLEST_SCALE[dtype])


def offset_first(fmt: WeightFormat | ActivationFormat) -> bool:
    """Whether values lose their offset -z·s before they are rounded (DeepSpeed, asymmetric), or z is added after rounding.

    The two differ on ties, and where float32 cannot tell a tie: each convention computes as its published code does.
    """
    return fmt.convention == "pow2" and not fmt.symmetric


def lowest_code(fmt: WeightFormat | ActivationFormat) -> int:
    """The lowest code that values are rounded to."""
    return 1 if fmt.convention == "restricted" else 0  # as many codes below the zero point as above it


def encode(matrix: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, fmt: WeightFormat | ActivationFormat) -> torch.Tensor:
    """Codes (rows, width) uint8 of float32 values (rows, width), given (rows, groups) scales and zero points.

    A symmetric format needs zero points here too, all of them 2^(b-1).
    """
    values = grouped(matrix, fmt.group)  # (rows, groups, group)
    step = scale.float().unsqueeze(-1)  # (rows, groups, 1): one per group
    offset = zero.float().unsqueeze(-1)
    codes = torch.round((values + offset * step) / step) if offset_first(fmt) else torch.round(values / step) + offset
    return codes.clamp(lowest_code(fmt), 2**fmt.bits - 1).to(torch.uint8).flatten(-2)

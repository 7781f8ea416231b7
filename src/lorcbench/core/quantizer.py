"""Scales and zero points, rounding to codes and back, and dense bit packing.

Weights and activations are rounded by `lorcbench.core.grids.encode`. Two places repeat its arithmetic in compiled loops, where
a call per column or per candidate would be slow: GPTQ's sweep (`lorcbench.core.gptq`) and the search for ranges
(`lorcbench.core.clip`). Factors of LoRC are rounded in `lorcbench.core.lorc`.

Every convention stores unsigned codes q in [0, 2^b - 1], one scale s and one integer zero point z per group, and means

    w ≈ s · (q - z)

    convention    s, asymmetric               s, symmetric             z
    minmax        (max - min) / (2^b - 1)     2 max|w| / (2^b - 1)     round(-min / s), in [0, 2^b - 1]
    pow2          (max - min) / 2^b           2 max|w| / 2^b           -round(min / s), any integer
    restricted                                max|w| / (2^(b-1) - 1)   (symmetric only)

Symmetric z is 2^(b-1), a constant. `minmax` stretches the range to hold 0, as GPTQ's code does; `pow2` does not, as
DeepSpeed's code does not, so there z can be any integer. Rounding is to nearest, ties to even. Sources: ZeroQuant-V2 section 4
leaves divisor and zero rounding open; GPTQ's `quant.py` and DeepSpeed's `compression/utils.py` are the two published codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.core.grids import encode, grouped, scale_and_zero_of_range

_CODES_TOGETHER = 8  # that fill whole bytes, whatever their bits


@dataclass(frozen=True)
class Quantized:
    """A quantized matrix.

    Attributes:
        codes: (out, in) uint8, each in [0, 2^b - 1].
        scale: (out, groups) in the format's scale type, finite and above 0.
        zero: (out, groups) int32, in the range of the convention; None for symmetric formats, whose zero point is 2^(b-1).
        format: what the codes, scales and zero points mean.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None
    format: WeightFormat


def quantize(weight: torch.Tensor, grid: WeightFormat | Quantized, clip: str = "none") -> Quantized:
    """Round W (out, in) to nearest: ZeroQuant-V2's RTN.

    Args:
        grid: a format, whose scales and zero points are found from W; or a quantized matrix, whose format, scales and zero
            points are kept.
        clip: how scales are found, if `grid` is a format: as `scale_and_zero`.

    Raises:
        ValueError: W is not a finite matrix, or its width is no multiple of the group.
    """
    if isinstance(grid, Quantized):
        return _quantize_like(weight, grid)
    scale, zero = scale_and_zero(grouped(weight.float(), grid.group), grid, clip)
    return Quantized(encode(weight.float(), scale, zero, grid), scale, None if grid.symmetric else zero, grid)


def _quantize_like(weight: torch.Tensor, like: Quantized) -> Quantized:
    """Round W (out, in) to nearest on the scales and zero points of another matrix; errors as `quantize`."""
    groups = grouped(weight.float(), like.format.group)
    # The extremes are NaN or infinite if any value is.
    if not torch.stack(groups.aminmax()).isfinite().all():
        raise ValueError("cannot quantize NaN or infinite values")
    symmetric_zero = 2 ** (like.format.bits - 1)
    zero = torch.full_like(like.scale, symmetric_zero, dtype=torch.int32) if like.zero is None else like.zero
    return replace(like, codes=encode(weight.float(), like.scale, zero, like.format))


def check(quantized: Quantized, fmt: WeightFormat, rows: int, width: int) -> None:
    """Refuse what does not describe a matrix W (rows, width) in the format `fmt`.

    Raises:
        ValueError: the format is another one; codes, scales or zero points have another shape or type, or a value that the
            format does not have.
    """
    if not isinstance(quantized, Quantized):
        raise ValueError(f"{type(quantized).__name__}, expected Quantized")
    if quantized.format != fmt:
        raise ValueError(f"format {quantized.format}, expected {fmt}")
    highest, groups = 2**fmt.bits - 1, width // (fmt.group or width)
    _check_part("codes", quantized.codes, (rows, width), torch.uint8)
    _check_range("codes", quantized.codes, 0, highest)
    _check_part("scale", quantized.scale, (rows, groups), getattr(torch, fmt.scale_dtype))
    low, high = quantized.scale.aminmax()  # NaN if any is
    if not (low > 0 and high < torch.inf):
        raise ValueError(f"scale from {low.item():.6g} to {high.item():.6g}, expected finite numbers above 0")
    if fmt.symmetric:
        if quantized.zero is not None:
            raise ValueError(f"zero {_described(quantized.zero)}, expected None: {fmt} is symmetric")
        return
    _check_part("zero", quantized.zero, (rows, groups), torch.int32)
    if fmt.convention == "minmax":  # of `pow2` it is any integer
        _check_range("zero", quantized.zero, 0, highest)


def _check_part(name: str, part: torch.Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> None:
    if part is None or part.shape != shape or part.dtype != dtype:
        raise ValueError(f"{name} {_described(part)}, expected {shape} {_spelled(dtype)}")


def _check_range(name: str, part: torch.Tensor, lowest: int, highest: int) -> None:
    low, high = (int(extreme) for extreme in part.aminmax())
    if low < lowest or high > highest:
        raise ValueError(f"{name} from {low} to {high}, expected {lowest} to {highest}")


def _described(part: torch.Tensor | None) -> str:
    """Shape and type of a tensor, in words."""
    return "None" if part is None else f"{tuple(part.shape)} {_spelled(part.dtype)}"


def _spelled(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dequantize(quantized: Quantized) -> torch.Tensor:
    """Ŵ (out, in) in float32."""
    fmt = quantized.format
    codes = grouped(quantized.codes.float(), fmt.group)
    # One zero point and one scale per group: (out, groups, 1), for codes (out, groups, group).
    zero = 2 ** (fmt.bits - 1) if quantized.zero is None else quantized.zero.float().unsqueeze(-1)
    return ((codes - zero) * quantized.scale.float().unsqueeze(-1)).flatten(1)


def scale_and_zero(
    groups: torch.Tensor, fmt: WeightFormat | ActivationFormat, clip: str = "none"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of every group.

    Args:
        groups: (…, groups, group) float32.
        fmt: a weight format (scales are rounded to its `scale_dtype`) or an activation format (float32 scales).
        clip: ``none``: the range of a group is that of its values; ``mse`` (weight formats only): that range is shrunk so that
            the squared error of the group is least (`lorcbench.core.clip`).

    Returns:
        scale (…, groups) and zero (…, groups) int32. A group of zeros gets scale 1 and decodes to exact zeros; a scale too
        small for its type becomes the smallest positive number of that type.

    Raises:
        ValueError: a value is NaN or infinite, or a scale overflows its type (with any `clip`: that of the whole range).
    """
    low, high = groups.amin(-1), groups.amax(-1)
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise ValueError("cannot quantize NaN or infinite values")
    scale, zero = scale_and_zero_of_range(low, high, fmt)
    if torch.isinf(scale).any():
        raise ValueError(f"a scale overflows {scale.dtype}: use the -fp32scale variant of the weight format")
    return (scale, zero) if clip == "none" else _clipped(groups, low, high, fmt)


def scale_and_zero_unchecked(
    groups: torch.Tensor, fmt: WeightFormat | ActivationFormat, clip: str = "none"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as `scale_and_zero` without its checks: NaN, infinity and overflow go on into the scale.

    For a GPU, which has to wait for each check.
    """
    low, high = groups.amin(-1), groups.amax(-1)
    return scale_and_zero_of_range(low, high, fmt) if clip == "none" else _clipped(groups, low, high, fmt)


def _clipped(
    groups: torch.Tensor, low: torch.Tensor, high: torch.Tensor, fmt: WeightFormat
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of every group, its range shrunk so that its squared error is least."""
    from lorcbench.core.clip import least_error_shrink  # imports Numba, which takes longer than plain rounding

    shrink = least_error_shrink(groups, low, high, fmt)
    return scale_and_zero_of_range(shrink * low, shrink * high, fmt)


class _StraightThrough(torch.autograd.Function):
    """Forward the rounded values, to the bit; backward the gradient as if nothing had been rounded or clamped.

    The estimator of DeepSpeed's `compression/utils.py`, by ZeroQuant's authors; the paper names none.
    """

    @staticmethod
    def forward(ctx, values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def fake_quantize_weights(weight: torch.Tensor, grid: WeightFormat | Quantized) -> torch.Tensor:
    """Ŵ (out, in) of `quantize`, in W's own type, with a straight-through gradient: scales and zero points are constants."""
    rounded = dequantize(quantize(weight.detach(), grid))
    return _StraightThrough.apply(weight, rounded.to(weight.dtype))


def fake_quantize_activations(x: torch.Tensor, fmt: ActivationFormat) -> torch.Tensor:
    """Round activations (…, features) dynamically, token by token, and return them in their own type.

    ZeroQuant-V2 section 4: scales (and zero points) are found at run time, from the token itself, in float32. The gradient is
    straight-through, as of weights.
    """
    if fmt.is_full_precision:
        return x
    tokens = x.detach().reshape(-1, x.shape[-1]).float()  # (tokens, features), whatever the batch looked like
    scale, zero = scale_and_zero(grouped(tokens, fmt.group), fmt)
    codes = grouped(encode(tokens, scale, zero, fmt).float(), fmt.group)
    # As `dequantize`, then back to the shape of x.
    rounded = ((codes - zero.unsqueeze(-1)) * scale.unsqueeze(-1)).flatten(1).to(x.dtype).view(x.shape)
    return _StraightThrough.apply(x, rounded)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (rows, width) uint8 below 2^bits as dense bytes (rows, ceil(width / 8) · bits): eight codes make `bits` bytes.

    Code i has bits i · `bits` and on, the lowest first, of its bytes read as one little-endian number.
    """
    missing = -codes.shape[1] % _CODES_TOGETHER
    eights = torch.nn.functional.pad(codes, (0, missing)).unflatten(1, (-1, _CODES_TOGETHER))
    packed = torch.zeros(*eights.shape[:2], bits, dtype=torch.uint8, device=codes.device)
    for code, byte, shift in _overlaps(bits):  # what a shift moves out of a byte belongs to the one beside it
        packed[..., byte] |= eights[..., code] << shift if shift >= 0 else eights[..., code] >> -shift
    return packed.flatten(1)


def unpack(packed: torch.Tensor, bits: int, width: int) -> torch.Tensor:
    """Codes (rows, width) uint8 out of the bytes that `pack` made."""
    bytes_ = packed.unflatten(1, (-1, bits))
    eights = torch.zeros(*bytes_.shape[:2], _CODES_TOGETHER, dtype=torch.uint8, device=packed.device)
    for code, byte, shift in _overlaps(bits):
        eights[..., code] |= bytes_[..., byte] >> shift if shift >= 0 else bytes_[..., byte] << -shift
    codes = eights.flatten(1).bitwise_and_(2**bits - 1)
    return codes[:, :width].contiguous()  # without what `pack` has added


def _overlaps(bits: int) -> Iterator[tuple[int, int, int]]:
    """Of eight codes: (code, byte that holds a part of it, place of the code's lowest bit in that byte)."""
    for code in range(_CODES_TOGETHER):
        first = code * bits
        for byte in range(first // 8, (first + bits - 1) // 8 + 1):
            yield code, byte, first - 8 * byte


def to_stored(quantized: Quantized) -> dict[str, torch.Tensor]:
    """The tensors that an artifact keeps: packed codes, scales, and zero points in the fewest bytes that hold them."""
    fmt = quantized.format
    stored = {"codes": pack(quantized.codes, fmt.bits), "scale": quantized.scale}
    if quantized.zero is not None:
        stored["zero"] = _compact(quantized.zero, fmt)
    return stored


def from_stored(stored: dict[str, torch.Tensor], fmt: WeightFormat, width: int) -> Quantized:
    """The matrix that `to_stored` stored, given its format and its number of inputs."""
    zero = stored.get("zero")
    if zero is not None:
        if fmt.convention == "minmax":  # packed as one row of codes
            zero = unpack(zero, fmt.bits, stored["scale"].numel()).view(stored["scale"].shape)
        zero = zero.to(torch.int32)
    return Quantized(unpack(stored["codes"], fmt.bits, width), stored["scale"], zero, fmt)


def _compact(zero: torch.Tensor, fmt: WeightFormat) -> torch.Tensor:
    """Zero points (out, groups) int32 in the fewest bytes: packed as codes, or in the smallest integers that hold them."""
    if fmt.convention == "minmax":  # in [0, 2^b - 1], so as wide as a code
        return pack(zero.to(torch.uint8).view(1, -1), fmt.bits)
    for dtype in (torch.int8, torch.int16):
        if zero.min() >= torch.iinfo(dtype).min and zero.max() <= torch.iinfo(dtype).max:
            return zero.to(dtype)
    return zero

"""Weight and activation formats as frozen values with one canonical spelling each.

The spelling is what paths, config keys, tracking tags and tables carry, so it round-trips. On the right: the shape of the
scales of a weight W (768, 3072), rows are outputs, or of the activations of 2,048 tokens with 768 features:

    w16                      full precision
    w4-asym-row              4 bits, asymmetric, one scale and zero point per row of W                     (768, 1)
    w3-sym-g128              3 bits, symmetric, one scale per 128 consecutive inputs of a row              (768, 24)
    w4-asym-g64-pow2         the divisor 2^b of DeepSpeed's code instead of 2^b - 1                        (768, 48)
    w4-sym-row-restricted    the symmetric divisor 2^(b-1) - 1; the lowest code is not used                (768, 1)
    w4-asym-row-fp32scale    scales in float32, as in published fake-quantization code, not in float16     (768, 1)
    mixed                    each linear has a format of its own, which the method has chosen
    a16                      activations as they are
    a8-asym-token            8 bits, one scale and zero point per token, computed at run time              (2048, 1)
    a8-sym-g128              8 bits, one scale per 128 consecutive features of a token                     (2048, 6)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

CONVENTIONS = ("minmax", "pow2", "restricted")
SCALE_DTYPES = {"fp16scale": "float16", "fp32scale": "float32"}
# ZeroQuant-V2 draws every per-row point of its figure 1 as if a row were 768 inputs long.
_PAPER_ROW = 768


class _Kind(NamedTuple):
    """In what weight and activation formats differ."""

    name: str
    letter: str  # that a spelling starts with
    fewest_bits: int  # 8 are the most, but for 16
    unrounded: str  # what 16 bits mean
    whole: str  # how "no groups" is spelled
    member: str  # what a group consists of
    scales: str  # a pattern: scale types that a spelling may end with
    example: str


# (?!) matches nothing: scales of activations are computed at run time and stored nowhere.
_WEIGHT = _Kind("weight", "w", 2, "full precision", "row", "weight", "|".join(SCALE_DTYPES), "w4-asym-g128")
_ACTIVATION = _Kind("activation", "a", 4, "no rounding", "token", "feature", "(?!)", "a8-asym-token")


@dataclass(frozen=True)
class WeightFormat:
    """How a weight matrix W (out, in) is stored.

    Attributes:
        bits: 2 to 8, or 16 for full precision; 0 where formats differ from linear to linear, which no matrix has.
        symmetric: whether the zero point is fixed in the middle of the codes.
        group: consecutive inputs that share a scale; None is a whole row.
        convention: ``minmax`` divides the range by 2^b - 1 (GPTQ's code), ``pow2`` by 2^b (DeepSpeed's code),
            ``restricted`` (symmetric only) divides max|w| by 2^(b-1) - 1.
        scale_dtype: the type in which scales are stored; they are rounded to it before codes are chosen.
    """

    bits: int
    symmetric: bool = False
    group: int | None = None
    convention: str = "minmax"
    scale_dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.is_mixed and not any(getattr(self, field.name) != field.default for field in fields(self)[1:]):
            return
        _check(self, _WEIGHT)
        if self.scale_dtype not in SCALE_DTYPES.values():
            raise ValueError(f"weight format {self}: scales are float16 or float32, not {self.scale_dtype}")

    def __str__(self) -> str:
        if self.is_mixed:
            return "mixed"
        scales = [name for name, dtype in SCALE_DTYPES.items() if dtype == self.scale_dtype and dtype != "float16"]
        return "-".join([_spelled(self, _WEIGHT), *scales])

    @classmethod
    def parse(cls, text: str) -> WeightFormat:
        """The format spelled `text`; a ValueError says what a right spelling would be."""
        return cls(0) if text == "mixed" else _parse(cls, _WEIGHT, text)

    @property
    def is_full_precision(self) -> bool:
        """Whether the weights stay as they are (`w16`)."""
        return self.bits == 16

    @property
    def is_mixed(self) -> bool:
        """Whether formats differ from linear to linear (`mixed`)."""
        return self.bits == 0

    def stored_bits(self, rows: int, width: int) -> int:
        """Bits that a matrix (rows, width) takes: packed codes, scales and zero points, as `quantizer.to_stored` has them.

        Raises:
            ValueError: zero points may be any integers, so that nobody knows before they are there (`pow2`, asymmetric).
        """
        if self.convention == "pow2" and not self.symmetric:
            raise ValueError(f"{self}: the size of zero points that are any integers is not known beforehand")
        groups = rows * (width // (self.group or width))
        scales = groups * (32 if self.scale_dtype == "float32" else 16)
        zeros = 0 if self.symmetric else _packed_bits(groups, self.bits)
        return rows * _packed_bits(width, self.bits) + scales + zeros

    def paper_bits(self) -> float:
        """Bits per weight on the size axis of ZeroQuant-V2's figure 1: b + 32 / k, where a row counts as k = 768.

        NaN for mixed formats, of which the paper has none.
        """
        if self.is_mixed:
            return math.nan
        return 16.0 if self.is_full_precision else self.bits + 32 / (self.group or _PAPER_ROW)


def _packed_bits(count: int, bits: int) -> int:
    """Bits of `count` codes that are packed eight at a time."""
    return -(-count // 8) * 8 * bits


@dataclass(frozen=True)
class ActivationFormat:
    """How the inputs of a block's linears are rounded at run time.

    Attributes:
        bits: 4 to 8, or 16 for activations as they are.
        symmetric: as for weights.
        group: consecutive features of one token that share a scale; None is the whole token.
        convention: as for weights.
    """

    bits: int
    symmetric: bool = False
    group: int | None = None
    convention: str = "minmax"

    def __post_init__(self) -> None:
        _check(self, _ACTIVATION)

    def __str__(self) -> str:
        return _spelled(self, _ACTIVATION)

    @classmethod
    def parse(cls, text: str) -> ActivationFormat:
        """The format spelled `text`; a ValueError says what a right spelling would be."""
        return _parse(cls, _ACTIVATION, text)

    @property
    def is_full_precision(self) -> bool:
        """Whether activations stay as they are (`a16`)."""
        return self.bits == 16


def _check(fmt: WeightFormat | ActivationFormat, kind: _Kind) -> None:
    """Refuse a format that no spelling names; the ValueError says which field is wrong, and what it may be."""
    if fmt.bits == 16:
        if any(getattr(fmt, field.name) != field.default for field in fields(fmt)[1:]):
            raise ValueError(f"{kind.name} format {kind.letter}16: {kind.unrounded} takes no further options")
        return
    owner = f"{kind.name} format {fmt}"
    if not kind.fewest_bits <= fmt.bits <= 8:
        raise ValueError(f"{owner}: bits must be {kind.fewest_bits} to 8, or {kind.letter}16 for {kind.unrounded}")
    if fmt.group is not None and fmt.group < 1:
        raise ValueError(f"{owner}: a group needs at least one {kind.member}")
    if fmt.convention not in CONVENTIONS:
        raise ValueError(f"{owner}: the convention must be one of {', '.join(CONVENTIONS)}")
    if fmt.convention == "restricted" and not fmt.symmetric:
        raise ValueError(f"{owner}: 'restricted' is a symmetric convention")


def _spelled(fmt: WeightFormat | ActivationFormat, kind: _Kind) -> str:
    """The spelling of a format, up to its scale type."""
    if fmt.bits == 16:
        return f"{kind.letter}16"
    symmetry = "sym" if fmt.symmetric else "asym"
    group = f"g{fmt.group}" if fmt.group else kind.whole
    convention = [] if fmt.convention == "minmax" else [fmt.convention]
    return "-".join([f"{kind.letter}{fmt.bits}", symmetry, group, *convention])


def _parse(cls: type, kind: _Kind, text: str) -> WeightFormat | ActivationFormat:
    """The format of class `cls` that is spelled `text`; a ValueError says what a right spelling would be."""
    letter = kind.letter
    whole = kind.whole
    if text == f"{letter}16":
        return cls(16)
    pattern = rf"{letter}(?!16)([1-9]\d?)-(a?sym)-({whole}|g[1-9]\d{{0,5}})(?:-(pow2|restricted))?(?:-({kind.scales}))?"
    match = re.fullmatch(pattern, text, re.ASCII)
    if match is None:
        expected = f"{letter}16 or {letter}BITS-sym|asym-{whole}|gN, such as {kind.example}"
        raise ValueError(f"{kind.name} format {text!r}: expected {expected}")
    bits, symmetry, group, convention, scales = match.groups()
    scale_dtype = [SCALE_DTYPES[scales]] if scales else []
    size = None if group == whole else int(group[1:])
    return cls(int(bits), symmetry == "sym", size, convention or "minmax", *scale_dtype)


def parse_formats(text: str) -> tuple[WeightFormat, ...]:
    """Several weight formats in one word, as a method's name carries them.

    Formats that differ in their bits alone are written together, with the bits before what they share; a point stands between
    others: ``w2-w3-asym-g64.w4-asym-row`` is w2-asym-g64, w3-asym-g64 and w4-asym-row. `spelled_formats` prints them.

    Raises:
        ValueError: no format is spelled so, or one comes twice.
    """
    formats = []
    for part in text.split("."):
        match = re.fullmatch(r"((?:w\d+-)+)(a?sym-.+)", part, re.ASCII)
        if match is None:
            raise ValueError(f"weight formats {text!r}: expected such as w2-w3-w4-asym-g64, or w2-w3-asym-g64.w4-asym-row")
        bits, rest = match.groups()
        formats += [WeightFormat.parse(f"{width}-{rest}") for width in bits.strip("-").split("-")]
    if len(set(formats)) < len(formats):
        raise ValueError(f"weight formats {text!r}: expected each once")
    return tuple(formats)


def spelled_formats(formats: Iterable[WeightFormat]) -> str:
    """The one spelling of several formats that `parse_formats` reads, whatever their order."""
    together: dict[str, list[int]] = {}
    for fmt in formats:
        together.setdefault(str(fmt).partition("-")[2], []).append(fmt.bits)
    return ".".join("-".join([*(f"w{bits}" for bits in sorted(together[rest])), rest]) for rest in sorted(together))

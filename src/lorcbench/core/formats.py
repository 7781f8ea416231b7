"""Weight and activation formats as frozen values with one canonical spelling each.

The spelling is what paths, config keys, tracking tags and tables carry, so it round-trips::

    w16                      full precision
    w4-asym-row              4 bits, asymmetric, one scale and zero point a row of W (out, in)
    w3-sym-g128              3 bits, symmetric, one scale for every 128 consecutive inputs of a row
    w4-asym-g64-pow2         the 2^b divisor of DeepSpeed's code instead of 2^b - 1
    w4-sym-row-restricted    symmetric divisor 2^(b-1) - 1, the lowest code unused
    w4-asym-row-fp32scale    scales kept in float32 (published fake-quantization code does) instead of float16
    a16                      activations as they are
    a8-asym-token            8 bits, one scale and zero point a token, found at run time
    a8-sym-g128              8 bits, one scale for every 128 consecutive features of a token
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass

CONVENTIONS = ("minmax", "pow2", "restricted")
SCALE_DTYPES = {"fp16scale": "float16", "fp32scale": "float32"}
# ZeroQuant-V2 draws every per-row point of its figure 1 as if a row were 768 inputs long.
_PAPER_ROW = 768


@dataclass(frozen=True)
class WeightFormat:
    """How a weight matrix W (out, in) is stored.

    Attributes:
        bits: 2 to 8, or 16 for full precision.
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
        if self.bits == 16:
            if astuple(self) != (16, False, None, "minmax", "float16"):
                raise ValueError("weight format w16: full precision takes no further options")
            return
        if not 2 <= self.bits <= 8:
            raise ValueError(f"weight format {self}: bits must be 2 to 8, or w16 for full precision")
        if self.group is not None and self.group < 1:
            raise ValueError(f"weight format {self}: a group needs at least one weight")
        if self.convention not in CONVENTIONS:
            raise ValueError(f"weight format {self}: the convention must be one of {', '.join(CONVENTIONS)}")
        if self.scale_dtype not in SCALE_DTYPES.values():
            raise ValueError(f"weight format {self}: scales are float16 or float32, not {self.scale_dtype}")
        if self.convention == "restricted" and not self.symmetric:
            raise ValueError(f"weight format {self}: 'restricted' is a symmetric convention")

    def __str__(self) -> str:
        if self.bits == 16:
            return "w16"
        parts = [f"w{self.bits}", "sym" if self.symmetric else "asym", f"g{self.group}" if self.group else "row"]
        if self.convention != "minmax":
            parts.append(self.convention)
        parts += [name for name, dtype in SCALE_DTYPES.items() if dtype == self.scale_dtype and dtype != "float16"]
        return "-".join(parts)

    @classmethod
    def parse(cls, text: str) -> WeightFormat:
        """The format spelled `text`; a ValueError says what a right spelling would be."""
        return _parse_weight(text)

    @property
    def is_full_precision(self) -> bool:
        """Whether the weights stay as they are (`w16`)."""
        return self.bits == 16

    def paper_bits(self) -> float:
        """Bits a weight by the size axis of ZeroQuant-V2's figure 1: b + 32 / k, a row counted as 768."""
        return 16.0 if self.is_full_precision else self.bits + 32 / (self.group or _PAPER_ROW)


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
        if self.bits == 16:
            if astuple(self) != (16, False, None, "minmax"):
                raise ValueError("activation format a16: no rounding takes no further options")
            return
        if not 4 <= self.bits <= 8:
            raise ValueError(f"activation format {self}: bits must be 4 to 8, or a16 for no rounding")
        if self.group is not None and self.group < 1:
            raise ValueError(f"activation format {self}: a group needs at least one feature")
        if self.convention not in CONVENTIONS:
            raise ValueError(f"activation format {self}: the convention must be one of {', '.join(CONVENTIONS)}")
        if self.convention == "restricted" and not self.symmetric:
            raise ValueError(f"activation format {self}: 'restricted' is a symmetric convention")

    def __str__(self) -> str:
        if self.bits == 16:
            return "a16"
        parts = [f"a{self.bits}", "sym" if self.symmetric else "asym", f"g{self.group}" if self.group else "token"]
        return "-".join(parts + [self.convention] * (self.convention != "minmax"))

    @classmethod
    def parse(cls, text: str) -> ActivationFormat:
        """The format spelled `text`; a ValueError says what a right spelling would be."""
        return _parse_activation(text)

    @property
    def is_full_precision(self) -> bool:
        """Whether activations stay as they are (`a16`)."""
        return self.bits == 16


_WEIGHT = re.compile(r"w([1-9]\d?)-(a?sym)-(row|g[1-9]\d{0,5})(-pow2|-restricted)?(-fp16scale|-fp32scale)?", re.ASCII)
_ACTIVATION = re.compile(r"a([1-9]\d?)-(a?sym)-(token|g[1-9]\d{0,5})(-pow2|-restricted)?", re.ASCII)


def _parse_weight(text: str) -> WeightFormat:
    if text == "w16":
        return WeightFormat(16)
    match = _WEIGHT.fullmatch(text)
    if match is None or match[1] == "16":
        raise ValueError(f"weight format {text!r}: expected w16 or wBITS-sym|asym-row|gN, such as w4-asym-g128")
    scale_dtype = SCALE_DTYPES[(match[5] or "-fp16scale")[1:]]
    return WeightFormat(int(match[1]), match[2] == "sym", _group(match[3]), (match[4] or "-minmax")[1:], scale_dtype)


def _parse_activation(text: str) -> ActivationFormat:
    if text == "a16":
        return ActivationFormat(16)
    match = _ACTIVATION.fullmatch(text)
    if match is None or match[1] == "16":
        raise ValueError(f"activation format {text!r}: expected a16 or aBITS-sym|asym-token|gN, such as a8-asym-token")
    return ActivationFormat(int(match[1]), match[2] == "sym", _group(match[3]), (match[4] or "-minmax")[1:])


def _group(text: str) -> int | None:
    return int(text[1:]) if text.startswith("g") else None

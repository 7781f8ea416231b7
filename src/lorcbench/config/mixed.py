"""What can be set of the method that gives each linear a format of its own, under a budget of bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from lorcbench.config.checks import MOST, ConfigError, one_of
from lorcbench.config.protocols import CalibrationConfig
from lorcbench.config.recipes import GptqMethod, Method, RtnMethod
from lorcbench.config.shape import Shape
from lorcbench.core.formats import WeightFormat, parse_formats, spelled_formats

METHOD = "mixed"
EXAMPLE = "mixed+bits=3.0+formats=w2-w3-w4-asym-g64"
MEASURED = ("divergence", "error")  # what the stage ``sensitivity`` measures


@dataclass
class MixedMethod(Method):
    """A format for each linear, chosen among some such that a score is least under a budget. A study names budget and formats.

    Linears that share an input, as q, k and v do, have one format.

    Attributes:
        bits: per weight, of all that is stored: codes, scales, zero points. The budget is never exceeded.
        formats: the candidates, as `lorcbench.core.formats.parse_formats` reads them.
        by: how they are chosen. ``divergence``: the score of a format is the divergence of the model's predictions from full
            precision's on calibration text, if this linear alone is quantized so; ``error``: it is ‖W - Ŵ‖²; ``depth``: there
            is no score, and the first blocks get the most bits.
        factors: an entry of conf/lorc of kind ``exact``, if ranks are chosen too, else ``none``.
        components: the candidates of the rank, such as ``0-8-16``. The score of a rank is that of the format times the share
            of the weighted error that the components leave; the budget counts their factors, too.
        base: an entry of conf/method that quantizes: ``rtn``, or one of GPTQ's. Scores are of what it makes when it gives all
            linears the same format.
    """

    kind: str = METHOD
    bits: float = 0.0
    formats: str = ""
    by: str = "divergence"
    base: str = "gptq"
    factors: str = "none"
    components: str = ""

    load: ClassVar[Callable[[str, str], Any]]  # `lorcbench.config.compose.load`, which puts itself here: it needs this module

    def __post_init__(self) -> None:
        one_of("method", "kind", self.kind, (METHOD,))
        one_of("method", "by", self.by, (*MEASURED, "depth"))
        if not self.bits and not self.formats:
            return  # conf/method/mixed.yaml itself
        try:
            candidates = parse_formats(self.formats)
            # Of a long row, which has few scales for its weights, or of one group; in eight rows nothing is padded.
            least = min(fmt.stored_bits(8, fmt.group or MOST) / 8 / (fmt.group or MOST) for fmt in candidates)
        except ValueError as error:
            raise ConfigError(f"method.formats: {error}") from None
        if len(candidates) < 2:
            raise ConfigError(f"method.formats={self.formats}: expected two formats or more, such as {EXAMPLE}")
        if not least <= self.bits <= 16:
            raise ConfigError(f"method.bits={self.bits}: expected {least:.4g} to 16, since {self.formats} takes no fewer")
        self.formats = spelled_formats(candidates)
        if self.components or self.factors != "none":
            self._check_ranks()

    def _check_ranks(self) -> None:
        """Refuse ranks that are no ascending numbers, or that nothing measures."""
        found = [int(part) for part in self.components.split("-") if part.isascii() and part.isdigit()]
        if len(found) < 2 or found != sorted(set(found)) or "-".join(map(str, found)) != self.components or found[-1] >= MOST:
            expected = "expected rising numbers such as 0-8-16, beside factors=exact-int4"
            raise ConfigError(f"method.components={self.components}: {expected}")
        if self.by != "divergence":
            raise ConfigError(f"method.by={self.by}: expected divergence; nothing else says what a rank is worth")

    @property
    def is_named(self) -> bool:
        """Whether budget and candidates are said."""
        return bool(self.formats)

    @property
    def candidates(self) -> tuple[WeightFormat, ...]:
        """The formats, from few bits to many."""
        return tuple(sorted(parse_formats(self.formats), key=lambda fmt: (fmt.bits, str(fmt))))

    @property
    def measures(self) -> bool:
        """Whether the stage ``sensitivity`` has to measure the candidates."""
        return self.by in MEASURED

    @property
    def quantizer(self) -> RtnMethod | GptqMethod:
        """The method that makes the codes.

        Raises:
            ConfigError: it is unknown, or of another kind.
        """
        method = MixedMethod.load("method", self.base)
        if method.kind not in ("rtn", "gptq") or method.sees_activations:
            raise ConfigError(f"method.base={self.base}: expected rtn, or a GPTQ that looks at no rounded activations")
        return method

    @property
    def choice_of_ranks(self) -> tuple[int, ...]:
        """The candidates of the rank; none if every linear has that of the cell."""
        return tuple(map(int, self.components.split("-"))) if self.components else ()

    @property
    def correction(self) -> str:
        """The entry of conf/lorc whose ranks are chosen.

        Raises:
            ConfigError: it is unknown, or of another kind.
        """
        settings = MixedMethod.load("lorc", self.factors)
        if settings.kind != "exact" or settings.inputs != "full_precision":
            raise ConfigError(f"method.factors={self.factors}: expected one of kind exact, such as exact-int4, beside ranks")
        return self.factors

    @property
    def data(self) -> str | None:
        """What its base reads; and scores are measured on calibration text."""
        return self.quantizer.data or ("tokens" if self.measures else None)

    @property
    def factor(self) -> dict[str, str]:
        """As of its base."""
        return self.quantizer.factor

    @property
    def damp(self) -> float:
        """As of its base, if that is one of GPTQ's."""
        return self.quantizer.damp

    def estimate(self, shape: Shape, calibration: CalibrationConfig | None) -> tuple[float, float]:
        """As of its base."""
        return self.quantizer.estimate(shape, calibration)

    def gpu_bytes(self, shape: Shape, calibration: CalibrationConfig | None) -> float:
        """As of its base."""
        return self.quantizer.gpu_bytes(shape, calibration)

    def states(self, shape: Shape) -> tuple[int, ...]:
        """As of its base."""
        return self.quantizer.states(shape)

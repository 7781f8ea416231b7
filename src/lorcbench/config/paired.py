"""What can be set of the methods that make factors together with their codes, so that the codes depend on the rank.

Each is measured with a correction of its own rank: with the factors that it made (``lorc=paired-int8``), or with other factors
of its codes (``lorc=exact-int8``).
"""

from __future__ import annotations

from dataclasses import dataclass

from lorcbench.config.checks import MOST, ConfigError, one_of, positive
from lorcbench.config.protocols import CalibrationConfig
from lorcbench.config.recipes import GptqMethod, Method, RtnMethod
from lorcbench.config.shape import Shape
from lorcbench.core.settings import CLIPS, GptqSettings


@dataclass
class PairedMethod(Method, GptqSettings):
    """What these methods have in common.

    Attributes:
        rank: of the factors; a study has to name one.
        base: how codes are found: ``gptq``, with the settings of `GptqSettings`, or ``rtn``, which knows `clip` alone.
        hessian: whose inputs Hessians and corrections are weighted with. ``cached``: those of the unquantized model, from the
            calibrate stage; later blocks see nothing of earlier ones. ``propagated``: those that come from the blocks before,
            quantized and with their correction (as float32 numbers), so later blocks see it.
        decomposition: ``krylov`` or ``exact``, as of `lorcbench.config.lorc.LorcConfig`.
    """

    kind: str = "paired"
    rank: int = 0
    base: str = "gptq"
    hessian: str = "cached"
    decomposition: str = "krylov"

    def __post_init__(self) -> None:
        one_of("method", "base", self.base, ("rtn", "gptq"))
        one_of("method", "hessian", self.hessian, ("cached", "propagated"))
        one_of("method", "decomposition", self.decomposition, ("krylov", "exact"))
        one_of("method", "group_params", self.group_params, ("block_start", "corrected"))
        one_of("method", "dead", self.dead, ("published", "excluded"))
        one_of("method", "clip", self.clip, CLIPS)
        positive("method", damp=self.damp, block=self.block)
        if not 0 <= self.rank < MOST:
            raise ConfigError(f"method.rank={self.rank}: expected 1 or more")
        own = vars(GptqSettings(clip=self.clip))
        if self.base == "rtn" and (changed := [key for key in own if getattr(self, key) != own[key]]):
            raise ConfigError(f"method.base=rtn: knows no {changed[0]}; expected base=gptq with it, or rtn with clip alone")

    @property
    def data(self) -> str:
        """``statistics`` or ``tokens``."""
        return "statistics" if self.hessian == "cached" else "tokens"

    @property
    def times(self) -> int:
        """How many times it finds codes and factors."""
        return 1

    def estimate(self, shape: Shape, calibration: CalibrationConfig | None) -> tuple[float, float]:
        """What its base takes, that many times, with factoring Hessians and decomposing errors; here of Krylov spaces."""
        gptq = GptqMethod(hessian=self.hessian, clip=self.clip, act_order=self.act_order)
        memory, operations = (gptq if self.base == "gptq" else RtnMethod(clip=self.clip)).estimate(shape, calibration)
        if self.base == "rtn" and self.data == "tokens":
            memory, walked = gptq.estimate(shape, calibration)
            operations += walked
        factoring = shape.layers * shape.cubes / 3 if self.base == "gptq" and self.data == "statistics" else 0
        # Four products of E with a Krylov space, and R beside it, of some times the rank.
        decomposing = shape.layers * 2 * 4 * 4 * self.rank * (shape.block + shape.squares)
        copies = (shape.widest_input**2 * 3 + 4 * shape.widest) * 4  # Hessians, errors and corrections
        return memory + copies, self.times * (operations + decomposing) + factoring

    def gpu_bytes(self, shape: Shape, calibration: CalibrationConfig | None) -> float:
        """What GPTQ takes, and of the largest matrix its correction, the error and what is rounded."""
        gptq = GptqMethod(hessian="propagated", clip=self.clip, act_order=self.act_order)
        return gptq.gpu_bytes(shape, calibration) + (shape.widest_input**2 + 4 * shape.widest) * 4


@dataclass
class IntrinsicMethod(PairedMethod):
    """The correction inside GPTQ's sweep (`lorcbench.core.intrinsic`)."""

    kind: str = "intrinsic"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("method", "kind", self.kind, ("intrinsic",))
        if self.base != "gptq":
            raise ConfigError(f"method.base={self.base}: the correction is made by GPTQ's sweep; expected gptq")


@dataclass
class SplitMethod(PairedMethod):
    """The rank shared between the weight, before it is rounded, and the error (`lorcbench.core.pairs`).

    Attributes:
        preserved: components of the weight that are held back; ``auto`` measures how many for each matrix.
    """

    kind: str = "split"
    preserved: int | str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("method", "kind", self.kind, ("split",))
        auto = self.preserved == "auto"
        if not auto and (isinstance(self.preserved, str) or not 0 <= self.preserved <= (self.rank or self.preserved)):
            raise ConfigError(f"method.preserved={self.preserved}: expected auto, or 0 to the rank, which is {self.rank}")


@dataclass
class JointMethod(PairedMethod):
    """Rounds of rounding and correcting, of which the best is kept (`lorcbench.core.pairs`).

    Attributes:
        rounds: how many; with one, codes and factors are those of the base and of `correction` after it.
        correction: ``exact`` or ``plain``, as kinds of LoRC.
    """

    kind: str = "joint"
    rounds: int = 5
    correction: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("method", "kind", self.kind, ("joint",))
        one_of("method", "correction", self.correction, ("exact", "plain"))
        positive("method", rounds=self.rounds)

    @property
    def times(self) -> int:
        """Once per round."""
        return self.rounds


PAIRED = {"intrinsic": IntrinsicMethod, "split": SplitMethod, "joint": JointMethod}

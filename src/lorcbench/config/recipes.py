"""What can be set of each quantization method, and of LoRC: the dataclasses behind conf/method and conf/lorc.

Every method says what it wants of the calibration (`data`): nothing, its ``tokens``, or ``statistics`` of the unquantized
model; and whether it rounds activations while it works (`sees_activations`), so that its weights are made for one activation
format, which their path then carries.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from omegaconf import MISSING

from lorcbench.config.checks import ConfigError, one_of, positive, seed


@dataclass
class NoneMethod:
    """Full precision: nothing is quantized."""

    kind: str = "none"

    data = None
    sees_activations = False

    def __post_init__(self) -> None:
        one_of("method", "kind", self.kind, ("none",))


@dataclass
class RtnMethod:
    """Round to nearest."""

    kind: str = "rtn"

    data = None
    sees_activations = False

    def __post_init__(self) -> None:
        one_of("method", "kind", self.kind, ("rtn",))


@dataclass
class GptqMethod:
    """GPTQ; the fields after `calibration_activations` are `lorcbench.core.gptq.GptqSettings`.

    Attributes:
        hessian: ``propagated``: a block's inputs come from the already quantized blocks (published); ``cached``: of the
            unquantized model, from the calibrate stage, once for the whole grid.
        calibration_activations: ``full``: Hessians of the inputs as they are (published); ``quantized``: of the inputs rounded
            to the cell's activation format, as the linears will see them.
    """

    kind: str = "gptq"
    hessian: str = "propagated"
    calibration_activations: str = "full"
    damp: float = 0.01
    block: int = 128
    group_params: str = "block_start"
    static_groups: bool = False
    act_order: bool = False

    def __post_init__(self) -> None:
        one_of("method", "kind", self.kind, ("gptq",))
        one_of("method", "hessian", self.hessian, ("propagated", "cached"))
        one_of("method", "calibration_activations", self.calibration_activations, ("full", "quantized"))
        one_of("method", "group_params", self.group_params, ("block_start", "corrected"))
        positive("method", damp=self.damp, block=self.block)
        if self.sees_activations and self.hessian == "cached":
            raise ConfigError("method.calibration_activations=quantized: needs hessian=propagated")

    @property
    def data(self) -> str:
        """``statistics`` or ``tokens``."""
        return "statistics" if self.hessian == "cached" else "tokens"

    @property
    def factor(self) -> dict[str, str]:
        """Which factors of the cached Hessians it sweeps with: the wildcards of their path."""
        return {"damp": f"{self.damp:g}", "order": "act_order" if self.act_order else "natural"}

    @property
    def sees_activations(self) -> bool:
        """Whether Hessians are of rounded inputs."""
        return self.calibration_activations == "quantized"

    @property
    def settings(self) -> dict:
        """The arguments of `GptqSettings`."""
        own = ("kind", "hessian", "calibration_activations")
        return {key: value for key, value in asdict(self).items() if key not in own}


@dataclass
class ZeroQuantMethod:
    """ZQ-Local and ZQ-Global, distillation of one linear or one block; `lr` … `scales` are `methods.zeroquant.DistillSettings`.

    Attributes:
        unit: what is distilled by itself: ``linear`` (ZQ-Local) or ``block`` (ZQ-Global).
        trainable: ``all``: weights, biases and, in a block, layer norms (published); ``weights``: the linears' weights alone.
        block_input: hidden states that enter a block, from ``full_precision`` or ``quantized`` blocks before it.
        target: what a block is to make: the teacher block's output on the ``same_input``, or on its ``full_precision`` input.
    """

    kind: str = "zeroquant"
    unit: str = MISSING
    lr: float | str = "auto"
    lr_grid: list[float] = field(default_factory=lambda: [1e-3, 5e-4, 1e-4, 5e-5, 1e-5, 5e-6, 1e-6])
    iterations: int = 512
    seed: int = 0
    held_out: float = 0.125
    keep: str = "last"
    scales: str = "recompute"
    trainable: str = "all"
    block_input: str = "full_precision"
    target: str = "same_input"

    data = "tokens"
    sees_activations = True

    def __post_init__(self) -> None:
        one_of("method", "kind", self.kind, ("zeroquant",))
        one_of("method", "unit", self.unit, ("linear", "block"))
        one_of("method", "keep", self.keep, ("best", "last"))
        one_of("method", "scales", self.scales, ("recompute", "fixed"))
        one_of("method", "trainable", self.trainable, ("all", "weights"))
        one_of("method", "block_input", self.block_input, ("full_precision", "quantized"))
        one_of("method", "target", self.target, ("same_input", "full_precision"))
        positive("method", iterations=self.iterations)
        _check_rates("method", self.lr, self.lr_grid)
        _check_share("method", self.held_out)
        seed("method", self.seed)
        if self.target == "full_precision" and (self.unit == "linear" or self.block_input == "full_precision"):
            raise ConfigError("method.target=full_precision: needs unit=block and block_input=quantized")

    @property
    def settings(self) -> dict:
        """The arguments of `DistillSettings`."""
        own = ("kind", "unit", "trainable", "block_input", "target")
        return {key: value for key, value in asdict(self).items() if key not in own}


@dataclass
class LorcConfig:
    """LoRC factors.

    Attributes:
        kind: ``none``, ``plain`` (SVD of the error, as published) or ``distilled`` (`DistilledLorc`).
        bits: of the stored factors, 16 or 8.
        decomposition: ``krylov``: large matrices by a block Krylov space, at least 99 % of the energy of the best factors
            (measured; benchmarks/README.md); ``exact``: every matrix by its full SVD, 6 to 30 times slower.
        fused_qkv: ``split``: BLOOM's query_key_value is three matrices to LoRC; ``fused``: one.
    """

    kind: str = "plain"
    bits: int = 8
    decomposition: str = "krylov"
    fused_qkv: str = "split"

    def __post_init__(self) -> None:
        one_of("lorc", "kind", self.kind, ("none", "plain", "distilled"))
        one_of("lorc", "bits", self.bits, (8, 16))
        one_of("lorc", "decomposition", self.decomposition, ("krylov", "exact"))
        one_of("lorc", "fused_qkv", self.fused_qkv, ("split", "fused"))


@dataclass
class DistilledLorc(LorcConfig):
    """Factors that are trained so that a decoder block makes what the unquantized one makes, from the plain ones on.

    Everything else in the block stays as the method left it. A reading of the paper's table E.23 (LoRC on distilled weights
    with 8-bit activations), which does not say whether its factors are trained; those of appendix D are. The fields from `lr`
    on are `lorcbench.core.zeroquant.DistillSettings`.
    """

    kind: str = "distilled"
    decomposition: str = "exact"
    lr: float | str = "auto"
    lr_grid: list[float] = field(default_factory=lambda: [5e-4, 1e-4, 5e-5, 1e-5, 5e-6])
    iterations: int = 512
    seed: int = 0
    held_out: float = 0.125

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("lorc", iterations=self.iterations)
        _check_rates("lorc", self.lr, self.lr_grid)
        _check_share("lorc", self.held_out)

    @property
    def settings(self) -> dict:
        """The arguments of `DistillSettings`: of several checks the best is kept, the start among them."""
        own = ("kind", "bits", "decomposition", "fused_qkv")
        return {key: value for key, value in asdict(self).items() if key not in own} | {"keep": "best", "scales": "recompute"}


def _check_rates(owner: str, lr: float | str, grid: list[float]) -> None:
    rates = grid if lr == "auto" else [lr]
    if not rates or any(isinstance(rate, str) or not 0 < rate < math.inf for rate in rates):
        raise ConfigError(f"{owner}.lr={lr} of {grid}: expected auto with a grid, or a positive number")


def _check_share(owner: str, held_out: float) -> None:
    if not 0 < held_out < 1:
        raise ConfigError(f"{owner}.held_out={held_out}: expected a share between 0 and 1")


CAPS = (32, 128, 512)


def cap(rank: int) -> int:
    """How many LoRC components are decomposed and stored for a cell of rank `rank`: the smallest of 32, 128, 512, all (0).

    It depends on the cell's own rank alone, so a study that adds a rank recomputes none of the others.
    """
    return next((limit for limit in CAPS if rank <= limit), 0)

"""What can be set of LoRC: the dataclasses behind conf/lorc, and how many components are stored for a rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lorcbench.config.checks import ConfigError, one_of, training
from lorcbench.core.settings import TrainingSettings

WEIGHTED = ("diag-abs", "diag-rms", "exact")  # kinds of LoRC that weigh the error with the inputs


@dataclass
class LorcConfig:
    """LoRC factors.

    Attributes:
        kind: ``none``, ``plain`` (SVD of the error, as published), ``distilled`` (`DistilledLorc`), ``paired`` (those that the
            method made with its codes: `lorcbench.config.paired`), or one that weighs the error with the inputs
            (`lorcbench.core.lorc`): ``diag-abs`` with their mean magnitudes (LQER), ``diag-rms`` with their root mean squares
            (QERA-approx), ``exact`` with all of E[xᵀx] (QERA-exact, EoRA, OLrC).
        bits: of the stored factors, 16, 8 or 4.
        decomposition: ``krylov``: large matrices by a block Krylov space, at least 99 % of the energy of the best factors
            (measured; benchmarks/README.md); ``exact``: every matrix by its full SVD, 6 to 30 times slower.
        fused_qkv: ``split``: a fused query_key_value, as BLOOM has it, is three matrices to LoRC; ``fused``: one.
        dead: inputs that were zero on every calibration token, whose columns GPTQ has set to zero. ``published``: E has their
            whole weights; ``excluded``: E is zero there, and the components are spent on the other columns.
        inputs: which inputs weigh the error. ``full_precision``: the unquantized model's, from the calibrate stage;
            ``quantized``: those that the quantized model without a correction gives its linears. Plain and distilled factors
            know neither.
    """

    kind: str = "plain"
    bits: int = 8
    decomposition: str = "krylov"
    fused_qkv: str = "split"
    dead: str = "published"
    inputs: str = "full_precision"

    # What says nothing of paired factors.
    _MADE_BY_METHOD: ClassVar[dict[str, str]] = {"decomposition": "krylov", "fused_qkv": "split", "dead": "published"}

    def __post_init__(self) -> None:
        one_of("lorc", "kind", self.kind, ("none", "plain", *WEIGHTED, "distilled", "paired"))
        one_of("lorc", "bits", self.bits, (4, 8, 16))
        one_of("lorc", "decomposition", self.decomposition, ("krylov", "exact"))
        one_of("lorc", "fused_qkv", self.fused_qkv, ("split", "fused"))
        one_of("lorc", "dead", self.dead, ("published", "excluded"))
        one_of("lorc", "inputs", self.inputs, ("full_precision", "quantized"))
        if self.inputs == "quantized" and self.kind not in WEIGHTED:
            raise ConfigError(f"lorc.inputs=quantized: {self.kind} factors weigh no error; expected full_precision")
        for key, value in self._MADE_BY_METHOD.items() if self.kind == "paired" else ():
            if getattr(self, key) != value:
                own = getattr(self, key)
                raise ConfigError(f"lorc.{key}={own}: paired factors are as the method made them; expected {value}")

    @property
    def data(self) -> str | None:
        """What it reads of the calibration: nothing, its ``tokens``, or ``statistics`` of the unquantized model."""
        if self.kind in WEIGHTED:
            return "tokens" if self.inputs == "quantized" else "statistics"
        return "tokens" if self.kind == "distilled" else None


@dataclass
class DistilledLorc(LorcConfig, TrainingSettings):
    """Factors that are trained so that a decoder block makes what the unquantized one makes, from the plain ones on.

    Everything else in the block stays as the method left it. A reading of the paper's table E.23 (LoRC on distilled weights
    with 8-bit activations), which does not say whether its factors are trained; those of appendix D are.
    """

    kind: str = "distilled"
    decomposition: str = "exact"
    lr_grid: list[float] = field(default_factory=lambda: [5e-4, 1e-4, 5e-5, 1e-5, 5e-6])

    def __post_init__(self) -> None:
        super().__post_init__()
        training("lorc", self)


CAPS = (32, 128, 512)


def cap(rank: int) -> int:
    """How many LoRC components are decomposed and stored for a cell of rank `rank`: the smallest of 32, 128, 512, all (0).

    It depends on the cell's own rank alone, so a study that adds a rank recomputes none of the others.
    """
    return next((limit for limit in CAPS if rank <= limit), 0)

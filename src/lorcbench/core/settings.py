"""Settings of the algorithms, with the one place where their defaults are written. The configuration inherits these fields.

This module imports nothing, so that configurations are read without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

CLIPS = ("none", "mse")  # how scales are found: over the whole range of a group, or by a search (`lorcbench.core.clip`)
CLIP_CANDIDATES = 80  # ranges that the search tries: p = 1 - i / 100 of the whole one, i = 0 … 79
SENSITIVITY_TOKENS = 4096  # of the calibration, as whole sequences, on which the stage ``sensitivity`` measures
CLIP_VALUES = 2**23  # rounded values of all candidates that the search by tensors holds at a time: 32 MiB per copy


@dataclass
class GptqSettings:
    """Settings of GPTQ (`lorcbench.core.gptq`); the defaults are the published code's.

    Attributes:
        damp: λ as a fraction of the mean diagonal of H.
        block: columns per column block.
        group_params: when a group's scale is computed. ``block_start``: from the weights as they stood at the start of the
            column block in which the group starts (published code); ``corrected``: with all corrections up to the group.
        static_groups: compute all scales from the uncorrected weights, before the sweep.
        act_order: sweep columns by falling diagonal of H; with groups this needs `static_groups`.
        dead: inputs that were zero on every calibration token. Their weights become zero in both cases. ``published``: the
            scale of a row still covers those weights, and 1 stands for them in the mean diagonal that the damping is relative
            to; ``excluded``: neither scales nor the mean know them, so that rows have finer scales.
        clip: ``none``: a scale covers all values of its group (published default); ``mse``: it covers the part of their range
            with which their squared rounding error is least (`lorcbench.core.clip`).
    """

    damp: float = 0.01
    block: int = 128
    group_params: str = "block_start"
    static_groups: bool = False
    act_order: bool = False
    dead: str = "published"
    clip: str = "none"


@dataclass
class TrainingSettings:
    """How distillation trains (`lorcbench.core.zeroquant`), whatever it trains.

    Attributes:
        lr: Adam's first learning rate; ``auto`` takes the rate of `lr_grid` with the least held-out loss.
        lr_grid: the rates that ``auto`` tries (the paper's).
        iterations: steps, of one sequence each. The paper says "a few hundred".
        seed: of the order of the sequences.
        held_out: share of the sequences, taken from the end, on which nothing is trained.
        keep: which parameters are the result. ``last``: those after the last step (published code); ``best``: those with the
            least held-out loss among eight checks and the start, so perhaps the start.
        scales: ``recompute`` scales and zero points in every step, or keep those of the start: ``fixed``.
    """

    lr: float | str = "auto"
    lr_grid: list[float] = field(default_factory=lambda: [1e-3, 5e-4, 1e-4, 5e-5, 1e-5, 5e-6, 1e-6])
    iterations: int = 512
    seed: int = 0
    held_out: float = 0.125

    keep: ClassVar[str] = "best"
    scales: ClassVar[str] = "recompute"


@dataclass
class DistillSettings(TrainingSettings):
    """Settings of ZQ-Local and ZQ-Global: here `keep` and `scales` are settings too."""

    keep: str = "last"
    scales: str = "recompute"

"""What can be set of each quantization method: the dataclasses behind conf/method.

A method is one dataclass here, one function in `lorcbench.stages.quantize`, and one or more files in conf/method. The fields
are its settings; the settings of an algorithm itself, with their defaults, are inherited from `lorcbench.core.settings`. What
other places must know of a method is in the attributes that `Method` explains.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from lorcbench.config.checks import ConfigError, one_of, positive, seed, spelled, training
from lorcbench.config.protocols import CalibrationConfig
from lorcbench.config.shape import Shape
from lorcbench.core.settings import CLIP_CANDIDATES, CLIP_VALUES, CLIPS, DistillSettings, GptqSettings


def _search(clip: str, shape: Shape) -> float:
    """Floating-point operations of finding clipped scales: eight for each weight under each candidate."""
    return CLIP_CANDIDATES * 8 * shape.layers * shape.block if clip == "mse" else 0


def _search_bytes(clip: str) -> float:
    """Bytes that finding clipped scales takes on a GPU: four float32 copies of the values that it holds at a time."""
    return 4 * CLIP_VALUES * 4 if clip == "mse" else 0


class Method:
    """What other places must know of a method; each method overrides what differs.

    Attributes:
        kind: the name that chooses its function in `lorcbench.stages.quantize`.
        label: its name in the papers' claims; "" if they make none about it.
        data: what it reads of the calibration: nothing, its ``tokens``, or ``statistics`` of the unquantized model. If it
            reads any, the calibration's name is part of its result's path, and without a calibration it does not run.
        sees_activations: whether it rounds activations while it works. Then its weights are made for one activation format,
            which their path carries.
        trains_in_float32: whether the calibration's `dtype` must be float32.
        optimizes: whether the derived method ``best`` chooses among it and others, as the paper does.
        rank: of the factors that it makes together with its codes; None if it makes none.
        factor: which factors of the cached Hessians it sweeps with, if `data` is ``statistics``: the wildcards of their path;
            None if it reads the statistics themselves.
    """

    kind: str
    label: str = ""
    data: str | None = None
    sees_activations: bool = False
    trains_in_float32: bool = False
    optimizes: bool = False
    rank: int | None = None
    factor: dict[str, str] | None = None

    def estimate(self, shape: Shape, calibration: CalibrationConfig | None) -> tuple[float, float]:
        """Bytes and floating-point operations that quantizing a model takes; here, of rounding every weight once.

        Bytes are those beside the imported libraries and, if `data` is ``tokens``, beside the block walk.

        Args:
            shape: of the model.
            calibration: what it reads, if `data` is ``tokens``.
        """
        return shape.workspace, 10 * shape.layers * shape.block

    def gpu_bytes(self, shape: Shape, calibration: CalibrationConfig | None) -> float:
        """Bytes that quantizing one block takes on a GPU at its highest point, beside the block and its hidden states.

        Here: the codes of the block, and what rounding its largest matrix takes: the matrix, its steps, codes in float32.
        """
        return shape.block + 6 * shape.widest * 4

    def states(self, shape: Shape) -> tuple[int, ...]:
        """Widths of the sets of states that it holds at a time, if `data` is ``tokens``; the first enters a block."""
        return (shape.hidden,)


@dataclass
class NoneMethod(Method):
    """Full precision: nothing is quantized."""

    kind: str = "none"

    def __post_init__(self) -> None:
        one_of("method", "kind", self.kind, ("none",))


@dataclass
class RtnMethod(Method):
    """Round to nearest.

    Attributes:
        clip: ``none``: a scale covers all values of its group (published); ``mse``: it covers the part of their range with
            which their squared rounding error is least (`lorcbench.core.clip`).
    """

    kind: str = "rtn"
    clip: str = "none"

    label = "RTN"

    def __post_init__(self) -> None:
        one_of("method", "kind", self.kind, ("rtn",))
        one_of("method", "clip", self.clip, CLIPS)

    def estimate(self, shape: Shape, calibration: CalibrationConfig | None) -> tuple[float, float]:
        """Rounding every weight once, and the search if there is one."""
        memory, operations = super().estimate(shape, calibration)
        return memory, operations + _search(self.clip, shape)

    def gpu_bytes(self, shape: Shape, calibration: CalibrationConfig | None) -> float:
        """Rounding, or what the search holds beside the matrix."""
        return super().gpu_bytes(shape, calibration) + _search_bytes(self.clip)


@dataclass
class GptqMethod(Method, GptqSettings):
    """GPTQ.

    Attributes:
        hessian: ``propagated``: a block's inputs come from the already quantized blocks (published); ``cached``: of the
            unquantized model, from the calibrate stage, once for the whole grid.
        calibration_activations: ``full``: Hessians of the inputs as they are (published); ``quantized``: of the inputs rounded
            to the cell's activation format, as the linears will see them.
    """

    kind: str = "gptq"
    hessian: str = "propagated"
    calibration_activations: str = "full"

    label = "GPTQ"

    def __post_init__(self) -> None:
        one_of("method", "kind", self.kind, ("gptq",))
        one_of("method", "hessian", self.hessian, ("propagated", "cached"))
        one_of("method", "calibration_activations", self.calibration_activations, ("full", "quantized"))
        one_of("method", "group_params", self.group_params, ("block_start", "corrected"))
        one_of("method", "dead", self.dead, ("published", "excluded"))
        one_of("method", "clip", self.clip, CLIPS)
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
        return {"damp": spelled(self.damp), "order": "act_order" if self.act_order else "natural", "dead": self.dead}

    @property
    def sees_activations(self) -> bool:
        """Whether Hessians are of rounded inputs."""
        return self.calibration_activations == "quantized"

    @property
    def optimizes(self) -> bool:
        """Only as published, at any damping and block size."""
        published = vars(GptqSettings(damp=self.damp, block=self.block))
        return self.hessian == "propagated" and published.items() <= vars(self).items()

    def estimate(self, shape: Shape, calibration: CalibrationConfig | None) -> tuple[float, float]:
        """With cached Hessians the sweep alone; else all Hessians of a block too, and passes that observe and advance."""
        search = _search(self.clip, shape)
        if self.data == "statistics":
            memory = shape.workspace + shape.squares * 2 + 2 * shape.widest_input**2 * 4
            return memory, 2 * shape.layers * shape.sweep + search
        tokens = calibration.n_samples * calibration.length
        memory = shape.workspace + shape.squares * 4 + 3 * shape.widest_input**2 * 4
        solve = shape.layers * (2 * shape.sweep + shape.cubes / 3)
        return memory, 5 / 3 * shape.forward(tokens) + shape.layers * shape.squares * tokens + solve + search

    def gpu_bytes(self, shape: Shape, calibration: CalibrationConfig | None) -> float:
        """The largest of three: factoring the widest Hessian, sweeping the largest stack, and installing what was made.

        Beside all second moments of the block there are the damped Hessian and its factor; with `act_order`, the Hessian in the
        order of the sweep too.
        """
        largest = shape.widest_input**2 * 4
        sweep = largest + shape.block + 6 * shape.widest * 4 + _search_bytes(self.clip)
        if self.data == "statistics":
            return sweep
        factor = shape.block + shape.squares * 4 + (3 if self.act_order else 2) * largest
        return max(factor, sweep, shape.block * (1 + 4 + 4))


@dataclass
class ZeroQuantMethod(Method, DistillSettings):
    """ZQ-Local and ZQ-Global, distillation of one linear or one block.

    Attributes:
        unit: what is distilled by itself: ``linear`` (ZQ-Local) or ``block`` (ZQ-Global).
        trainable: ``all``: weights, biases and, in a block, layer norms (published); ``weights``: the linears' weights alone.
        block_input: hidden states that enter a block, from ``full_precision`` or ``quantized`` blocks before it.
        target: what a block is to make: the teacher block's output on the ``same_input``, or on its ``full_precision`` input.
    """

    kind: str = "zeroquant"
    unit: str = MISSING
    trainable: str = "all"
    block_input: str = "full_precision"
    target: str = "same_input"

    data = "tokens"
    sees_activations = True
    trains_in_float32 = True
    optimizes = True

    def __post_init__(self) -> None:
        one_of("method", "kind", self.kind, ("zeroquant",))
        one_of("method", "unit", self.unit, ("linear", "block"))
        one_of("method", "keep", self.keep, ("best", "last"))
        one_of("method", "scales", self.scales, ("recompute", "fixed"))
        one_of("method", "trainable", self.trainable, ("all", "weights"))
        one_of("method", "block_input", self.block_input, ("full_precision", "quantized"))
        one_of("method", "target", self.target, ("same_input", "full_precision"))
        training("method", self)
        seed("method", self.seed)
        if self.target == "full_precision" and (self.unit == "linear" or self.block_input == "full_precision"):
            raise ConfigError("method.target=full_precision: needs unit=block and block_input=quantized")

    @property
    def label(self) -> str:
        """As the paper names both."""
        return "ZQ-Local" if self.unit == "linear" else "ZQ-Global"

    def estimate(self, shape: Shape, calibration: CalibrationConfig | None) -> tuple[float, float]:
        """Seven copies of the unit (masters, gradients, Adam's two, rounded, kept, given), and the passes of one sequence.

        A step is a pass forward and two back; the held-out share is passed once per learning rate.
        """
        trained = shape.block if self.unit == "block" else shape.widest
        tokens = calibration.n_samples * calibration.length
        memory = 7 * 4 * trained + 40 * calibration.length * shape.hidden * 4
        rates = len(self.lr_grid) if self.lr == "auto" else 1
        passes = 3 * self.iterations + self.held_out * calibration.n_samples
        return memory, rates * passes * shape.forward(calibration.length) + 3 * shape.forward(tokens)

    def gpu_bytes(self, shape: Shape, calibration: CalibrationConfig | None) -> float:
        """As on the CPU, what rounding the largest matrix takes, and the targets of the held-out sequences, twice."""
        targets = shape.hidden if self.unit == "block" else shape.widest_output
        held_out = 2 * self.held_out * calibration.n_samples * calibration.length * targets * 4
        return self.estimate(shape, calibration)[0] + 6 * shape.widest * 4 + held_out

    def states(self, shape: Shape) -> tuple[int, ...]:
        """What enters a block and what leaves it; of linears also one input, and the outputs of one that reads it."""
        both = (shape.hidden, shape.hidden)
        if self.unit == "block":
            return both
        return both + max(((width, max(rows)) for width, rows in shape.inputs), key=sum)


@dataclass
class ForeignMethod(Method):
    """Weights that were quantized elsewhere, as they lie in a checkpoint folder that the command line gives.

    Attributes:
        of: the name of that folder (`lorcbench.config.folders.model_name`).
    """

    kind: str = "foreign"
    of: str = ""

    def __post_init__(self) -> None:
        one_of("method", "kind", self.kind, ("foreign",))


# By kind, which is also what a conf file names after `/schema/method@_here_:`.
METHODS = {
    "none": NoneMethod,
    "rtn": RtnMethod,
    "gptq": GptqMethod,
    "zeroquant": ZeroQuantMethod,
    "foreign": ForeignMethod,
    # The line of a new method goes here, above this comment.
}

"""What a job will take, from shapes alone: memory, arithmetic and disk. For the plan, and for the resources that jobs declare.

Each formula follows the stage's own code: what lives at the same time at its peak, what it multiplies, what it writes. Peaks
are meant to hold; times are the arithmetic divided by a rate, without waiting for disks and downloads.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorcbench.common.paths import Wildcards
from lorcbench.config import compose, places
from lorcbench.config.protocols import CalibrationConfig, EvalConfig
from lorcbench.config.schema import ModelConfig, RuntimeConfig
from lorcbench.config.shape import Shape
from lorcbench.study.cells import weight_format

MIB = 2**20
# Resident after imports, measured, in MiB: torch and safetensors alone, with transformers, with lm-eval.
_LIGHT, _MODEL, _HARNESS = 420, 620, 800
_TRAINING = 900  # a stand-in
_ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
_SCORED_AT_ONCE = 512  # tokens whose logits exist together (lorcbench.models.blocks)
_WINDOWS = 600  # of a protocol that measures whole texts: about what WikiText-2, PTB and C4 have of 2,048 tokens
_TASK_TOKENS = 2_000_000  # that the usual lm-eval tasks score
_KRYLOV_PRODUCTS = 12  # with a matrix, of as many columns as components


def shape_of(model: ModelConfig) -> Shape | None:
    """The shape that the tensors of a checkpoint have, or the conf file states; None if neither says."""
    return places.shape(model)


@dataclass(frozen=True)
class Estimate:
    """Peak memory in MiB, floating-point operations, and MiB written to disk."""

    memory: float
    operations: float
    disk: float


def estimate(stage: str, shape: Shape, names: Wildcards, runtime: RuntimeConfig, variants: int = 1) -> Estimate:
    """What one job of `stage` takes.

    Args:
        shape: of its model.
        names: of its folder.
        runtime: of the run.
        variants: LoRC ranks that it measures.
    """
    if stage == "prepare":
        written = 2 * (shape.layers * shape.block + shape.vocabulary * shape.hidden)
        return Estimate(_TRAINING + 3 * shape.block * 4 / MIB, 0, written / MIB)
    if stage in ("calibrate", "factor"):
        return _calibrate(stage, shape, names, runtime)
    if stage == "quantize":
        return _quantize(shape, names, runtime)
    if stage == "lorc":
        components = int(names.cap) or shape.hidden
        memory = _LIGHT + (shape.block * (2 + 4) + 4 * shape.widest * 4) / MIB
        operations = shape.layers * shape.block * 2 * _KRYLOV_PRODUCTS * min(components, 128)
        # In FP16, the larger of both types.
        return Estimate(memory, operations, 2 * shape.layers * components * shape.sides / MIB)
    protocol: EvalConfig = compose.load("eval", names.protocol)
    if stage == "harness":
        parameters = shape.layers * shape.block + shape.vocabulary * shape.hidden
        logits = max(runtime.batch_tokens, protocol.window) * shape.vocabulary * 4 * 3
        memory = _HARNESS + (parameters * _ITEMSIZE[protocol.dtype] * 1.1 + shape.block * 8 + logits) / MIB
        return Estimate(memory, variants * shape.forward(_TASK_TOKENS), 1)
    tokens = protocol.window * sum(
        corpus.windows or protocol.max_windows or _WINDOWS // len(protocol.corpora) for corpus in protocol.corpora.values()
    )
    memory = _walk(shape, tokens, protocol.dtype, runtime) + 4 * shape.block + _SCORED_AT_ONCE * shape.vocabulary * 12
    head = 2 * tokens * shape.hidden * shape.vocabulary
    return Estimate(_MODEL + memory / MIB, variants * (shape.forward(tokens) + head), 1)


def _walk(shape: Shape, tokens: int, dtype: str, runtime: RuntimeConfig) -> float:
    """Bytes of a block walk: embeddings, one block as stored and as used, hidden states, and what one forward pass makes."""
    size = _ITEMSIZE[dtype]
    hidden = min(tokens * shape.hidden * size, runtime.hidden_gib * 2**30)
    passing = runtime.batch_tokens * (shape.widest_input + 8 * shape.hidden) * size
    return shape.vocabulary * shape.hidden * size + shape.block * (2 + size) + hidden + passing


def _calibrate(stage: str, shape: Shape, names: Wildcards, runtime: RuntimeConfig) -> Estimate:
    """Second moments of the unquantized model, or the factors of the Hessians that they make."""
    disk = shape.layers * shape.squares * 2 / MIB  # float32 triangles
    if stage == "factor":
        memory = shape.squares * 2 * 2 + 3 * shape.widest_input**2 * 4
        return Estimate(_LIGHT + memory / MIB, shape.layers * shape.cubes / 3, disk)
    settings: CalibrationConfig = compose.load("calibration", names.calibration)
    tokens = settings.n_samples * settings.length
    memory = _walk(shape, tokens, settings.dtype, runtime) + shape.squares * 4 + 2 * shape.widest_input**2 * 4
    memory += 3 * runtime.batch_tokens * shape.widest_input * 4  # inputs that wait for the second thread
    return Estimate(_MODEL + memory / MIB, shape.forward(tokens) + shape.layers * shape.squares * tokens, disk)


def _quantize(shape: Shape, names: Wildcards, runtime: RuntimeConfig) -> Estimate:
    """The method's own estimate, beside what its process imports, the block walk if it reads tokens, and what is stored."""
    method, fmt = compose.load("method", names.method), weight_format(names.weight)
    stored_bits = fmt.bits + (16 + fmt.bits) / (fmt.group or shape.hidden)
    disk = shape.layers * shape.block * stored_bits / 8 / MIB
    hidden_bytes = runtime.hidden_gib * 2**30
    if method.data != "tokens":
        memory, operations = method.estimate(shape, None, hidden_bytes)
        return Estimate(_LIGHT + memory / MIB, operations, disk)
    settings: CalibrationConfig = compose.load("calibration", names.calibration)
    memory, operations = method.estimate(shape, settings, hidden_bytes)
    walk = _walk(shape, settings.n_samples * settings.length, settings.dtype, runtime)
    return Estimate(_MODEL + (walk + memory) / MIB, operations, disk)

"""What a job will take, from shapes alone: memory, arithmetic and disk. For the plan, and for the resources that jobs declare.

Each formula follows the stage's own code: what lives at the same time at its peak, what it multiplies, what it writes. Peaks
are meant to hold; times are the arithmetic divided by a rate, without waiting for disks and downloads.

With `runtime.device=cuda` the arithmetic, and what it works on, is on the GPU. Then memory is what stays on the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from lorcbench.common.paths import Wildcards
from lorcbench.config import compose, places
from lorcbench.config.lorc import LorcConfig
from lorcbench.config.protocols import CalibrationConfig, EvalConfig
from lorcbench.config.recipes import Method
from lorcbench.config.schema import ModelConfig, RuntimeConfig
from lorcbench.config.shape import Shape
from lorcbench.core.settings import SENSITIVITY_TOKENS
from lorcbench.pipeline.walking import ITEMSIZE, SCORED_AT_ONCE, Walk
from lorcbench.study.cells import weight_format
from lorcbench.study.graph import full_precision

MIB = 2**20
# Resident after imports, measured, in MiB: torch and safetensors alone, with transformers, with lm-eval.
_LIGHT, _MODEL, _HARNESS = 420, 620, 800
_TRAINING = 900  # a stand-in
_WINDOWS = 600  # of a protocol that measures whole texts: about what WikiText-2, PTB and C4 have of 2,048 tokens
# Tokens that lm-eval scores: of its usual tasks together, of one document of theirs, of a task that is made of a text.
_TASK_TOKENS, _DOCUMENT_TOKENS, _MADE_TASK_TOKENS = 2_000_000, 400, 25_000
# Of an export: MiB that the process which loads it imports; tokens per window, and windows, that are compared; bytes per file.
_LOADER, _EXPORTED_TOKENS, _EXPORTED_WINDOWS, _EXPORTED_FILE = 900, 256, 12, 256 * MIB
_KRYLOV_PRODUCTS = 12  # with a matrix, of as many columns as components
_CUDA_HOST = 1536  # MiB of a process's libraries and buffers on the host once it uses a GPU
_CONTEXT = 512  # MiB of GPU memory that a process takes for its context and kernels, beside PyTorch's
# PyTorch keeps freed memory in pieces that do not fit what is asked for next. Beside the hidden states it held 1.15 (LoRC) to
# 1.47 (perplexity) times what was in use at the peak, on an H200 (benchmarks/README.md, "On a GPU").
_RESERVED = 1.5
_SPREAD = 0.9  # of a GPU's memory, the share that weights of a spread model may take (lorcbench.models.spread)


def shape_of(model: ModelConfig) -> Shape | None:
    """The shape that the tensors of a checkpoint have, or the conf file states; None if neither says."""
    return places.shape(model)


@dataclass(frozen=True)
class Estimate:
    """Peak memory in MiB, floating-point operations, MiB written to disk, and peak GPU memory in MiB; 0 if it uses none."""

    memory: float
    operations: float
    disk: float
    gpu: float = 0.0


@dataclass(frozen=True)
class _Bytes:
    """Bytes at the peak of a job.

    Attributes:
        cpu: of its process beside the imports, if the CPU computes.
        host: the same, if a GPU does.
        gpu: on that GPU, of what is kept all the time.
        gpu_peaks: on that GPU beside it, each at another time.
    """

    cpu: float
    host: float
    gpu: float
    gpu_peaks: tuple[float, ...]


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
        return Estimate(_TRAINING + 3 * shape.block * 4 / MIB, _training(shape, names), written / MIB)
    if stage == "export":
        return _export(shape, names, runtime)
    make = _STAGES.get(stage, partial(_evaluate, variants=variants))
    imports, peak, operations, disk = make(shape, names, runtime)
    if stage in ("evaluate", "harness"):
        operations *= variants
    if runtime.device != "cuda":
        return Estimate(imports + peak.cpu / MIB, operations, disk)
    gpu = _CONTEXT + (peak.gpu + _RESERVED * max(peak.gpu_peaks)) / MIB
    return Estimate(imports + _CUDA_HOST + peak.host / MIB, operations, disk, gpu)


def _training(shape: Shape, names: Wildcards) -> float:
    """Operations of training a stand-in: a step is worth three forward passes. Other checkpoints are there already."""
    if names.model.partition("+")[0] not in compose.names("model"):
        return 0.0
    standin = compose.load("model", names.model).standin
    if standin is None:
        return 0.0
    tokens = standin.steps * standin.batch * standin.length
    return 3.0 * (shape.forward(tokens) + 2 * tokens * shape.hidden * shape.vocabulary)


# Each of these returns MiB of imports, bytes at the peak, operations (per rank, if it measures ranks), and MiB on disk.
_Takes = tuple[int, _Bytes, float, float]


def _calibrate(shape: Shape, names: Wildcards, runtime: RuntimeConfig) -> _Takes:
    """Second moments of the unquantized model; those of one block are kept until its inputs have all been seen."""
    walk, settings = _calibration_walk(shape, names, runtime, (shape.hidden,), rounded=False)
    largest, moments = shape.widest_input**2 * 4, shape.squares * 4
    waiting = 3 * runtime.batch_tokens * shape.widest_input * 4  # inputs that wait for the second thread
    tokens = settings.n_samples * settings.length
    peak = _Bytes(
        cpu=walk.cpu + moments + 2 * largest + waiting,
        host=walk.host + walk.pinned(1) + moments / 2 + 2 * largest,
        gpu=walk.near,
        gpu_peaks=(walk.ends, walk.block + moments + max(walk.passing, largest)),
    )
    return _MODEL, peak, shape.forward(tokens) + shape.layers * shape.squares * tokens, _triangles(shape)


def _factor(shape: Shape, names: Wildcards, runtime: RuntimeConfig) -> _Takes:
    """The factors of the Hessians that calibration made, one after another; the file is read and written on the host."""
    largest = shape.widest_input**2 * 4
    copies = 4 if names.order == "act_order" else 3  # the Hessian, in the order of the sweep, damped, and its factor
    peak = _Bytes(
        cpu=shape.squares * 4 + 3 * largest, host=shape.squares * 4 + 2 * largest, gpu=0, gpu_peaks=(copies * largest,)
    )
    return _LIGHT, peak, shape.layers * shape.cubes / 3, _triangles(shape)


def _triangles(shape: Shape) -> float:
    """MiB of the float32 triangles of all inputs."""
    return shape.layers * shape.squares * 2 / MIB


def _quantize(shape: Shape, names: Wildcards, runtime: RuntimeConfig) -> _Takes:
    """The method's own estimate, beside what its process imports, the block walk if it reads tokens, and what is stored."""
    method: Method = compose.load("method", names.method)
    disk = shape.layers * shape.block * _bits(shape, names) / 8 / MIB
    if method.data != "tokens":
        memory, operations = method.estimate(shape, None)
        # The stored factors of one block, and the largest of them unfolded.
        factors = shape.squares * 2 + shape.widest_input**2 * 4 if method.data == "statistics" else 0
        host = 3 * shape.block + factors
        return _LIGHT, _Bytes(memory, host, 0, (method.gpu_bytes(shape, None),)), operations, disk
    walk, settings = _calibration_walk(shape, names, runtime, method.states(shape), method.sees_activations)
    memory, operations = method.estimate(shape, settings)
    training = 3 * walk.scores if method.trains_in_float32 else 0
    peak = _Bytes(
        cpu=walk.cpu + memory,
        host=walk.host + walk.pinned(2) + shape.block,
        gpu=walk.near,
        gpu_peaks=(
            walk.ends,
            walk.block + walk.passing + (0 if method.trains_in_float32 else shape.squares * 4),
            walk.block + method.gpu_bytes(shape, settings) + training,
        ),
    )
    return _MODEL, peak, operations, disk


def _bits(shape: Shape, names: Wildcards) -> float:
    """Bits per weight that quantized weights take, with scales and zero points; of mixed formats, the budget."""
    fmt = weight_format(names.weight)
    if fmt.is_mixed:
        return compose.load("method", names.method).bits
    return fmt.bits + (16 + fmt.bits) / (fmt.group or shape.hidden)


def _sensitivity(shape: Shape, names: Wildcards, runtime: RuntimeConfig) -> _Takes:
    """As many sets of hidden states as there are groups of linears, each through the blocks from its own on, and the head."""
    settings: CalibrationConfig = compose.load("calibration", names.calibration)
    tokens = max(1, min(settings.n_samples, SENSITIVITY_TOKENS // settings.length)) * settings.length
    sets = shape.layers * len(shape.inputs) + 1
    states = (float(tokens * shape.hidden * ITEMSIZE[settings.dtype]),) * sets
    walk = Walk(shape, runtime, settings.dtype, settings.length, states)
    peak = _Bytes(
        cpu=walk.cpu + 8 * shape.block + SCORED_AT_ONCE * shape.vocabulary * 12,
        host=walk.host + walk.pinned(sets) + shape.block,
        gpu=walk.near,
        gpu_peaks=(walk.ends + walk.final, walk.block + walk.passing, 2 * walk.block + shape.block * (1 + 4)),
    )
    head = 4 * tokens * shape.hidden * shape.vocabulary
    return _MODEL, peak, sets * (shape.forward(tokens) / 2 + head), 1


class _Decomposition(NamedTuple):
    """What decomposing the errors of all blocks takes: bytes as in `_Bytes`, operations, and MiB on disk."""

    cpu: float
    host: float
    gpu: float
    factors: float
    operations: float
    disk: float


def _decomposition(shape: Shape, names: Wildcards, settings: LorcConfig) -> _Decomposition:
    """The quantized block in float32, and of its largest matrix the weights, the error and the factors."""
    components = int(names.cap) or shape.hidden
    factors = components * shape.sides * 4
    products = 2 * _KRYLOV_PRODUCTS * min(components, 128)
    cpu = shape.block * (2 + 4) + 4 * shape.widest * 4
    # Packed codes, all matrices in float32, and of the largest the weights, as stored and in float32, the error, and its copy.
    packed = shape.block * _bits(shape, names) / 8
    gpu = packed + shape.block * 4 + shape.widest * (2 + 3 * 4) + factors
    operations = shape.layers * shape.block * products
    metric = 0
    if settings.kind == "exact":
        metric = (shape.widest_input**2 + 2 * shape.widest) * 4  # R; E R, and its product with E, for the norm of the error
        if settings.decomposition == "exact" or 16 * components > shape.hidden:
            metric *= 3  # the same in float64
        operations += shape.layers * (2 * shape.sweep + shape.squares * products)
    disk = 2 * shape.layers * components * shape.sides / MIB  # in FP16, the larger of both types
    return _Decomposition(cpu + metric, 3 * shape.block + factors, gpu + metric, factors, operations, disk)


def _lorc(shape: Shape, names: Wildcards, runtime: RuntimeConfig) -> _Takes:
    """Decomposing errors; weighted with inputs from the cache, or from a walk; or training what came of it."""
    settings: LorcConfig = compose.load("lorc", names.lorc)
    takes = _decomposition(shape, names, settings)
    if settings.data == "tokens":
        walked = _distilled_lorc if settings.kind == "distilled" else _observing_lorc
        return walked(shape, names, runtime, settings, takes)
    # The statistics of one block, and the widest of them unfolded.
    read = shape.squares * 2 + shape.widest_input**2 * 4 if settings.data == "statistics" else 0
    return _LIGHT, _Bytes(takes.cpu + read, takes.host + read, 0, (takes.gpu,)), takes.operations, takes.disk


def _observing_lorc(
    shape: Shape, names: Wildcards, runtime: RuntimeConfig, settings: LorcConfig, takes: _Decomposition
) -> _Takes:
    """One walk of the quantized model that observes; the second moments of a block are there while it is decomposed."""
    walk, calibration = _calibration_walk(shape, names, runtime, (shape.hidden,), rounded=True)
    tokens = calibration.n_samples * calibration.length
    moments = shape.squares * 4
    peak = _Bytes(
        cpu=walk.cpu + takes.cpu + moments,
        host=walk.host + walk.pinned(1) + takes.host,
        gpu=walk.near,
        gpu_peaks=(walk.ends, walk.block + moments + shape.block * 4 + max(walk.passing, takes.gpu)),
    )
    observing = shape.forward(tokens) + shape.layers * shape.squares * tokens
    return _MODEL, peak, takes.operations + observing, takes.disk


def _distilled_lorc(
    shape: Shape, names: Wildcards, runtime: RuntimeConfig, settings: LorcConfig, takes: _Decomposition
) -> _Takes:
    """Training from the plain factors on, block by block."""
    walk, calibration = _calibration_walk(shape, names, runtime, (shape.hidden, shape.hidden), rounded=True)
    # The corrections of all matrices, the sums with them, the gradients of both, and seven copies of the factors.
    training = 4 * shape.block * 4 + 7 * takes.factors + 40 * calibration.length * shape.hidden * 4 + 3 * walk.scores
    peak = _Bytes(
        cpu=walk.cpu + max(takes.cpu, training) + takes.factors,
        host=walk.host + walk.pinned(2) + takes.host,
        gpu=walk.near,
        gpu_peaks=(walk.ends, walk.block + walk.passing, walk.block + max(takes.gpu, training)),
    )
    passes = settings.iterations * (len(settings.lr_grid) if settings.lr == "auto" else 1)
    return _MODEL, peak, takes.operations + 3 * passes * shape.forward(calibration.length), takes.disk


def _evaluate(shape: Shape, names: Wildcards, runtime: RuntimeConfig, variants: int) -> _Takes:
    """Perplexity: the walk, a quantized block while it is decoded and corrected, and logits; those of full precision too.

    Ranks that walk together have hidden states and logits of their own, and the decoded block is kept for the next of them.

    The evaluation of full precision itself writes its final hidden states.
    """
    protocol: EvalConfig = compose.load("eval", names.protocol)
    per_corpus = _WINDOWS // len(protocol.corpora)
    tokens = [protocol.window * (corpus.windows or protocol.max_windows or per_corpus) for corpus in protocol.corpora.values()]
    states = tuple(count * shape.hidden * ITEMSIZE[protocol.dtype] for count in tokens)
    logits = SCORED_AT_ONCE * shape.vocabulary * 4
    together = runtime.ranks_together(variants, sum(states) + logits + 4 * shape.block)
    states *= together
    walk = Walk(shape, runtime, protocol.dtype, protocol.window, states, names.activation != "a16")
    # Packed codes, and in float32 the weights, their corrections, and the sums of both.
    quantized = 0 if names.method == "none" else shape.block * (1 + 3 * 4)
    is_compared = full_precision(names) is not None
    compared = walk.final * together + (together - 1) * logits if is_compared else 0
    peak = _Bytes(
        cpu=walk.cpu + 4 * shape.block * min(together, 2) + logits * (2 + together),
        host=walk.host + walk.pinned(len(states)) + shape.block + compared / 4,
        gpu=walk.near,
        gpu_peaks=(walk.ends + compared, walk.block + walk.passing, walk.block + quantized),
    )
    # Full precision's logits are made once for all ranks that walk together; operations are those of one rank.
    head = 2 * sum(tokens) * shape.hidden * shape.vocabulary * (1 + 1 / together if is_compared else 1)
    stored = sum(states) / MIB if protocol.divergence and not is_compared else 0
    return _MODEL, peak, shape.forward(sum(tokens)) + head, 1 + stored


def _harness(shape: Shape, names: Wildcards, runtime: RuntimeConfig) -> _Takes:
    """lm-eval: the whole model, one block of weights on their way into it, and the logits of a batch."""
    protocol: EvalConfig = compose.load("eval", names.protocol)
    walk = Walk(shape, runtime, protocol.dtype, protocol.window, (), names.activation != "a16")
    parameters = shape.layers * walk.block + walk.outside
    on_one = walk.outside + math.ceil(shape.layers / runtime.gpus_per_job) * walk.block
    logits = max(runtime.batch_tokens, protocol.window) * shape.vocabulary * 4 * 3
    quantized = 0 if names.method == "none" else shape.block * (1 + 3 * 4)
    peak = _Bytes(
        cpu=parameters * 1.1 + shape.block * 8 + logits,
        host=walk.host + shape.block,
        gpu=on_one if runtime.gpus_per_job == 1 else on_one / _SPREAD,
        gpu_peaks=(walk.passing, logits, walk.block + quantized),
    )
    return _HARNESS, peak, shape.forward(_task_tokens(protocol)), 1


def _task_tokens(protocol: EvalConfig) -> int:
    """About how many tokens the tasks of a protocol score."""
    tasks = [compose.load("task", name) for name in protocol.tasks]
    made = sum(task.text is not None for task in tasks)
    limited = sum(task.limit or 0 for task in tasks)
    has_whole = any(task.text is None and task.limit is None for task in tasks)
    return made * _MADE_TASK_TOKENS + limited * _DOCUMENT_TOKENS + has_whole * _TASK_TOKENS


def _export(shape: Shape, names: Wildcards, runtime: RuntimeConfig) -> Estimate:
    """A block in all its forms and the file that fills; and beside it what loads the model, which is then whole in memory."""
    packed = names.export in ("compressed-tensors", "gptq")
    wide = names.export == "compressed-tensors" and names.activation != "a16"
    size = 4 if wide else 2
    parameters = shape.layers * shape.block + shape.outside
    walk = Walk(shape, runtime, "float32" if wide else "float16", _EXPORTED_TOKENS, (), wide)
    writing = _EXPORTED_FILE + shape.outside * 2 + shape.block * (1 + 3 * 4)
    ours = max(writing, walk.cpu + shape.block * (1 + 3 * 4) + SCORED_AT_ONCE * shape.vocabulary * 12)
    whole = 1.1 * parameters * size + (shape.block if packed else 0) + _EXPORTED_TOKENS * shape.vocabulary * 10
    loading = whole if names.verify == "whole" else shape.outside * 8 + shape.widest * 20
    bits = _bits(shape, names) + 1 if packed else 16
    disk = shape.layers * shape.block * bits / 8 + shape.outside * size
    operations = 2 * shape.forward(_EXPORTED_TOKENS * _EXPORTED_WINDOWS) if names.verify == "whole" else 0
    return Estimate(_MODEL + _LOADER + (ours + loading) / MIB, operations, disk / MIB)


_STAGES = {
    "calibrate": _calibrate,
    "factor": _factor,
    "quantize": _quantize,
    "sensitivity": _sensitivity,
    "lorc": _lorc,
    "harness": _harness,
}


def _calibration_walk(
    shape: Shape, names: Wildcards, runtime: RuntimeConfig, widths: tuple[int, ...], rounded: bool
) -> tuple[Walk, CalibrationConfig]:
    """The walk over calibration sequences, which holds sets of states of some widths; and the calibration."""
    settings: CalibrationConfig = compose.load("calibration", names.calibration)
    per_number = settings.n_samples * settings.length * ITEMSIZE[settings.dtype]
    rounded = rounded and names.trained != "a16"
    return Walk(
        shape, runtime, settings.dtype, settings.length, tuple(per_number * width for width in widths), rounded
    ), settings

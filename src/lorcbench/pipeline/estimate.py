"""What a job will take, from shapes alone: memory, arithmetic and disk. For the plan, and for the resources that jobs declare.

Each formula follows the stage's own code: what lives at the same time at its peak, what it multiplies, what it writes. Peaks
are meant to hold; times are the arithmetic divided by a rate, without waiting for disks and downloads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lorcbench.config import compose
from lorcbench.config.protocols import CalibrationConfig, EvalConfig
from lorcbench.config.recipes import GptqMethod, ZeroQuantMethod
from lorcbench.config.schema import ModelConfig, RuntimeConfig
from lorcbench.core.formats import WeightFormat

MIB = 2**20
# Resident after imports, measured, in MiB: torch and safetensors alone, with transformers, with lm-eval.
_LIGHT, _MODEL, _HARNESS = 420, 620, 800
_TRAINING = 900  # a stand-in
_VOCABULARY = {"opt": 50_272, "bloom": 250_880, "llama": 128_256}
_ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
_SCORED_AT_ONCE = 512  # tokens whose logits exist together (lorcbench.models.blocks)
_WINDOWS = 600  # of a protocol that measures whole texts: about what WikiText-2, PTB and C4 have of 2,048 tokens
_TASK_TOKENS = 2_000_000  # that the usual lm-eval tasks score
_KRYLOV_PRODUCTS = 12  # with a matrix, of as many columns as components


@dataclass(frozen=True)
class Shape:
    """Sizes of a model: decoder blocks, hidden and feed-forward width, vocabulary, and feed-forward matrices of a block."""

    layers: int
    hidden: int
    ffn: int
    vocabulary: int
    mlp_matrices: int = 2

    @classmethod
    def of(cls, model: ModelConfig) -> Shape | None:
        """The shape that the conf file states, or a checkpoint folder's config.json; None if neither says."""
        if model.source == "folder":
            return _of_folder(Path(model.path))
        if not (model.layers and model.hidden and model.ffn):
            return None
        vocabulary = model.standin.vocabulary if model.standin else _VOCABULARY.get(model.family, max(_VOCABULARY.values()))
        return cls(model.layers, model.hidden, model.ffn, vocabulary, 3 if model.family == "llama" else 2)

    @property
    def block(self) -> int:
        """Weights of a block's linears."""
        return 4 * self.hidden**2 + self.mlp_matrices * self.hidden * self.ffn

    @property
    def squares(self) -> int:
        """Entries of the Hessians of a block's inputs: three of the hidden width, one of the feed-forward's."""
        return 3 * self.hidden**2 + self.ffn**2

    @property
    def widest(self) -> int:
        """Weights of the largest matrix, or stack of matrices, that is swept or decomposed at once."""
        return max(3 * self.hidden**2, self.hidden * self.ffn)

    @property
    def sweep(self) -> int:
        """Multiplications and additions of GPTQ's sweep of a block: its weights times their inputs."""
        return 4 * self.hidden**3 + (self.mlp_matrices - 1) * self.ffn * self.hidden**2 + self.hidden * self.ffn**2

    def forward(self, tokens: int) -> int:
        """Floating-point operations of one pass of all blocks."""
        return 2 * self.layers * self.block * tokens


def _of_folder(folder: Path) -> Shape | None:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        layers = found.get("num_hidden_layers", found.get("n_layer"))
        hidden = found.get("hidden_size", found.get("n_embed"))
        ffn = found.get("ffn_dim", found.get("intermediate_size")) or 4 * hidden
        return Shape(layers, hidden, ffn, found["vocab_size"], 3 if found.get("model_type") == "llama" else 2)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # `prepare` says what is wrong with it


@dataclass(frozen=True)
class Estimate:
    """Peak memory in MiB, floating-point operations, and MiB written to disk."""

    memory: float
    operations: float
    disk: float


def estimate(stage: str, shape: Shape, names: dict[str, str], runtime: RuntimeConfig, variants: int = 1) -> Estimate:
    """What one job of `stage` takes.

    Args:
        shape: of its model.
        names: its wildcards: ``method``, ``calibration``, ``weight``, ``cap``, ``protocol``, as far as the stage has them.
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
        components = int(names["cap"]) or shape.hidden
        memory = _LIGHT + (shape.block * (2 + 4) + 4 * shape.widest * 4) / MIB
        operations = shape.layers * shape.block * 2 * _KRYLOV_PRODUCTS * min(components, 128)
        # Rows and columns of a block's matrices, of which each component stores one: in FP16, the larger of both types.
        sides = 8 * shape.hidden + shape.mlp_matrices * (shape.hidden + shape.ffn)
        return Estimate(memory, operations, 2 * shape.layers * components * sides / MIB)
    protocol: EvalConfig = compose.load("eval", names["protocol"])
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
    passing = runtime.batch_tokens * (shape.ffn + 8 * shape.hidden) * size
    return shape.vocabulary * shape.hidden * size + shape.block * (2 + size) + hidden + passing


def _calibrate(stage: str, shape: Shape, names: dict[str, str], runtime: RuntimeConfig) -> Estimate:
    disk = shape.layers * shape.squares * 2 / MIB  # float32 triangles
    if stage == "factor":
        memory = shape.squares * 2 * 2 + 3 * shape.ffn**2 * 4
        return Estimate(_LIGHT + memory / MIB, shape.layers * (3 * shape.hidden**3 + shape.ffn**3) / 3, disk)
    settings: CalibrationConfig = compose.load("calibration", names["calibration"])
    tokens = settings.n_samples * settings.length
    memory = _walk(shape, tokens, settings.dtype, runtime) + shape.squares * 4 + 2 * shape.ffn**2 * 4
    memory += 3 * runtime.batch_tokens * shape.ffn * 4  # inputs that wait for the second thread
    return Estimate(_MODEL + memory / MIB, shape.forward(tokens) + shape.layers * shape.squares * tokens, disk)


def _quantize(shape: Shape, names: dict[str, str], runtime: RuntimeConfig) -> Estimate:
    method, fmt = compose.load("method", names["method"]), WeightFormat.parse(names["weight"])
    stored_bits = fmt.bits + (16 + fmt.bits) / (fmt.group or shape.hidden)
    disk = shape.layers * shape.block * stored_bits / 8 / MIB
    swept = shape.block * 3 + 5 * shape.widest * 4  # weights as stored, codes; float32 copies of one stack
    if method.data is None:
        return Estimate(_LIGHT + swept / MIB, 10 * shape.layers * shape.block, disk)
    if method.data == "statistics":
        memory = swept + shape.squares * 2 + 2 * shape.ffn**2 * 4
        return Estimate(_LIGHT + memory / MIB, 2 * shape.layers * shape.sweep, disk)
    settings: CalibrationConfig = compose.load("calibration", names["calibration"])
    tokens = settings.n_samples * settings.length
    walk = _walk(shape, tokens, settings.dtype, runtime)
    if isinstance(method, GptqMethod):
        memory = walk + swept + shape.squares * 4 + 3 * shape.ffn**2 * 4
        solve = shape.layers * (2 * shape.sweep + (3 * shape.hidden**3 + shape.ffn**3) / 3)
        operations = 5 / 3 * shape.forward(tokens) + shape.layers * shape.squares * tokens + solve
        return Estimate(_MODEL + memory / MIB, operations, disk)
    return Estimate(_MODEL + (walk + _distilled(shape, method, settings, runtime)) / MIB, _steps(shape, method, settings), disk)


def _distilled(shape: Shape, method: ZeroQuantMethod, settings: CalibrationConfig, runtime: RuntimeConfig) -> float:
    """Bytes of distillation: seven copies (masters, gradients, Adam's two, rounded, kept, given), a second set of states."""
    trained = shape.block if method.unit == "block" else shape.widest
    width = shape.hidden if method.unit == "block" else 2 * shape.ffn
    states = min(settings.n_samples * settings.length * width * 4, 2 * runtime.hidden_gib * 2**30)
    return 7 * 4 * trained + states + 40 * settings.length * shape.hidden * 4


def _steps(shape: Shape, method: ZeroQuantMethod, settings: CalibrationConfig) -> float:
    """Operations of distillation: a step is a pass forward and two back; the held-out share is passed once a rate."""
    rates = len(method.lr_grid) if method.lr == "auto" else 1
    seen = 3 * method.iterations + method.held_out * settings.n_samples
    return rates * seen * shape.forward(settings.length) + 3 * shape.forward(settings.n_samples * settings.length)

"""The one schema: the dataclasses that Hydra validates conf/ and the command line against, and the table of all of them.

What is read (texts, protocols, calibrations, tasks) is in `protocols`, methods in `recipes`, LoRC in `lorc`, runtime and
tracking in `machine`; here are the model and the study.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from lorcbench.config.checks import MOST, ConfigError
from lorcbench.config.checks import one_of as _one_of
from lorcbench.config.checks import positive as _positive
from lorcbench.config.checks import seed as _seed
from lorcbench.config.families import FAMILIES, WHOLE_SCORES, Family
from lorcbench.config.lorc import DistilledLorc, LorcConfig
from lorcbench.config.machine import RuntimeConfig, TrackingConfig
from lorcbench.config.mixed import METHOD, MixedMethod
from lorcbench.config.paired import PAIRED
from lorcbench.config.protocols import CalibrationConfig, EvalConfig, TaskConfig, TextConfig
from lorcbench.config.recipes import METHODS
from lorcbench.config.shape import Shape

EXPORTS = ("merged", "adapter", "compressed-tensors", "gptq")  # formats: `lorcbench.study.exports`
EXPORT_CHECKS = ("whole", "tensors")
_VARIANT = re.compile(r"r0|[^/]+/r\d+")


@dataclass
class StandinConfig:
    """How a stand-in is trained; its shape is the model's.

    Attributes:
        text: the text that it is trained and measured on; only ``stdlib`` brings a tokenizer.
        vocabulary: tokens, as many as the tokenizer of all stand-ins has; any other number is refused.
        positions: the longest sequence.
        steps, batch, length: optimizer steps of `batch` sequences of `length` tokens.
        lr: peak learning rate of AdamW (embeddings, norms, biases), cosine decay.
        matrix_lr: peak learning rate of Muon (weight matrices of the blocks).
        seed: of initialization and batches.
        outlier_channels: hidden channels whose inputs to the linears are made large before training, 0 for none.
        outlier_scale: by what factor; a power of two, so that planting changes no output by a single bit.
        dead_neurons: of the feed-forward neurons, those that are added after training and never fire; 0 for none.
    """

    text: str = "stdlib"
    vocabulary: int = 1024
    positions: int = 128
    steps: int = 400
    batch: int = 8
    length: int = 128
    lr: float = 6e-3
    matrix_lr: float = 2e-2
    seed: int = 0
    outlier_channels: int = 0
    outlier_scale: float = 32.0
    dead_neurons: int = 0

    def __post_init__(self) -> None:
        may_be_zero = ("outlier_channels", "dead_neurons")
        sizes = {key: value for key, value in vars(self).items() if key not in ("text", "seed", *may_be_zero)}
        _positive("model.standin", **sizes)
        _seed("model.standin", self.seed)
        for key in may_be_zero:
            if getattr(self, key) < 0:
                raise ConfigError(f"model.standin.{key}={getattr(self, key)}: expected 0 or more")
        if math.frexp(self.outlier_scale)[0] != 0.5:
            raise ConfigError(f"model.standin.outlier_scale={self.outlier_scale}: expected a power of two")


@dataclass
class ModelConfig:
    """One checkpoint. Shapes are facts of the published models (or the stand-in's own), used for checks before a job starts.

    Attributes:
        name: the name in paths; the conf file's own unless a folder was given on the command line.
        family: a ``model_type`` of `lorcbench.config.families`; None if only the checkpoint knows.
        source: ``standin`` (trained by the pipeline), ``hub`` (`repo`, `revision`), ``folder`` (`path`), or ``gguf``: one GGUF
            file, dequantized, at `path` or as `file` of the installed `package`.
        repo, revision: of a model on the hub: ``OWNER/NAME``, and a branch, tag or commit.
        path: of a checkpoint folder, or of a GGUF file.
        package, file: of a GGUF file that an installed Python package carries.
        layers, hidden, heads, ffn: the shape; None if only the checkpoint knows.
        standin: how the pipeline trains it, if it does.
    """

    name: str = MISSING
    family: str | None = None
    source: str = MISSING
    repo: str | None = None
    revision: str = "main"
    path: str | None = None
    package: str | None = None
    file: str | None = None
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    ffn: int | None = None
    standin: StandinConfig | None = None

    def __post_init__(self) -> None:
        _one_of("model", "source", self.source, ("standin", "hub", "folder", "gguf"))
        packaged = self.source == "gguf" and self.path is None
        keys = {"hub": ["repo"], "standin": ["standin"]}.get(self.source, ["package", "file"] if packaged else ["path"])
        if missing := [key for key in keys if getattr(self, key) is None]:
            instead = ", or path" if packaged else ""
            raise ConfigError(f"model.{missing[0]}=null: a model of source {self.source} needs it{instead}")
        places = ("repo", "path", "package", "file", "standin")
        if foreign := [key for key in places if key not in keys and getattr(self, key) is not None]:
            raise ConfigError(f"model.{foreign[0]}={getattr(self, foreign[0])}: a model of source {self.source} has none")
        if self.family is not None:
            _one_of("model", "family", self.family, tuple(FAMILIES))
        elif self.standin:
            raise ConfigError(f"model.family=null: a stand-in needs one of {', '.join(FAMILIES)}")
        _positive("model", layers=self.layers, hidden=self.hidden, heads=self.heads, ffn=self.ffn)
        if self.hidden and self.heads and self.hidden % self.heads:
            raise ConfigError(f"model.heads={self.heads}: expected a number that divides the width {self.hidden}")
        if self.standin and not 0 < (self.block_weights or 0) < 10**9:
            raise ConfigError(f"model.layers={self.layers} of width {self.hidden}: a stand-in has fewer than 10^9 weights")
        if self.planted:
            self._check_planted()

    def _check_planted(self) -> None:
        """Refuse to plant what the model has no place for."""
        standin, prefix = self.standin, "model.standin"
        if not self.record.relu:
            raise ConfigError(f"model.family={self.family}: expected opt; outliers and dead inputs are planted in no other")
        if standin.outlier_channels > self.hidden // 2:
            expected = f"at most half of the width {self.hidden}"
            raise ConfigError(f"{prefix}.outlier_channels={standin.outlier_channels}: expected {expected}")
        if standin.dead_neurons > self.ffn // 2:
            expected = f"at most half of the {self.ffn} neurons, model.ffn"
            raise ConfigError(f"{prefix}.dead_neurons={standin.dead_neurons}: expected {expected}")

    @property
    def record(self) -> Family | None:
        """What is known of its family; None if only the checkpoint knows which it is."""
        return FAMILIES.get(self.family)

    @property
    def planted(self) -> bool:
        """Whether it is a stand-in with outlier channels or dead inputs that were put into it: evidence for no claim."""
        return bool(self.standin and (self.standin.outlier_channels or self.standin.dead_neurons))

    @property
    def shape(self) -> Shape | None:
        """The shape that the conf file states, or None.

        A model of unknown family counts as one with two feed-forward matrices and the largest vocabulary that we know.
        """
        if not (self.layers and self.hidden and self.ffn):
            return None
        matrices = self.record.mlp_matrices if self.record else 2
        vocabulary = self.record.vocabulary if self.record else max(family.vocabulary for family in FAMILIES.values())
        if self.standin:
            vocabulary = self.standin.vocabulary
        heads = self.heads if self.family in WHOLE_SCORES else None
        return Shape.plain(self.layers, self.hidden, self.ffn, vocabulary, matrices, heads or 0)

    @property
    def block_weights(self) -> int | None:
        """Weights of the linears of all decoder blocks, as ZeroQuant-V2 counts sizes; None if the shape is unknown."""
        return self.shape and self.shape.layers * self.shape.block


@dataclass
class GridConfig:
    """One product of axes; an axis left out takes the study's."""

    models: list[str] | None = None
    methods: list[str] | None = None
    calibrations: list[str] | None = None
    weights: list[str] | None = None
    activations: list[str] | None = None
    lorc: list[str] | None = None
    ranks: list[int] | None = None


@dataclass
class StudyConfig:
    """A named set of cells: concatenated grids, without the excluded.

    Attributes:
        title: one line for the report.
        models, methods, weights: an axis each, for every grid that does not name its own; needed here or in every grid.
        calibrations, activations, lorc, ranks: the other axes, likewise; the defaults are in the same order.
        eval: the perplexity protocol.
        grids: products of axes, concatenated.
        exclude: cells matching every axis that an entry names are left out.
        harness: cells that lm-eval measures too, chosen like `exclude`.
        max_cells: a grid of more is refused before it eats the machine.
        indivisible: what to do about groups that do not divide a model's widths: ``refuse``, or ``skip`` and list them.
        gate: ``check``: a model whose full-precision perplexity is published must measure it, within 0.5 % on every corpus,
            before anything of it is quantized (the stage gate); ``off``: it need not.
        max_params: of the study's own models, those with more weights in their blocks are not run but listed; models that the
            command line names are run whatever their size. None is no limit.
        standins: run the same cells on small models that the pipeline trains itself, in place of the models of the study
            (`lorcbench.study.rehearsal`).
        rehearsal: axes of the study itself that stand-ins are asked about as they are written here; the others are translated.
        ranks_of_width: the ranks of the study's file are those of a model of this width; another model has the rank that is the
            same share of its own. Ranks that the command line gives are taken as they are.
        exactly: take one product of axes, without the grids and exclusions of the study's file: those that the command line
            names, the others as the study has them for all its grids.
    """

    title: str = MISSING
    models: list[str] | None = None
    methods: list[str] | None = None
    calibrations: list[str] | None = None
    weights: list[str] | None = None
    activations: list[str] | None = None
    lorc: list[str] | None = None
    ranks: list[int] | None = None
    eval: str = MISSING
    grids: list[GridConfig] = field(default_factory=list)
    exclude: list[GridConfig] = field(default_factory=list)
    harness: list[GridConfig] = field(default_factory=list)
    max_cells: int = 20_000
    indivisible: str = "refuse"
    gate: str = "check"
    max_params: float | None = None
    standins: bool = False
    rehearsal: GridConfig | None = None
    ranks_of_width: int | None = None
    exactly: bool = False

    def __post_init__(self) -> None:
        _positive("study", max_cells=self.max_cells)
        _one_of("study", "indivisible", self.indivisible, ("refuse", "skip"))
        _one_of("study", "gate", self.gate, ("check", "off"))
        _positive("study", max_params=self.max_params, ranks_of_width=self.ranks_of_width)
        if self.ranks_of_width and any(grid.ranks for grid in (*self.exclude, *self.harness)):
            raise ConfigError(
                f"study.ranks_of_width={self.ranks_of_width}: expected no ranks in study.exclude and study.harness"
            )


AXES = tuple(field.name for field in fields(GridConfig))
# What a grid has on an axis that neither it nor its study names; all other axes must be named.
AXIS_DEFAULTS = {"calibrations": ["none"], "activations": ["a16"], "lorc": ["plain-int8"], "ranks": [0]}


@dataclass
class JobConfig:
    """What one job is told besides the entries that it chooses in config groups.

    Attributes:
        weight: weight format, such as ``w4-asym-g128``.
        trained: activation format under which the weights are made; a16 for a method that does not look at activations.
        activation: activation format at evaluation, such as ``a8-asym-token``.
        damp: damping of the factors of cached Hessians, as the method gptq has it.
        order: order of the columns in those factors, ``natural`` or ``act_order``.
        dead: what was done in those factors about dead inputs, as the method gptq has it.
        cap: how many LoRC components to compute: 32, 128, 512, or 0 for all.
        rank: of the LoRC factors that an export holds; 0 for none.
        export: the format of an export: merged, adapter, compressed-tensors or gptq.
        verify: how an export is checked: ``whole`` loads the model and scores it, ``tensors`` unpacks one module after another.
        variants: what an evaluation measures: ``r0``, and ``LORC/rRANK`` such as ``plain-int8/r8``.
        model_path: a checkpoint folder, or a name on the hub, on which the study runs instead of its own models.
        text_path: a text file whose halves take the place of the study's texts.
        foreign: folders with checkpoints that were quantized elsewhere, colons between them; of a job, one of them.
        name: what the study is called, instead of its file's name and its changes.
    """

    weight: str = "w16"
    trained: str = "a16"
    activation: str = "a16"
    damp: float = 0.01
    order: str = "natural"
    dead: str = "published"
    cap: int = 32
    rank: int = 0
    export: str = "merged"
    verify: str = "whole"
    variants: list[str] = field(default_factory=lambda: ["r0"])
    model_path: str | None = None
    text_path: str | None = None
    foreign: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _refuse_unless(0 < self.damp < math.inf, "damp", self.damp, "a positive number")
        _refuse_unless(self.order in ("natural", "act_order"), "order", self.order, "one of natural, act_order")
        _refuse_unless(self.dead in ("published", "excluded"), "dead", self.dead, "one of published, excluded")
        _refuse_unless(0 <= self.cap < MOST, "cap", self.cap, "32, 128, 512, or 0 for all components")
        _refuse_unless(0 <= self.rank < MOST, "rank", self.rank, "0 or more")
        _refuse_unless(self.export in EXPORTS, "export", self.export, f"one of {', '.join(EXPORTS)}")
        _refuse_unless(self.verify in EXPORT_CHECKS, "verify", self.verify, f"one of {', '.join(EXPORT_CHECKS)}")
        for variant in self.variants:
            _refuse_unless(_VARIANT.fullmatch(variant), "variants", variant, "r0, or LORC/rRANK such as plain-int8/r8")


def _refuse_unless(right: object, key: str, value: object, expected: str) -> None:
    """Refuse a value of a key that stands in no group."""
    if not right:
        raise ConfigError(f"{key}={value}: expected {expected}")


SCHEMAS = {
    "model": {"model": ModelConfig},
    "method": METHODS | PAIRED | {METHOD: MixedMethod},
    "calibration": {"calibration": CalibrationConfig},
    "lorc": {"lorc": LorcConfig, "distilled": DistilledLorc},
    "text": {"text": TextConfig},
    "task": {"task": TaskConfig},
    "eval": {"eval": EvalConfig},
    "runtime": {"runtime": RuntimeConfig},
    "tracking": {"tracking": TrackingConfig},
    "study": {"study": StudyConfig},
}
for _group, _nodes in SCHEMAS.items():
    for _name, _node in _nodes.items():
        ConfigStore.instance().store(group=f"schema/{_group}", name=_name, node=_node)
# conf/config.yaml: a job's own values, and its entry in each group, which has a schema of its own.
_ROOT = make_dataclass("Root", [(group, Any, None) for group in SCHEMAS], bases=(JobConfig,))
ConfigStore.instance().store(group="schema/job", name="job", node=_ROOT)

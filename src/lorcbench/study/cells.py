"""A cell, and a study as the cells that it is made of: values, without a word of how they are found or computed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

from lorcbench.common.paths import Wildcards
from lorcbench.config import compose, places
from lorcbench.config.protocols import TextConfig
from lorcbench.config.schema import AXES, ModelConfig, StudyConfig
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.study import published

# Axis of a study → field of a cell.
FIELDS = dict(zip(AXES, ("model", "method", "calibration", "weight", "activation", "lorc", "rank"), strict=True))
RECIPE = tuple(FIELDS.values())  # the order in which tables and tags name a cell
SHORT_WINDOW = 512  # tokens; of a published model, a number in shorter windows needs a remark
# What the cells of one evaluation have in common: all but the LoRC setting and its rank.
_EVALUATED = ("model", "method", "calibration", "weight", "trained", "activation")

# Thousands of cells share a few formats: each spelling is parsed once. A cached property would be an entry of `vars(cell)`,
# which tables and tags are made of.
weight_format = cache(WeightFormat.parse)
activation_format = cache(ActivationFormat.parse)


@cache
def needs_calibration(method: str, lorc: str) -> bool:
    """Whether a method or a LoRC setting reads calibration data.

    A method that conf/method has not is the best of several that were optimized, each on data (`lorcbench.report.derived`).
    """
    derived = method.partition("+")[0] not in compose.names("method")
    return bool(derived or compose.load("method", method).data or compose.load("lorc", lorc).data)


@dataclass(frozen=True, order=True)
class Cell:
    """One full combination. Fields that do not apply are ``none``, so that equal work has equal cells.

    Attributes:
        trained: the activation format that the weights were made under; a16 unless the method looks at activations.
        lorc: name of the LoRC setting; none at rank 0.
    """

    model: str
    method: str
    calibration: str
    weight: str
    trained: str
    activation: str
    lorc: str
    rank: int

    @classmethod
    def full_precision(cls, model: str) -> Cell:
        """The cell that all others of a model are compared to."""
        return cls(model, "none", "none", "w16", "a16", "a16", "none", 0)

    def corrected(self, lorc: str, rank: int) -> Cell:
        """The same recipe with another correction, or none at rank 0; it has a calibration only if something reads it."""
        lorc = lorc if rank else "none"
        calibration = self.calibration if needs_calibration(self.method, lorc) else "none"
        return replace(self, calibration=calibration, lorc=lorc, rank=rank)

    @property
    def uncorrected(self) -> Cell:
        """The same recipe without LoRC."""
        return self.corrected("none", 0)

    @property
    def key(self) -> str:
        """The cell as one string, for logs and tags."""
        rank = f"r{self.rank}" if self.rank == 0 else f"r{self.rank}-{self.lorc}"
        weight = self.weight if self.trained == "a16" else f"{self.weight}@{self.trained}"
        return "/".join([self.model, self.method, self.calibration, weight, self.activation, rank])

    @property
    def variant(self) -> str:
        """The cell within its evaluation: ``r0`` or ``plain-int8/r8``."""
        return "r0" if self.rank == 0 else f"{self.lorc}/r{self.rank}"

    @property
    def is_full_precision(self) -> bool:
        """Whether nothing is rounded, neither weights nor activations."""
        return self.method == "none" and self.activation == "a16"

    @property
    def weight_format(self) -> WeightFormat:
        """`weight` as a value."""
        return weight_format(self.weight)

    @property
    def activation_format(self) -> ActivationFormat:
        """`activation` as a value."""
        return activation_format(self.activation)

    def wildcards(self, protocol: str = "none") -> Wildcards:
        """The names that fill the folders' patterns of the jobs that a cell rests on, measured by `protocol`."""
        names = {name: value for name, value in vars(self).items() if name != "rank"}
        return Wildcards(**names, cap=str(compose.components(self.lorc, self.rank)), protocol=protocol)


@dataclass(frozen=True)
class Study:
    """An expanded study.

    Attributes:
        name: of its folder, its page and its experiment: `lorcbench.study.naming`.
        config: the composed study.
        eval: name of the perplexity protocol.
        tasks: lm-eval tasks of the harness cells.
        cells: all cells, full precision of every model first.
        harness: the cells that lm-eval measures.
        not_applicable: (model, weight or activation format) left out because groups do not divide.
        folders: checkpoints given on the command line, by model name: the full path of a folder or of a GGUF file, or
            ``OWNER/NAME@REVISION`` on the hub.
        texts_given: a text given by its file on the command line, by the text's name.
        foreign: folders with checkpoints that were quantized elsewhere, by the name of their method.
        too_large: the study's models that `StudyConfig.max_params` leaves out.
        published_ranks: of a rehearsal, rank of the stand-ins → the ranks in the study's file that became it.
        replaced: the axes that the command line gave.
    """

    name: str
    config: StudyConfig
    eval: str
    tasks: tuple[str, ...]
    cells: tuple[Cell, ...]
    harness: tuple[Cell, ...]
    not_applicable: tuple[tuple[str, str], ...]
    folders: dict[str, str]
    texts_given: dict[str, TextConfig] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    too_large: tuple[str, ...] = ()
    published_ranks: dict[int, list[int]] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()

    def model(self, name: str) -> ModelConfig:
        """The model's config, one that the command line gives included."""
        return model_config(name, self.folders)

    def entry(self, group: str, name: str) -> Any:
        """What is called `name` in a config group, a model and a text that the command line gives included."""
        if group == "model":
            return self.model(name)
        return self.texts_given[name] if group == "text" and name in self.texts_given else compose.load(group, name)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that cells are of."""
        return tuple(dict.fromkeys(cell.model for cell in self.cells))

    @property
    def calibrations(self) -> tuple[str, ...]:
        """Names of the calibrations that cells see."""
        return tuple(dict.fromkeys(cell.calibration for cell in self.cells if cell.calibration != "none"))

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the texts of the study's protocol, of its gate's and of its calibrations."""
        protocols = [self.eval]
        if any(cell.method != "none" and self.gated(cell.model) for cell in self.cells):
            protocols.append(published.GATE_PROTOCOL)
        names = [text for protocol in protocols for text in compose.load("eval", protocol).texts()]
        names += [text for calibration in self.calibrations for text in compose.load("calibration", calibration).texts()]
        return tuple(dict.fromkeys(names))

    def gated(self, model: str) -> bool:
        """Whether a model's full-precision perplexity must be the published one before anything of it is quantized."""
        return self.config.gate == "check" and published.full_precision(model, published.GATE_PROTOCOL) is not None

    def given_lines(self) -> list[str]:
        """A line for a model and a text that the command line gave, and what a reader must know of the text of such a model."""
        lines = [f"model {name} is {place}" for name, place in self.folders.items()]
        lines += [f"text {name} is {text.path}" for name, text in self.texts_given.items()]
        lines += [f"method {name} is {folder}" for name, folder in self.foreign.items()]
        protocol = compose.load("eval", self.eval)
        if self.folders and "stdlib" in protocol.texts():
            lines.append("the text is what Python carries about itself, since there is no text_path=FILE of your own")
        if self.folders and not protocol.fit and protocol.window < SHORT_WINDOW:
            lines.append(f"its windows have {protocol.window} tokens, few for a language model: study=own takes longer ones")
        return lines

    def wildcards(self, cell: Cell) -> Wildcards:
        """The names of the jobs that a cell of this study rests on."""
        return cell.wildcards(self.eval)

    def evaluated(self, names: Wildcards, harness: bool = False) -> list[Cell]:
        """The cells that one evaluation measures, all ranks of a quantized model; with `harness` those of lm-eval."""
        cells = self._cells_by_evaluation[harness]
        return cells.get(tuple(getattr(names, name) for name in _EVALUATED), [])

    @cached_property
    def _cells_by_evaluation(self) -> tuple[dict[tuple, list[Cell]], dict[tuple, list[Cell]]]:
        """All cells, and the harness cells, by what the cells of one evaluation have in common."""
        grouped: tuple[dict, dict] = ({}, {})
        for cells, groups in zip((self.cells, self.harness), grouped, strict=True):
            for cell in cells:
                groups.setdefault(tuple(getattr(cell, name) for name in _EVALUATED), []).append(cell)
        return grouped


def model_config(name: str, folders: dict[str, str]) -> ModelConfig:
    """The config of a model of conf/model, or of one that the command line gives."""
    if name in folders:
        return places.model(name, folders[name])
    return compose.load("model", name)

"""A study file → its list of cells, in plain Python: neither torch nor transformers, and no Hydra composition a cell."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

from lorcbench.common import paths
from lorcbench.config import compose
from lorcbench.config.checks import MOST, ConfigError
from lorcbench.config.schema import AXES, GridConfig, ModelConfig, StudyConfig
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.study import published, rehearsal

# Thousands of cells share a few formats: each spelling is parsed once. A cached property would be an entry of `vars(cell)`,
# which tables and tags are made of.
weight_format = cache(WeightFormat.parse)
activation_format = cache(ActivationFormat.parse)


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

    def paths(self) -> dict[str, str]:
        """The wildcards of every path pattern in `lorcbench.common.paths` that a cell fills."""
        wildcards = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "rank"}
        return {**wildcards, "cap": str(compose.components(self.lorc, self.rank))}


@dataclass(frozen=True)
class Study:
    """An expanded study.

    Attributes:
        name: the conf file's stem, with changes as in ``lorc+standins=true``.
        config: the composed study.
        eval: name of the perplexity protocol.
        tasks: lm-eval tasks of the harness cells.
        cells: all cells, full precision of every model first.
        harness: the cells that lm-eval measures.
        not_applicable: (model, weight or activation format) left out because groups do not divide.
        folders: checkpoints given by path on the command line, by model name.
        too_large: the study's models that `StudyConfig.max_params` leaves out.
    """

    name: str
    config: StudyConfig
    eval: str
    tasks: tuple[str, ...]
    cells: tuple[Cell, ...]
    harness: tuple[Cell, ...]
    not_applicable: tuple[tuple[str, str], ...]
    folders: dict[str, str]
    too_large: tuple[str, ...] = ()

    def gated(self, model: str) -> bool:
        """Whether a model's full-precision perplexity must be the published one before anything of it is quantized."""
        return self.config.gate == "check" and published.full_precision(model, paths.GATE_PROTOCOL) is not None

    def job_folders(self, cell: Cell) -> dict[str, Path]:
        """The folders of all jobs that a cell rests on, in the order in which they run."""
        names, folders = {**cell.paths(), "protocol": self.eval}, {"checkpoint": paths.CHECKPOINT, "tokens": paths.TOKENS}
        if cell.calibration != "none":
            folders |= {"calibration": paths.CALIBRATION_TOKENS}
            method = compose.load("method", cell.method)
            if method.data == "statistics":
                folders |= {"statistics": paths.STATISTICS, "hessians": paths.HESSIAN_FACTORS}
                names |= method.factor
        if cell.method != "none":
            folders |= {"gate": paths.GATE} if self.gated(cell.model) else {}
            folders |= {"quantized": paths.QUANTIZED}
        if cell.rank:
            folders |= {"factors": paths.FACTORS}
        folders |= {"evaluation": paths.EVALUATION}
        return {kind: Path(pattern.format(**names)) for kind, pattern in folders.items()}

    def harness_folder(self, cell: Cell) -> dict[str, Path]:
        """The folder of the job in which lm-eval measures a cell, if it does."""
        folder = Path(paths.HARNESS.format(**cell.paths(), protocol=self.eval))
        return {"harness": folder} if cell in self.harness else {}

    def model(self, name: str) -> ModelConfig:
        """The model's config, a folder given on the command line included."""
        if name in self.folders:
            return ModelConfig(name=name, source="folder", path=self.folders[name])
        return compose.load("model", name)


def load_study(name: str, overrides: list[str] = (), model_path: str | None = None) -> Study:
    """Compose a study and expand its cells.

    Args:
        name: a file of conf/study, changes of its keys spelled behind it.
        overrides: Hydra overrides; ``study.<axis>=[…]`` replaces that axis in every grid.
        model_path: a checkpoint folder to run the study on instead of its own models.

    Raises:
        ConfigError: anything that makes no sense, in one line.
    """
    if model_path is not None and (not isinstance(model_path, str) or not model_path or "\0" in model_path):
        raise ConfigError(f"model_path={model_path!r}: expected a checkpoint folder with config.json and safetensors files")
    if name.partition("+")[0] not in compose.names("study"):
        raise ConfigError(f"study {name!r} is unknown; conf/study has {', '.join(compose.names('study'))}")
    composed = compose.compose([f"study={name}", *overrides])
    study: StudyConfig = OmegaConf.to_object(composed.study)
    replaced = [axis for axis in AXES if any(override.startswith(f"study.{axis}=") for override in overrides)]
    folders = {}
    if model_path:
        folders = {_folder_name(model_path): str(Path(model_path).resolve())}
        study.models = list(folders)
        replaced.append("models")
    if study.standins:
        study = rehearsal.rehearse(study, replaced, not any(override.startswith("study.eval=") for override in overrides))
    protocol = compose.canonical("eval", study.eval)
    tasks = composed.eval.tasks if any(override.startswith("eval.tasks=") for override in overrides) else None
    draft = Study(name, study, protocol, (), (), (), (), folders)
    cells, not_applicable, too_large = _expand(draft, replaced)
    if not cells and too_large:
        smallest = min(draft.model(model).block_weights for model in too_large)
        raise ConfigError(f"study.max_params={study.max_params:g}: the smallest model of {name} has {smallest:.3g}")
    if not cells:
        raise ConfigError(f"study {name}: no cells; expected at least one grid with models, methods and weights")
    tasks = compose.load("eval", protocol).tasks if tasks is None else tasks
    chosen = [_spelled(draft, grid) for grid in study.harness] if tasks else []
    harness = [cell for cell in cells if any(_matches(cell, grid) for grid in chosen)]
    return Study(
        name, study, protocol, tuple(tasks), tuple(cells), tuple(harness), tuple(not_applicable), folders, tuple(too_large)
    )


def study_from_arguments(arguments: list[str]) -> Study:
    """The study that a stage was started for: ``study=NAME``, then overrides and ``model_path`` as the workflow got them."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if "study" not in given:
        raise ConfigError(f"study=NAME is missing; known: {', '.join(compose.names('study'))}")
    own = ("study=", "model_path=")
    overrides = [argument for argument in arguments if not argument.startswith(own)]
    folder = given.get("model_path")
    return load_study(given["study"], overrides, folder and folder.strip('"'))  # quoted for Hydra's grammar


def _folder_name(path: str) -> str:
    try:
        folder = Path(path).resolve()
        found = (folder / "config.json").is_file()
    except OSError:  # a name too long for the file system
        found = False
    if not found:
        raise ConfigError(f"model_path={path}: expected a checkpoint folder with config.json and safetensors files")
    name = re.sub(r"[^A-Za-z0-9._-]", "-", folder.name).lstrip("._-") or "model"
    return name if not (compose.conf_dir() / "model" / f"{name}.yaml").exists() else f"{name}-folder"


def _expand(study: Study, replaced: list[str]) -> tuple[list[Cell], list[tuple[str, str]], list[str]]:
    cells: dict[Cell, None] = {}
    missing: dict[tuple[str, str], None] = {}
    too_large: dict[str, None] = {}
    shared = study.config
    limit = None if "models" in replaced else shared.max_params
    excluded = [_spelled(study, grid) for grid in shared.exclude]
    grids = [_axes(shared, grid, replaced) for grid in shared.grids or [GridConfig()]]
    count = sum(math.prod(len(values or [None]) for values in axes.values()) for axes in grids)
    if count > shared.max_cells:
        raise ConfigError(f"study {study.name}: {count:,} cells; expected at most study.max_cells={shared.max_cells}")
    for given in grids:
        axes = {axis: _values(study, axis, values) for axis, values in given.items()}
        for combination in itertools.product(*axes.values()):
            cell = _cell(dict(zip(axes, combination, strict=True)))
            if cell is None or any(_matches(cell, grid) for grid in excluded):
                continue
            if limit is not None and (study.model(cell.model).block_weights or 0) > limit:
                too_large[cell.model] = None
                continue
            if bad := _indivisible(study, cell):
                missing[cell.model, bad] = None
                continue
            cells[Cell(cell.model, "none", "none", "w16", "a16", "a16", "none", 0)] = None
            cells[cell] = None
    return list(cells), list(missing), list(too_large)


def _spelled(study: Study, grid: GridConfig) -> GridConfig:
    """The grid with every name in its one spelling, axes that it does not name left open."""
    given = {axis: values for axis in AXES if (values := getattr(grid, axis)) is not None}
    return GridConfig(**{axis: _values(study, axis, values) for axis, values in given.items()})


def _axes(shared: StudyConfig, grid: GridConfig, replaced: list[str]) -> dict[str, list | None]:
    """The values of every axis of a grid, as they are written."""
    own = {axis: None if axis in replaced else getattr(grid, axis) for axis in AXES}
    return {axis: getattr(shared, axis) if values is None else values for axis, values in own.items()}


_DEFAULTS = {"calibrations": ["none"], "activations": ["a16"], "lorc": ["plain-int8"], "ranks": [0]}


def _values(study: Study, axis: str, values: list | None) -> list:
    """The values of one axis, each known and in its one spelling."""
    values = _DEFAULTS.get(axis) if values is None else values
    if not values:
        raise ConfigError(f"study.{axis}={values}: expected a list with at least one entry")
    if not all(isinstance(value, int if axis == "ranks" else str) for value in values):
        raise ConfigError(f"study.{axis}={values}: expected a list of {'whole numbers' if axis == 'ranks' else 'names'}")
    if axis == "ranks":
        for rank in values:
            if not 0 <= rank < MOST:
                raise ConfigError(f"study.ranks={values}: a rank is 0 or more, and below {MOST:,}")
        return list(values)
    if axis in ("weights", "activations"):
        parse = WeightFormat.parse if axis == "weights" else ActivationFormat.parse
        try:
            return [str(parse(value)) for value in values]
        except ValueError as error:
            raise ConfigError(str(error)) from None
    group = {"models": "model", "methods": "method", "calibrations": "calibration", "lorc": "lorc"}[axis]
    return [value if value in study.folders else compose.canonical(group, value) for value in values]


def _cell(axes: dict) -> Cell | None:
    """The cell of one combination, or None for one that stands for no work of its own."""
    method = compose.load("method", axes["methods"])
    full_precision = axes["weights"] == "w16"
    if (method.kind == "none") != full_precision:
        return None
    calibration = axes["calibrations"] if method.data else "none"
    if method.data and not compose.load("calibration", calibration).corpora:
        raise ConfigError(f"method {axes['methods']}: needs calibration; set study.calibrations")
    if method.trains_in_float32 and (dtype := compose.load("calibration", calibration).dtype) != "float32":
        raise ConfigError(f"method {axes['methods']}: trains in float32; calibration {calibration} has dtype {dtype}")
    trained = axes["activations"] if method.sees_activations else "a16"
    rank = 0 if full_precision else axes["ranks"]
    lorc = axes["lorc"] if rank else "none"
    if rank and compose.load("lorc", lorc).kind == "none":
        raise ConfigError(f"study.lorc={lorc} with rank {rank}: expected a LoRC setting such as plain-int8")
    if rank and compose.load("lorc", lorc).kind == "distilled" and calibration == "none":
        mend = "expected a method with calibration data, or plain factors"
        raise ConfigError(f"study.lorc={lorc} on method {axes['methods']}: {mend}")
    return Cell(axes["models"], axes["methods"], calibration, axes["weights"], trained, axes["activations"], lorc, rank)


def _indivisible(study: Study, cell: Cell) -> str | None:
    model = study.model(cell.model)
    for fmt in (WeightFormat.parse(cell.weight), ActivationFormat.parse(cell.activation)):
        for width in filter(None, (model.hidden, model.ffn)):
            if fmt.group and width % fmt.group:
                if study.config.indivisible == "refuse":
                    raise ConfigError(f"{fmt} on {cell.model}: groups of {fmt.group} do not divide its width {width}")
                return str(fmt)
    return None


_FIELD = {"models": "model", "methods": "method", "calibrations": "calibration", "weights": "weight"}
_FIELD |= {"activations": "activation", "lorc": "lorc", "ranks": "rank"}


def _matches(cell: Cell, chosen: GridConfig) -> bool:
    """Whether the cell agrees with every axis that `chosen` names."""
    return all(getattr(cell, _FIELD[axis]) in values for axis in AXES if (values := getattr(chosen, axis)) is not None)

"""A study file → its cells, in plain Python: neither torch nor transformers, and no Hydra composition per cell."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lorcbench.config import compose, folders, foreign, mixed, places
from lorcbench.config.checks import MOST, ConfigError
from lorcbench.config.protocols import TextConfig
from lorcbench.config.schema import AXES, AXIS_DEFAULTS, GridConfig, StudyConfig
from lorcbench.config.variants import Variant
from lorcbench.study import given, groups, naming, rehearsal, started
from lorcbench.study.cells import FIELDS, Cell, Study, activation_format, model_config, needs_calibration, weight_format
from lorcbench.study.ranks import of_width


@dataclass(frozen=True)
class _Request:
    """What is asked for, before its cells are known.

    Attributes:
        name: of the study.
        config: the composed study.
        folders: checkpoints given on the command line, by model name.
        texts: a text given by its file on the command line, by its name.
        replaced: the axes that the command line gave; they hold for every grid.
        published_ranks: of a rehearsal, as `Study` has it.
        foreign: folders with checkpoints that were quantized elsewhere, by the name of their method.
    """

    name: str
    config: StudyConfig
    folders: dict[str, str]
    texts: dict[str, TextConfig]
    replaced: tuple[str, ...]
    published_ranks: dict[int, list[int]]
    foreign: dict[str, Path]

    @property
    def stem(self) -> str:
        """The name of the study's file."""
        return self.name.partition("+")[0]


def load_study(
    name: str,
    overrides: list[str] = (),
    model_path: str | None = None,
    own_name: str | None = None,
    text_path: str | None = None,
    foreign_paths: str | None = None,
) -> Study:
    """Compose a study and expand its cells.

    Args:
        name: a file of conf/study, changes of its keys spelled behind it; or, alone, the name of a folder under results/, which
            means the study with the words with which it was run.
        overrides: Hydra overrides; ``study.<axis>=[…]`` replaces that axis in every grid.
        model_path: a checkpoint folder, a GGUF file, or a name on the hub, to run the study on instead of its own models;
            ``model.name=…`` among the overrides names its model.
        own_name: what the study is called, instead of its file's name and its changes.
        text_path: a file whose halves take the place of all texts, one to calibrate on and one to measure; ``text.column=…``
            among the overrides names the column of its documents.
        foreign_paths: folders with checkpoints that were quantized elsewhere, colons between them, made from the study's one
            model; each is a cell.

    Raises:
        ConfigError: anything that makes no sense, in one line.
    """
    alone = not (overrides or model_path or own_name or text_path or foreign_paths)
    if alone and name not in compose.names("study") and started.has_command(name):
        return study_from_arguments(started.arguments(name))
    return _study(name, list(overrides), model_path, own_name, text_path, foreign_paths)


def _study(
    name: str,
    overrides: list[str],
    model_path: str | None,
    own_name: str | None,
    text_path: str | None,
    foreign_paths: str | None,
) -> Study:
    """`load_study` of a study of conf/study."""
    kinds = "a checkpoint folder with config.json and safetensors files, a GGUF file, or OWNER/NAME"
    given.check_path("model_path", model_path, kinds)
    given.check_path("text_path", text_path, "a file of plain text, JSON lines or Parquet")
    given.check_path(foreign.KEY, foreign_paths, "the folder of a checkpoint that was quantized elsewhere")
    if name.partition("+")[0] not in compose.names("study"):
        raise ConfigError(compose.unknown("study", name.partition("+")[0], started.folders()))
    composed = compose.compose([f"study={name}", *(part for part in overrides if not part.startswith(given.OVERRIDES))])
    request = _request(name, OmegaConf.to_object(composed.study), overrides, model_path, text_path, foreign_paths)
    protocol = compose.canonical("eval", request.config.eval)
    cells, not_applicable, too_large = _expand(request)
    changed = naming.changed_keys(name, overrides)
    tasks = _tasks(composed.eval.tasks if naming.TASKS in changed else compose.load("eval", protocol).tasks)
    chosen = [_spelled(request, grid) for grid in request.config.harness] if tasks else []
    # The text is part of the study's own name.
    without_text = str(Variant.parse(protocol).without("text")) if request.texts else protocol
    plain = compose.plain(composed.study) | {"eval": without_text, naming.TASKS: tasks}
    kept = _changes(request, {key: plain[key] for key in changed})
    called = naming.with_changes(request.stem, kept) if own_name is None else naming.check_name(own_name)
    return Study(
        name=naming.check_place(called),
        config=replace(request.config, title=_title(request, kept)),
        eval=protocol,
        tasks=tuple(tasks),
        cells=tuple(cells),
        harness=tuple(cell for cell in cells if any(_matches(cell, grid) for grid in chosen)),
        not_applicable=tuple(not_applicable),
        folders=request.folders,
        texts_given=request.texts,
        foreign={method: str(folder) for method, folder in request.foreign.items()},
        too_large=tuple(too_large),
        published_ranks=request.published_ranks,
        replaced=request.replaced,
    )


def study_from_arguments(arguments: list[str]) -> Study:
    """The study that a stage was started for: ``study=NAME``, then overrides and ``model_path`` as the workflow got them."""
    values = dict(argument.partition("=")[::2] for argument in arguments)
    study = given.study_of(values)
    if study is None:
        raise ConfigError(f"study=NAME is missing; known: {', '.join(compose.names('study'))}")
    own = ("study=", "model_path=", "text_path=", "foreign=", "name=")
    overrides = [argument for argument in arguments if not argument.startswith(own)]
    given_places = (compose.unquoted(values[key]) if key in values else None for key in ("model_path", "text_path", "foreign"))
    model, text, quantized = given_places
    return _study(study, overrides, model, values.get("name"), text, quantized)


def _tasks(names: Iterable[str]) -> list[str]:
    """Each lm-eval task once, in its one spelling."""
    return list(dict.fromkeys(compose.canonical("task", name) for name in names))


def _changes(request: _Request, changes: dict[str, Any]) -> dict[str, Any]:
    """What the command line changed of a study's file, without what changes nothing; every name in its one spelling.

    Args:
        changes: values as plain Python, as the command line gave them.
    """
    own = compose.load("study", request.stem)
    protocol = compose.canonical("eval", own.eval)
    unchanged = compose.plain(own) | {"eval": protocol, naming.TASKS: _tasks(compose.load("eval", protocol).tasks)}
    # An axis replaces that axis in every grid, so it may change cells even where it is the study's own.
    kept = {key: value for key, value in changes.items() if key in AXES or value != unchanged[key]}
    kept |= {axis: _values(request, axis, kept[axis]) for axis in AXES if axis in kept}
    for folder in request.folders:  # it stands for all models
        kept[naming.FOLDER] = folder
    for text in request.texts:
        kept[naming.TEXT] = text
    if request.foreign:
        kept[naming.FOREIGN] = [folders.model_name(folder) for folder in request.foreign.values()]
    return kept


def _title(request: _Request, changes: dict[str, Any]) -> str:
    """The title of a study's file, with what the command line changed; a model and a text are what the study `own` is for."""
    expected = (naming.FOLDER, naming.TEXT) if request.stem == given.OWN else ()
    return naming.title(request.config.title, {key: value for key, value in changes.items() if key not in expected})


def _request(
    name: str,
    config: StudyConfig,
    overrides: list[str],
    model_path: str | None,
    text_path: str | None,
    foreign_paths: str | None,
) -> _Request:
    """The study as its file and the command line say it, on another model and another text if the command line says so."""
    replaced = [axis for axis in AXES if any(override.startswith(f"study.{axis}=") for override in overrides)]
    own = given.models(overrides, model_path)
    if own:
        given.check_models(config, naming.changed_keys(name, overrides), model_path)
        config.models = list(own)
        replaced.append("models")
    if config.exactly:
        if any(override.startswith("study.grids=") for override in overrides):
            raise ConfigError("study.exactly=true: drops all grids, those of study.grids=… too; expected one of both")
        config = replace(config, grids=[], exclude=[])
    replaced = list(dict.fromkeys(replaced))
    published_ranks = rehearsal.ranks_asked(config, replaced) if config.standins else {}
    if config.standins:
        keeps_protocol = any(override.startswith("study.eval=") for override in overrides)
        config = rehearsal.rehearse(config, replaced, not keeps_protocol)
    texts = given.texts(overrides, text_path)
    for text in texts:
        config = given.on_text(config, text, text_path)
    quantized = {foreign.method(folder): folder for folder in foreign.paths(foreign_paths)}
    return _Request(name, config, own, texts, tuple(replaced), published_ranks, quantized)


def _expand(request: _Request) -> tuple[list[Cell], list[tuple[str, str]], list[str]]:
    """The cells; the (model, format) pairs that were left out because groups do not divide; the models that are too large."""
    cells: dict[Cell, None] = {}
    indivisible: dict[tuple[str, str], None] = {}
    too_large: dict[str, None] = {}
    widths: dict[str, tuple[int, ...]] = {}
    limit = None if "models" in request.replaced else request.config.max_params
    for cell in _combinations(request):
        if limit is not None and (model_config(cell.model, request.folders).block_weights or 0) > limit:
            too_large[cell.model] = None
            continue
        if cell.model not in widths:
            widths[cell.model] = places.widths(model_config(cell.model, request.folders))
        _check_rank(cell, widths[cell.model])
        if bad := _indivisible(request, cell, widths[cell.model]):
            indivisible[cell.model, bad] = None
        else:
            cells[Cell.full_precision(cell.model)] = None
            cells[cell] = None
            cells |= dict.fromkeys(_candidates(cell))
    if not cells and too_large:
        smallest = min(model_config(model, request.folders).block_weights for model in too_large)
        raise ConfigError(f"study.max_params={limit:g}: the smallest model of {request.name} has {smallest:.3g}")
    if not cells and indivisible:
        raise ConfigError(f"study {request.name}: no cells; {groups.no_cells(indivisible, widths)}")
    if not cells:
        raise ConfigError(f"study {request.name}: no cells; expected at least one grid with models, methods and weights")
    cells |= dict.fromkeys(_foreign_cells(request, {cell.model for cell in cells}))
    return list(cells), list(indivisible), list(too_large)


def _candidates(cell: Cell) -> list[Cell]:
    """Beside a cell of mixed formats those that have one of its formats everywhere; none of another cell."""
    method = compose.load("method", cell.method)
    if method.kind != mixed.METHOD:
        return []
    uniform = [replace(cell, method=method.base, weight=str(fmt)) for fmt in method.candidates]
    return [one.uncorrected for one in uniform]


def _foreign_cells(request: _Request, models: set[str]) -> list[Cell]:
    """A cell per checkpoint that was quantized elsewhere."""
    found = []
    for method, folder in request.foreign.items():
        if len(models) > 1:
            expected = "expected the one that it was made from, by model_path=FOLDER or overrides='study.models=[NAME]'"
            raise ConfigError(f"{foreign.KEY}={folder}: study {request.name} has {len(models)} models; {expected}")
        layout = foreign.layout(folder)
        (model,) = models
        found.append(Cell(model, method, "none", str(layout.weight), "a16", str(layout.activation), "none", 0))
    return found


def _combinations(request: _Request) -> Iterator[Cell]:
    """Yields the cells of all grids, grid after grid, without the excluded; a cell may come more than once."""
    excluded = [_spelled(request, grid) for grid in request.config.exclude]
    grids = [_axes(request, grid) for grid in request.config.grids or [GridConfig()]]
    count = sum(math.prod(len(values or [None]) for values in axes.values()) for axes in grids)
    if count > (most := request.config.max_cells):
        raise ConfigError(f"study {request.name}: {count:,} cells; expected at most study.max_cells={most}")
    for grid in grids:
        axes = [_values(request, axis, values) for axis, values in grid.items()]
        for combination in itertools.product(*axes):
            named = dict(zip(FIELDS.values(), combination, strict=True))
            cell = _cell(**named | {"rank": _rank(request, named["model"], named["rank"])})
            if cell is not None and not any(_matches(cell, chosen) for chosen in excluded):
                yield cell


def _spelled(request: _Request, grid: GridConfig) -> GridConfig:
    """The grid with every name in its one spelling, axes that it does not name left open."""
    named = {axis: values for axis in AXES if (values := getattr(grid, axis)) is not None}
    return GridConfig(**{axis: _values(request, axis, values) for axis, values in named.items()})


def _axes(request: _Request, grid: GridConfig) -> dict[str, list | None]:
    """The values of every axis of a grid, as they are written."""
    own = {axis: None if axis in request.replaced else getattr(grid, axis) for axis in AXES}
    return {axis: getattr(request.config, axis) if values is None else values for axis, values in own.items()}


def _values(request: _Request, axis: str, values: list | None) -> list:
    """The values of one axis, each known and in its one spelling."""
    values = AXIS_DEFAULTS.get(axis) if values is None else values
    if not values:
        raise ConfigError(f"study.{axis}={values}: expected a list with at least one entry")
    if not all(isinstance(value, int if axis == "ranks" else str) for value in values):
        raise ConfigError(f"study.{axis}={values}: expected a list of {'whole numbers' if axis == 'ranks' else 'names'}")
    if axis == "ranks":
        if not all(0 <= rank < MOST for rank in values):
            raise ConfigError(f"study.ranks={values}: a rank is 0 or more, and below {MOST:,}")
        return list(values)
    if axis in ("weights", "activations"):
        parse = weight_format if axis == "weights" else activation_format
        try:
            return [str(parse(value)) for value in values]
        except ValueError as error:
            wrong = next((value for value in values if repr(value) in str(error)), "")
            raise ConfigError(f"{error}{compose.nearest(wrong, groups.usual(axis))}") from None
    return [value if value in request.folders else compose.canonical(FIELDS[axis], value) for value in values]


def _cell(model: str, method: str, calibration: str, weight: str, activation: str, lorc: str, rank: int) -> Cell | None:
    """The cell of one combination, or None for a combination that another one stands for."""
    config = compose.load("method", method)
    full_precision = weight == "w16"
    if config.kind == foreign.METHOD:
        raise ConfigError(f"method {method}: is of no study's file; expected --config {foreign.KEY}=FOLDER")
    if (config.kind == "none") != full_precision or (config.kind == mixed.METHOD) != (weight == mixed.METHOD):
        return None
    if config.kind == mixed.METHOD and not config.is_named:
        raise ConfigError(f"method {method}: expected a budget and candidates in its name, such as {mixed.EXAMPLE}")
    if config.kind == mixed.METHOD and config.choice_of_ranks:
        lorc, rank = config.correction, config.choice_of_ranks[-1]
    rank = 0 if full_precision else rank
    lorc = lorc if rank else "none"
    factors = compose.load("lorc", lorc)
    if rank and factors.kind == "none":
        raise ConfigError(f"study.lorc={lorc} with rank {rank}: expected a LoRC setting such as plain-int8")
    _check_paired(method, config.rank, lorc, factors.kind, rank)
    calibration = calibration if needs_calibration(method, lorc) else "none"
    data = compose.load("calibration", calibration)
    compose.check_calibration(f"method {method}", config, calibration, "study.calibrations")
    compose.check_calibration(f"lorc {lorc}", factors, calibration, "study.calibrations")
    if config.trains_in_float32 and data.dtype != "float32":
        raise ConfigError(f"method {method}: trains in float32; calibration {calibration} has dtype {data.dtype}")
    trained = activation if config.sees_activations else "a16"
    return Cell(model, method, calibration, weight, trained, activation, lorc, rank)


def _check_paired(method: str, made: int | None, lorc: str, kind: str, rank: int) -> None:
    """Refuse factors that a method does not make, and a cell of another rank than that of the factors that it makes.

    Args:
        made: the rank of the factors that the method makes with its codes; None if it makes none.
        kind: of `lorc`.
    """
    if made is None and kind == "paired":
        raise ConfigError(f"study.lorc={lorc}: method {method} makes no factors; expected a LoRC setting such as exact-int8")
    if made == 0:
        raise ConfigError(f"method {method}: makes codes for one rank; expected it in the name, such as {method}+rank=8")
    if made is not None and rank != made:
        expected = f"expected study.ranks=[{made}], with study.lorc=[paired-int8] for its own factors"
        raise ConfigError(f"method {method}: makes codes for rank {made}, and its cell has rank {rank}; {expected}")


def _rank(request: _Request, model: str, rank: int) -> int:
    """A rank of the study's file on one model: the same share of its width, if the study says of which width its ranks are."""
    full = request.config.ranks_of_width
    if not rank or full is None or "ranks" in request.replaced:
        return rank
    width = places.width(model_config(model, request.folders))
    if not width:
        expected = "expected the ranks themselves, such as study.ranks=[0,8]"
        raise ConfigError(f"study.ranks_of_width={full}: the width of {model} is not known; {expected}")
    return of_width(rank, width, full)


def _indivisible(request: _Request, cell: Cell, widths: tuple[int, ...]) -> str | None:
    """A format of the cell whose groups do not divide a width of its model, or None; refused unless the study skips it."""
    method = compose.load("method", cell.method)
    candidates = method.candidates if method.kind == mixed.METHOD else (cell.weight_format,)
    for fmt in (*candidates, cell.activation_format):
        for width in widths:
            if fmt.group and width % fmt.group:
                if request.config.indivisible == "refuse":
                    wrong = f"groups of {fmt.group} do not divide its width {width}"
                    raise ConfigError(f"{fmt} on {cell.model}: {wrong}; expected {groups.that_divide(widths)}")
                return str(fmt)
    return None


def _check_rank(cell: Cell, widths: tuple[int, ...]) -> None:
    """Refuse a rank that no matrix of so few inputs has."""
    if widths and cell.rank > min(widths):
        expected = f"expected at most {min(widths)}, the least width of its linears"
        raise ConfigError(f"study.ranks: rank {cell.rank} on {cell.model}: {expected}")


def _matches(cell: Cell, chosen: GridConfig) -> bool:
    """Whether the cell agrees with every axis that `chosen` names."""
    named = ((FIELDS[axis], values) for axis in AXES if (values := getattr(chosen, axis)) is not None)
    return all(getattr(cell, field) in values for field, values in named)

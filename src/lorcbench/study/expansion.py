"""A study as its file and the command line say it, in plain Python: neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from lorcbench.config import compose, folders, foreign
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import AXES, StudyConfig
from lorcbench.config.variants import Variant
from lorcbench.study import given, naming, rehearsal, started
from lorcbench.study.cells import Study
from lorcbench.study.grids import Request, expand, matches, spelled, values_of


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
    cells, not_applicable, too_large = expand(request)
    changed = naming.changed_keys(name, overrides)
    tasks = _tasks(composed.eval.tasks if naming.TASKS in changed else compose.load("eval", protocol).tasks)
    chosen = [spelled(request, grid) for grid in request.config.harness] if tasks else []
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
        harness=tuple(cell for cell in cells if any(matches(cell, grid) for grid in chosen)),
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


def _changes(request: Request, changes: dict[str, Any]) -> dict[str, Any]:
    """What the command line changed of a study's file, without what changes nothing; every name in its one spelling.

    Args:
        changes: values as plain Python, as the command line gave them.
    """
    own = compose.load("study", request.stem)
    protocol = compose.canonical("eval", own.eval)
    unchanged = compose.plain(own) | {"eval": protocol, naming.TASKS: _tasks(compose.load("eval", protocol).tasks)}
    # An axis replaces that axis in every grid, so it may change cells even where it is the study's own.
    kept = {key: value for key, value in changes.items() if key in AXES or value != unchanged[key]}
    kept |= {axis: values_of(request, axis, kept[axis]) for axis in AXES if axis in kept}
    for folder in request.folders:  # it stands for all models
        kept[naming.FOLDER] = folder
    for text in request.texts:
        kept[naming.TEXT] = text
    if request.foreign:
        kept[naming.FOREIGN] = [folders.model_name(folder) for folder in request.foreign.values()]
    return kept


def _title(request: Request, changes: dict[str, Any]) -> str:
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
) -> Request:
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
    return Request(name, config, own, texts, tuple(replaced), published_ranks, quantized)

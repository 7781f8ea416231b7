"""What the command line gives without a conf file: the model that a study runs on, and the text that it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from lorcbench.config import commands, compose, foreign, places
from lorcbench.config.checks import ConfigError
from lorcbench.config.protocols import TextConfig
from lorcbench.config.schema import GridConfig, StudyConfig
from lorcbench.config.variants import Variant

if TYPE_CHECKING:
    from lorcbench.study.cells import Study

PLACES = ("model_path", "text_path", "foreign")  # the keys whose values are paths
OWN = "own"  # the study of a model of one's own, if no other is named
DEMO = "demo"  # the study of a run that is told nothing
_NAMED = "model.name="  # what a model is called, instead of what its place says
_COLUMN = "text.column="  # of a text's documents
OVERRIDES = (_NAMED, _COLUMN)  # which are no overrides of conf/


def study_of(values: Mapping[str, object]) -> str | None:
    """The study that settings ask for: ``own`` on a model of one's own; None if they say nothing of a study.

    Raises:
        ConfigError: a text or a quantized checkpoint alone, without anything to measure on it.
    """
    if "study" in values:
        return str(values["study"])
    if "model_path" in values:
        return OWN
    if foreign.KEY in values:
        expected = "expected model_path=FOLDER of the model that it was made from beside it, or study=NAME"
        raise ConfigError(f"{foreign.KEY}={values[foreign.KEY]}: {expected}")
    if "text_path" in values:
        expected = "expected model_path=FOLDER, FILE.gguf or OWNER/NAME beside it, or study=NAME"
        raise ConfigError(f"text_path={values['text_path']}: {expected}")
    return None


def check_path(key: str, path: object, expected: str) -> None:
    """Refuse what cannot be a path, as Snakemake's parser may make of one."""
    if path is not None and (not isinstance(path, str) or not path or "\0" in path):
        raise ConfigError(f"{key}={path!r}: expected {expected}")


def models(overrides: list[str], model_path: str | None) -> dict[str, str]:
    """The checkpoint that the command line gives, by the name of its model; empty if it gives none.

    Raises:
        ConfigError: it is neither a checkpoint folder, nor a GGUF file, nor a name on the hub.
    """
    names = [override.removeprefix(_NAMED) for override in overrides if override.startswith(_NAMED)]
    if not model_path:
        if names:
            raise ConfigError(f"model.name={names[0]}: expected model_path=FOLDER beside it")
        return {}
    for name in names:
        commands.check_folder_name(name)
    place = places.place(model_path, "model_path")
    return {(names or [places.model_name(place)])[-1]: place}


def texts(overrides: list[str], text_path: str | None) -> dict[str, TextConfig]:
    """The text that the command line gives, by its name; empty if it gives none."""
    columns = [override.removeprefix(_COLUMN) for override in overrides if override.startswith(_COLUMN)]
    if not text_path:
        if columns:
            raise ConfigError(f"text.column={columns[0]}: expected text_path=FILE beside it")
        return {}
    text = places.text(text_path, (columns or ["text"])[-1], "text_path")
    return {places.text_name(text): text}


def check_models(config: StudyConfig, changed: set[str], model_path: str) -> None:
    """Refuse what the command line says of models beside the place of one, which stands for all models of the study.

    Args:
        changed: the keys of the study that the command line gives.

    Raises:
        ConfigError: the message has both, of which one is to be left out.
    """
    for key in ("models", "max_params", "grids", "exclude", "harness"):
        value = getattr(config, key)
        if key in changed and value and (key in ("models", "max_params") or any(grid.models for grid in value)):
            said = f"models={value}" if key == "models" else f"{key}={value:g}" if key == "max_params" else f"{key} with models"
            raise ConfigError(f"{said}: model_path={model_path} is the one model of the study; leave out one of both")


def on_text(config: StudyConfig, text: str, path: str) -> StudyConfig:
    """A study whose protocol and calibrations take a text instead of their own.

    Args:
        path: of the text, for the message.

    Raises:
        ConfigError: a protocol or a calibration names a text itself.
    """

    def spelled(name: str, key: str) -> str:
        if named := Variant.parse(name).setting("text"):
            expected = f"leave out text_path, or say {Variant.parse(name).without('text')} without text={named}"
            raise ConfigError(f"text_path={path}: {key}={name} names a text, too; {expected}")
        return f"{name}+text={text}"

    def calibrations(grid: StudyConfig | GridConfig) -> list[str] | None:
        if grid.calibrations is None:
            return None
        return [name if name == "none" else spelled(name, "calibrations") for name in grid.calibrations]

    grids = {
        key: [replace(grid, calibrations=calibrations(grid)) for grid in getattr(config, key)]
        for key in ("grids", "exclude", "harness")
    }
    return replace(config, eval=spelled(config.eval, "eval"), calibrations=calibrations(config), **grids)


def model_arguments(study: Study, name: str) -> list[str]:
    """What chooses a model of a study on the command line of a stage: its name, or the place that the command line gave."""
    if name not in study.folders:
        return [f"model={name}"]
    config = study.model(name)
    if config.source == "hub":
        place = [f"model.repo={config.repo}", f"model.revision={config.revision}"]
    else:
        place = [f"model.path={compose.quoted(config.path)}"]
    return [f"model={config.source}", f"model.name={config.name}", *place]

"""The composed configuration of a job or a cell, as people read it: what Hydra's ``--cfg job`` prints."""

from __future__ import annotations

import re
import shlex
from difflib import get_close_matches

from omegaconf import OmegaConf

from lorcbench.config import commands, compose
from lorcbench.config.checks import ConfigError
from lorcbench.study import given
from lorcbench.study.cells import Cell, Study
from lorcbench.study.expansion import study_from_arguments

_CELL = "MODEL/METHOD/CALIBRATION/WEIGHT/ACTIVATION/RANK, such as opt-125m/gptq/c4-128x2048/w4-asym-g128/a16/r8-plain-int8"
_KEY = re.compile(r"([^/]+)/([^/]+)/([^/]+)/([^/@]+)(?:@([^/]+))?/([^/]+)/r(\d+)(?:-([^/]+))?")


def composed(settings: list[str]) -> str:
    """The configuration of a job as YAML; groups in which it chooses nothing are left out.

    Args:
        settings: as a stage takes them.

    Raises:
        ConfigError: they make no sense.
    """
    commands.check(settings)
    config = compose.compose([part for part in settings if not part.startswith("model.name=")])
    values = OmegaConf.to_container(config, resolve=True)
    if values["model"]:
        values["model"]["name"] = commands.names(settings, compose.job_config(config)).model
    return OmegaConf.to_yaml({key: value for key, value in values.items() if value is not None}).rstrip()


def show(arguments: list[str]) -> str:
    """The configuration of a cell: the settings that choose it as a comment, then `composed` of them.

    Args:
        arguments: settings as a stage takes them; or the key of a cell, which tables and MLflow have, with ``study=NAME`` and
            what else the workflow was started with beside it if the study's protocol is to be shown.

    Raises:
        ConfigError: they make no sense, or the study has no such cell.
    """
    keys = [argument for argument in arguments if "/" in argument.partition("=")[0]]
    settings = [argument for argument in arguments if argument not in keys]
    if len(keys) > 1 or (keys and "=" in keys[0].partition("+")[0]):
        raise ConfigError(f"{' '.join(keys)}: expected one cell, {_CELL}")
    if keys and any(setting.startswith("study=") for setting in settings):
        study = study_from_arguments(settings)
        settings = _settings(_of_study(study, keys[0]), study)
    elif keys:
        settings = [*_settings(_parsed(keys[0])), *settings]
    elif any(setting.partition("=")[0] in given.PLACES for setting in settings):
        return f"# {shlex.join(settings)}\n{_of_places(study_from_arguments(settings))}"
    return f"# {shlex.join(settings)}\n{composed(settings)}"


def _of_places(study: Study) -> str:
    """A study on a model or a text that the command line gives, which no file of conf/ has: with both in their places."""
    names = {"model": study.models, "text": study.texts, "calibration": study.calibrations, "eval": [study.eval]}
    chosen = {group: {name: compose.plain(study.entry(group, name)) for name in names[group]} for group in names}
    return OmegaConf.to_yaml({"name": study.name, "study": compose.plain(study.config), **chosen}).rstrip()


def _of_study(study: Study, key: str) -> Cell:
    """The cell of a study that is called so."""
    cells = {cell.key: cell for cell in study.cells}
    if key not in cells:
        nearest = get_close_matches(key, cells, 1, 0)[0]
        raise ConfigError(f"{key}: no cell of study {study.name}; expected one of its {len(cells)} cells, such as {nearest}")
    return cells[key]


def _parsed(key: str) -> Cell:
    """The cell that a key names, whatever study it is in."""
    if not (match := _KEY.fullmatch(key)):
        raise ConfigError(f"{key}: expected a cell, {_CELL}")
    model, method, calibration, weight, trained, activation, rank, lorc = match.groups()
    return Cell(model, method, calibration, weight, trained or "a16", activation, lorc or "none", int(rank))


def _settings(cell: Cell, study: Study | None = None) -> list[str]:
    """What chooses a cell on the command line of a stage."""
    names = cell.wildcards()
    groups = [f"{group}={getattr(names, group)}" for group in ("method", "calibration", "lorc")]
    values = [f"{key}={getattr(names, key)}" for key in ("weight", "trained", "activation", "cap")]
    settings = [*groups, *values, f"rank={cell.rank}"]
    if study is None:
        return [f"model={cell.model}", *settings]
    return [*given.model_arguments(study, cell.model), *settings, f"eval={study.eval}"]

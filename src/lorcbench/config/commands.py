"""What may stand on the command line of a stage: choices of groups, a job's own values, and facts of the machine.

Every setting that changes bytes is part of the path of what is made with it. So a setting is changed in a name:
``method=gptq+damp=0.05``. An override that changes a value and no name (``method.damp=0.05``, whatever its prefix) is refused,
since it would write into the folder of a name that means something else.
"""

from __future__ import annotations

import os
import re
from dataclasses import fields

from lorcbench.common.paths import Wildcards
from lorcbench.config import compose, folders, gguf, places
from lorcbench.config.checks import ConfigError, spelled
from lorcbench.config.schema import SCHEMAS, JobConfig
from lorcbench.config.variants import Variant

_JOB_KEYS = tuple(field.name for field in fields(JobConfig))
_MACHINE = ("runtime.", "tracking.")
_GIVEN_KEYS = ("model.name", "model.path", "model.repo", "model.revision", "text.path", "text.column")  # of no conf file
# Entries of conf/ that stand for what the command line gives → the key that they need, what that is, and those they may have.
_GIVEN = {
    ("model", "folder"): ("path", "FOLDER", ()),
    ("model", "gguf"): ("path", "FILE", ()),
    ("model", "hub"): ("repo", "OWNER/NAME", ("revision",)),
    ("text", "file"): ("path", "FILE", ("column",)),
}
_PROTOCOL = "stdlib"  # of a job that names none, as conf/config.yaml has it
_TASKS = "eval.tasks"  # a result of the stage harness records them for every number
_QUOTED = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
_SPELLED = re.compile(r"[a-z_]+=[A-Za-z0-9._-]+")  # what a name can carry


def check(overrides: list[str]) -> None:
    """Refuse every override that would change a job without changing its names.

    Raises:
        ConfigError: the first such override; the message says how the same is spelled in a name.
    """
    pairs = [override.partition("=") for override in overrides]
    chosen = {key: value for key, _, value in pairs if key in SCHEMAS}
    keys = [key for key, _, _ in pairs]
    for override, (key, equals, value) in zip(overrides, pairs, strict=True):
        named = key in SCHEMAS or key in _JOB_KEYS or key in _GIVEN_KEYS
        if not (named or key == _TASKS or key.startswith(_MACHINE) or (key.startswith("study.") and "study" in chosen)):
            raise ConfigError(_refusal(override, chosen))
        if not equals:
            raise ConfigError(f"{override!r}: expected KEY=VALUE, such as method=gptq")
        if named and keys.count(key) > 1:
            raise ConfigError(f"{override}: {key} is given {keys.count(key)} times; expected it once")
        if key in SCHEMAS:
            compose.check_name(key, value)
        if key == "eval" and "+dtype=" in value and (name := compose.canonical(key, value)) != value:
            raise ConfigError(f"{override}: a setting has one name, that of its results; expected eval={name}")
    _check_given(dict(pair[::2] for pair in pairs))


def _check_given(values: dict[str, str]) -> None:
    """Refuse a place or a name of a model or text beside another one, and a model or text without its place."""
    owners: dict[str, list[str]] = {}  # key → the entries of its group that may have it
    for (group, name), (key, what, more) in _GIVEN.items():
        if values.get(group) == name and f"{group}.{key}" not in values:
            raise ConfigError(f"{group}={name}: expected {group}.{key}={what} beside it")
        for own in (key, *more):
            owners.setdefault(f"{group}.{own}", []).append(name)
    for key, names in owners.items():
        group = key.partition(".")[0]
        of_study = key == "text.column" and "text_path" in values
        if key in values and values.get(group) not in names and not of_study:
            raise ConfigError(f"{key}={values[key]}: expected {group}={names[0]} beside it")
    if "model.name" in values:
        if not (("model", values.get("model")) in _GIVEN or "model_path" in values):
            raise ConfigError(f"model.name={values['model.name']}: expected model=folder beside it, or model_path=FOLDER")
        check_folder_name(values["model.name"])


def check_folder_name(name: str) -> None:
    """Refuse a name for a checkpoint folder that a path cannot carry, or that is a model's of conf/model."""
    if not re.fullmatch(compose.NAME, name):
        raise ConfigError(f"model.name={name}: expected a name of letters, digits, point, _ and -")
    if name in compose.names("model"):
        raise ConfigError(f"model.name={name}: conf/model has a model of that name; expected another")


def _refusal(override: str, chosen: dict[str, str]) -> str:
    """Why an override is refused, and how the same is said."""
    key, _, value = override.lstrip("+~").partition("=")
    group, _, setting = key.partition(".")
    if override.startswith("~"):
        return f"{override}: nothing can be left out of a configuration; expected KEY=VALUE, such as method=gptq"
    if key in SCHEMAS or key in _JOB_KEYS:
        return f"{override}: expected {key}={value}, without a prefix"
    if group not in SCHEMAS or f"{group}." in _MACHINE:
        return f"{override}: unknown key {key}; known keys are {_known()}"
    if group == "study":
        return f"{override}: expected study=NAME beside it, in a stage that sees a whole study"
    first = setting.partition(".")[0]
    if first not in (known := compose.keys(group, chosen.get(group))):
        return f"{override}: unknown key {group}.{first}; known keys of {group}: {', '.join(known)}"
    if not _SPELLED.fullmatch(f"{setting}={value}"):
        place = f"conf/{group}/NAME.yaml where you work, or in a folder that the variable {compose.EXTRA_CONF} names"
        return f"{override}: no name can carry it; expected a conf file of your own, {place}"
    name = chosen.get(group) or (_PROTOCOL if group == "eval" else "NAME")
    name = Variant.parse(name).without(setting)
    return f"{override}: settings go into names, such as {group}={name}+{setting}={value}"


def names(overrides: list[str], config: JobConfig) -> Wildcards:
    """The names of a job's folders: entries of groups as the command line spells them, formats and numbers from the config.

    Args:
        overrides: as `check` lets them pass.
        config: the composed values that stand in no group.

    Raises:
        ConfigError: the model is a folder without a name, and no checkpoint is there.
    """
    chosen = dict(override.partition("=")[::2] for override in overrides)
    groups = {group: chosen.get(group, "none") for group in ("method", "calibration", "lorc", "text", "task", "study")}
    model = chosen.get("model.name", chosen.get("model", "none"))
    if model == "folder":
        model = folders.model_name(folders.resolved(compose.unquoted(chosen["model.path"]), "model.path"))
    if model == "gguf":
        model = places.model_name(gguf.absolute(compose.unquoted(chosen["model.path"])))
    if model == "hub":
        model = places.model_name(f"{chosen['model.repo']}@{chosen.get('model.revision', 'main')}")
    if groups["text"] == "file":
        path, column = (compose.unquoted(chosen.get(key, "text")) for key in ("text.path", "text.column"))
        groups["text"] = places.text_name(places.text(path, column, "text.path"))
    return Wildcards(
        **groups,
        model=model,
        protocol=chosen.get("eval", _PROTOCOL),
        weight=config.weight,
        trained=config.trained,
        activation=config.activation,
        cap=str(config.cap),
        damp=spelled(config.damp),
        order=config.order,
        dead=config.dead,
        rank=str(config.rank),
        export=config.export,
        verify=config.verify,
    )


def check_named(stage: str, names: Wildcards, groups: list[str]) -> None:
    """Refuse a job that chooses nothing in one of some config groups."""
    for group in groups:
        if getattr(names, group) == "none":
            raise missing(stage, group)


def missing(stage: str, group: str) -> ConfigError:
    """The refusal of a command line that chooses nothing in a config group."""
    return ConfigError(f"stage {stage} needs {group}=NAME; known: {', '.join(compose.names(group))}")


def _known() -> str:
    """The keys that a stage takes."""
    groups = [group for group in SCHEMAS if f"{group}." not in _MACHINE]
    return ", ".join([*sorted([*groups, *_JOB_KEYS]), *(f"{prefix}KEY" for prefix in _MACHINE)])


def split(text: str) -> list[str]:
    """The overrides in one text: blanks stand between them, and may stand inside a value in quotes.

    Raises:
        ConfigError: a quote is not closed.
    """
    bare = re.sub(_QUOTED, "", text)
    if "'" in bare or '"' in bare:
        raise ConfigError(f"{text}: a quote is not closed; expected such as runtime.data_dir={compose.quoted('my data')}")
    return re.findall(rf"(?:{_QUOTED}|\S)+", text)


def is_of_workflow() -> bool:
    """Whether a workflow started this process, and not somebody by hand."""
    return compose.RUNTIME_VARIABLE in os.environ


def from_environment() -> list[str]:
    """The overrides of the runtime that a workflow hands to its stages.

    Raises:
        ConfigError: there are others.
    """
    overrides = split(os.environ.get(compose.RUNTIME_VARIABLE, ""))
    if wrong := next((override for override in overrides if not override.startswith("runtime.")), None):
        raise ConfigError(f"{compose.RUNTIME_VARIABLE}: {wrong}: expected runtime.KEY=VALUE")
    return overrides

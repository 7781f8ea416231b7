"""conf/ → validated settings, by name.

A setting is chosen by the name of a conf file, with changes spelled behind it: ``method=gptq+damp=0.05`` is
``conf/method/gptq.yaml`` with ``damp`` changed. That name is a path component, a tag and a table entry alike, so two settings
never share a file. Neither torch nor transformers is imported here: the workflow reads configs at parse time.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lorcbench.config.checks import ConfigError
from lorcbench.config.recipes import cap
from lorcbench.config.schema import SCHEMAS

EXTRA_CONF = "LORCBENCH_CONF"  # environment variable: a folder of the user's own conf files, looked into first
RUNTIME_VARIABLE = "LORCBENCH_RUNTIME"  # environment variable: runtime overrides from the workflow to its stages
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
VARIANT = rf"{NAME}(?:\+[a-z_]+=[A-Za-z0-9._-]+)*"
_CHANGED = re.compile(rf"{NAME}(?:\+[a-z_]+=[A-Za-z0-9._-]+)+(?:/r\d+)?")


def conf_dir() -> Path:
    """The repository's conf/ folder; the package is used from an editable install."""
    return Path(__file__).resolve().parents[3] / "conf"


def compose(overrides: list[str]) -> DictConfig:
    """conf/config.yaml with `overrides` in Hydra's syntax, variants of names (``method=gptq+damp=0.05``) allowed.

    Raises:
        ConfigError: unknown group entry, unknown key, or a value of the wrong type.
    """
    if wrong := next((override for override in overrides if "${" in override), None):
        raise ConfigError(f"{wrong}: expected a plain value; names are never made from other values or the environment")
    if extra := os.environ.get(EXTRA_CONF):
        overrides = [*overrides, f"hydra.searchpath=[file://{Path(extra).resolve()}]"]
    expanded = [part for override in overrides for part in _expand_variant(override)]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra_compose("config", expanded)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(_one_line(error, expanded)) from None


def _expand_variant(override: str) -> list[str]:
    """One override in our spelling as overrides in Hydra's grammar, which knows no unquoted ``=`` inside a value."""
    group, _, value = override.partition("=")
    if group not in SCHEMAS or "+" not in value:
        return [f"{group}={_CHANGED.sub(_quoted, value)}" if _ else override]
    stem, *changes = value.split("+")
    return [f"{group}={stem}", *(f"{group}.{change}" for change in changes)]


def _quoted(match: re.Match) -> str:
    return f"'{match[0]}'"


def _one_line(error: Exception, overrides: list[str] = ()) -> str:
    """Hydra's and OmegaConf's many-line messages as one line that says what would be right."""
    text = str(error)
    if isinstance(error, YAMLError):
        return f"a conf file is no YAML: {' '.join(text.split())}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r}: expected KEY=VALUE such as study.ranks=[0,8], with letters, digits and ._+-= in names"
    if match := re.search(r"override ([\w.]+)=.*is not a ListConfig, list or tuple", text, re.DOTALL):
        return f"{match[1]}: expected a list, such as {match[1]}=[a,b]"
    if match := re.search(r"Could not override '([\w.]+?)\.?'.*?\+([\w.]+)=", text, re.DOTALL):
        group = match[2].partition(".")[0]
        return f"unknown key {match[2]}; known keys of {group}: {', '.join(_keys(group, overrides))}"
    if match := re.search(r"Could not find '(\w+)/(.*?)'", text):
        return _unknown(match[1], match[2])
    reason = str(error.__cause__ or "").partition("\n")[0]
    return ": ".join(part for part in (text.partition("\n")[0], reason) if part)


def _keys(group: str, overrides: list[str]) -> list[str]:
    """The keys of a group, as far as the file chosen in it knows them; the groups themselves for a key of none."""
    if group not in SCHEMAS:
        return sorted(SCHEMAS)
    chosen = next((value for name, _, value in (part.partition("=") for part in overrides) if name == group), None)
    nodes = [type(load(group, chosen))] if chosen in names(group) else SCHEMAS[group].values()
    return sorted({field.name for node in nodes for field in fields(node)})


def names(group: str) -> list[str]:
    """The stems of the conf files of `group`."""
    folders = [conf_dir(), *([Path(extra)] if (extra := os.environ.get(EXTRA_CONF)) else [])]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _unknown(group: str, name: str) -> str:
    return f"{group} {name!r} is unknown; conf/{group} has {', '.join(names(group))}"


@cache
def load(group: str, name: str) -> Any:
    """The dataclass instance that `name` (a conf file's stem, with changes) stands for in `group`.

    Raises:
        ConfigError: the name is unknown or misspelt, a key is unknown, or a value makes no sense.
    """
    stem = name.partition("+")[0]
    if stem not in names(group):
        raise ConfigError(_unknown(group, stem))
    if not re.fullmatch(VARIANT, name):
        raise ConfigError(f"{group} {name!r}: expected {stem}, or {stem}+key=value with a known key")
    changes = [f"model.name={stem}"] if group == "model" else []
    node = compose([f"{group}={name}", *changes])[group]
    try:
        return OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group} {name}: {_one_line(error)}") from None


@cache
def canonical(group: str, name: str) -> str:
    """The one spelling of a variant: changes that change nothing dropped, the rest in alphabetical order."""
    stem, *changes = name.split("+")
    value, base = asdict(load(group, name)), asdict(load(group, stem))
    changed = sorted(key for key in {change.partition("=")[0] for change in changes} if value[key] != base[key])
    return "+".join([stem, *(f"{key}={_spell(value[key])}" for key in changed)])


def _spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def plain(value: Any) -> Any:
    """A dataclass or OmegaConf node as plain containers, for JSON."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else asdict(value)


def components(lorc: str, rank: int) -> int:
    """How many components the factors of a cell have, 0 for all: distilled ones its own rank, others enough for many ranks."""
    return rank if load("lorc", lorc).kind == "distilled" else cap(rank)

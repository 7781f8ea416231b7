"""conf/ → validated settings, by name.

A setting is chosen by the name of a conf file, with changes spelled behind it: ``method=gptq+damp=0.05`` is
``conf/method/gptq.yaml`` with ``damp`` changed. The same name is part of a path, a tag and an entry of tables, so two settings
never share a file. Neither torch nor transformers is imported here: the workflow reads configurations while Snakemake parses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lorcbench.common import shipped
from lorcbench.config.checks import ConfigError
from lorcbench.config.lorc import cap
from lorcbench.config.mixed import MixedMethod
from lorcbench.config.own_files import with_schemas
from lorcbench.config.protocols import by_precision
from lorcbench.config.schema import SCHEMAS, JobConfig

EXTRA_CONF = "LORCBENCH_CONF"  # environment variable: a folder of the user's own conf files, instead of conf/ where they work
_OUR_SCHEMA = "schema/job@_here_"  # in our conf/config.yaml
RUNTIME_VARIABLE = "LORCBENCH_RUNTIME"  # environment variable: runtime overrides from the workflow to its stages
# Entries of conf/ that need a path, or a name on the hub, from the command line.
WITHOUT_PLACE = (("model", "folder"), ("model", "gguf"), ("model", "hub"), ("text", "file"))
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
VARIANT = rf"{NAME}(?:\+[a-z_]+=[A-Za-z0-9._-]+)*"
_CHANGED = re.compile(rf"{NAME}(?:\+[a-z_]+=[A-Za-z0-9._-]+)+(?:/r\d+)?")


@dataclass
class _HydrasOwn(HydraConf):
    """What Hydra composes of its own beside our settings, without the logging, launcher and help of a program of Hydra's.

    Nobody reads those, and reading them took more than half of the time of a composition.
    """

    defaults: list[Any] = field(default_factory=list)


ConfigStore.instance().store(group="hydra", name="config", node=_HydrasOwn, provider="lorcbench")


def conf_dir() -> Path:
    """Our own conf/ folder: the repository's, or the copy that a wheel carries."""
    return shipped.root() / "conf"


def own_conf_dir() -> Path | None:
    """The folder of the user's own conf files: the one that `EXTRA_CONF` names (none if empty), else conf/ where they work.

    A folder conf/ of another program that uses Hydra is passed over: its config.yaml is none of ours.
    """
    if (named := os.environ.get(EXTRA_CONF)) is not None:
        return Path(named).resolve() if named else None
    folder = Path("conf").resolve()
    if not folder.is_dir() or folder == conf_dir().resolve():
        return None
    root = folder / "config.yaml"
    return folder if not root.is_file() or _OUR_SCHEMA in root.read_text(encoding="utf-8", errors="replace") else None


def compose(overrides: list[str]) -> DictConfig:
    """conf/config.yaml with overrides.

    Args:
        overrides: in Hydra's syntax; names may have changes behind them (``method=gptq+damp=0.05``).

    Raises:
        ConfigError: a name or key is unknown, or a value has the wrong type.
    """
    return _compose("config", [part for override in overrides for part in _expand_variant(override)])


def _compose(config: str, overrides: list[str]) -> DictConfig:
    """A file of conf/ with overrides in Hydra's grammar; one of a group gives that group alone, in half the time of all.

    Raises:
        ConfigError: as `compose`.
    """
    if wrong := next((override for override in overrides if "${" in override), None):
        raise ConfigError(f"{wrong}: expected a plain value; names are never made from other values or the environment")
    folders = searched()
    # Hydra looks for the file itself in one folder only, and for what it names in others too.
    first = next((folder for folder in folders if (folder / f"{config}.yaml").is_file()), folders[0])
    path = f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(first), version_base="1.3"):
            return hydra_compose(config, [*overrides, path])
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        chosen = config.replace("/", "=")  # the file of a group, as an override would choose it
        raise ConfigError(_one_line(error, [chosen, *overrides])) from None


def _folders() -> list[Path]:
    """The folders of conf files: ours, and the user's own if there is one.

    Raises:
        ConfigError: both have a file of one name; its results would lie in one folder. In a checkout of this repository beside
            an installed wheel, files of the same bytes are the same files.
    """
    if not (own := own_conf_dir()):
        return [conf_dir()]
    is_checkout = (own / "config.yaml").is_file()
    for file in own.glob("*/*.yaml"):
        ours = conf_dir() / file.relative_to(own)
        if not ours.is_file() or (is_checkout and ours.read_bytes() == file.read_bytes()):
            continue
        if is_checkout:
            instead = f"expected pip install -e in this checkout, or {EXTRA_CONF}= to leave its conf/ out"
            raise ConfigError(f"{file}: differs from the {file.parent.name} that lorcbench was installed with; {instead}")
        raise ConfigError(f"{file}: conf/ has a {file.parent.name} of that name; expected another name")
    return [conf_dir(), own]


def searched() -> list[Path]:
    """Where Hydra looks for conf files: the folders, and before the user's own what `with_schemas` made of its files."""
    first, *own = _folders()
    return [first, *(folder for extra in own for folder in (with_schemas(extra), extra) if folder)]


def _expand_variant(override: str) -> list[str]:
    """One override in our spelling as overrides in Hydra's grammar, which allows no unquoted ``=`` inside a value.

    ``method=gptq+damp=0.05`` becomes ``method=gptq`` and ``method.damp=0.05``. In any other value, such as a list of methods,
    names with changes are put into quotes. A value in quotes stays as it is.
    """
    group, equals, value = override.partition("=")
    if not equals or value.startswith(("'", '"')):
        return [override]
    if group in SCHEMAS and "+" in value:
        stem, *changes = value.split("+")
        return [f"{group}={stem}", *(f"{group}.{change}" for change in changes)]
    return [f"{group}=" + _CHANGED.sub(r"'\g<0>'", value)]


def quoted(text: str) -> str:
    """Any text as a value in Hydra's grammar: blanks, quotes, ``$`` and the like are part of it."""
    return QuotedString(text, Quote.double).with_quotes()


def unquoted(value: str) -> str:
    """The text that a value in Hydra's grammar stands for: the inverse of `quoted`, and any plain value as it is.

    Raises:
        ConfigError: it is no single value.
    """
    try:
        return str(OverridesParser.create().parse_override(f"value={value}").value())
    except OverrideParseException:
        raise ConfigError(f"{value}: expected a value in Hydra's grammar, such as {quoted('a text')}") from None


def _one_line(error: Exception, overrides: list[str] = ()) -> str:
    """A message of Hydra or OmegaConf, which has many lines, as one line that says what would be right."""
    text = str(error)
    if isinstance(error, YAMLError):
        return f"a conf file is no YAML: {' '.join(text.split())}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r}: expected KEY=VALUE such as study.ranks=[0,8], with letters, digits and ._+-= in names"
    if match := re.search(r"override ([\w.]+)=.*is not a ListConfig, list or tuple", f"{text} {error.__cause__}", re.DOTALL):
        return f"{match[1]}: expected a list, such as {match[1]}=[a,b]"
    if match := re.search(r"Could not override '([\w.]+?)\.?'.*?\+([\w.]+)=", text, re.DOTALL):
        group = match[2].partition(".")[0]
        known = f"known keys of {group}:" if group in SCHEMAS else "known keys are"
        name = next((value for name, _, value in (part.partition("=") for part in overrides) if name == group), None)
        found = keys(group, name)
        return f"unknown key {match[2]}; {known} {', '.join(found)}{nearest(match[2].rpartition('.')[2], found)}"
    if match := re.search(r"In '(\w+)/([\w./-]+)': .*Key '(\w+)' not in", text, re.DOTALL):
        group, name, key = match.groups()
        known = sorted({field.name for schema in SCHEMAS.get(group, {}).values() for field in fields(schema)})
        return f"{group}/{name}.yaml: unknown key {key}; known keys of {group}: {', '.join(known)}{nearest(key, known)}"
    if match := re.search(r"In '([\w./-]+)': Could not find 'schema/(\w+)/([\w.-]+)'", text):
        file, group, kind = match.groups()
        line = "; a new method has its line in METHODS of src/lorcbench/config/recipes.py" if group == "method" else ""
        return f"{file}.yaml: schema {kind} is unknown; expected one of {', '.join(SCHEMAS.get(group, ()))}{line}"
    if match := re.search(r"Could not find '(\w+)/(.*?)'", text):
        return unknown(match[1], match[2])
    reason = str(error.__cause__ or "").partition("\n")[0]
    if match := re.search(r"Value '(.*?)'.* could not be converted to (Integer|Float)", f"{text} {reason}", re.DOTALL):
        override = re.search(r"Error merging override (\S+)", text)
        expected = {"Integer": "whole numbers", "Float": "a number"}[match[2]]
        return f"{override[1] if override else 'value'}: {match[1]} does not fit; expected {expected}"
    return ": ".join(part for part in (text.partition("\n")[0], reason) if part)


def keys(group: str, name: str | None = None) -> list[str]:
    """The keys of a group: of what is called `name` in it, else of all its schemas. All keys, if it is no group."""
    if group not in SCHEMAS:
        return sorted([*SCHEMAS, *(field.name for field in fields(JobConfig))])
    stem = (name or "").partition("+")[0]
    known = stem in names(group) and (group, stem) not in WITHOUT_PLACE
    schemas = [type(load(group, stem))] if known else SCHEMAS[group].values()
    return sorted({field.name for schema in schemas for field in fields(schema)})


def names(group: str) -> list[str]:
    """The stems of the conf files of `group`, the user's own among them."""
    return sorted({path.stem for folder in _folders() for path in (folder / group).glob("*.yaml")})


def headline(group: str, name: str) -> str:
    """What the conf file `name` of `group` says of itself in its first line."""
    file = next(path for folder in _folders() if (path := folder / group / f"{name}.yaml").is_file())
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def check_name(group: str, name: str) -> None:
    """Refuse what is not the stem of a conf file of `group`, or that with changes; the changes themselves are not checked.

    Raises:
        ConfigError: the message has the names that there are.
    """
    stem = name.partition("+")[0]
    if stem not in names(group):
        raise ConfigError(unknown(group, stem))
    if not re.fullmatch(VARIANT, name):
        raise ConfigError(f"{group} {name!r}: expected {stem}, or {stem}+key=value with a known key")


def unknown(group: str, name: str, folders: Iterable[str] = ()) -> str:
    """The message for a name that no conf file has.

    Args:
        folders: of results/, that the name may mean instead.
    """
    known, folders = names(group), list(folders)
    more = f", results has {', '.join(folders)}" if folders else ""
    return f"{group} {name!r} is unknown; conf/{group} has {', '.join(known)}{more}{nearest(name, [*known, *folders])}"


def nearest(name: str, known: Iterable[str]) -> str:
    """What stands behind the list of known names for one that is misspelt; "" if it is like none of them."""
    found = get_close_matches(name, list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""


@cache
def load(group: str, name: str) -> Any:
    """The validated settings called `name` (the stem of a conf file, with changes) in `group`, as its dataclass.

    Raises:
        ConfigError: the name is unknown or misspelt, a key is unknown, or a value makes no sense.
    """
    check_name(group, name)
    stem, *changes = name.split("+")
    if group == "model":
        changes.append(f"name={stem}")
    node = _compose(f"{group}/{stem}", [f"{group}.{change}" for change in changes]).get(group)
    if node is None or not is_dataclass(OmegaConf.get_type(node)):
        line = f"defaults: [/schema/{group}@_here_: NAME, _self_], where NAME is one of {', '.join(SCHEMAS[group])}"
        raise ConfigError(f"{group}/{stem}.yaml: names no schema; expected the line {line}")
    try:
        return OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group} {name}: {_one_line(error)}") from None


def check_calibration(owner: str, settings: Any, calibration: str, key: str) -> None:
    """Refuse a calibration without data for settings of a method or of LoRC that read some.

    Args:
        owner: of the settings, in words.
        key: where another calibration can be named.

    Raises:
        ConfigError: the message has the calibrations that there are.
    """
    if settings.data and not load("calibration", calibration).corpora:
        known = [name for name in names("calibration") if load("calibration", name).corpora]
        raise ConfigError(f"{owner}: needs calibration; set {key}, to one of {', '.join(known)}")


MixedMethod.load = staticmethod(load)  # the settings of its base, which is another entry


@cache
def canonical(group: str, name: str) -> str:
    """The one spelling of a name with changes: without those that change nothing, the others in alphabetical order.

    Of two protocols that differ in precision alone, it starts with the one whose precision it has.
    """
    stem, *changes = name.split("+")
    settings = asdict(load(group, name))
    stem = by_precision(stem, settings["dtype"]) if group == "eval" else stem
    defaults = asdict(load(group, stem))
    keys = {change.partition("=")[0] for change in changes}
    changed = sorted(key for key in keys if settings[key] != defaults[key])
    return "+".join([stem, *(f"{key}={_spell(settings[key])}" for key in changed)])


def _spell(value: Any) -> str:
    """A value as a name has it: true and false as in YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def job_config(cfg: DictConfig) -> JobConfig:
    """The values of a composed job that stand in no group.

    Raises:
        ConfigError: one of them makes no sense.
    """
    values = {field.name: cfg[field.name] for field in fields(JobConfig)}
    return JobConfig(**values | {"variants": list(cfg.variants)})


def plain(value: Any) -> Any:
    """A dataclass or OmegaConf node as dictionaries and lists, for JSON."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else asdict(value)


def components(lorc: str, rank: int) -> int:
    """How many components the LoRC factors of a cell have; 0 means all.

    Distilled and paired factors have as many as the cell's rank. Others have `cap` of them and serve all ranks up to that.
    """
    return rank if load("lorc", lorc).kind in ("distilled", "paired") else cap(rank)

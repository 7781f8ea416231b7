"""What a study is called: the name of its folder under results/, of its page, and of its experiment in MLflow.

A study of conf/study has its file's name. One that the command line changed has the changes behind it, as in
``demo+models=opt-standin-m+ranks=0,8``, so that its page and its runs never replace those of the study it started from.
The same changes have the same name, however they were typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from decimal import Decimal
from typing import Any

from lorcbench.common import paths
from lorcbench.common.artifacts import fingerprint
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import StudyConfig

LONGEST = 120  # characters; file systems take 255 bytes
TASKS = "tasks"  # the key of eval.tasks in a name
FOLDER = "model_path"  # the key of a checkpoint folder in a name
FOREIGN = "foreign"  # the key of checkpoints that were quantized elsewhere in a name
TEXT = "text_path"  # the key of a text's file in a name
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_UNFIT = re.compile(r"[^A-Za-z0-9._,+=-]+")  # signs that a name made of changes does not hold
_TAKEN = {place.rpartition("/")[2] for place in (paths.CACHE, paths.MLFLOW, paths.MLFLOW_ARTIFACTS)}
_LONG = 40  # characters of a value, beyond which a title has its key alone
# Keys after which a title is as true as before: that of a rehearsal says so by itself.
_NO_CHANGE = ("title", "standins", "rehearsal", "max_cells")
_ORDER = (FOLDER, FOREIGN, TEXT, *(field.name for field in fields(StudyConfig)), TASKS)


def check_name(name: Any) -> str:
    """A name that the user chose for a study.

    Raises:
        ConfigError: it cannot be the name of a folder, or is the name of something else.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > LONGEST:
        expected = f"expected at most {LONGEST} letters, digits and ._+-, the first a letter or a digit"
        raise ConfigError(f"name={str(name)[:LONGEST]}: {expected}")
    if name in compose.names("study"):
        raise ConfigError(f"name={name}: conf/study has a study of that name; expected another name")
    return name


def check_place(name: str) -> str:
    """A study's name, whoever chose it.

    Raises:
        ConfigError: its folder under results/ would be that of something else.
    """
    if name in _TAKEN:
        raise ConfigError(f"name={name}: results/{name} is no study's; expected another name")
    return name


def changed_keys(name: str, overrides: Iterable[str]) -> set[str]:
    """The keys of a study that the command line gives: behind its name, as ``study.KEY=…``, or as ``eval.tasks=…``."""
    given = [
        *name.split("+")[1:],
        *(override.removeprefix("study.") for override in overrides if override.startswith("study.")),
    ]
    keys = {re.split(r"[.=]", change)[0] for change in given}
    return keys | ({TASKS} if any(override.startswith("eval.tasks=") for override in overrides) else set())


def with_changes(stem: str, changes: dict[str, Any]) -> str:
    """The name of a study of conf/study with changes.

    A name that would be too long, or hold signs that paths should not have, is shortened, with a hash of all changes behind it.

    Args:
        stem: the file's.
        changes: values by key, as plain Python, every name in its one spelling.
    """
    name = "+".join([stem, *(f"{key}={text}" for key, text in _spelled(changes).items())])
    if len(name) <= LONGEST and not _UNFIT.search(name):
        return name
    digits = fingerprint(changes)[:8]
    readable = _UNFIT.sub("-", name).replace("=-", "=")
    return f"{readable[: LONGEST - len(digits) - 1].rstrip('-+=,._')}+{digits}"


def title(own: str, changes: dict[str, Any]) -> str:
    """The title of a study's file with the changes behind it, so that it says nothing that is no longer true.

    Args:
        changes: values by key; a long one is left out.
    """
    kept = {key: text for key, text in _spelled(changes).items() if key not in _NO_CHANGE}
    spelled = [f"{key}={text}" if len(text) <= _LONG else key for key, text in kept.items()]
    return own if "title" in changes or not spelled else f"{own}, changed: {', '.join(spelled)}"


def _spelled(changes: dict[str, Any]) -> dict[str, str]:
    """Changes as text, in the order of the keys of a study."""
    order = sorted(changes, key=lambda key: (_ORDER.index(key) if key in _ORDER else len(_ORDER), key))
    return {key: _text(changes[key]) for key in order}


def _text(value: Any) -> str:
    """A value as it stands in a name: short, and one spelling for equal values."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, dict):  # braces are no sign of a name, so that it gets a hash
        return "{" + ",".join(f"{key}:{_text(entry)}" for key, entry in value.items() if entry is not None) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):  # 1e9, not 1000000000.0
        plain = str(Decimal(repr(value)).normalize())
        return plain.replace("E+", "e").replace("E", "e")
    return str(value)

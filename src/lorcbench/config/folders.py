"""A checkpoint folder of the user's own, as far as its ``config.json`` and its list of files tell; no tensor is read.

The name of its model is the folder's own name and six digits of its full path, such as ``checkpoint-1000-4f1c9a``: two folders
are two models, and the name does not depend on what else was measured. Another name is a setting, ``model.name=NAME``.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from lorcbench.config.checks import ConfigError
from lorcbench.config.families import FAMILIES
from lorcbench.config.shape import Shape

# What a checkpoint is read from: configurations, tokenizers of every format, weights.
_READ = ("*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin")


def resolved(path: str, key: str) -> Path:
    """The full path of a checkpoint folder.

    Args:
        key: that gives the path, for the message.

    Raises:
        ConfigError: it is no checkpoint folder.
    """
    try:
        folder = Path(path).expanduser().resolve()
        is_checkpoint = (folder / "config.json").is_file()
    except (OSError, RuntimeError):  # a name too long for the file system, or a user who is unknown
        is_checkpoint = False
    if not is_checkpoint:
        raise ConfigError(f"{key}={path}: expected a checkpoint folder with config.json and safetensors files")
    return folder


def model_name(folder: Path) -> str:
    """The name of a checkpoint folder's model, in letters that a path component may have."""
    own = re.sub(r"[^A-Za-z0-9._-]", "-", folder.name).lstrip("._-") or "model"
    return f"{own}-{hashlib.sha256(str(folder).encode()).hexdigest()[:6]}"


def state(folder: Path) -> dict[str, list[int]]:
    """Size and time of every file that a checkpoint is read from, by name: another state is another checkpoint."""
    files = {file for pattern in _READ for file in folder.glob(pattern)}
    return {file.name: file_state(file) for file in sorted(files) if file.is_file()}


def file_state(file: Path) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds: asked at every parse of the workflow, so no file is read."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _config(folder: str) -> dict:
    """``config.json`` under the names of its family; empty if there is none, or of an unknown family: `prepare` says so."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return FAMILIES[config["model_type"]].named(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def shape(folder: str) -> Shape | None:
    """The shape that ``config.json`` states, or None."""
    config = _config(folder)
    try:
        family = FAMILIES[config["model_type"]]
        layers, hidden, ffn = (family.size(config, part) for part in ("layers", "hidden", "ffn"))
        return Shape(layers, hidden, ffn, config["vocab_size"], family.mlp_matrices)
    except (KeyError, TypeError):
        return None


def widths(folder: str) -> tuple[int, ...]:
    """Numbers of inputs that the linears of a block have, as far as ``config.json`` states them."""
    config = _config(folder)
    if not config:
        return ()
    family = FAMILIES[config["model_type"]]
    sizes = []
    for part in ("hidden", "ffn"):
        try:
            sizes.append(family.size(config, part))
        except (KeyError, TypeError):
            continue
    heads, head = config.get(family.shape["heads"]), config.get("head_dim")
    sizes += [heads * head] if isinstance(heads, int) and isinstance(head, int) else []
    return tuple(dict.fromkeys(size for size in sizes if isinstance(size, int) and size > 0))


def positions(folder: str) -> int | None:
    """How many positions the model has, beyond which no window may go; None if ``config.json`` does not say."""
    limit = _config(folder).get("max_position_embeddings")
    return limit if isinstance(limit, int) else None

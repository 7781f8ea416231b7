"""A checkpoint folder of the user's own, as far as its ``config.json`` and the headers of its files tell; no tensor is read.

The name of its model is the folder's own name and six digits of its full path, such as ``checkpoint-1000-4f1c9a``: two folders
are two models, and the name does not depend on what else was measured. Another name is a setting, ``model.name=NAME``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lorcbench.config.checks import ConfigError
from lorcbench.config.families import WHOLE_SCORES
from lorcbench.config.shape import Input, Shape

# What a checkpoint is read from: configurations, tokenizers of every format, weights.
_READ = ("*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin")

NOWHERE = "no such file or folder"  # of a path that the user gave
_LONGEST_HEADER = 100_000_000  # bytes, as in the safetensors library
_IN_BLOCK = re.compile(r"(?:(.*?)\.)?(\d+)\.(.*)\.weight")  # list of blocks, block, linear
# What ``config.json`` calls sizes, by family.
_HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model", "dim")
_FFN = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_POSITIONS = ("max_position_embeddings", "n_positions")
_SHARED = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("gate_proj", "up_proj"))


def resolved(path: str, key: str) -> Path:
    """The full path of a checkpoint folder.

    Args:
        key: that gives the path, for the message.

    Raises:
        ConfigError: it is no checkpoint folder.
    """
    try:
        folder = Path(path).expanduser().resolve()
        is_there, is_checkpoint = folder.exists(), (folder / "config.json").is_file()
    except (OSError, RuntimeError):  # a name too long for the file system, or a user who is unknown
        is_there = is_checkpoint = False
    if not is_checkpoint:
        found = "no config.json there" if is_there else NOWHERE
        raise ConfigError(f"{key}={path}: {found}; expected a checkpoint folder with config.json and safetensors files")
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


@dataclass(frozen=True)
class Tensor:
    """What the header of a safetensors file says of a tensor.

    Attributes:
        dtype: as the file spells it, such as ``F16``.
        shape: of the tensor.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of a number, at least one."""
        bits = re.search(r"\d+", self.dtype)
        return max(1, int(bits[0]) // 8) if bits else 1

    @property
    def is_float(self) -> bool:
        """Whether it holds numbers of floating point."""
        return self.dtype.startswith(("F", "BF"))

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor by its name in the safetensors files that transformers would read; empty if they are not whole.

    A file begins with the length of its header in 8 bytes, little-endian; the header is JSON. No tensor is read.
    """
    found = {}
    try:
        whole = folder / "model.safetensors"
        index = json.loads((folder / f"{whole.name}.index.json").read_text(encoding="utf-8")) if not whole.is_file() else {}
        for name in sorted(set(index["weight_map"].values())) if index else [whole.name]:
            with open(folder / name, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length)) if length < _LONGEST_HEADER else {}
            about = {name: entry for name, entry in header.items() if name != "__metadata__"}
            found |= {name: Tensor(entry["dtype"], tuple(entry["shape"])) for name, entry in about.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # `prepare` says what is wrong
        return {}
    return found


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by its name."""
    return {name: tensor.shape for name, tensor in tensors(folder).items()}


@cache
def parameters(folder: Path) -> int | None:
    """How many numbers the safetensors files of a checkpoint hold, by their headers; None if they are missing or damaged."""
    return sum(tensor.count for tensor in tensors(folder).values()) or None


def _blocks(shapes: dict[str, tuple[int, ...]]) -> tuple[str, dict[int, dict[str, tuple[int, int]]]]:
    """The name of the list of decoder blocks, and block → linear → (out, in).

    Of all numbered lists of modules it is the one with most weights: beside a text model there may be one of images.
    """
    lists: dict[str, dict[int, dict[str, tuple[int, int]]]] = {}
    for name, shape in shapes.items():
        match = _IN_BLOCK.fullmatch(name)
        if match and len(shape) == 2:
            place, index, linear = match[1] or "", match[2], match[3]
            # A bias is as long as there are outputs: a weight with another number of rows is stored (in, out), as GPT-2's are.
            bias = shapes.get(name.removesuffix("weight") + "bias", (shape[0],))
            out_in = shape if bias == shape[:1] else shape[::-1]
            lists.setdefault(place, {}).setdefault(int(index), {})[linear] = out_in
    most = max(lists, key=lambda place: sum(map(_weights, lists[place].values())), default="")
    return most, lists.get(most, {})


def _weights(block: dict[str, tuple[int, int]]) -> int:
    return sum(rows * width for rows, width in block.values())


def shape(folder: str) -> Shape | None:
    """The shape that the tensors of a checkpoint folder have; None if its safetensors files are missing or damaged."""
    shapes = _shapes(Path(folder))
    place, blocks = _blocks(shapes)
    outside = [shape for name, shape in shapes.items() if len(shape) == 2 and not name.startswith(f"{place}.")]
    if not blocks or not outside:
        return None
    largest = max(blocks.values(), key=_weights)
    inputs: dict[tuple, list[int]] = {}
    for linear, (rows, width) in sorted(largest.items()):
        parent, _, own = linear.rpartition(".")
        # Which linears share an input is found by `prepare`; most models name those that do alike.
        shared = next((names for names in _SHARED if own in names), own)
        inputs.setdefault((width, parent, shared), []).append(rows)
    embedding = max(outside, key=lambda shape: shape[0] * shape[1])
    hidden = max(embedding[1], min(width for width, *_ in inputs))
    inputs_of_block = tuple(Input(key[0], tuple(rows)) for key, rows in inputs.items())
    heads = (_stated(folder, _HEADS) or 0) if _model_type(folder) in WHOLE_SCORES else 0
    weights_outside = sum(rows * width for rows, width in outside)
    return Shape(len(blocks), hidden, embedding[0], inputs_of_block, weights_outside, heads)


def widths(folder: str) -> tuple[int, ...]:
    """Numbers of inputs that the linears of all blocks have, by the headers of the safetensors files.

    Where these files are not there yet, what ``config.json`` says of the hidden states and the feed-forward part.
    """
    _, blocks = _blocks(_shapes(Path(folder)))
    if not blocks:
        return tuple(size for size in (hidden(folder), _stated(folder, _FFN)) if size)
    return tuple(sorted({width for block in blocks.values() for _, width in block.values()}))


def hidden(folder: str) -> int | None:
    """The width of the hidden states; None if ``config.json`` does not say."""
    return _stated(folder, _HIDDEN)


def positions(folder: str) -> int | None:
    """How many positions the model has, beyond which no window may go; None if ``config.json`` does not say."""
    return _stated(folder, _POSITIONS)


def _stated(folder: str, names: tuple[str, ...]) -> int | None:
    """A size in ``config.json``, which has one of several names; None if it has none of them."""
    config = _config(folder)
    return next((size for name in names if isinstance(size := config.get(name), int) and size > 0), None)


def _model_type(folder: str) -> str | None:
    name = _config(folder).get("model_type")
    return name if isinstance(name, str) else None


def _config(folder: str) -> dict:
    """What ``config.json`` says of the text model; empty if there is none that can be read."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return {**config, **config.get("text_config", {})}
    except (OSError, ValueError, TypeError, AttributeError):  # `prepare` says what is wrong
        return {}

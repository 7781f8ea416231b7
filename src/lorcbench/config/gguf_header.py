"""What the header of a GGUF file says of its model, before the first job: sizes, and the type of every tensor.

No weight is read. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. GGUF's own package reads it too, but
takes seconds for the tokenizer that is in the header, and the workflow asks at every parse.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lorcbench.config.shape import Input, Shape

MAGIC = b"GGUF"
# The types that the pinned package gguf dequantizes, which is what transformers reads with: number in the file → name.
READABLE = {
    **{0: "F32", 1: "F16", 30: "BF16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K"},
    **{12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL"},
    **{21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4"},
}
_VERSIONS = (2, 3)
_NUMBERS = dict(enumerate(("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?"))) | {10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9  # types of a value
_SHARED = (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up"))  # linears that read one input


class HeaderError(Exception):
    """A file is no GGUF file, or its header is damaged; the message says which."""


@dataclass(frozen=True)
class Header:
    """The header of one file.

    Attributes:
        values: numbers and texts by key, such as ``general.architecture``; of an array how many entries it has.
        tensors: name → (number of its type, its dimensions with the inputs of a matrix first).
    """

    values: dict[str, Any]
    tensors: dict[str, tuple[int, tuple[int, ...]]]

    def _size(self, key: str) -> int | None:
        """A size that the header states of the model's family."""
        value = self.values.get(f"{self.values.get('general.architecture')}.{key}")
        return value if isinstance(value, int) and value > 0 else None

    @property
    def hidden(self) -> int | None:
        """Width of the hidden states; None if the header does not say."""
        return self._size("embedding_length")

    @property
    def positions(self) -> int | None:
        """How many positions the model has; None if the header does not say."""
        return self._size("context_length")

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of inputs that the linears of all blocks have."""
        return tuple(sorted({inputs for *_, (inputs, _) in self._matrices()}))

    @property
    def shape(self) -> Shape | None:
        """The sizes of the model; None if the header lacks one of them."""
        blocks: dict[str, dict[tuple, list[int]]] = {}
        for block, linear, (inputs, rows) in self._matrices():
            shared = next((names for names in _SHARED if linear in names), linear)
            blocks.setdefault(block, {}).setdefault((inputs, shared), []).append(rows)
        embedding = self.tensors.get("token_embd.weight")
        if not (self.hidden and blocks and embedding):
            return None
        largest = max(blocks.values(), key=lambda inputs: sum(width * sum(rows) for (width, _), rows in inputs.items()))
        inputs = tuple(Input(width, tuple(rows)) for (width, _), rows in largest.items())
        return Shape(len(blocks), self.hidden, embedding[1][-1], inputs)

    def _matrices(self) -> Iterator[tuple[str, str, tuple[int, int]]]:
        """Yields (block, linear, (inputs, outputs)) for each matrix of the decoder blocks: ``blk.0.attn_q.weight``."""
        for name, (_, dimensions) in self.tensors.items():
            place, _, linear = name.removesuffix(".weight").partition(".")[2].partition(".")
            if name.startswith("blk.") and name.endswith(".weight") and len(dimensions) == 2:
                yield place, linear, dimensions


def read(path: Path) -> Header:
    """The header of a file; once per state of the file.

    Raises:
        HeaderError: it is none.
        OSError: it cannot be read.
    """
    status = path.stat()
    return _read(path, status.st_size, status.st_mtime_ns)


@cache
def _read(path: Path, size: int, changed: int) -> Header:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise HeaderError("no GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _parsed(_Reader(data, len(MAGIC)))
            except (struct.error, ValueError, OverflowError, RecursionError):
                raise HeaderError("its header is damaged or cut off") from None


class _Reader:
    """Reads values one after another.

    Raises:
        struct.error, ValueError: the data end, or are not what they should be.
    """

    def __init__(self, data: mmap.mmap, place: int) -> None:
        self._data = data
        self._place = place

    def number(self, kind: str) -> Any:
        """A number of a type of `struct`."""
        (value,) = struct.unpack_from(kind, self._data, self._place)
        self._place += struct.calcsize(kind)
        return value

    def text(self) -> str:
        """A text, whose length stands before it."""
        length = self.number("<Q")
        start = self._place
        self.skip(length)
        return self._data[start : self._place].decode()

    def skip(self, count: int) -> None:
        """Go on behind `count` bytes."""
        if count > len(self._data) - self._place:
            raise ValueError("the data end")
        self._place += count

    def value(self, kind: int) -> Any:
        """A value of a type of GGUF; of an array its length."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError("an unknown type")
        inner, count = self.number("<I"), self.number("<Q")
        if inner in _NUMBERS:
            self.skip(count * struct.calcsize(_NUMBERS[inner]))
        else:
            for _ in range(count):  # the tokens of a tokenizer, which may be many: no text is made of them
                self.skip(self.number("<Q")) if inner == _STRING else self.value(inner)
        return count


def _parsed(reader: _Reader) -> Header:
    """The header behind its first four bytes."""
    version = reader.number("<I")
    if version not in _VERSIONS:
        versions = " or ".join(map(str, _VERSIONS))
        raise HeaderError(f"version {version} of the format, expected {versions} with the lowest byte first")
    count, keys = reader.number("<Q"), reader.number("<Q")
    values = {}
    for _ in range(keys):
        key = reader.text()
        values[key] = reader.value(reader.number("<I"))
    tensors = {}
    for _ in range(count):
        name = reader.text()
        dimensions = tuple(reader.number("<Q") for _ in range(reader.number("<I")))
        tensors[name] = (reader.number("<I"), dimensions)
        reader.number("<Q")  # where its data are
    return Header(values, tensors)

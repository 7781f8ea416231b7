"""How large the folder will be to which a cell is exported, by the headers of its checkpoint: no tensor is read.

The tensors are counted in the types and layouts in which `lorcbench.jobs.export` writes them, in the format that a cell gets if
none is named. So a checkpoint in float32 keeps its embeddings in 32 bits, its scales too, and factors of 8 bits are in 32,
since no reader of adapters knows codes. A test holds it against the files. The tokenizer and small files are beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lorcbench.config import compose, folders, foreign
from lorcbench.core.formats import WeightFormat
from lorcbench.study import exports
from lorcbench.study.cells import Cell

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # between dots
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # as safetensors spells them
_SHAPE = 16  # bytes of ``weight_shape``, two 64-bit integers


@dataclass(frozen=True)
class Linear:
    """A linear of a block.

    Attributes:
        rows, width: its outputs and inputs.
        size: bytes of a number of its checkpoint.
        parts: rows of each matrix that it holds; of a fused one several.
    """

    rows: int
    width: int
    size: int
    parts: tuple[int, ...]

    def components(self, rank: int, split: bool) -> int:
        """How many components its factors have; a fused one that was corrected in parts has those of each part."""
        return sum(min(rank, rows, self.width) for rows in (self.parts if split else (self.rows,)))


@dataclass(frozen=True)
class Files:
    """What the files of a checkpoint hold.

    Attributes:
        linears: of all blocks, each different one with how often it is there.
        others: (bytes of a number, whether it is one of floating point, how many): embeddings, head, norms, biases.
        packs: whether formats with packed codes hold it, which they do not if its linears are stored (in, out), as GPT-2's are.
        dtype: the type of the linears, such as ``float32``; of several the one of most of them.
    """

    linears: tuple[tuple[Linear, int], ...]
    others: tuple[tuple[int, bool, int], ...]
    packs: bool = True
    dtype: str = ""

    @property
    def size(self) -> int:
        """Bytes of all tensors: what the checkpoint itself takes."""
        linears = sum(linear.rows * linear.width * linear.size * count for linear, count in self.linears)
        return linears + sum(size * count for size, _, count in self.others)


def files(folder: Path, architecture: dict[str, Any]) -> Files | None:
    """What a checkpoint holds; None where its files are not here.

    Args:
        architecture: as the result of `prepare` has it.
    """
    names = [name for group in architecture["linears"] for name in group]
    patterns = {_numberless(f"{architecture['blocks']}.0.{name}.weight"): name for name in names}
    linears: Counter[Linear] = Counter()
    others: Counter[tuple[int, bool]] = Counter()
    dtypes: Counter[str] = Counter()
    for name, tensor in folders.tensors(folder).items():
        if (linear := patterns.get(_pattern(name, architecture))) and len(tensor.shape) == 2:
            rows, width = tensor.shape[::-1] if linear in architecture["transposed"] else tensor.shape
            shares = [share for _, share in architecture["fused"].get(linear, {"parts": [("", 1)]})["parts"]]
            parts = tuple(rows * share // sum(shares) for share in shares)
            linears[Linear(rows, width, tensor.size, parts)] += 1
            dtypes[_TYPES.get(tensor.dtype, tensor.dtype)] += 1
        else:
            others[tensor.size, tensor.is_float] += tensor.count
    if not linears:
        return None
    counted = tuple((*kind, count) for kind, count in others.items())
    return Files(tuple(linears.items()), counted, not architecture["transposed"], dtypes.most_common(1)[0][0])


def _numberless(name: str) -> str:
    return _NUMBER.sub("#", name)


def _pattern(stored: str, architecture: dict[str, Any]) -> str:
    """The name that the whole text model gives a tensor of the files, with # for numbers, as `Architecture.full_name` does."""
    pattern, root = _numberless(stored), architecture["root"]
    if pattern in architecture["names"]:
        return architecture["names"][pattern]
    return pattern if pattern.startswith((root, "lm_head.")) else root + pattern


def format_of(held: Files, cell: Cell, family: str | None) -> str:
    """The format to which a cell is exported if people name none, or the one that they must name for this checkpoint.

    Args:
        family: of its model.
    """
    return exports.default(cell, family) if held.packs else "merged"


@cache
def tensor_bytes(held: Files, cell: Cell, family: str | None, bits: float) -> float:
    """Bytes of the tensors of a cell's export.

    Args:
        held: by its checkpoint.
        family: of its model, which decides about the format.
        bits: per weight, that the cell was measured to take; counts for mixed formats, and for what was quantized elsewhere.
    """
    size = held.linears[0][0].size
    if compose.load("method", cell.method).kind == foreign.METHOD:  # a checkpoint already
        return sum(linear.rows * linear.width * count for linear, count in held.linears) * bits / 8 + _others(held, 2)
    if format_of(held, cell, family) == "merged":
        linears = sum(linear.rows * linear.width * size * count for linear, count in held.linears)
        return linears + _others(held, size)
    method, fmt = compose.load("method", cell.method), cell.weight_format
    formats = method.candidates if fmt.is_mixed else (fmt,)
    wide = any(one.scale_dtype == "float32" for one in formats) or not cell.activation_format.is_full_precision
    typed = 4 if wide or size >= 4 else 2
    total = _others(held, typed)
    factor = 2 if not cell.rank or compose.load("lorc", cell.lorc).bits == 16 else 4
    split = bool(cell.rank) and compose.load("lorc", cell.lorc).fused_qkv == "split"
    for linear, count in held.linears:
        own = max(_packed(linear, one, cell, typed) for one in formats)
        if fmt.is_mixed:  # which linear has which format is not known here: the scales of the finest for all
            own = linear.rows * linear.width * bits / 8 + max(_words(linear, one, typed) for one in formats)
        factors = linear.components(cell.rank, split) * (linear.rows + linear.width) * factor
        total += (own + factors) * count
    return total


def _others(held: Files, typed: int) -> int:
    """Bytes of all but the linears: a number keeps its type if that is the narrower one."""
    return sum((min(size, typed) if is_float else size) * count for size, is_float, count in held.others)


def _packed(linear: Linear, fmt: WeightFormat, cell: Cell, typed: int) -> int:
    """Bytes of a linear as compressed-tensors stores it.

    Args:
        typed: bytes of a scale.
    """
    groups = linear.width // (fmt.group or linear.width)
    scales = linear.rows * groups * typed
    if exports.is_packed([fmt], cell.activation_format):
        zeros = 0 if fmt.symmetric else 4 * -(-linear.rows * fmt.bits // 32) * groups
        return linear.rows * 4 * -(-linear.width * fmt.bits // 32) + scales + zeros + _SHAPE
    return linear.rows * linear.width + scales + (0 if fmt.symmetric else linear.rows * groups)


def _words(linear: Linear, fmt: WeightFormat, typed: int) -> int:
    """Bytes that words of 32 bits and scales of the export's type take beyond what is counted in bits per weight, at most."""
    groups = linear.width // (fmt.group or linear.width)
    return linear.rows * (4 + groups * (typed - 2)) + _SHAPE

"""The final hidden states of a model at full precision, stored once, so that cells can be compared with its predictions.

One safetensors file holds what the last block gives for all windows, before the final norm and the head, a tensor
(n, length, hidden) per corpus in the type of the forward passes. It is written and read in pieces: states that lie in a file
or on the host are never copied as a whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import torch

from lorcbench.common.artifacts import ArtifactError, canonical, replacing
from lorcbench.models.states import pieces

_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # as safetensors calls them


def write(path: Path, hidden: dict[str, torch.Tensor]) -> str:
    """Write states (n, length, hidden) by corpus; returns the SHA-256 of the file's bytes.

    Raises:
        OSError: the disk is full; nothing is left there.
    """
    header, end = {}, 0
    for corpus in sorted(hidden):  # the order of `pieces`
        states = hidden[corpus]
        offsets = [end, end + states.nbytes]
        header[corpus] = {"dtype": _TYPES[states.dtype], "shape": list(states.shape), "data_offsets": offsets}
        end += states.nbytes
    text = canonical(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers begin at a multiple of eight bytes
    start = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(start)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, len(start) + end)  # a full disk shows now, not after most of it is written
        file.write(start)
        for piece in pieces(hidden):
            content = piece.cpu().numpy()
            digest.update(content)
            file.write(content)
    return digest.hexdigest()


class FinalStates:
    """Stored states, read a few windows at a time.

    Args:
        path: of a file that `write` made, and that has been verified.
        windows: token windows (n, length) by corpus, of which they must be.
        dtype: of the forward passes.

    Raises:
        ArtifactError: they are of other windows, or in another type.
    """

    def __init__(self, path: Path, windows: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
        self._path, self._dtype = path, dtype
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        self._start = 8 + size
        self._tensors = header
        found = {corpus: (about["dtype"], *about["shape"][:2]) for corpus, about in header.items()}
        if found != {corpus: (_TYPES[dtype], *tokens.shape) for corpus, tokens in windows.items()}:
            raise ArtifactError(f"{path}: of other windows or of another type; delete the folder {path.parent} and run again")

    def read(self, corpus: str, batch: slice) -> torch.Tensor:
        """States (m, length, hidden) of the windows `batch` of a corpus, on the host."""
        count, *shape = self._tensors[corpus]["shape"]
        first, last, _ = batch.indices(count)
        states = torch.empty(last - first, *shape, dtype=self._dtype)
        bytes_per_window = math.prod(shape) * self._dtype.itemsize
        with open(self._path, "rb") as file:
            file.seek(self._start + self._tensors[corpus]["data_offsets"][0] + first * bytes_per_window)
            file.readinto(states.view(-1).view(torch.uint8).numpy())
        return states

"""The hidden states of a long walk, kept on disk now and then, so that a walk that was killed goes on at the block behind them.

One file holds what the walk has made of all windows: a line of JSON that says whose it is and how far, the bytes of the
tensors, and a checksum of all that. It is written beside the one before and takes its place, so there is always a whole one. It
is as large as the hidden states are: 20 GB for 1.2 million tokens of width 4,096 in float32.

When is it worth it? A write is due when the walk has gone on for `minutes`, and for twenty times as long as a write takes: then
writing costs at most 5 % of the time, and a kill loses at most that much, and the block under way. A walk that is shorter than
that writes nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lorcbench.common.artifacts import replacing

_PIECE = 1 << 26  # bytes that are copied at once
_FIRST_RATE = 200e6  # bytes per second that the first write is expected to reach
_SHARE = 20  # times as long as a write takes


class KeptStates:
    """The file of one walk; at the end of a ``with`` block it is removed, but not after Ctrl-C.

    Args:
        path: of the file.
        mark: what the states depend on; those of another mark are not taken.
        minutes: between two writes, at least; None never writes.
        say: told, in a line, what the user must know.
    """

    def __init__(self, path: Path, mark: str, minutes: float | None, say: Callable[[str], None]) -> None:
        self._path = path
        self._mark = mark
        self._minutes = minutes
        self._say = say
        self._latest = time.monotonic()  # end of the latest write
        self._takes: float | None = None  # seconds of the latest write

    def __enter__(self) -> KeptStates:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):  # what failed once would fail again, and the file is large
            self._remove()

    def restore(self, hidden: dict[str, torch.Tensor]) -> tuple[int, Any]:
        """Fill `hidden` with what an earlier, killed walk kept.

        Returns:
            The number of blocks that the states have passed, and the notes that were kept with them; 0 and None, and `hidden`
            as it was, if there is nothing of this walk. What is there of another one is removed.
        """
        sizes = {name: tensor.nbytes for name, tensor in hidden.items()}
        try:
            with open(self._path, "rb") as file:
                about = json.loads(file.readline())
                is_ours = about["mark"] == self._mark and about["sizes"] == sizes and _is_whole(self._path)
                if is_ours:
                    for piece in pieces(hidden):
                        read = piece if piece.device.type == "cpu" else torch.empty_like(piece, device="cpu")
                        file.readinto(read.numpy())
                        if read is not piece:
                            piece.copy_(read)
                    self._latest = time.monotonic()
                    self._say(f"goes on behind block {about['done']}, where an earlier run of this job was killed")
                    return about["done"], about["notes"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        self._remove()
        return 0, None

    def keep(self, done: int, hidden: dict[str, torch.Tensor], notes: Any) -> None:
        """Write the states if that is due; where there is no room for them, say so and go on without.

        Args:
            done: number of blocks that they have passed.
            notes: what else the walk must remember; any JSON value.
        """
        size = sum(tensor.nbytes for tensor in hidden.values())
        takes = self._takes or size / _FIRST_RATE
        if self._minutes is None or time.monotonic() - self._latest < max(60 * self._minutes, _SHARE * takes):
            return
        started = time.monotonic()
        try:
            free = shutil.disk_usage(self._path.parent).free
            if free < 2 * size:  # as much again stays free for others
                raise OSError(f"they take {size / 1e9:.1f} GB, twice that must be free, {free / 1e9:.1f} GB are")
            self._write({"mark": self._mark, "done": done, "notes": notes}, hidden)
        except OSError as error:
            self._minutes = None
            self._say(f"hidden states are not kept ({error}): if this job is killed, it starts again at its first block")
        self._latest = time.monotonic()
        self._takes = self._latest - started

    def _write(self, about: dict, hidden: dict[str, torch.Tensor]) -> None:
        line = json.dumps({**about, "sizes": {name: tensor.nbytes for name, tensor in hidden.items()}}).encode() + b"\n"
        digest = hashlib.sha256(line)
        with replacing(self._path) as temporary, open(temporary, "wb") as file:
            file.write(line)
            for piece in pieces(hidden):
                content = piece.cpu().numpy()
                digest.update(content)
                file.write(content)
            file.write(digest.digest())

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)


def pieces(hidden: dict[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """The bytes of contiguous tensors, in the order of their names, as views of a limited size."""
    for name in sorted(hidden):
        yield from hidden[name].view(-1).view(torch.uint8).split(_PIECE)


def _is_whole(path: Path) -> bool:
    """Whether a file ends with the checksum of what comes before."""
    digest, left = hashlib.sha256(), path.stat().st_size - hashlib.sha256().digest_size
    with open(path, "rb") as file:
        while left > 0 and (part := file.read(min(left, _PIECE))):
            digest.update(part)
            left -= len(part)
        return file.read() == digest.digest()

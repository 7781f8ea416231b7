"""Digests of large files, computed once: a recorded digest holds as long as size, times and inode of its file stay.

Hashing a checkpoint of 13 GB takes 13 seconds, and every job that reads it would hash it again. So the digest of a file is
recorded under ``results/.digests``, one small file per large one, with what the kernel says of it. Writing to a file changes
its time of change, which no program can set, so what was written to since is hashed again; so is a copy, which has another
inode. What is not noticed is a disk that loses bits by itself: ``runtime.verify=always`` hashes everything at every reading.

A write right after a digest was taken may fall into the same tick of the file system's clock and change no time. Therefore a
digest is recorded only if the file had been left alone for two seconds, by that clock, when the reading began.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lorcbench.common.paths import DIGESTS

VERIFY = ("changed", "always")  # values of runtime.verify
WORTH = 8 << 20  # bytes of the smallest file that is recorded; to hash less takes no longer than to look it up
_SETTLED = 2_000_000_000  # nanoseconds; FAT has the coarsest clock, of two seconds
_TIMES = ("modified", "changed")
_trusted = True


@contextmanager
def verifying(verify: str) -> Iterator[None]:
    """Trust recorded digests while open, or none: `verify` is one of `VERIFY`."""
    global _trusted
    before, _trusted = _trusted, verify == "changed"
    try:
        yield
    finally:
        _trusted = before


class Reading:
    """One reading of an open file, which begins with this object.

    Args:
        file: open for reading in binary mode.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._state = _state(file)
        self._record = self._recorded = self._began = None
        if self._state["size"] >= WORTH and Path(DIGESTS).parent.is_dir():
            self._record = Path(DIGESTS) / hashlib.sha256(os.fsencode(self._state["path"])).hexdigest()[:32]
            self._recorded = _recorded(self._record, self._state) if _trusted else None
            self._began = None if self._recorded else _clock(self._record.parent)

    def digest(self, compute: Callable[[], str]) -> str:
        """SHA-256 of the file: what was recorded of it as it is, else what `compute` returns, which is then recorded."""
        if self._recorded and _state(self._file) == self._state:
            return self._recorded
        digest = compute()
        is_settled = self._began is not None and self._began - max(self._state[key] for key in _TIMES) >= _SETTLED
        if is_settled and _state(self._file) == self._state:
            _write(self._record, {**self._state, "sha256": digest})
        return digest


def _state(file: BinaryIO) -> dict:
    """What changes when a file is written to, moved or replaced; times in nanoseconds.

    The number of the device is left out: each host of a cluster gives another to the same network file system.
    """
    about = os.fstat(file.fileno())
    times = dict(zip(_TIMES, (about.st_mtime_ns, about.st_ctime_ns), strict=True))
    return {"path": os.path.abspath(file.name), "size": about.st_size, "inode": about.st_ino, **times}


def _clock(folder: Path) -> int | None:
    """Now, in nanoseconds, by the clock of the file system or of this host, whichever is behind; None if it cannot be told."""
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            return min(os.fstat(probe.fileno()).st_mtime_ns, time.time_ns())
    except OSError:  # of another user, or on a full disk: nothing is recorded then
        return None


def _seal(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _recorded(record: Path, state: dict) -> str | None:
    """The digest that was recorded of a file in this state; None if there is none, or only half a record."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        seal = content.pop("seal")
        is_of_state = seal == _seal(content) and content == {**state, "sha256": content["sha256"]}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return content["sha256"] if is_of_state else None


def _write(record: Path, body: dict) -> None:
    """Write a record; its seal shows one that is half written, or written by two processes at once."""
    try:
        record.write_text(json.dumps({**body, "seal": _seal(body)}), encoding="utf-8")
    except OSError:  # as in `_clock`
        return

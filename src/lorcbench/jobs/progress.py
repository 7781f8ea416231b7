"""Where a long job is: a line every few seconds, and less often in one that takes hours."""

from __future__ import annotations

import time
from typing import NamedTuple

_EVERY = 5.0  # seconds between lines, at least
_PART = 0.01  # of the time so far, between them


class Ranks(NamedTuple):
    """The ranks that are measured now, from `first` on and before `last`, of `count` in all; and, of one, its name."""

    first: int = 0
    last: int = 1
    count: int = 1
    name: str = ""

    def __str__(self) -> str:
        """How a line of progress begins."""
        if self.count == 1:
            return ""
        if self.name:
            return f"rank {self.name} ({self.last} of {self.count}), "
        return f"ranks {self.first + 1} to {self.last} of {self.count}, "


class Line(NamedTuple):
    """What is to be said, and whether the work is done with it."""

    text: str
    is_last: bool


class Progress:
    """When to say where a job is.

    Args:
        started: when the job's process was, by `time.monotonic`.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self._first = self._latest = None  # (part that is done, when) at the first call of `line`, and at the latest line

    def line(self, ranks: Ranks, done: float, total: int, what: str) -> Line | None:
        """How far the ranks under way are, at `done` of `total` steps, and how long the rest takes; None if it is too soon."""
        now = time.monotonic()
        part = (ranks.first + (ranks.last - ranks.first) * done / total) / ranks.count
        if self._first is None:
            self._first = self._latest = (part, now)
        between = max(_EVERY, _PART * (now - self._started))
        if now - self._latest[1] < between and part < 1:
            return None
        self._latest = (part, now)
        progressed, seconds = part - self._first[0], now - self._first[1]
        left = f", about {seconds / progressed * (1 - part):.0f} s left" if progressed else ""
        return Line(f"{ranks}{what} {int(done)}/{total}, {now - self._started:.0f} s{left}", part >= 1)

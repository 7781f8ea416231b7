"""How counts are spelled for people."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and what it counts: ``1 cell``, ``1,200 cells``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

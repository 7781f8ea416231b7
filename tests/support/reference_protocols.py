"""What GPTQ's data loaders do, from their description, as plainly as can be: lists of token ids, the module-level generator."""

from __future__ import annotations

import random
from collections.abc import Callable

Encode = Callable[[str], list[int]]


def joined(documents: list[str], joiner: str, encode: Encode, window: int) -> list[list[int]]:
    """WikiText-2 and PTB, old and new: everything joined, encoded as one text, cut into windows; the rest is dropped."""
    ids = encode(joiner.join(documents))
    return [ids[number * window : (number + 1) * window] for number in range(len(ids) // window)]


def c4_old(documents: list[str], encode: Encode, window: int, count: int) -> list[list[int]]:
    """C4 before --new-eval: seed 0, and of `count` long documents one window each."""
    random.seed(0)
    return [_window_of_a_long_document(documents, encode, window) for _ in range(count)]


def c4_new(documents: list[str], encode: Encode, window: int, count: int) -> list[list[int]]:
    """C4 with --new-eval: the first 1,100 documents joined with a blank, and of that no more than `count` windows' tokens."""
    ids = encode(" ".join(documents[:1100]))[: count * window]
    return [ids[number * window : (number + 1) * window] for number in range(len(ids) // window)]


def calibration(documents: list[str], encode: Encode, length: int, count: int, seed: int) -> list[list[int]]:
    """C4 for calibration: as `c4_old`, with a seed of one's own."""
    random.seed(seed)
    return [_window_of_a_long_document(documents, encode, length) for _ in range(count)]


def _window_of_a_long_document(documents: list[str], encode: Encode, window: int) -> list[int]:
    ids: list[int] = []
    while len(ids) <= window:  # at exactly a window's length the published code would stop with an error
        ids = encode(documents[random.randint(0, len(documents) - 1)])
    start = random.randint(0, len(ids) - window - 1)
    return ids[start : start + window]

"""Text → fixed token windows, by a named protocol; the token stream's hash and length go into every result."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

JOINER = "\n\n"


class CorpusError(Exception):
    """Text that cannot be what the protocol wants; the message names the corpus and what is missing."""


@dataclass(frozen=True)
class Windows:
    """Token windows of one corpus.

    Attributes:
        tokens: (n, window) int64.
        stream_length: tokens in the whole stream that the windows were cut from.
        stream_sha256: of that stream as little-endian int64.
    """

    tokens: torch.Tensor
    stream_length: int
    stream_sha256: str


def read_documents(path: Path) -> list[str]:
    """The texts of a JSONL file, one ``{"text": …}`` a line.

    Raises:
        CorpusError: the file is missing, is not UTF-8, or a line is not such an object.
    """
    try:
        with path.open(encoding="utf-8") as file:  # not splitlines(), which splits at U+2028, too
            return [json.loads(line)["text"] for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise CorpusError(f"{path}: expected one JSON object with a text a line") from None


def load_tokenizer(folder: Path):
    """The checkpoint's own tokenizer, as transformers makes it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def token_stream(tokenizer: Tokenizer, documents: list[str]) -> torch.Tensor:
    """(n,) token ids of the documents joined with blank lines, as GPTQ's loaders join WikiText-2 and PTB.

    Special tokens are added as the tokenizer does for one text: OPT's puts its BOS in front of the whole stream.
    """
    return torch.tensor(tokenizer.encode(JOINER.join(documents)).ids, dtype=torch.int64)


def test_windows(stream: torch.Tensor, window: int, most: int | None, name: str) -> Windows:
    """Non-overlapping windows from the start of the stream, the incomplete last one dropped.

    With `most`, that many windows evenly spaced over the whole stream, so that no document stands for the corpus.

    Raises:
        CorpusError: the stream is shorter than one window.
    """
    count = len(stream) // window
    if count == 0:
        raise CorpusError(f"corpus {name}: {len(stream)} tokens are fewer than one window of {window}")
    windows = stream[: count * window].view(count, window)
    if most is not None and count > most:
        windows = windows[torch.arange(most) * count // most]
    return Windows(windows.contiguous(), len(stream), _sha256(stream))


def calibration_windows(streams: dict[str, torch.Tensor], n_samples: int, length: int, seed: int) -> torch.Tensor:
    """(n_samples, length) random windows, taken from the streams in turn.

    Raises:
        CorpusError: a stream is not longer than a window.
    """
    rng = random.Random(seed)
    for name, stream in streams.items():
        if len(stream) <= length:
            raise CorpusError(f"calibration corpus {name}: {len(stream)} tokens, a sequence of {length} needs more")
    windows = []
    for index in range(n_samples):
        stream = list(streams.values())[index % len(streams)]
        start = rng.randint(0, len(stream) - length - 1)
        windows.append(stream[start : start + length])
    return torch.stack(windows)


def _sha256(stream: torch.Tensor) -> str:
    return hashlib.sha256(stream.numpy().astype("<i8").tobytes()).hexdigest()

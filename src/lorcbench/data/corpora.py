"""Text → fixed token windows, by a named protocol; the token stream's hash and length go into every result."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

import torch
from tokenizers import Tokenizer

from lorcbench.config.protocols import EvalConfig, SourceConfig


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


class Documents(Sequence[str]):
    """The texts of a JSONL file, one ``{"text": …}`` a line, each read when it is asked for: a shard of C4 is 0.8 GB.

    Raises:
        CorpusError: the file is missing; or, when it is asked for, a line is not UTF-8 or not such an object.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise CorpusError(f"{path}: {error}") from None
        # Lines end at a line feed alone: text has U+2028 inside.
        self._starts = [0, *accumulate(map(len, self._file))]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> str:
        start = self._starts[range(len(self))[index]]
        self._file.seek(start)
        try:
            text = json.loads(self._file.readline().decode())["text"]
        except UnicodeDecodeError as error:
            raise CorpusError(f"{self._path}: line {index + 1}: {error}") from None
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise CorpusError(f"{self._path}: line {index + 1}: expected one JSON object with a text a line")
        return text


def read_documents(path: Path) -> list[str]:
    """All texts of a JSONL file, as `Documents` reads them."""
    return list(Documents(path))


def load_tokenizer(folder: Path):
    """The checkpoint's own tokenizer, as transformers makes it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def open_tokenizer(path: Path) -> Tokenizer:
    """A fast tokenizer as `prepare` saved it, without the truncation and padding that some hub files carry along."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, specials: bool = True) -> torch.Tensor:
    """(n,) token ids; with `specials`, what the tokenizer puts around a text included: OPT's puts its BOS in front."""
    return torch.tensor(tokenizer.encode(text, add_special_tokens=specials).ids, dtype=torch.int64)


def token_stream(tokenizer: Tokenizer, documents: Sequence[str], joiner: str = "\n\n", specials: bool = True) -> torch.Tensor:
    """(n,) token ids of the joined documents, encoded as one text, as GPTQ's loaders do with WikiText-2 and PTB."""
    return encode(tokenizer, joiner.join(documents), specials)


class LongDocuments:
    """Random windows of random documents that are longer than a window, in the order of draws of GPTQ's loaders for C4.

    A document is drawn and encoded until one is longer than a window; then a start in it is drawn. The published code accepts
    a document of exactly a window's length, too, has no start to draw in it, and stops with an error: here it is too short.
    """

    def __init__(self, documents: Sequence[str], encoded: Callable[[str], torch.Tensor], length: int, name: str) -> None:
        self._documents, self._encoded, self._length, self._name = documents, encoded, length, name
        self._short: set[int] = set()

    def draw(self, rng: random.Random) -> torch.Tensor:
        """(length,) tokens.

        Raises:
            CorpusError: no document is longer than a window.
        """
        while len(self._short) < len(self._documents):
            index = rng.randint(0, len(self._documents) - 1)
            if index in self._short:
                continue
            tokens = self._encoded(self._documents[index])
            if len(tokens) > self._length:
                start = rng.randint(0, len(tokens) - self._length - 1)
                return tokens[start : start + self._length]
            self._short.add(index)
        raise CorpusError(
            f"corpus {self._name}: none of its {len(self._documents)} documents has more than {self._length} tokens"
        )


def source(
    tokenizer: Tokenizer, documents: Sequence[str], settings: SourceConfig, length: int, specials: bool, name: str
) -> torch.Tensor | LongDocuments:
    """What the windows of a corpus are drawn from: a stream of tokens, or its long documents."""
    chosen = documents if settings.documents is None else list(islice(documents, settings.documents))
    if settings.sampling == "stream":
        return token_stream(tokenizer, chosen, settings.joiner, specials)
    return LongDocuments(chosen, lambda text: encode(tokenizer, text, specials), length, name)


def protocol_windows(tokenizer: Tokenizer, documents: Sequence[str], protocol: EvalConfig, name: str) -> Windows:
    """The test windows of corpus `name` of a protocol.

    Raises:
        CorpusError: there is no text for a single window.
    """
    corpus = protocol.corpora[name]
    drawn = source(tokenizer, documents, corpus, protocol.window, protocol.bos == "tokenizer", name)
    if isinstance(drawn, LongDocuments):
        rng = random.Random(corpus.seed)
        stream = torch.cat([drawn.draw(rng) for _ in range(corpus.windows)])
    else:
        stream = drawn if corpus.windows is None else drawn[: corpus.windows * protocol.window]
    return test_windows(stream, protocol.window, protocol.max_windows, name)


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


def calibration_windows(
    sources: dict[str, torch.Tensor | LongDocuments], n_samples: int, length: int, seed: int
) -> torch.Tensor:
    """(n_samples, length) random windows, taken from the sources in turn; of one source, GPTQ's calibration data.

    Raises:
        CorpusError: a stream is not longer than a window.
    """
    rng = random.Random(seed)
    for name, drawn in sources.items():
        if isinstance(drawn, torch.Tensor) and len(drawn) <= length:
            raise CorpusError(f"calibration corpus {name}: {len(drawn)} tokens, a sequence of {length} needs more")
    windows = []
    for index in range(n_samples):
        drawn = list(sources.values())[index % len(sources)]
        if isinstance(drawn, LongDocuments):
            windows.append(drawn.draw(rng))
        else:
            start = rng.randint(0, len(drawn) - length - 1)
            windows.append(drawn[start : start + length])
    return torch.stack(windows)


def _sha256(stream: torch.Tensor) -> str:
    return hashlib.sha256(stream.numpy().astype("<i8").tobytes()).hexdigest()

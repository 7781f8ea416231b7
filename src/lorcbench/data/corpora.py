"""Text → fixed token windows, by a named protocol; hash and length of the token stream go into every result."""

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

from lorcbench.config.protocols import HALVES, EvalConfig, SourceConfig

SHORTEST = 128  # tokens of a window that was fitted; in shorter ones a language model is not what it is used as


class CorpusError(Exception):
    """A text does not fit the protocol; the message names the corpus and what is missing."""


@dataclass(frozen=True)
class Windows:
    """Token windows of one corpus.

    Attributes:
        tokens: (n, window) int64.
        stream_length: tokens in the whole stream from which the windows were cut.
        stream_sha256: SHA-256 of that stream as little-endian int64.
    """

    tokens: torch.Tensor
    stream_length: int
    stream_sha256: str


class Documents(Sequence[str]):
    """The texts of a JSONL file with one ``{"text": …}`` per line, each read when it is asked for: a shard of C4 has 0.8 GB.

    Raises:
        CorpusError: the file is missing. Later, by a text that is asked for: its line is not UTF-8 or no such object.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise CorpusError(f"{path}: {error}") from None
        # Where lines start in the file. In binary mode they end at a line feed alone: texts have U+2028 inside.
        self._starts = [0, *accumulate(map(len, self._file))]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> str:
        start = self._starts[range(len(self))[index]]  # the range makes a negative index positive and refuses one too large
        self._file.seek(start)
        try:
            text = json.loads(self._file.readline().decode())["text"]
        except UnicodeDecodeError as error:
            raise CorpusError(f"{self._path}: line {index + 1}: {error}") from None
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise CorpusError(f"{self._path}: line {index + 1}: expected one JSON object with a text per line")
        return text


def read_documents(path: Path) -> list[str]:
    """All texts of a JSONL file, as `Documents` reads them."""
    return list(Documents(path))


def half(documents: Sequence[str], part: str) -> list[str]:
    """One half of a text, ``calibration`` or ``test``. The halves have about as many characters, and share no document.

    A text of one document is cut in its middle, at the end of a line or else of a word. Several documents are dealt out in
    the order of their hashes, each to the half that is shorter so far: neither their order in the file matters, nor how
    often one of them is there.
    """
    if len(documents) == 1:
        return [_halves_of(documents[0])[HALVES.index(part)]]
    digests = [hashlib.sha256(document.encode()).digest() for document in documents]
    lengths = dict(zip(digests, map(len, documents), strict=True))
    sizes, chosen = dict.fromkeys(HALVES, 0), set()
    for digest in sorted(lengths):
        shorter = min(sizes, key=sizes.get)
        sizes[shorter] += lengths[digest]
        if shorter == part:
            chosen.add(digest)
    return [document for document, digest in zip(documents, digests, strict=True) if digest in chosen]


def _halves_of(document: str) -> tuple[str, str]:
    """A document cut behind the first line that ends in its second half, else behind the first word, else in its middle."""
    middle = len(document) // 2
    cuts = (document.find(end, middle) for end in ("\n", " "))
    cut = next((cut + 1 for cut in cuts if middle <= cut < 0.75 * len(document)), middle)
    return document[:cut], document[cut:]


def fitted(longest: int, tokens: dict[str, int], count: int) -> int:
    """The longest of `longest`, its half, its quarter, …, of which every corpus has `count` windows.

    Args:
        longest: tokens per window.
        tokens: in the stream of each corpus.

    Raises:
        CorpusError: it would be shorter than `SHORTEST`; the message says how many tokens are needed.
    """
    name = min(tokens, key=tokens.get)
    window = longest
    while window * count > tokens[name]:
        window //= 2
    if window < SHORTEST:
        if longest < SHORTEST:
            raise CorpusError(f"windows of {longest} tokens at most; expected a model with {SHORTEST} positions or more")
        raise CorpusError(
            f"corpus {name}: {tokens[name]:,} tokens are fewer than {count} windows of {SHORTEST}; expected at least "
            f"{count * SHORTEST:,}, and as many in the other half of the text"
        )
    return window


def load_tokenizer(folder: Path):
    """The checkpoint's own tokenizer, as transformers makes it; code that comes with a checkpoint is never run.

    Raises:
        CorpusError: transformers makes none of the files, or one that has no tokens.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise CorpusError(f"{type(tokenizer).__name__} is written in Python; only those of the library tokenizers are read")
        knows = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids
        reason = "it has no tokens"  # what transformers makes for some families where there are no files
    except Exception as error:  # tokenizer classes raise whatever they like about a wrong file
        knows, reason = [], " ".join(f"{type(error).__name__}: {error}".split())
    if not knows:
        raise CorpusError(
            f"{folder}: no tokenizer that can be used ({reason}); "
            "expected tokenizer.json, or tokenizer.model, or vocab.json and merges.txt, as the model was published with"
        )
    return tokenizer


def open_tokenizer(path: Path) -> Tokenizer:
    """A fast tokenizer as `prepare` saved it, without the truncation and padding that some of the hub's files ask for."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, specials: bool = True) -> torch.Tensor:
    """(n,) token ids of a text; with `specials`, also the tokens that the tokenizer puts around one: OPT's BOS in front."""
    return torch.tensor(tokenizer.encode(text, add_special_tokens=specials).ids, dtype=torch.int64)


def token_stream(tokenizer: Tokenizer, documents: Sequence[str], joiner: str = "\n\n", specials: bool = True) -> torch.Tensor:
    """(n,) token ids of the joined documents, encoded as one text: GPTQ's loaders do so with WikiText-2 and PTB."""
    return encode(tokenizer, joiner.join(documents), specials)


class LongDocuments:
    """Random windows of random documents that are longer than a window; random numbers are drawn as GPTQ's loaders for C4 do.

    Documents are drawn and encoded until one is longer than a window. Then a start in it is drawn. The published code also
    accepts a document of exactly a window's length, has no start to draw in it, and stops with an error; here such a
    document is too short.

    Args:
        documents: the texts.
        encode: text → (n,) tokens.
        length: tokens per window.
        name: of the corpus, for messages.
    """

    def __init__(self, documents: Sequence[str], encode: Callable[[str], torch.Tensor], length: int, name: str) -> None:
        self._documents = documents
        self._encode = encode
        self._length = length
        self._name = name
        self._short: set[int] = set()  # indices of documents that are known to be too short

    def draw(self, rng: random.Random) -> torch.Tensor:
        """One window, (length,) tokens.

        Raises:
            CorpusError: no document is longer than a window.
        """
        while len(self._short) < len(self._documents):
            index = rng.randint(0, len(self._documents) - 1)
            if index in self._short:
                continue
            tokens = self._encode(self._documents[index])
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
    """What the windows of a corpus are cut from: a stream of tokens (n,), or its long documents.

    Args:
        length: tokens per window.
        specials: whether the tokenizer adds its special tokens to each text that it encodes.
        name: of the corpus, for messages.
    """
    chosen = documents if settings.documents is None else list(islice(documents, settings.documents))
    if settings.sampling == "stream":
        return token_stream(tokenizer, chosen, settings.joiner, specials)
    return LongDocuments(chosen, lambda text: encode(tokenizer, text, specials), length, name)


def protocol_windows(tokenizer: Tokenizer, documents: Sequence[str], protocol: EvalConfig, name: str) -> Windows:
    """The test windows of corpus `name` of a protocol.

    Raises:
        CorpusError: the text has too few tokens for one window.
    """
    corpus = protocol.corpora[name]
    tokens = source(tokenizer, documents, corpus, protocol.window, protocol.bos == "tokenizer", name)
    if isinstance(tokens, LongDocuments):
        rng = random.Random(corpus.seed)
        stream = torch.cat([tokens.draw(rng) for _ in range(corpus.windows)])
    else:
        stream = tokens if corpus.windows is None else tokens[: corpus.windows * protocol.window]
    return test_windows(stream, protocol.window, protocol.max_windows, name)


def test_windows(stream: torch.Tensor, window: int, most: int | None, name: str) -> Windows:
    """Windows that follow one another from the start of the stream (n,), without the incomplete last one.

    Args:
        window: tokens per window.
        most: if there are more windows, keep this many, evenly spaced, so that no single document stands for the corpus.
        name: of the corpus, for messages.

    Raises:
        CorpusError: the stream is shorter than one window.
    """
    count = len(stream) // window
    if count == 0:
        raise CorpusError(f"corpus {name}: {len(stream)} tokens are fewer than one window of {window}")
    windows = stream[: count * window].view(count, window)  # (tokens,) → (windows, tokens per window)
    if most is not None and count > most:
        windows = windows[torch.arange(most) * count // most]
    return Windows(windows.contiguous(), len(stream), _sha256(stream))


def calibration_windows(
    sources: dict[str, torch.Tensor | LongDocuments], n_samples: int, length: int, seed: int
) -> torch.Tensor:
    """(n_samples, length) random windows, from the sources in turn. With one source these are GPTQ's calibration data.

    Raises:
        CorpusError: a stream is not longer than a window, or no document is.
    """
    rng = random.Random(seed)
    for name, tokens in sources.items():
        if isinstance(tokens, torch.Tensor) and len(tokens) <= length:
            raise CorpusError(f"calibration corpus {name}: {len(tokens)} tokens, a sequence of {length} needs more")
    windows = []
    for index in range(n_samples):
        tokens = list(sources.values())[index % len(sources)]
        if isinstance(tokens, LongDocuments):
            windows.append(tokens.draw(rng))
        else:
            start = rng.randint(0, len(tokens) - length - 1)
            windows.append(tokens[start : start + length])
    return torch.stack(windows)


def _sha256(stream: torch.Tensor) -> str:
    """SHA-256 of a token stream, the same on machines of either byte order."""
    return hashlib.sha256(stream.numpy().astype("<i8").tobytes()).hexdigest()

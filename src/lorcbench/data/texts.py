"""Documents from files on this machine or from the hub; staged once, so later stages need no network.

===============================  ======================================================
file                             a document is
===============================  ======================================================
``.parquet``                     one column of a row
``.jsonl``, ``.json``            one key of a line's JSON object; ``.gz`` may follow
``.txt``, ``.raw``, ``.tokens``  a line; ``.gz`` may follow
===============================  ======================================================
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from lorcbench.common.artifacts import replacing
from lorcbench.config.checks import ConfigError
from lorcbench.config.protocols import TextConfig
from lorcbench.data.hub import downloading

_ROWS = (".parquet", ".jsonl", ".json")
_LINES = (".txt", ".raw", ".tokens")


class TextError(Exception):
    """Documents that cannot be had or read; the message names the file and what would be right."""


def local_file(patterns: list[str], data_dir: str | None) -> Path | None:
    """The file under `data_dir` that the first pattern with a match names; None if there is none.

    Raises:
        ConfigError: several files match that pattern.
    """
    for pattern in patterns if data_dir else ():
        found = sorted(path for path in Path(data_dir).glob(pattern) if path.is_file())
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ConfigError(f"runtime.data_dir={data_dir}: several files match {pattern} ({names}); leave one of them there")
        if found:
            return found[0]
    return None


def own_file(text: TextConfig, data_dir: str | None) -> Path | None:
    """The file on this machine that a text is read from, or None if it is downloaded."""
    return Path(text.path).expanduser() if text.source == "file" else local_file(text.local, data_dir)


def download(text: TextConfig) -> tuple[Path, str]:
    """The hub's file in the hub's own cache, and the commit that it is from.

    Raises:
        HubError: the hub cannot be reached, or has no such file.
    """
    from huggingface_hub import hf_hub_download

    instead = f"put a copy at {' or '.join(text.local) or 'a path of your own'} and set runtime.data_dir to that folder"
    with downloading(f"{text.repo} {text.file} at {text.revision}", instead):
        path = Path(hf_hub_download(text.repo, text.file, repo_type="dataset", revision=text.revision))
    return path, path.parts[path.parts.index("snapshots") + 1]


def read(path: Path, column: str = "text", lines: str = "kept") -> Iterator[str]:
    """The documents of a file, in its order.

    Args:
        column: of a Parquet or JSON file.
        lines: of a plain text file, as in `TextConfig`.

    Raises:
        TextError: no such file, a format that is none of the above, damage, no such column, or a value that is no text.
    """
    if not path.is_file():
        raise TextError(f"{path}: no such file")
    suffix = _suffix(path)
    if suffix not in (*_ROWS, *_LINES):
        raise TextError(f"{path}: expected a name that ends in one of {', '.join((*_ROWS, *_LINES))}")
    try:
        yield from _lines(path, lines) if suffix in _LINES else _column(path, column)
    except (OSError, EOFError, ValueError, zlib.error) as error:  # also of gzip, JSON, Arrow and UTF-8
        raise TextError(f"{path}: cannot be read as {suffix[1:]}: {' '.join(str(error).split())}") from None


def table(path: Path):
    """A Parquet or JSON file as a `datasets.Dataset`.

    Raises:
        TextError: damage, or another format.
    """
    import datasets

    if _suffix(path) not in _ROWS:
        raise TextError(f"{path}: expected a name that ends in one of {', '.join(_ROWS)}")
    try:
        return datasets.Dataset.from_list(list(_rows(path)))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise TextError(f"{path}: cannot be read as {_suffix(path)[1:]}: {' '.join(str(error).split())}") from None


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _lines(path: Path, lines: str) -> Iterator[str]:
    with _opened(path) as file:
        for line in io.TextIOWrapper(file, encoding="utf-8"):  # not splitlines(), which splits at U+2028, too
            stripped = line.strip()
            yield line if lines == "kept" and stripped else stripped


def _rows(path: Path) -> Iterator[dict]:
    if _suffix(path) == ".parquet":
        import datasets

        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # says in many lines what the error says in one
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a request over the network for every file, and the file is here
        # Streamed: otherwise it would write a second copy of everything into its cache.
        yield from datasets.load_dataset("parquet", data_files=[str(path)], split="train", streaming=True)
        return
    # Not through `datasets`: it guesses types, and takes text that looks like a date for one.
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number}: expected one JSON object a line")
            yield row


def _column(path: Path, column: str) -> Iterator[str]:
    for number, row in enumerate(_rows(path), 1):
        document = row.get(column)
        if not isinstance(document, str):
            raise ValueError(f"row {number} has no text in column {column}; its columns are {', '.join(row)}")
        yield document


def stage(path: Path, documents: Iterable[str]) -> int:
    """Write documents as the JSON lines that `lorcbench.data.corpora.Documents` reads; returns their number.

    Raises:
        TextError: there is none.
    """
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
            count += 1
        if count == 0:
            raise TextError("no documents: the file is empty")
    return count

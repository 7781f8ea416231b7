"""Documents from files on this machine or from the hub. They are staged once, so that later stages need no network.

===============================  ======================================================
file                             a document is
===============================  ======================================================
``.parquet``                     the value of one column in a row
``.jsonl``, ``.json``            the value of one key in the JSON object of a line
``.txt``, ``.raw``, ``.tokens``  a line, or the whole file
===============================  ======================================================

All but Parquet may also be compressed, with ``.gz`` behind the name.
"""

from __future__ import annotations

import gzip
import io
import json
import re
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
# What reading a file may raise; the errors of gzip, JSON, Arrow and UTF-8 are among them, and that of JSON nested too deep.
_UNREADABLE = (OSError, EOFError, ValueError, RecursionError, zlib.error)
# How files begin that are not UTF-8 → what they are.
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "compressed: its name has to end in .gz"}


class TextError(Exception):
    """Documents are missing or cannot be read; the message names the file and what would be right."""


def local_file(patterns: list[str], data_dir: str | None) -> Path | None:
    """The file under `data_dir` that matches the first pattern with a match; None if no pattern has one.

    Raises:
        ConfigError: several files match that pattern.
    """
    for pattern in patterns if data_dir else ():
        matches = sorted(path for path in Path(data_dir).glob(pattern) if path.is_file())
        if len(matches) > 1:
            names = ", ".join(path.name for path in matches)
            raise ConfigError(f"runtime.data_dir={data_dir}: several files match {pattern} ({names}); leave one of them there")
        if matches:
            return matches[0]
    return None


def own_file(text: TextConfig, data_dir: str | None) -> Path | None:
    """The file on this machine from which a text is read; None if it is downloaded."""
    return Path(text.path).expanduser() if text.source == "file" else local_file(text.local, data_dir)


def download(text: TextConfig) -> tuple[Path, str]:
    """The path of a text's file in the hub's own cache, and the commit that it is from.

    Raises:
        HubError: the hub cannot be reached, or has no such file.
    """
    from huggingface_hub import hf_hub_download

    instead = f"put a copy at {' or '.join(text.local) or 'a path of your own'} and set runtime.data_dir to that folder"
    with downloading(f"{text.repo} {text.file} at {text.revision}", instead):
        path = Path(hf_hub_download(text.repo, text.file, repo_type="dataset", revision=text.revision))
    return path, path.parts[path.parts.index("snapshots") + 1]  # …/snapshots/COMMIT/FILE


def read(path: Path, column: str = "text", lines: str = "kept") -> Iterator[str]:
    """The documents of a file, in its order.

    Args:
        column: that holds the documents, in a Parquet or JSON file.
        lines: what is a document of a plain text file, as in `TextConfig`.

    Raises:
        TextError: the file is missing, of another format or damaged, or has no such column, or a value in it is no text.
    """
    if not path.is_file():
        raise TextError(f"{path}: no such file")
    suffix = _suffix(path)
    if suffix not in (*_ROWS, *_LINES):
        raise TextError(f"{path}: expected a name that ends in one of {', '.join((*_ROWS, *_LINES))}")
    try:
        yield from _lines(path, lines) if suffix in _LINES else _column(path, column)
    except _UNREADABLE as error:
        raise TextError(_refusal(path, error)) from None


def check_start(path: Path, column: str) -> None:
    """Refuse a file whose name says no format, or whose first JSON object lacks the column; nothing else of it is read.

    Raises:
        TextError: as `read`.
    """
    if _suffix(path) not in (*_LINES, ".parquet"):
        next(read(path, column), None)


def table(path: Path):
    """A Parquet or JSON file as a `datasets.Dataset`.

    Raises:
        TextError: the file is damaged, or of another format.
    """
    import datasets

    if _suffix(path) not in _ROWS:
        raise TextError(f"{path}: expected a name that ends in one of {', '.join(_ROWS)}")
    try:
        return datasets.Dataset.from_list(list(_rows(path)))
    except _UNREADABLE as error:
        raise TextError(_refusal(path, error)) from None


def _refusal(path: Path, error: Exception) -> str:
    """Why a file cannot be read, in one line."""
    reason = " ".join(str(error).split())
    hint = ""
    if isinstance(error, UnicodeDecodeError) or "codec can't decode" in reason:
        with path.open("rb") as file:
            mark = _MARKS.get(file.read(2))
        hint = f"; the file is {mark}" if mark and not path.name.endswith(".gz") else "; expected UTF-8"
    return f"{path}: cannot be read as {_suffix(path)[1:]}: {reason}{hint}"


def _suffix(path: Path) -> str:
    """The suffix of a file's name, before any ``.gz``."""
    return Path(path.name.removesuffix(".gz")).suffix


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _lines(path: Path, lines: str) -> Iterator[str]:
    """The documents of a plain text file; `lines` is as in `TextConfig`.

    Raises:
        ValueError: it is not UTF-8; the message has the number of the line.
    """
    with _opened(path) as file:
        try:
            whole = []
            # A mark at the start is no text. splitlines() would split at U+2028, too.
            for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-8-sig"), 1):
                _check_utf_16(line, number)
                stripped = line.strip()
                if lines == "whole":
                    whole.append(line)
                else:
                    yield line if lines == "kept" and stripped else stripped
            if "".join(whole).strip():
                yield "".join(whole)
        except UnicodeDecodeError as error:  # of a piece of the file, which is decoded ahead of the lines
            raise ValueError(f"line {_first_broken(path)}: {error}") from None


def _first_broken(path: Path) -> int:
    """The number of the first line of a file that is not UTF-8."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return number


def _check_utf_16(line: str, number: int) -> None:
    """Refuse UTF-16 without a mark, which is UTF-8, too, if it is English: with a NUL beside every letter."""
    if line.count("\0") > len(line) / 3:
        raise ValueError(f"line {number}: every other character is NUL, as in UTF-16; expected UTF-8")


def _rows(path: Path) -> Iterator[dict]:
    """The rows of a Parquet file or the objects of a JSON lines file; blank lines are skipped.

    Raises:
        ValueError: a line is no JSON object; the message has its number.
    """
    if _suffix(path) == ".parquet":
        import datasets

        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its log says in many lines what the error says in one
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else it sends a request for each file, even for a local one
        # Streamed, because otherwise it writes a second copy of everything into its cache.
        yield from datasets.load_dataset("parquet", data_files=[str(path)], split="train", streaming=True)
        return
    # JSON is read without `datasets`, which guesses types and turns text that looks like a date into one.
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number}: expected one JSON object per line")
            yield row


def _column(path: Path, column: str) -> Iterator[str]:
    """The documents in one column of a Parquet or JSON file.

    Raises:
        ValueError: a row has no text there, or a broken one; the message has its number.
    """
    for number, row in enumerate(_rows(path), 1):
        document = row.get(column)
        if not isinstance(document, str):
            raise ValueError(f"row {number} has no text in column {column}; its columns are {', '.join(row)}")
        if broken := re.search("[\ud800-\udfff]", document):
            raise ValueError(f"row {number} has half a character, U+{ord(broken[0]):X}, in column {column}")
        yield document


def stage(path: Path, documents: Iterable[str]) -> int:
    """Write documents as the JSON lines that `lorcbench.data.corpora.Documents` reads; returns their number.

    Raises:
        TextError: there are no documents.
    """
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
            count += 1
        if count == 0:
            raise TextError("no documents: the file is empty")
    return count

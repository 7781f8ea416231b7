"""CSV tables of the report: written, and some read again, with an answer to tables of another version."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from lorcbench.config.checks import ConfigError

Row = TypeVar("Row")


def as_csv(columns: tuple[str, ...], table: Iterable[dict]) -> str:
    """A table as text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def read(path: Path, of_row: Callable[[dict[str, str]], Row]) -> list[Row]:
    """The rows of a table, each as `of_row` makes it.

    Raises:
        FileNotFoundError: there is no such table.
        ConfigError: it is one of another version, at which `of_row` raises KeyError or ValueError.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [of_row(row) for row in csv.DictReader(file)]
    except (KeyError, ValueError):
        raise ConfigError(f"{path} has other columns than this version writes; delete it and run the study again") from None

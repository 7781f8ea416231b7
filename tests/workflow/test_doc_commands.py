"""Every command that the documentation shows is one: its program, its flags, its settings, and what its study asks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import tiny
import typer
import yaml
from runs import ROOT
from test_docs import FENCE, PAGES, own_files  # noqa: F401 (a fixture)

from lorcbench.cli import app
from lorcbench.config import commands
from lorcbench.pipeline import checks
from lorcbench.pipeline.rules import Pipeline
from lorcbench.study.expansion import study_from_arguments

PROGRAMS = ("snakemake", "lorcbench", "make", "python", "bash", "git", "pip", "pip-audit", "iconv", "ls", "export", "mlflow", "conda")
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^    (\S.*)$", re.MULTILINE)
_INLINE = re.compile(r"`((?:snakemake|lorcbench|make|python) [^`]+)`")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_PLACEHOLDER = re.compile(r"\b(FOLDER|FILE|OWNER|NAME|HOST|STUDY|CELL|KEY|RESULTS|MODEL|WEIGHT)\b|…")
# What stands for files of the reader, or for the hub, which no test asks.
_READERS_MODEL = ("/data/my-llama", "my-model")
_READERS_TEXT = ("/data/book.txt", "my.txt")


def _lines(page: Path) -> list[str]:
    """The command lines of a page, without comments; a line that ends with a backslash, or within a quote, goes on."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in _BLOCK.findall(text):
        held = ""
        for line in block.splitlines():
            held += line.rstrip("\\") if line.endswith("\\") else line
            if not line.endswith("\\") and held.strip():
                found.append(held)
                held = ""
    text = FENCE.sub("", text)
    indented = (line for line in _INDENTED.findall(text) if line.split()[0] in PROGRAMS[:3])
    return [*found, *indented, *(line for line in _INLINE.findall(text) if not _PLACEHOLDER.search(line))]


def _words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def _commands(*programs: str) -> list:
    """Each different command of these programs once, with the page on which it stands."""
    seen = {}
    for page in PAGES:
        for line in _lines(page):
            words = _words(line)
            while words and _ASSIGNMENT.match(words[0]):
                words.pop(0)
            if words and words[0] in programs:
                seen.setdefault(tuple(words), page.name)
    return [pytest.param(list(words), id=f"{page}: {' '.join(words)[:80]}") for words, page in seen.items()]


def test_every_line_of_a_block_begins_with_a_program():
    for page in PAGES:
        for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in re.sub(r"\\\n|'[^']*'", "", block).splitlines():
                words = [word for word in line.split() if not _ASSIGNMENT.match(word)]
                assert not words or words[0] in PROGRAMS or words[0] == "#", f"{page.name}: {line}"


@pytest.mark.parametrize("words", _commands("make", "python", "bash"))
def test_what_it_runs_is_there(words):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) \?=", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for word in words[1:2] if words[0] != "make" else words[1:]:
        if words[0] != "make":
            assert word.startswith("-") or (ROOT / word).is_file(), word
        elif "=" in word:
            assert word.partition("=")[0] in variables
        else:
            assert word in targets


@pytest.fixture(scope="module")
def readers(tmp_path_factory) -> dict[str, str]:
    """What stands for the reader's model and text on the pages → a checkpoint and a text."""
    folder = tmp_path_factory.mktemp("readers")
    tiny.save(folder / "model")
    (folder / "text.txt").write_text("It was the best of times, it was the worst of times.\n" * 400, encoding="utf-8")
    return dict.fromkeys(_READERS_MODEL, str(folder / "model")) | dict.fromkeys(_READERS_TEXT, str(folder / "text.txt"))


def _settings(words: list[str]) -> dict:
    """What Snakemake makes of ``--config``; refuses flags that it does not know."""
    from snakemake.cli import get_argument_parser

    arguments = get_argument_parser().parse_args(words[1:])
    for profile in filter(None, [arguments.profile]):
        assert (ROOT / profile / "config.yaml").is_file()
    for file in arguments.configfile or []:
        assert (ROOT / file).is_file()
    pairs = arguments.config or []
    settings = dict(pair.partition("=")[::2] for pair in pairs) if isinstance(pairs, list) else dict(pairs)
    return {key: yaml.safe_load(value) if isinstance(value, str) else value for key, value in settings.items()}


def _of_reader(settings: dict, readers: dict[str, str]) -> dict:
    return {key: readers.get(value, value) if isinstance(value, str) else value for key, value in settings.items()}

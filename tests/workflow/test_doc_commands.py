"""Every command that the documentation shows is one: its program, its flags, its settings, and what its study asks."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from runs import ROOT
from safetensors.numpy import save_file
from test_docs import FENCE, PAGES, own_files  # noqa: F401 (a fixture)

from lorcbench.cli import app
from lorcbench.config import commands
from lorcbench.pipeline import checks
from lorcbench.pipeline.rules import Pipeline
from lorcbench.study.expansion import study_from_arguments

PROGRAMS = (
    "snakemake",
    "lorcbench",
    "make",
    "python",
    "bash",
    "git",
    "pip",
    "pip-audit",
    "iconv",
    "ls",
    "export",
    "mlflow",
    "conda",
)
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^    (\S.*)$", re.MULTILINE)
_INLINE = re.compile(r"`((?:snakemake|lorcbench|make|python) [^`]+)`")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_PLACEHOLDER = re.compile(r"\b(FOLDER|FILE|OWNER|NAME|HOST|STUDY|CELL|KEY|RESULTS|MODEL|WEIGHT)\b|…")
# What stands for files of the reader, or for the hub, which no test asks.
_READERS_MODEL = ("/data/my-llama", "my-model")
_READERS_TEXT = ("/data/book.txt", "my.txt")
_WORDS = ("overrides", "study", "name", "model_path", "text_path", "foreign", "export")  # not read as YAML
_ADDED = ("roots",)  # studies that pages about extending add


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
    """What stands for the reader's model and text on the pages → a checkpoint without weights, and a text."""
    folder = tmp_path_factory.mktemp("readers")
    config = {"model_type": "opt", "num_hidden_layers": 2, "hidden_size": 1024, "ffn_dim": 4096, "num_attention_heads": 16}
    config |= {
        "architectures": ["OPTForCausalLM"],
        "max_position_embeddings": 2048,
        "vocab_size": 512,
        "torch_dtype": "float16",
    }
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({}, folder / "model/model.safetensors")
    (folder / "text.txt").write_text("It was the best of times, it was the worst of times.\n" * 400, encoding="utf-8")
    return dict.fromkeys(_READERS_MODEL, str(folder / "model")) | dict.fromkeys(_READERS_TEXT, str(folder / "text.txt"))


def _settings(words: list[str]) -> dict:
    """What Snakemake makes of ``--config``; it ends the process if it does not know a flag."""
    from snakemake.cli import get_argument_parser

    arguments = get_argument_parser().parse_args(words[1:])
    assert arguments.profile is None or (ROOT / arguments.profile / "config.yaml").is_file()
    assert all((ROOT / file).is_file() for file in arguments.configfile or [])
    pairs = [pair.partition("=") for pair in arguments.config or []]
    return {key: yaml.safe_load(value) if key not in _WORDS else value for key, _, value in pairs}


def _readers_own(settings: dict, readers: dict[str, str]) -> dict:
    return {key: readers.get(str(value), value) for key, value in settings.items()}


@pytest.mark.slow
@pytest.mark.parametrize("words", _commands("snakemake"))
def test_a_command_of_snakemake_asks_for_cells(words, readers, own_files, elsewhere):  # noqa: F811
    if any(_PLACEHOLDER.search(word) for word in words):
        pytest.skip("it stands for the reader's own")
    settings = _readers_own(_settings(words), readers)
    assert not set(settings) - set(checks._KEYS), "keys that the workflow knows"
    if "/" in str(settings.get("model_path", "")) and not Path(settings["model_path"]).is_dir():
        pytest.skip("the model is on the hub")
    if settings.get("study") in _ADDED:
        pytest.skip("tests/workflow/test_extending.py runs it, with the diffs of its page")
    settings.pop("foreign", None)  # folders of the reader
    settings["overrides"] = _without_data_dir(settings.get("overrides", ""))
    assert Pipeline(settings, "--profile" not in words).study.cells


def _without_data_dir(overrides: str) -> str:
    return re.sub(r"runtime\.data_dir=\S+( data\")?", "", overrides).strip()


def _resolved(words: list[str]) -> tuple[str, dict]:
    """The parts of a command of ours: which it is, and its arguments, as typer takes them."""
    command = typer.main.get_command(app)
    name, rest = "", words[1:]
    while hasattr(command, "commands"):
        assert rest and rest[0] in command.commands, f"{words}: no such command"
        name, command, rest = rest[0], command.commands[rest[0]], rest[1:]
    context = command.make_context(name, rest)
    return name, context.params


@pytest.mark.slow
@pytest.mark.parametrize("words", _commands("lorcbench"))
def test_a_command_of_ours_takes_its_arguments(words, readers, own_files, elsewhere):  # noqa: F811
    if any(_PLACEHOLDER.search(word) for word in words):
        pytest.skip("it stands for the reader's own")
    name, parameters = _resolved(words)
    settings = [*([parameters["study"]] if "study" in parameters else []), *(parameters.get("settings") or ())]
    settings = [setting if "=" in setting else f"study={setting}" for setting in settings]
    pairs = [setting.partition("=") for setting in settings]
    settings = [f"{key}={readers.get(value, value)}" for key, _, value in pairs]
    if words[1] == "stage":
        commands.check(settings)
    elif name == "plan" and not any(value in _ADDED for _, _, value in pairs) and "gpt_neox" not in " ".join(words):
        assert study_from_arguments(settings).cells

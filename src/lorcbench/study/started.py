"""With which words a study was started. They lie beside its page, so that the name of its folder alone means the same study.

The file holds one command that people can paste, ``lorcbench run own name=mine model_path=/data/my-llama``.
"""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.artifacts import write_text
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import StudyConfig
from lorcbench.study import given, naming

COMMAND = "command.txt"  # beside report.html
_KEYS = {field.name for field in fields(StudyConfig)}
_PLAIN = re.compile(r"[A-Za-z0-9._+=/-]+")  # a value that needs no quotes in Hydra's grammar
_RESULTS = str(Path(paths.STUDY.format(study="x")).parent)
_FOLDER = re.compile(rf"{re.escape(_RESULTS)}/([^/]+)/?")


def command(arguments: list[str], verb: str = "run") -> str:
    """The command that runs a study, or that does something else with it.

    Args:
        arguments: of a stage that sees a whole study: ``study=NAME``, overrides, ``model_path`` and so on.
        verb: a command of ``lorcbench`` that takes the same words.
    """
    values = dict(argument.partition("=")[::2] for argument in arguments)
    study = given.study_of(values) or given.DEMO
    others = [_word(argument) for argument in arguments if not argument.startswith("study=")]
    return shlex.join(["lorcbench", verb, study, *others])


def short_command(arguments: list[str], verb: str) -> str:
    """The same as `command`, by the folder's name alone if the study was given one, since the report leaves `COMMAND` there."""
    names = [argument.removeprefix("name=") for argument in arguments if argument.startswith("name=")]
    return shlex.join(["lorcbench", verb, names[-1]]) if names else command(arguments, verb)


def leave(folder: Path, arguments: list[str]) -> None:
    """Write `command` into the folder of a study."""
    write_text(folder / COMMAND, command(arguments) + "\n")


def _word(argument: str) -> str:
    """An argument of a stage as people type it, without Hydra's quotes where it has some."""
    key, _, value = argument.partition("=")
    if key in given.PLACES:
        return f"{key}={compose.unquoted(value)}"
    if key.startswith("study.") and value[:1] in ("'", '"'):  # as --configfile gives a title; typed, it has no quotes
        return f"{key.removeprefix('study.')}={compose.unquoted(value)}"
    return argument


def folder_of(word: str) -> str:
    """The name of the study's folder that a word names, as ``mine`` or as ``results/mine``."""
    match = _FOLDER.fullmatch(word)
    return match[1] if match else word


def is_path(word: str) -> bool:
    """Whether a word is the path of a folder under results/."""
    return bool(_FOLDER.fullmatch(word))


def has_command(word: str) -> bool:
    """Whether a word names the folder of a study whose command is known."""
    name = folder_of(word)
    return "/" not in name and len(name) <= naming.LONGEST and (Path(paths.STUDY.format(study=name)) / COMMAND).is_file()


def words(word: str) -> list[str]:
    """The words that a study's name stands for: itself, or those with which the study was started whose folder has that name.

    Raises:
        ConfigError: it is neither, or both and they are two studies.
    """
    name, studies = folder_of(word), compose.names("study")
    made = _made(name) if has_command(word) else None
    if name in studies and not is_path(word):
        if made and made[0].partition("+")[0] != f"study={name}":
            both = f"is both a study of conf/study and the folder {_RESULTS}/{name}, made by {typed(made)}"
            raise ConfigError(f"{name}: {both}; expected study={name} for the first, or {_RESULTS}/{name} for the second")
        return [f"study={name}"]
    if made:
        return made
    if name.partition("+")[0] in studies and not is_path(word):
        return [f"study={name}"]
    if Path(paths.STUDY.format(study=name)).is_dir() and "/" not in name:
        expected = "expected the words with which the study was started"
        raise ConfigError(f"{word}: {_RESULTS}/{name} has no {COMMAND}, which a run leaves at its start; {expected}")
    said = compose.unknown("study", name, folders())
    raise ConfigError(
        said if "did you mean" in said else f"{said}; a study of your own gets its name by lorcbench run … name={name}"
    )


def arguments(word: str) -> list[str]:
    """What a stage that sees a whole study is told of the study whose folder a word names: the inverse of `command`.

    Raises:
        ConfigError: as `words`.
    """
    return [_argument(part) for part in words(word)]


def _argument(word: str) -> str:
    """A word of a command as a stage takes it: `_word` backwards, and also a key of a study that people typed alone."""
    key, _, value = word.partition("=")
    if key in given.PLACES:
        return f"{key}={compose.quoted(value)}"
    if key in _KEYS:
        return f"study.{key}={value if value[:1] in ('[', '{') or _PLAIN.fullmatch(value) else compose.quoted(value)}"
    return f"eval.{word}" if key == naming.TASKS else word


def typed(words: list[str]) -> str:
    """The command whose words `words` gave, as people type it."""
    return shlex.join(["lorcbench", "run", words[0].removeprefix("study="), *words[1:]])


def _made(name: str) -> list[str]:
    """The words of the command in a study's folder, with ``study=`` before the first of them."""
    path = Path(paths.STUDY.format(study=name)) / COMMAND
    try:
        program, verb, study, *others = shlex.split(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        program = verb = study = ""
        others = []
    if (program, verb) != ("lorcbench", "run"):
        raise ConfigError(f"{path}: expected one line such as lorcbench run demo; delete it and run the study again")
    return [f"study={study}", *others]


def runs_of(study: str) -> list[str]:
    """The names of the folders whose command runs a study of conf/study, under another name."""
    found = []
    for name in folders():
        with suppress(ConfigError):  # a file that is no command
            if _made(name)[0].removeprefix("study=").partition("+")[0] == study:
                found.append(name)
    return found


def folders() -> list[str]:
    """The names of the folders whose command is known; those that are called as a study of conf/study are left out."""
    found = sorted(path.parent.name for path in Path(_RESULTS).glob(f"*/{COMMAND}"))
    return [name for name in found if name not in compose.names("study")]

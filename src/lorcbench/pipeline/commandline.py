"""What people type behind ``lorcbench run``, ``plan``, ``recommend`` and ``export``: the same words, read in one place.

``run`` and ``export`` become a command line of Snakemake, ``plan`` and ``recommend`` the arguments of a stage.
"""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lorcbench.common import paths, shipped
from lorcbench.config import commands, compose
from lorcbench.config.checks import ConfigError
from lorcbench.pipeline import checks, exports
from lorcbench.pipeline.checks import KEYS, OVERRIDES, STRUCTURED
from lorcbench.study import given, naming, started

_CONFIG = ("--config", "-C")
_CONFIG_FILE = "--configfile"
_DIRECTORY = ("-d", "--directory")
_HAS_CORES = re.compile(r"--(cores|jobs|executor|profile)(=.*)?|-[cje]\d*")  # or a profile says how many
_TYPOGRAPHIC = re.compile("(^|=)[“”„‘’«»]")
_OPEN_LIST = re.compile(r"[a-z_.]+=\[[^\]]*")  # which is cut at a blank
_WITHOUT_AT = re.compile(r"best[:=-]?(\d.*)")
_AXIS_OF = {"eval": "eval", "calibration": "calibrations", "method": "methods", "lorc": "lorc"}  # by config group
_SPOKEN = {"eval": "protocol", "lorc": "correction"}  # what people call these groups
_STUDY = re.compile(r"[^=/-][^=/]*(\+.*)?")
_NUMBER = re.compile(r"[.-]?\d[^/=]*")
_SHORT = {"format": "export_format", "verify": "export_verify"}  # of the command `lorcbench export`
_MACHINE = ("device=", "runtime.", "tracking.", *(f"{key}=" for key in exports.KEYS))  # settings that change no study


@dataclass
class Words:
    """What was typed, by kind.

    Attributes:
        settings: what Snakemake's ``--config`` takes, ``study=…`` among them.
        overrides: of Hydra, such as ``study.ranks=[0,8]``.
        rest: flags, their values, and targets of Snakemake, in their order.
        folder: of the study under results/, if it was named by that.
    """

    settings: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    folder: str | None = None

    @property
    def values(self) -> dict[str, str]:
        """The settings by their keys."""
        return dict(setting.partition("=")[::2] for setting in self.settings)

    def names_study(self, argument: str) -> bool:
        """Whether an argument is the study, by its form and its place."""
        if argument.startswith("study="):
            return not _is_of_conf(name := argument.removeprefix("study=")) and started.has_command(name)
        if any(setting.startswith("study=") for setting in self.settings):
            return False
        fits = is_study(argument) or started.is_path(argument)
        return fits and (not self.rest or _is_of_conf(argument) or started.has_command(argument))

    def take(self, argument: str) -> bool:
        """Put a setting or an override where it belongs; False if the argument is neither."""
        key, equals, value = argument.partition("=")
        if argument.startswith(OVERRIDES):
            self.overrides.append(argument)
        elif equals and key == "overrides":
            self.overrides.append(value)
        elif equals and key in (*KEYS, *STRUCTURED):
            self.settings.append(argument)
        else:
            return False
        return True


def _is_of_conf(name: str) -> bool:
    """Whether a name is that of a study of conf/study, with or without changes behind it."""
    return name.partition("+")[0] in compose.names("study")


def is_study(argument: str) -> bool:
    """Whether an argument is a study by its form: no flag, no setting, no cell; changes may be behind the name."""
    return bool(_STUDY.fullmatch(argument)) and "=" not in argument.partition("+")[0]


def read(arguments: list[str]) -> Words:
    """The words behind a command, which may stand in any order.

    Raises:
        ConfigError: a study or a setting that nobody knows, or a change of a study that is named by its folder.
    """
    words, named, place = Words(), None, 0
    for position, argument in enumerate(arguments):
        _check_spelling(argument, arguments[position + 1 :])
        if named is None and words.names_study(argument):
            named, place = argument.removeprefix("study="), len(words.settings)
        elif words.take(argument):
            continue
        elif "=" in argument and not any(part.startswith("-") for part in (*words.rest, argument)):
            known = ", ".join(f"{key}=…" for key in (*KEYS, *STRUCTURED) if key != "overrides")
            near = _in_a_name(argument, arguments) or compose.nearest(argument.partition("=")[0], (*KEYS, *STRUCTURED))
            expected = f"expected study.KEY=…, runtime.KEY=…, tracking.KEY=…, {known}{near}"
            raise ConfigError(f"{argument}: unknown setting; {expected}")
        elif argument not in _CONFIG:
            words.rest.append(argument)
    if named is not None:
        meant = Words()
        for word in _meant(named, words, arguments):
            meant.take(word)
        words.settings[place:place] = meant.settings
        words.overrides[:0] = meant.overrides
    return words


def _check_spelling(argument: str, others: list[str]) -> None:
    """Refuse what a shell or an editor has made of quotes and brackets.

    Args:
        others: the arguments behind it.
    """
    if _TYPOGRAPHIC.search(argument):
        raise ConfigError(f"{argument}: the quotes are typographic; expected straight ones, ' or \"")
    if _OPEN_LIST.fullmatch(argument):
        rest = list(itertools.takewhile(lambda part: "=" not in part and not part.startswith("-"), others))
        whole = "".join([argument, *rest])
        raise ConfigError(f"{argument}: the list is cut at a blank; expected quotes around it and no blank, such as '{whole}'")


def _in_a_name(argument: str, arguments: list[str]) -> str:
    """How a setting of a protocol, a calibration, a method or a correction is given: in its name; "" if it is none of them."""
    key, _, value = argument.partition("=")
    group = next((group for group in _AXIS_OF if key in compose.keys(group)), None)
    if group is None or key == "text" or not re.fullmatch(r"[A-Za-z0-9._-]+", value):
        return ""
    names = [word.removeprefix("study=").partition("+")[0] for word in arguments]
    config = compose.load("study", next((name for name in names if _is_of_conf(name)), given.OWN))
    chosen = {"eval": config.eval, "calibration": next(iter(config.calibrations or []), "own")}.get(group, "NAME")
    change = f"{_AXIS_OF[group]}=[{chosen}+{key}={value}]" if group != "eval" else f"eval={chosen}+{key}={value}"
    return f"; {key} is a setting of a {_SPOKEN.get(group, group)}: {shlex.quote(change) if '[' in change else change}"


def _meant(named: str, words: Words, arguments: list[str]) -> list[str]:
    """The words that the name of a study stands for.

    Raises:
        ConfigError: nobody knows it; or it is the name of a folder, and a change is beside it, which would take its place.
    """
    plain = [f"study={named}"]
    if any(argument.partition("=")[0] in _DIRECTORY for argument in arguments):
        return plain  # in another working folder there are other studies, for which Snakemake looks
    meant = started.words(named)
    if meant == plain:
        return plain
    parts = [*words.settings, *(part for text in words.overrides for part in commands.split(text))]
    change = next((part for part in parts if not part.startswith(_MACHINE)), None)
    if change is None:
        words.folder = started.folder_of(named)
        return meant
    if _is_of_conf(named):
        return plain
    expected = f"expected the words with which it was run, and another name: {started.typed(meant)}"
    raise ConfigError(f"{change}: {named} is a study as it was run; {expected}")


def with_study(arguments: list[str]) -> list[str]:
    """Arguments of a stage whose first may name a study, with what that means as such arguments before the others."""
    first = arguments[0] if arguments else ""
    if (is_study(first) and _is_of_conf(first)) or started.has_command(first):
        return [*stage_arguments(read([first])), *arguments[1:]]
    keys = {argument.partition("=")[0] for argument in arguments}
    return [f"study={given.OWN}", *arguments] if "model_path" in keys and "study" not in keys else arguments


def stage_arguments(words: Words) -> list[str]:
    """What a stage that sees a whole study is told: ``study=NAME``, overrides, and places in Hydra's quotes.

    Raises:
        ConfigError: no study, or what is neither a setting nor a flag.
    """
    values: dict = words.values
    for key in values.keys() & set(STRUCTURED):  # as Snakemake reads them
        values[key] = yaml.load(values[key], Loader=yaml.BaseLoader)
    if words.overrides:
        values["overrides"] = " ".join(words.overrides)
    if words.rest and not words.rest[0].startswith("-"):
        raise ConfigError(f"{words.rest[0]}: expected a setting such as model_path=FOLDER, or study.KEY=…")
    study = given.study_of(values)
    if study is None:
        raise ConfigError(_without_study())
    name = [f"name={values['name']}"] if "name" in values else []
    places = [f"{key}={compose.quoted(values[key])}" for key in given.PLACES if key in values]
    return [f"study={study}", *name, *checks.overrides_of(values), *places, *words.rest]


def of_finished(arguments: list[str], table: str) -> tuple[list[str], list[str], str | None]:
    """What ``lorcbench recommend`` asks: arguments of a stage, the words beside them, and the study's folder under results/.

    Args:
        arguments: a study, and a budget, which begins with a digit or is no setting.
        table: the file that a finished study's folder has. Where one word names such a folder, nothing else is looked up.
    """
    budgets = [argument for argument in arguments if _NUMBER.fullmatch(argument)]
    others = [argument for argument in arguments if argument not in budgets]
    name = started.folder_of(others[0].removeprefix("study=")) if len(others) == 1 else "/"
    if "/" not in name and len(name) <= naming.LONGEST and (Path(paths.STUDY.format(study=name)) / table).is_file():
        return [f"study={name}"], budgets, name
    words = read(others)
    budgets, words.rest = budgets + words.rest, []
    return stage_arguments(words), budgets, words.folder


def _without_study() -> str:
    return f"expected a study, or model_path=…; studies are {', '.join(compose.names('study'))}"


def command(arguments: list[str], verb: str = "run") -> list[str]:
    """Snakemake's command line for ``lorcbench run STUDY key=value … FLAGS``, without the program.

    Settings are what `--config` takes, and overrides such as ``study.ranks=[0,8]``; they may stand anywhere. All else is handed
    on as it is.

    Raises:
        ConfigError: no study, or a setting that nobody knows.
    """
    words = read(arguments)
    settings, rest = words.settings, words.rest
    in_a_file = any(flag.startswith(_CONFIG_FILE) for flag in rest)
    if not in_a_file and given.study_of(words.values) is None:
        raise ConfigError(f"{verb}: {_without_study()}")
    if words.overrides:
        settings = [*settings, f"overrides={' '.join(words.overrides)}"]
    return [
        *_where(),
        *([] if _says_cores(rest) else ["--cores", "all"]),
        *_profiles(rest),
        *(["--config", *settings] if settings else []),
    ]


def export_command(arguments: list[str]) -> list[str]:
    """Snakemake's command line for ``lorcbench export STUDY CELL … key=value … FLAGS``, without the program.

    Raises:
        ConfigError: a cell or a study is missing, or a word that is neither of them nor a setting.
    """
    cells, others, flags = [], [], False
    for argument in arguments:
        key, equals, value = argument.partition("=")
        flags = flags or argument.startswith("-")
        if match := _WITHOUT_AT.fullmatch(argument):
            raise ConfigError(f"{argument}: expected a cell or a budget; did you mean best@{match[1]}?")
        if equals and key in _SHORT:
            others.append(f"{_SHORT[key]}={value}")
        elif _is_cell(argument, key, flags):
            cells.append(argument)
        else:
            others.append(argument)
    expected = "expected a cell, such as opt-125m/gptq/c4-128x2048/w4-asym-g128/a16/r0, or best@BUDGET such as best@4.25"
    rest = read(others).rest
    if rest and not rest[0].startswith("-"):
        raise ConfigError(f"{rest[0]}: {expected}")
    if not cells:
        raise ConfigError(f"export: {expected}")
    return command([*others, f"export={','.join(cells)}"], "export")


def _is_cell(argument: str, key: str, flags: bool) -> bool:
    """Whether an argument is a cell; behind flags, which may have paths as values, it must be a whole one."""
    if "best@" in key:
        return True
    if flags:
        return argument.count("/") == 5 and not argument.startswith(("-", "/", "."))
    return "/" in key and not started.is_path(argument)


def _where() -> list[str]:
    """The flag that names our Snakefile; not needed in a checkout."""
    here = Path("Snakefile")
    return [] if here.is_file() and here.samefile(shipped.snakefile()) else ["--snakefile", str(shipped.snakefile())]


def _says_cores(flags: list[str]) -> bool:
    return any(_HAS_CORES.fullmatch(flag) for flag in flags)


def _profiles(flags: list[str]) -> list[str]:
    """The flags, with the folder of one of our profiles where its name is given and no such folder is here."""
    found = []
    for before, flag in zip(["", *flags], flags, strict=False):
        name = flag.removeprefix("--profile=")
        is_profile = before == "--profile" or name != flag
        ours = shipped.profile(name) if is_profile and not Path(name).exists() else None
        found.append(flag.replace(name, str(ours)) if ours else flag)
    return found


def spelled(arguments: list[str]) -> str:
    """The command as people type it."""
    return shlex.join(["snakemake", *arguments])

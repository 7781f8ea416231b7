"""``lorcbench run`` as the command line of Snakemake that it is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from lorcbench.common import shipped
from lorcbench.config import commands, compose
from lorcbench.config.checks import ConfigError
from lorcbench.pipeline.checks import KEYS, OVERRIDES, STRUCTURED

_CONFIG = ("--config", "-C")
_CONFIG_FILE = "--configfile"
_HAS_CORES = re.compile(r"--(cores|jobs|executor|profile)(=.*)?|-[cje]\d*")  # or a profile says how many
_STUDY = re.compile(r"[^=/-][^=/]*(\+.*)?")
# A setting of `--config` by itself → the key that stages know it by; `runtime` and `tracking` stand in files alone.
_SHORT = {key: f"study.{key}" for key in STRUCTURED if key not in ("tasks", "runtime", "tracking")}
_SHORT |= {"tasks": "eval.tasks", "device": "runtime.device"}


def is_study(argument: str) -> bool:
    """Whether an argument is a study by its place: no flag, no setting, no cell; changes may be behind the name."""
    return bool(_STUDY.fullmatch(argument)) and "=" not in argument.partition("+")[0]


def with_study(arguments: list[str]) -> list[str]:
    """Arguments whose first may be the name of a study as it stands, with ``study=`` before it.

    A first argument that names a model of one's own asks for the study `own`, as for Snakemake's ``--config``.
    """
    if arguments and arguments[0].startswith("model_path=") and not any(part.startswith("study=") for part in arguments):
        return ["study=own", *arguments]
    if arguments and arguments[0].partition("+")[0] in compose.names("study") and is_study(arguments[0]):
        return [f"study={arguments[0]}", *arguments[1:]]
    return arguments


def in_full(arguments: list[str]) -> list[str]:
    """Arguments with short spellings of settings written out: ``models=[a]`` becomes ``study.models=[a]``."""
    found = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key == "overrides":
            found += commands.split(value)
        elif equals and key in _SHORT:
            found.append(f"{_SHORT[key]}={value}")
        else:
            found.append(argument)
    return found


def command(arguments: list[str]) -> list[str]:
    """Snakemake's command line for ``lorcbench run STUDY key=value … FLAGS``, without the program.

    Settings are what `--config` takes, and overrides such as ``study.ranks=[0,8]``; they may stand anywhere. All else is handed
    on as it is.

    Raises:
        ConfigError: no study, or a setting that nobody knows.
    """
    settings, overrides, rest = [], [], []
    studies = compose.names("study")
    for argument in arguments:
        key, equals, value = argument.partition("=")
        names_study = is_study(argument) and not any(setting.startswith("study=") for setting in settings)
        if argument.startswith(OVERRIDES):
            overrides.append(argument)
        elif equals and key == "overrides":
            overrides.append(value)
        elif equals and key in (*KEYS, *STRUCTURED):
            settings.append(argument)
        elif names_study and (not rest or argument.partition("+")[0] in studies):
            settings.append(f"study={argument}")
        elif equals and not any(part.startswith("-") for part in rest) and not argument.startswith("-"):
            known = ", ".join(f"{key}=…" for key in (*KEYS, *STRUCTURED) if key != "overrides")
            raise ConfigError(f"{argument}: unknown setting; expected study.KEY=…, runtime.KEY=…, tracking.KEY=…, {known}")
        elif argument not in _CONFIG:
            rest.append(argument)
    in_a_file = any(flag.startswith(_CONFIG_FILE) for flag in rest)
    if not in_a_file and not any(setting.startswith(("study=", "model_path=")) for setting in settings):
        raise ConfigError(f"run: expected a study, or model_path=…; studies are {', '.join(studies)}")
    if overrides:
        settings.append(f"overrides={' '.join(overrides)}")
    return [
        *_where(),
        *([] if _says_cores(rest) else ["--cores", "all"]),
        *_profiles(rest),
        *(["--config", *settings] if settings else []),
    ]


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

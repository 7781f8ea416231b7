"""The command that people type, ``lorcbench``: what its parts are called. What they do is in other modules."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from typing import Annotated

import typer

from lorcbench import stages
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError

# What `list` knows → the config group, a folder of conf/.
_GROUPS = {
    "models": "model",
    "methods": "method",
    "studies": "study",
    "texts": "text",
    "calibrations": "calibration",
    "protocols": "eval",
    "tasks": "task",
    "lorc": "lorc",
}
Kind = Enum("Kind", {name: name for name in [*_GROUPS, "stages"]})
Settings = Annotated[list[str], typer.Argument(metavar="key=value", show_default=False)]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
stage_app = typer.Typer(no_args_is_help=True)
app.add_typer(stage_app, name="stage", help="Run one stage of the pipeline, as the workflow does.")


@app.callback()
def _about() -> None:
    """How few bits can a language model take, by which recipe? `snakemake` runs a study; this runs parts of one."""


def _stage_command(name: str) -> Callable[[Settings], None]:
    """The command that runs one stage."""

    def command(settings: Settings = ()) -> None:
        _run_stage(name, settings)

    return command


def _run_stage(name: str, settings: list[str]) -> None:
    from lorcbench.stages.__main__ import main as run_stage

    run_stage(name, list(settings))


for _name in stages.names():
    stage_app.command(_name, help=stages.description(_name))(_stage_command(_name))


@app.command()
def plan(settings: Settings = ()) -> None:
    """What a study would take on this machine, such as lorcbench plan study=lorc."""
    _run_stage("plan", settings)


@app.command()
def recommend(settings: Annotated[list[str], typer.Argument(metavar="study=NAME BUDGET", show_default=False)]) -> None:
    """What to take within a budget: lorcbench recommend study=lorc 4.25 (bits per weight; or 80MB, 0.5ppl, 2%)."""
    from lorcbench.report.budget import recommend as print_recommended

    print_recommended(settings)


@app.command()
def export(
    settings: Annotated[list[str], typer.Argument(metavar="study=NAME CELL …", show_default=False)],
    only_print: Annotated[bool, typer.Option("--print", help="Print the command of Snakemake, and run nothing.")] = False,
) -> None:
    """A cell as a folder that other libraries load, such as lorcbench export study=demo best@4.25 format=merged."""
    import shlex
    import subprocess

    from lorcbench.pipeline.exports import command

    arguments = command(settings)
    if only_print:
        print(shlex.join(["snakemake", *arguments]))
    else:
        sys.exit(subprocess.run([sys.executable, "-m", "snakemake", *arguments], check=False).returncode)


@app.command()
def reach() -> None:
    """Which study reaches which published number, or why none does."""
    from lorcbench.report.reach import main as print_reach

    print_reach()


@app.command("list")
def list_names(kind: Annotated[Kind, typer.Argument(show_default=False)]) -> None:
    """The names that settings may take, one per line, with what they stand for."""
    names = stages.names() if kind.value == "stages" else compose.names(_GROUPS[kind.value])
    width = max(map(len, names), default=0)
    for name in names:
        about = stages.description(name) if kind.value == "stages" else compose.headline(_GROUPS[kind.value], name)
        print(f"{name:{width}}  {about}".rstrip())


def main() -> None:
    """Run the command line; a configuration that makes no sense is one line and exit code 2."""
    try:
        app()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

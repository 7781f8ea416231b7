"""The command that people type, ``lorcbench``: what its parts are called. What they do is in other modules."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from lorcbench import __version__, stages
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
_KINDS = (*_GROUPS, "stages")
_HANDED_ON = {"ignore_unknown_options": True}  # flags that are not ours are among the settings


def _studies(incomplete: str) -> list[str]:
    """Names of studies and of their folders, for completion in a shell."""
    from lorcbench.study.started import folders

    return [name for name in (*compose.names("study"), *folders()) if name.startswith(incomplete)]


def _kinds(incomplete: str) -> list[str]:
    """What `list` knows, for completion in a shell."""
    return [kind for kind in _KINDS if kind.startswith(incomplete)]


Settings = Annotated[list[str], typer.Argument(metavar="key=value", show_default=False)]
Study = Annotated[str, typer.Argument(metavar="STUDY", show_default=False, autocompletion=_studies)]
Kind = Annotated[str, typer.Argument(metavar="KIND", show_default=False, autocompletion=_kinds)]
OnlyPrint = Annotated[bool, typer.Option("--print", help="Print the command of Snakemake, and run nothing.")]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
stage_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="lorcbench list stages prints these lines whole. Each stage has a help of its own: lorcbench stage quantize --help",
)
app.add_typer(stage_app, name="stage", help="Run one stage of the pipeline, as the workflow does.")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"lorcbench {__version__}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """How few bits can a language model take, by which recipe, and what does each step cost?

    A study is a list of cells; a cell is one model, quantized by one recipe and measured. From nothing to a checkpoint that
    other libraries load:

    \b
      lorcbench list studies              what there is to run; models, methods, texts, … alike
      lorcbench plan demo                 how long it takes here, and how much memory and disk
      lorcbench run demo                  run it; then open results/demo/report.html
      lorcbench recommend demo 4.25       what to use within 4.25 bits per weight
      lorcbench export demo best@4.25     that cell as a folder for transformers, vLLM and others

    \b
      lorcbench run model_path=/data/my-llama text_path=book.txt     the same of a model and a text of your own
    """


def _stage_command(name: str) -> Callable[[Settings], None]:
    """The command that runs one stage."""

    def command(settings: Settings = ()) -> None:
        _run_stage(name, settings)

    return command


def _run_stage(name: str, settings: list[str]) -> None:
    from lorcbench.stages.__main__ import main as run_stage

    run_stage(name, list(settings))


for _name in stages.names():
    # The stage itself answers --help: with its settings, and as `python -m lorcbench.stages` does.
    options = {"context_settings": _HANDED_ON, "add_help_option": False}
    stage_app.command(_name, help=stages.description(_name), **options)(_stage_command(_name))


def _run_workflow(arguments: list[str], only_print: bool) -> None:
    """Print the command of Snakemake, and become it; files of the working folder are no modules of it."""
    from lorcbench.pipeline.commandline import spelled

    if only_print:
        print(spelled(arguments))
        return
    print(spelled(arguments), file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "snakemake", *arguments])


@app.command(context_settings=_HANDED_ON, no_args_is_help=True)
def run(study: Study, settings: Settings = (), only_print: OnlyPrint = False) -> None:
    """Run a study: quantize and measure its cells, and make its page.

    It is a command of Snakemake, which it prints. Nothing that is there is computed twice: kill it, and type the same again.

    \b
      lorcbench run smoke                                            one to two minutes: does everything work?
      lorcbench run lorc -n                                          a dry run: which jobs there are
      lorcbench run lorc study.models=[opt-125m,opt-350m] --cores 8  another list of models, on eight cores
      lorcbench run demo study.methods=[gptq+damp=0.05]              a setting of a method
      lorcbench run lorc --profile slurm                             on a cluster
      lorcbench run model_path=FOLDER text_path=FILE                 a model and a text of your own
      lorcbench run --configfile mine.yaml                           settings in a file: config/README.md

    \b
    Settings: study, name, model_path, text_path, foreign, device, export, and study.KEY, runtime.KEY, tracking.KEY, eval.tasks.
    Keys of a study may also stand alone, as in models=[opt-125m]. All flags go to Snakemake: snakemake --help.
    """
    from lorcbench.pipeline import commandline

    _run_workflow(commandline.command([study, *settings]), only_print)


@app.command(context_settings=_HANDED_ON, no_args_is_help=True)
def plan(study: Study, settings: Settings = ()) -> None:
    """What a study would take on this machine.

    It counts jobs, estimates hours, memory and disk, and names what does not fit.

    \b
      lorcbench plan lorc models=[opt-125m,opt-1.3b]
      lorcbench plan model_path=FOLDER text_path=FILE
    """
    from lorcbench.pipeline.commandline import read, stage_arguments

    _run_stage("plan", stage_arguments(read([study, *settings])))


@app.command("list", no_args_is_help=True)
def list_names(kind: Kind) -> None:
    """The names that settings may take, with what they mean.

    KIND is models, methods, studies, texts, calibrations, protocols, tasks, lorc or stages.
    Those of conf files of your own are among them: files in ./conf/GROUP, or in the folder that LORCBENCH_CONF names.
    """
    if kind not in _KINDS:
        raise ConfigError(f"list {kind}: expected one of {', '.join(_KINDS)}{compose.nearest(kind, _KINDS)}")
    names = stages.names() if kind == "stages" else compose.names(_GROUPS[kind])
    width = max(map(len, names), default=0)
    for name in names:
        about = stages.description(name) if kind == "stages" else compose.headline(_GROUPS[kind], name)
        print(f"{name:{width}}  {about}".rstrip())


@app.command(no_args_is_help=True)
def show(settings: Settings) -> None:
    """The composed configuration of a cell, as YAML.

    It is what Hydra's --cfg job prints, and what that prints of a stage here.

    \b
      lorcbench show model=opt-125m method=gptq+damp=0.05 calibration=c4-128x2048 weight=w4-asym-g128
      lorcbench show demo opt-standin-s/gptq/stdlib/w3-asym-g32/a16/r8-plain-int8     a cell as tables name it
      lorcbench show study=lorc                                                       a study, as its file and defaults have it
    """
    from lorcbench.pipeline.commandline import with_study
    from lorcbench.study.show import show as composed

    print(composed(with_study(settings)))


@app.command(no_args_is_help=True)
def recommend(
    study: Study,
    budget: Annotated[list[str], typer.Argument(metavar="BUDGET", show_default=False)] = (),
    everything: Annotated[bool, typer.Option("--all", help="Print all cells on the front within the budget.")] = False,
) -> None:
    """What to take of a finished study, within a budget: the best recipe for all models, and the best of each.

    Each comes with its interval; that of a model comes with the command that exports it.

    \b
      lorcbench recommend demo 4.25     bits per weight
      lorcbench recommend demo 80MB     megabytes
      lorcbench recommend demo 2%       the loss that you accept; 0.5ppl is one in perplexity
      lorcbench recommend demo 4.25 --all

    A study is named by the words that lorcbench run took, or by its folder under results/.
    """
    from lorcbench.pipeline.commandline import of_finished
    from lorcbench.report.budget import TABLE
    from lorcbench.report.budget import recommend as print_recommended

    arguments, budgets, folder = of_finished([study, *budget], TABLE)
    print_recommended([*arguments, *budgets], everything, folder)


@app.command(context_settings=_HANDED_ON, no_args_is_help=True)
def export(
    study: Study,
    cells: Annotated[list[str], typer.Argument(metavar="CELL", show_default=False)] = (),
    only_print: OnlyPrint = False,
) -> None:
    """A cell as a folder that other libraries load.

    It is a command of Snakemake, so what is not measured yet is measured first. docs/export.md has the formats.

    It takes the words of lorcbench run, or the name of the study's folder under results/, and a cell.

    \b
      lorcbench export demo best@4.25                     the best cell of each model within 4.25 bits per weight, or best@2%
      lorcbench export demo opt-standin-s/rtn/none/w4-asym-g32/a16/r0 format=compressed-tensors
    """
    from lorcbench.pipeline import commandline

    _run_workflow(commandline.export_command([study, *cells]), only_print)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Only this machine reaches it.")] = 5000) -> None:
    """Serve MLflow over results/mlflow.db, on 127.0.0.1.

    It prints where the cells of each study are compared.
    """
    from lorcbench.report.tracking.ui import serve

    serve(port)


@app.command()
def reach() -> None:
    """Which study reaches which published number, or why none does."""
    from lorcbench.report.reach import main as print_reach

    print_reach()


def main() -> None:
    """Run the command line; a configuration that makes no sense is one line and exit code 2."""
    try:
        app()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

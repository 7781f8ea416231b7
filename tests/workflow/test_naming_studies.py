"""How a study is named to the commands: all take the same words, and the name of a study's folder stands for its words."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from test_commandline import refusal, said
from typer.testing import CliRunner

from lorcbench import cli
from lorcbench.config.checks import ConfigError
from lorcbench.pipeline.commandline import command, export_command, of_finished, read, stage_arguments, with_study
from lorcbench.report import budget, winners
from lorcbench.study import started
from lorcbench.study.expansion import load_study, study_from_arguments

CELL = "opt-standin-xs/rtn/none/w4-asym-row/a16/r0"
MINE = ["study=smoke", "name=mine", "study.models=[opt-standin-xs]", "study.weights=[w4-asym-row]"]


pytestmark = pytest.mark.usefixtures("elsewhere")  # nothing lies where these tests work


def finish(name: str, arguments: list[str]) -> Path:
    """Leave what a finished run leaves of its words."""
    folder = Path("results") / name
    folder.mkdir(parents=True)
    (folder / started.COMMAND).write_text(started.command(arguments) + "\n", encoding="utf-8")
    return folder


def told(words: list[str]) -> list[str]:
    """What a stage is told of a study that is named by these words."""
    return stage_arguments(read(words))


def test_a_model_of_ones_own_is_asked_what_own_asks_by_every_command():
    words = ["model_path=/a b/c", "text_path=t"]
    assert told(words) == ["study=own", 'model_path="/a b/c"', 'text_path="t"']
    assert of_finished([*words, "4.25"], "recommended.csv") == (told(words), ["4.25"], None)
    assert with_study([*words, CELL])[0] == "study=own"
    assert "study=own" not in command(words)  # the Snakefile knows it
    for name in ("plan", "run", "recommend"):
        assert refusal(name, "text_path=t").startswith("text_path=t: expected model_path=FOLDER, FILE.gguf or OWNER/NAME")
    assert refusal("export", "text_path=t", CELL).startswith("text_path=t: expected model_path=FOLDER")


def test_a_stage_is_told_what_the_workflow_would_make_of_the_words():
    words = ["smoke", "models=[opt-standin-xs]", "ranks=[0,8]", "exactly=true", "device=cpu", "tasks=[]", "study.gate=off"]
    assert told(words) == [
        "study=smoke",
        *("runtime.device=cpu", "study.models=[opt-standin-xs]", "study.ranks=[0,8]", "study.exactly=true", "eval.tasks=[]"),
        "study.gate=off",
    ]
    assert refusal("plan", "smoke", "extra").startswith("extra: expected a setting such as model_path=FOLDER")
    assert refusal("recommend", "smoke", "apples").startswith("budget apples: expected bits per weight")


@pytest.mark.parametrize("word", ["mine", "results/mine", "results/mine/", "study=mine"])
def test_a_folder_stands_for_the_words_with_which_its_study_was_started(word):
    finish("mine", MINE)
    assert told([word]) == MINE
    assert study_from_arguments(told([word])).name == "mine"
    assert command([word, "-n"]) == command([*MINE, "-n"])
    assert sorted(export_command([word, "best@4.5", "format=merged"])) == sorted(
        export_command([*MINE, "best@4.5", "format=merged"])
    )
    assert of_finished([word, "4.5"], "recommended.csv") == (MINE, ["4.5"], "mine")
    assert with_study([word.removeprefix("study="), CELL]) == [*MINE, CELL]


def test_the_words_of_a_changed_study_are_found_by_the_long_name_of_its_folder():
    arguments = ["study=smoke", "study.ranks=[0,8]", "study.models=[opt-standin-xs]"]
    name = study_from_arguments(arguments).name
    assert name == "smoke+models=opt-standin-xs+ranks=0,8"
    finish(name, arguments)
    assert set(told([name])) == set(arguments)


def test_what_the_commands_print_can_be_pasted_and_means_the_same_study():
    pasted = shlex.split(f"{started.command(MINE, 'export')} {CELL}")
    assert pasted[:2] == ["lorcbench", "export"]
    assert set(export_command(pasted[2:])) >= {"study=smoke", "name=mine", f"export={CELL}"}
    done = CliRunner().invoke(cli.app, [*pasted[1:], "--print"])
    assert done.exit_code == 0 and f"export={CELL}" in done.output


def test_a_change_beside_a_folder_is_refused_with_the_words_that_can_be_changed():
    finish("mine", MINE)
    expected = (
        "ranks=[0]: mine is a study as it was run; expected the words with which it was run, and another name: lorcbench run"
    )
    assert refusal("run", "mine", "ranks=[0]").startswith(f"{expected} smoke name=mine ")
    assert told(["mine", "runtime.threads=2"]) == [*MINE, "runtime.threads=2"]
    finish("lorc+standins=true", ["study=lorc", "study.standins=true"])  # which is also a study with a change behind its name
    assert told(["lorc+standins=true"]) == ["study=lorc", "study.standins=true"]
    assert told(["lorc+standins=true", "ranks=[0]"]) == ["study=lorc+standins=true", "study.ranks=[0]"]


def test_a_word_that_is_a_study_and_another_ones_folder_is_not_guessed():
    finish("demo", MINE)
    line = refusal("plan", "demo")
    assert "demo: is both a study of conf/study and the folder results/demo, made by lorcbench run smoke name=mine" in line
    assert told(["study=demo"]) == ["study=demo"] and told(["results/demo"]) == MINE
    assert told(["smoke"]) == ["study=smoke"]
    finish("smoke", ["study=smoke"])
    assert told(["smoke"]) == told(["results/smoke"]) == ["study=smoke"]


def test_an_unknown_study_is_one_line_with_those_there_are():
    for name in ("plan", "run"):
        line = refusal(name, "mine")
        assert line.startswith("study 'mine' is unknown; conf/study has activation-groups, ") and "results has" not in line
    finish("mine-again", MINE)
    assert refusal("plan", "mine-agin").endswith(", results has mine-again; did you mean mine-again?")
    assert refusal("plan", "dmeo").endswith("; did you mean demo?")
    Path("results/half").mkdir()
    assert refusal("plan", "half").startswith(
        "half: results/half has no command.txt, which a run leaves at its start; expected"
    )
    assert command(["mine", "--directory", "/elsewhere"])[-1] == "study=mine"  # there it may be known


def test_a_file_that_is_no_command_is_refused():
    (finish("mine", MINE) / started.COMMAND).write_text("make demo\n")
    with pytest.raises(
        ConfigError, match=r"results/mine/command\.txt: expected one line such as lorcbench run demo; delete it"
    ):
        told(["mine"])


def test_the_report_leaves_the_words(smoke):
    assert (smoke / "results/smoke" / started.COMMAND).read_text() == "lorcbench run smoke\n"


def test_completion_knows_the_folders():
    finish("mine", MINE)
    environment = {"_LORCBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "lorcbench recommend mi", "COMP_CWORD": "2"}
    assert CliRunner().invoke(cli.app, [], prog_name="lorcbench", env=environment).stdout.split() == ["mine"]
    assert "mine" not in said("list", "studies")


def test_a_folder_is_a_study_in_python_too():
    finish("mine", MINE)
    assert load_study("mine") == load_study("results/mine") == study_from_arguments(MINE)
    folder = Path("results/typed")
    folder.mkdir()
    typed = (
        "lorcbench run smoke name=typed models=[opt-standin-xs] methods=[gptq+damp=0.05,rtn] exactly=true weights=[w3-asym-row]"
    )
    (folder / started.COMMAND).write_text(f"{typed} 'title=It is \"mine\"' max_params=null tasks=[]\n")
    study = load_study("typed")
    assert (study.name, study.config.title, study.config.exactly, study.tasks) == ("typed", 'It is "mine"', True, ())
    assert {cell.method for cell in study.cells} == {"none", "rtn", "gptq+damp=0.05"}
    arguments = ["study=smoke", "study.ranks=[0,8]", "study.models=[opt-standin-xs]"]
    finish(study_from_arguments(arguments).name, arguments)
    assert load_study("smoke+models=opt-standin-xs+ranks=0,8") == study_from_arguments(arguments)
    assert load_study("smoke") == study_from_arguments(["study=smoke"])
    with pytest.raises(ConfigError, match=r"results has mine, smoke.*, typed; did you mean mine"):
        load_study("mime")


def test_what_was_run_under_another_name_is_named_where_the_study_itself_was_not_run():
    finish("smoke+ranks=0", ["study=smoke", "study.ranks=[0]"])
    finish("mine", MINE)
    finish("other", ["study=lorc", "name=other"])
    assert "; runs of smoke are mine, smoke+ranks=0: name one of them, or run the study first: lorcbench run smoke" in refusal(
        "recommend", "smoke", "4.25"
    )
    with pytest.raises(
        ConfigError, match=r"name one of its runs, mine, smoke\+ranks=0, or run the study without export=… first"
    ):
        winners.cells(load_study("smoke"), "best@4.25")


def test_a_study_without_a_measured_cell_says_so_and_how_to_go_on():
    rows = budget.as_csv([])
    (finish("mine", MINE) / budget.TABLE).write_text(rows)
    assert refusal("recommend", "mine", "4.25") == (
        "mine: none of its quantized cells is measured yet; go on with: lorcbench run mine"
    )

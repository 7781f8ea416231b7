"""From a finished study to a loaded, answering model in one command; and what is refused before any job starts."""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys

import pytest
from runs import snakemake
from typer.testing import CliRunner

from lorcbench import cli
from lorcbench.common.paths import Wildcards
from lorcbench.config.checks import ConfigError
from lorcbench.pipeline import commandline, exports
from lorcbench.pipeline.rules import Pipeline
from lorcbench.report import budget, winners
from lorcbench.study.expansion import load_study
from lorcbench.study.graph import inputs
from lorcbench.study.stages import EXPORT

KEY = "opt-standin-xs/rtn/none/w2-asym-row/a16/r4-plain-int8"


def refused(key: str, **settings: str) -> str:
    """The line with which a run is refused that exports a cell of the smoke study."""
    with pytest.raises(ConfigError) as refusal:
        pipeline = Pipeline({"study": "smoke", "export": key, **settings})
        pipeline.export(winners.cells(pipeline.study, key))
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_one_command_from_a_finished_study_to_a_model_that_answers(copy):
    done = snakemake(copy, "--config", "study=smoke", "export=opt-standin-xs/best@4.5")
    assert done.returncode == 0, done.stdout
    (result,) = (copy / EXPORT.pattern.partition("{")[0]).rglob("result.json")
    found = json.loads(result.read_text())
    assert len(found["generated"]) == 20
    assert found["text"].strip()
    parts = (
        "] writing 2 blocks as ",
        "] loading it with transformers",
        "] measuring the same text",
        "tensors equal to the bit",
    )
    assert sorted(parts, key=done.stdout.index) == list(parts)
    again = snakemake(copy, "-n", "--config", "study=smoke", "export=opt-standin-xs/best@4.5")
    assert "Nothing to be done" in again.stdout
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1]); tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(tokenizer.decode(model.generate(**tokenizer('The class', return_tensors='pt'), max_new_tokens=8)[0]))"
    )
    line = [sys.executable, "-c", code, str(result.parent / found["folder"])]
    answer = subprocess.run(line, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("The class")
    its_folder = str((result.parent / found["folder"]).relative_to(copy))
    last = done.stdout.rstrip().splitlines()[-1].strip()
    assert last.startswith(its_folder) and " MB; " in last
    overrides = "overrides=study.models=[opt-standin-xs]"
    compared = snakemake(copy, "--config", "study=smoke", f"foreign={its_folder}", overrides)
    assert compared.returncode == 0, compared.stdout
    (table,) = (path for path in (copy / "results").glob("*/cells.csv") if path.parent.name != "smoke")
    with open(table, newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["weight"], row["rank"]) == ("w2-asym-g32", "0")]
    shown = ("corpus", "ppl", "delta_nll_low")
    foreign = [[row[name] for name in shown] for row in rows if row["method"].startswith("foreign+of=model-")]
    own = [[row[name] for name in shown] for row in rows if row["method"] == "gptq"]
    assert foreign == own
    assert {row["bits_per_weight"] for row in rows} >= {"2.5625", "2.578125"}  # the files have the shape of each matrix, too


def test_the_best_cell_is_the_one_that_the_report_recommends(copy, monkeypatch):
    monkeypatch.chdir(copy)
    study = load_study("smoke")
    offered = budget.fronts(budget.read(copy / "results/smoke", ""))
    for spelled in ("4.5", "1MB", "500%", "500ppl"):
        most = budget.Budget.parse(spelled)
        best = [budget.within(front, most)[0].cell for (_, activation), front in offered.items() if activation == "a16"]
        assert {cell.key for cell in winners.cells(study, f"best@{spelled}")} == set(best), spelled
    with pytest.raises(ConfigError, match=r"export=best@1bits: no cell of opt-standin-xs is within it; the smallest, .*, has"):
        winners.cells(study, "best@1bits")


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
def test_what_cannot_be_exported_is_refused_before_any_job():
    assert "export=x/y: no cell of study smoke; expected one of its 8 cells, such as " in refused("x/y")
    assert "4 GPTQ" not in refused(KEY, export_format="gguf")
    assert "expected one of merged, adapter, compressed-tensors, gptq" in refused(KEY, export_format="gguf")
    assert "cells of study smoke are not measured yet" in refused("best@4.25")
    assert "expected a budget behind best@: bits per weight such as 4.25" in refused("best@small")
    assert "no model of study smoke" in refused("opt-125m/best@4")
    assert "its weights are those of the checkpoint" in refused("opt-standin-xs/none/none/w16/a16/r0")
    said = refused(KEY, overrides="runtime.memory_gib=0.5")
    assert "needs about" in said and "export_verify=tensors" in said


@pytest.mark.usefixtures("elsewhere")
def test_the_job_of_a_cell_is_called_by_all_that_changes_its_bytes():
    study = load_study("smoke")
    (cell,) = winners.cells(study, f"{KEY}, {KEY}")
    (job,) = exports.jobs(study, [cell], {})
    assert str(job.folder).endswith("opt-standin-xs/rtn/none/w2-asym-row/a16/a16/stdlib/plain-int8/r4/compressed-tensors/whole")
    needed = [one.stage.name for one in inputs(study, job)]
    assert needed == ["prepare", "tokens", "quantize", "lorc", "evaluate", "evaluate"]
    (merged,) = exports.jobs(study, [cell], {"export_format": "merged", "export_verify": "tensors"})
    assert str(merged.folder).endswith("/r4/merged/tensors")
    assert Wildcards.of(merged.names).rank == "4"


def test_the_command_is_the_one_of_snakemake():
    done = CliRunner().invoke(cli.app, ["export", "study=smoke", KEY, "best@4.25", "format=merged", "--print"])
    assert done.exit_code == 0, done.output
    arguments = shlex.split(done.output)
    assert arguments[0] == "snakemake"
    assert arguments[arguments.index("--config") + 1 :] == ["study=smoke", "export_format=merged", f"export={KEY},best@4.25"]


def test_an_export_takes_every_word_that_a_run_takes():
    words = ["smoke", "name=mine", "models=[opt-standin-xs]", "study.ranks=[0]", "runtime.threads=2", "-n", "--cores", "2"]
    run = commandline.command(words)
    exported = commandline.export_command([*words[:2], KEY, *words[2:], "best@4"])
    assert sorted(exported) == sorted([*run, f"export={KEY},best@4"])
    assert commandline.export_command(["smoke", "-n", "--report", "a/b/c.html", KEY])[-4:-2] == ["a/b/c.html", "--config"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study=smoke"], "export: expected a cell, such as .*, or best@BUDGET such as best@4.25"),
        ([KEY], "export: expected a study, or model_path=…; studies are "),
        (["study=smoke", "winner"], "winner: expected a cell, such as"),
        (["study=smoke", KEY, "bits=4"], "bits=4: unknown setting; expected study.KEY=…"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        commandline.export_command(arguments)

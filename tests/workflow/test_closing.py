"""The end of a run: its last lines are the answer, whatever it did."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from runs import snakemake
from safetensors.numpy import save_file

from lorcbench.common.artifacts import write_json
from lorcbench.common.process import SUMMARY_LATER
from lorcbench.pipeline import closing
from lorcbench.pipeline.closing import SUMMARY, Closing
from lorcbench.pipeline.console import Console


@pytest.fixture
def at_exit(monkeypatch, tmp_path):
    """What is registered for the end of the process; the working folder has a finished study."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SUMMARY_LATER, "")
    registered = []
    monkeypatch.setattr(closing.atexit, "register", registered.append)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / SUMMARY).write_text("\nmine: 3 cells measured\n")
    (tmp_path / "mine" / ".complete").touch()
    return registered


def ended(registered: list, capsys) -> str:
    """What is printed at the end."""
    for call in registered:
        call()
    return capsys.readouterr().out


def test_a_run_that_makes_a_page_ends_with_its_summary_and_another_one_does_not(at_exit, capsys):
    for rules, said in (({"quantize"}, ""), ({"quantize", "report"}, "\nmine: 3 cells measured\n")):
        at_exit.clear()
        one = Closing("mine", "mine/.complete")
        one.begin(rules)
        one.at_exit()
        assert ended(at_exit, capsys) == said


def test_what_an_earlier_run_said_is_no_answer_of_one_that_failed(at_exit, capsys):
    one = Closing("mine", "mine/.complete")
    one.begin({"quantize"})
    one.forget()
    one.at_exit()
    assert ended(at_exit, capsys) == ""


def test_an_export_ends_with_its_folders_and_says_them_again(at_exit, capsys, tmp_path):
    one = Closing("mine", "mine/.complete")
    assert one.again() == "go on with: lorcbench run mine"
    one.exported = dict.fromkeys(("a/model", "b/model", "failed/model"), tmp_path / "opt/result.json")
    assert one.again() == "the same command goes on from here"
    for name in ("a", "b"):
        (tmp_path / name / "model").mkdir(parents=True)
    one.begin({"export"})
    one.at_exit()
    assert ended(at_exit, capsys).splitlines()[-2:] == ["  a/model", "  b/model"]
    assert one.known().splitlines()[-1] == "  b/model"


def test_behind_an_exported_folder_stands_its_size_and_that_of_the_original(at_exit, tmp_path):
    write_json(tmp_path / "opt/result.json", "checkpoint", {"folder": "model"})
    one = Closing("mine", "mine/.complete")
    one.exported = {"a/model": tmp_path / "opt/result.json"}
    for folder, numbers in (("opt/model", 500_000), ("a/model", 100_000), ("a/model/adapter", 25_000)):
        (tmp_path / folder).mkdir(parents=True)
        save_file({"weight": np.zeros(numbers, "float32")}, tmp_path / folder / "model.safetensors")
    assert one.known().splitlines()[-1] == "  a/model  0.50 MB; in full precision 2.00 MB"


def test_a_run_with_nothing_to_do_gives_the_answer_of_the_one_before(at_exit, tmp_path):
    console = Console(logging.Formatter("%(message)s"))
    nothing = logging.LogRecord("snakemake", logging.INFO, "", 0, "Nothing to be done (all is there).", (), None)
    assert console.format(nothing) == "Nothing to be done (all is there)."
    console.answer = Closing("mine", "mine/.complete").known
    assert console.format(nothing).splitlines()[-1] == "mine: 3 cells measured"
    (tmp_path / "mine" / ".complete").unlink()
    assert console.format(nothing) == "Nothing to be done (all is there)."


def test_the_last_lines_of_a_whole_run_are_the_answer(copy):
    again = snakemake(copy, "--config", "study=smoke")
    assert again.returncode == 0 and "Nothing to be done" in again.stdout
    made = snakemake(copy, "--config", "study=smoke", "--forcerun", "report")
    assert made.returncode == 0, made.stdout
    for done in (again, made):
        *_, page, table, mlflow = done.stdout.rstrip().splitlines()
        assert page.split() == ["page", "results/smoke/report.html"] and table.split()[0] == "table"
        assert mlflow.split()[0] == "MLflow"
        assert done.stdout.count("8 cells measured") == 1
    assert made.stdout.index("Complete log") < made.stdout.index("8 cells measured")

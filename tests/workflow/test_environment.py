"""Paths, limits, modules, homes and interrupts as people have them: respected, or one line."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import command, snakemake, wait_for

from lorcbench.common.paths import Wildcards
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.jobs.job import Job
from lorcbench.pipeline import lifecycle, warm
from lorcbench.pipeline.lifecycle import Lifecycle
from lorcbench.pipeline.rules import Pipeline
from lorcbench.study import started
from lorcbench.study.expansion import study_from_arguments

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("elsewhere")]

ODD = ("o'brien", 'the "best" one', "sp é日", "$HOME", "a`b`", "back\\slash", "semi;colon", "#1", "null", "1e3", "-rf", "{a}")


def checkpoint(folder: Path) -> Path:
    """A folder that looks like a checkpoint to the workflow."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "opt"}')
    return folder


# Paths


@pytest.mark.parametrize("name", ODD)
def test_a_model_path_reaches_the_stages_as_it_is(tmp_path, name):
    folder = checkpoint(tmp_path / name / "m")
    pipeline = Pipeline({"study": "smoke", "model_path": str(folder)})
    (model,) = pipeline.study.models
    by_stage = Job("prepare", shlex.split(pipeline.model_arguments(Wildcards(model=model))))
    assert (by_stage.model.path, by_stage.names.model) == (str(folder), model)
    of_study = study_from_arguments(shlex.split(pipeline.study_arguments()))
    assert of_study.folders == {model: str(folder)}


@pytest.mark.parametrize("name", [name for name in ODD if "{" not in name])
def test_a_folder_of_any_name_is_a_model(tmp_path, name):
    folder = checkpoint(tmp_path / name)
    pipeline = Pipeline({"study": "smoke", "model_path": str(folder)})
    (model,) = pipeline.study.models
    assert Job("prepare", shlex.split(pipeline.model_arguments(Wildcards(model=model)))).model.path == str(folder)


@pytest.mark.parametrize("name", ["my data", "o'brien's data", "two  blanks", 'a "b" c'])
def test_the_data_folder_may_have_blanks_and_quotes_in_its_name(tmp_path, name):
    from corpus_files import data_folder

    data = data_folder(tmp_path / name)
    overrides = f"study.eval=gptq-old+window=128 runtime.data_dir={compose.quoted(str(data))} runtime.threads=2"
    pipeline = Pipeline({"study": "smoke", "overrides": overrides})
    assert pipeline.local_file("text")(Wildcards(text="ptb-validation")) == [str(data / "ptb" / "ptb.valid.txt")]
    runtime = Job("text", ["text=ptb-validation"]).runtime
    assert (runtime.data_dir, runtime.threads) == (str(data), 2)


@pytest.mark.parametrize("overrides", ['runtime.data_dir="my data', "runtime.data_dir=o'brien", "runtime.data_dir=my data"])
def test_a_blank_or_a_quote_without_its_pair_is_refused_in_one_line(overrides):
    with pytest.raises(ConfigError) as refusal:
        Pipeline({"study": "smoke", "overrides": overrides})
    assert "\n" not in str(refusal.value)
    assert 'runtime.data_dir="my data"' in str(refusal.value) or "override 'data'" in str(refusal.value)


# Limits


@pytest.mark.parametrize(("given", "total"), [({}, 4096), ({"mem_mb": 3000}, 3000), ({"mem_mb": 9000}, 9000)])
def test_the_memory_that_the_user_gives_to_snakemake_stands(given, total):
    resources = Pipeline({"study": "smoke", "overrides": "runtime.memory_gib=4"}).resources
    assert resources.totals(given)["mem_mb"] == total


def test_snakemakes_own_memory_limit_is_respected(tmp_path):
    done = snakemake(tmp_path, "-n", "--config", "study=smoke", "--resources", "mem_mb=10")
    assert done.returncode != 0
    assert "here are 0.0" in done.stdout
    assert "--resources mem_mb=…" in done.stdout
    assert "Traceback" not in done.stdout


# Modules


def test_a_file_of_the_working_folder_shadows_no_module(tmp_path):
    for name in ("random", "tokenize", "datasets", "torch", "lorcbench"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('mine')\n")
    done = snakemake(tmp_path, "results/cache/text/stdlib/result.json", "--config", "study=smoke")
    assert done.returncode == 0, done.stdout
    assert "mine" not in done.stdout


# Ctrl-C


def interrupted(work) -> str:
    """The line with which `work` ends."""
    with pytest.raises(SystemExit) as ending:
        work()
    return str(ending.value)


def test_what_still_happens_after_ctrl_c_is_said_and_a_second_one_leaves_it_out(tmp_path, monkeypatch, capsys):
    run = Lifecycle(1, tmp_path / ".complete", ["study=smoke"])
    stages = []
    monkeypatch.setattr(lifecycle.subprocess, "run", lambda command, check: stages.append(command[3]))
    run.report_failure()
    assert stages == ["track", "report"]
    assert "MLflow and the page are made of what there is so far" in capsys.readouterr().err

    def second(command, check):
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle.subprocess, "run", second)
    assert "the same command goes on from here" in interrupted(run.report_failure)


def run_until(said: str, folder: Path) -> str:
    """What a run of the smoke study says that gets Ctrl-C, as from a terminal, once it has said something."""
    process = subprocess.Popen(
        command("--config", "study=smoke", "name=mine"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if said in line:
            os.killpg(process.pid, signal.SIGINT)
            said = "Ctrl-C was sent"
    return "".join(lines)


@pytest.mark.parametrize("said", ["Building DAG of jobs", "[ 1/"])
def test_ctrl_c_ends_a_run_with_how_to_go_on_and_its_name_is_known(said, tmp_path, monkeypatch):
    told = run_until(said, tmp_path)
    assert "Traceback" not in told
    assert told.rstrip().endswith("go on with: lorcbench run mine")
    monkeypatch.chdir(tmp_path)
    assert started.words("mine") == ["study=smoke", "name=mine"]


def test_a_dry_run_leaves_no_words(tmp_path):
    assert snakemake(tmp_path, "--config", "study=smoke", "name=mine", "-n").returncode == 0
    assert not (tmp_path / "results" / "mine").exists()


def test_a_stage_ends_at_ctrl_c_without_a_traceback_while_it_imports(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("open('importing', 'w').close()\nimport time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    line = [sys.executable, "-m", "lorcbench.stages", "prepare", "model=folder", "model.path=gone"]
    process = subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "importing").is_file, "the stage")
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == ""
    assert process.returncode == -signal.SIGINT


def test_a_stage_ends_at_ctrl_c_without_a_traceback_while_it_works(tmp_path):
    line = [sys.executable, "-m", "lorcbench.stages", "text", "text=stdlib"]
    process = subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "results/cache/text/stdlib/log.txt").is_file, "the stage")
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == ""
    assert process.returncode in (130, -signal.SIGINT)
    assert not (tmp_path / "results/cache/text/stdlib/result.json").exists()


def ignores_ctrl_c(process: subprocess.Popen) -> bool:
    """Whether a process ignores Ctrl-C."""
    status = dict(line.split(":\t") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if ":\t" in line)
    return bool(int(status["SigIgn"], 16) >> (signal.SIGINT - 1) & 1)


def test_the_warm_process_leaves_ctrl_c_to_the_commands_that_wait(monkeypatch):
    monkeypatch.setenv("LORCBENCH_JOB", str(os.getpid()))
    one = warm.WarmProcess(1)
    try:
        wait_for(lambda: ignores_ctrl_c(one._process), "the warm process")
        one._process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert one._process.poll() is None
    finally:
        one.stop()

"""How stages and the command `lorcbench` are started, by the workflow and by hand, and how they refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module

import pytest
import torch
from runs import ROOT, snakemake, stage
from safetensors.torch import load_file
from typer.testing import CliRunner

from lorcbench import cli, stages
from lorcbench.common.process import PARENT
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.jobs.job import Job

OLD = [sys.executable, "-m", "lorcbench.stages.plan", "study=nope"]


def command(*arguments: str) -> str:
    """What `lorcbench` prints, in this process."""
    done = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_the_old_spelling_of_a_stage_goes_on_and_says_by_hand_what_is_new(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != PARENT}
    by_hand = subprocess.run(OLD, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    in_workflow = subprocess.run(
        OLD, cwd=tmp_path, env=environment | {PARENT: str(os.getpid())}, capture_output=True, text=True, check=False
    )
    deprecation, refusal = by_hand.stderr.splitlines()
    assert "deprecated; write python -m lorcbench.stages plan, or lorcbench stage plan" in deprecation
    assert refusal.startswith("error: plan: study 'nope' is unknown; conf/study has ")
    assert in_workflow.stderr.splitlines() == [refusal]
    assert by_hand.returncode == in_workflow.returncode == 2


@pytest.mark.slow
def test_importing_the_stages_does_nothing():
    code = "import os, sys; before = dict(os.environ); import lorcbench.stages; print(before == dict(os.environ))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.slow
def test_help_lists_every_stage_by_what_it_says_of_itself(tmp_path):
    for arguments in (["--help"], []):
        usage = subprocess.run(
            [sys.executable, "-m", "lorcbench.stages", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        lines = [line for line in usage.stdout.splitlines() if line.startswith("  ")]
        assert lines == [f"  {name:10} {stages.description(name)}" for name in stages.names()]
    assert len(lines) > 10
    assert stages.description("text") == "A text's documents, staged: copied from a file on this machine or downloaded once."
    help_text = command("stage", "--help")
    assert all(re.search(rf"\b{name} .*{stages.description(name).split()[0]}", help_text) for name in stages.names())


@pytest.mark.slow
def test_an_unknown_stage_is_one_line(tmp_path):
    refused = stage(tmp_path, "quantise", "model=opt-standin-xs")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [f"error: stage 'quantise' is unknown; stages are {', '.join(stages.names())}"]


WRONG = [
    ("cap=abc", "cap=abc: abc does not fit; expected whole numbers"),
    ("cap=-1", "cap=-1: expected 32, 128, 512, or 0 for all components"),
    ("damp=much", "damp=much: much does not fit; expected a number"),
    ("damp=0", "damp=0.0: expected a positive number"),
    ("order=random", "order=random: expected one of natural, act_order"),
    ("dead=kept", "dead=kept: expected one of published, excluded"),
    ("variants=r0", "variants: expected a list, such as variants=[a,b]"),
    ("variants=[r0,plain-int8]", "variants=plain-int8: expected r0, or LORC/rRANK such as plain-int8/r8"),
    ("weight=[w4-asym-row]", "Cannot convert 'list' to string"),
    ("weight=w9-asym-row", "weight: weight format w9-asym-row: bits must be 2 to 8"),
    ("trained=a8", "trained: activation format 'a8': expected a16 or aBITS-sym|asym-token|gN, such as a8-asym-token"),
    ("activation=int8", "activation: activation format 'int8': expected a16"),
    (
        "weights=w4-asym-row",
        "unknown key weights; known keys are activation, calibration, cap, damp, dead, eval, export, foreign, lorc,",
    ),
]


@pytest.mark.parametrize(("override", "mend"), WRONG, ids=[override for override, _ in WRONG])
def test_a_job_refuses_a_wrong_value_of_its_own_keys_in_one_line(override, mend):
    with pytest.raises(ConfigError) as refusal:
        Job("quantize", [override])
    assert mend in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_a_configuration_that_makes_no_sense_is_one_line_and_exit_code_2(tmp_path):
    for line in (["-m", "lorcbench.stages", "plan"], ["-m", "lorcbench", "stage", "plan"]):
        refused = subprocess.run([sys.executable, *line, "cap=-1"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert refused.stderr.splitlines() == ["error: plan: cap=-1: expected 32, 128, 512, or 0 for all components"]


def test_lists_have_every_name_and_what_it_stands_for():
    for kind, group in (("models", "model"), ("methods", "method"), ("studies", "study"), ("texts", "text")):
        lines = command("list", kind).splitlines()
        assert [line.split()[0] for line in lines] == compose.names(group)
    assert "rtn" in command("list", "methods")
    (line,) = [line for line in command("list", "studies").splitlines() if line.startswith("smoke ")]
    assert line.endswith("Does everything work? One stand-in per family, a handful of cells, about a minute on two cores.")
    assert [line.split()[0] for line in command("list", "stages").splitlines()] == stages.names()


def test_a_conf_folder_of_ones_own_is_listed_too(tmp_path, monkeypatch):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "ours.yaml").write_text("# A method of ours.\ndefaults: [/schema/method@_here_: rtn, _self_]\n")
    monkeypatch.setenv(compose.EXTRA_CONF, str(tmp_path))
    assert re.search(r"^ours +A method of ours\.$", command("list", "methods"), re.MULTILINE)


@pytest.mark.slow
def test_the_plan_is_a_command_too(tmp_path):
    line = [sys.executable, "-m", "lorcbench", "plan", "study=smoke", "study.models=[opt-standin-xs]", "runtime.memory_gib=4"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("study smoke+models=opt-standin-xs: 5 cells on opt-standin-xs (a stand-in); ")


def test_the_console_script_is_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["lorcbench"].partition(":")
    assert getattr(import_module(module), function) is cli.main


NAME = 'it\'s "mein" größtes $HOME `modell` & mehr'  # what shells, Hydra and OmegaConf read as theirs


def test_a_checkpoint_folder_may_be_called_as_people_call_folders(copy):
    """A whole run: every stage, MLflow and the page are told of the folder, by way of the shell."""
    checkpoint = copy / "results/cache/checkpoint/opt-standin-xs"
    (copy / NAME).mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (copy / NAME / file).write_bytes((checkpoint / file).read_bytes())
    axes = "study.methods=[rtn] study.weights=[w2-asym-row] study.ranks=[0,4]"
    done = snakemake(copy, "--config", "study=smoke", f"overrides={axes}", f"model_path={NAME}")
    assert done.returncode == 0, done.stdout
    assert "3 cells measured, 0 failed, 0 not run" in done.stdout
    cache, recipe = copy / "results/cache", "rtn/none/w2-asym-row/a16"
    (name,) = {path.name for path in (cache / "checkpoint").iterdir()} - {"opt-standin-xs", "bloom-standin-xs"}
    assert name.startswith(re.sub(r"[^A-Za-z0-9._-]+", "-", NAME)[:4])
    shards = sorted((cache / "quantize" / name / recipe).glob("*.safetensors"))
    assert len(shards) == 2
    for path in shards:  # the stand-in's own weights under another name
        ours, same = load_file(path), load_file(cache / "quantize/opt-standin-xs" / recipe / path.name)
        assert ours.keys() == same.keys()
        assert all(torch.equal(ours[part], same[part]) for part in same)
    assert json.loads((cache / "checkpoint" / name / "result.json").read_text())["folder"] == str(copy / NAME)

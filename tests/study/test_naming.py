"""What studies are called: the same changes have one name, different ones share no folder, what changes nothing is left out."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import SCHEMAS, StudyConfig
from lorcbench.pipeline.rules import Pipeline
from lorcbench.study import naming
from lorcbench.study.expansion import load_study, study_from_arguments

README = "study.models=[opt-standin-m] study.methods=[rtn,gptq] study.weights=[w4-asym-g32,w3-sym-row] study.activations=[a16]"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("PATH", "LORCBENCH_JOB", compose.RUNTIME_VARIABLE):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize(
    ("study", "overrides", "own_name", "behind"),
    [
        ("demo", "", None, ""),
        ("demo", "study.gate=check study.max_cells=999 runtime.threads=2", None, ""),
        ("demo", "study.models=[opt-standin-m] study.ranks=[0,8]", None, ", changed: models=opt-standin-m, ranks=0,8"),
        ("demo", "study.models=[opt-standin-m] study.ranks=[0,8]", "mine", ", changed: models=opt-standin-m, ranks=0,8"),
        ("demo+gate=off", "", None, ", changed: gate=off"),
        ("demo", f"study.ranks=[{','.join(map(str, range(20)))}] study.gate=off", None, ", changed: ranks, gate=off"),
    ],
)
def test_a_changed_study_does_not_keep_the_title_of_its_file(study, overrides, own_name, behind):
    own = load_study("demo").config.title
    assert load_study(study, overrides.split(), own_name=own_name).config.title == own + behind


def test_a_title_that_is_given_stays_as_it_is():
    assert load_study("demo", ["study.ranks=[0,8]", "study.title=Mine"]).config.title == "Mine"
    standins = load_study("lorc", ["study.standins=true"]).config.title
    assert standins == f"{load_study('lorc').config.title}, on stand-ins"


def test_a_model_of_your_own_is_what_the_study_own_is_for(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "opt", "hidden_size": 64, "ffn_dim": 256, "num_hidden_layers": 1}')
    place = {"model_path": str(tmp_path)}
    assert load_study("own", **place).config.title == load_study("own").config.title
    assert load_study("own", ["study.ranks=[0,8]"], **place).config.title.endswith(", changed: ranks=0,8")
    assert ", changed: model_path=" in load_study("smoke", **place).config.title


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "overrides", "name"),
    [
        ("demo", "", "demo"),
        ("demo", "runtime.threads=2 runtime.batch_tokens=512 tracking.uri=http://127.0.0.1:1", "demo"),
        ("demo", "study.gate=check study.eval=stdlib study.indivisible=refuse", "demo"),  # as they are
        ("demo", "study.gate=off", "demo+gate=off"),
        ("demo+gate=off", "", "demo+gate=off"),
        (
            *("demo", f"{README} study.ranks=[0,8,16]"),
            "demo+models=opt-standin-m+methods=rtn,gptq+weights=w4-asym-g32,w3-sym-row+activations=a16+ranks=0,8,16",
        ),
        ("lorc+standins=true", "", "lorc+standins=true"),
        ("lorc", "study.standins=True", "lorc+standins=true"),
        ("lorc+standins=true", "study.models=[opt-standin-m]", "lorc+models=opt-standin-m+standins=true"),
        (
            "lorc",
            "study.standins=true study.models=[opt-standin-s] study.models=[opt-standin-m]",
            "lorc+models=opt-standin-m+standins=true",
        ),
        ("rank", "study.max_params=2.0E+9", "rank+max_params=2e9"),
        ("rank", "study.max_params=null", "rank+max_params=null"),
        ("demo", "study.methods=[gptq+damp=0.050+block=128]", "demo+methods=gptq+damp=0.05"),
        ("smoke", "study.eval=stdlib+window=64", "smoke+eval=stdlib+window=64"),
        ("smoke", "eval.tasks=[stdlib_prose]", "smoke+tasks=stdlib_prose"),
    ],
)
def test_the_name_says_what_was_changed(study, overrides, name):
    expanded = load_study(study, overrides.split())
    assert expanded.name == name
    arguments = [f"study={study}", *overrides.split()]
    assert study_from_arguments(arguments).name == name, "the stages that see the whole study take the same folder"


def test_names_that_would_be_long_or_hold_signs_are_shortened_with_a_hash():
    grids = "study.grids=[{methods:[rtn],weights:[w2-asym-row]}]"
    names = [load_study("smoke", [grids.replace("row", group)]).name for group in ("row", "g32", "g16")]
    many = ",".join(f"w{bits}-{kind}-row" for bits in range(2, 9) for kind in ("asym", "sym"))
    names += [load_study("smoke", [f"study.weights=[{many}{last}]"]).name for last in ("", ",w4-asym-g32", ",w4-asym-g16")]
    assert len(set(names)) == len(names)
    assert names[0].startswith("smoke+grids=") and "methods-rtn,weights-w2-asym-row" in names[0]
    for name in names:
        assert re.fullmatch(r"smoke\+[A-Za-z0-9._,+=-]+\+[0-9a-f]{8}", name) and len(name) <= naming.LONGEST
    assert names[0] == load_study("smoke", [grids]).name


def test_a_name_with_several_changes_is_read_in_one_way():
    # In demo+methods=gptq+damp=0.05+gate=off the damping is the method's and the gate the study's, since no key is both.
    groups = ("model", "method", "calibration", "lorc", "eval")
    keys = {field.name for group in groups for schema in SCHEMAS[group].values() for field in fields(schema)}
    lists = {"tasks"}  # of eval; no name of a protocol can hold a list
    assert not (keys - lists) & {field.name for field in fields(StudyConfig)} and naming.FOLDER not in keys


def test_a_checkpoint_of_ones_own_has_a_folder_of_its_own(tmp_path):
    (tmp_path / "my opt").mkdir()
    (tmp_path / "my opt" / "config.json").write_text("{}")
    expanded = load_study("demo", ["study.ranks=[0]"], str(tmp_path / "my opt"))
    assert expanded.name == f"demo+model_path={expanded.models[0]}+ranks=0"


def test_a_name_of_ones_own():
    pipeline = Pipeline({"study": "smoke", "overrides": "study.ranks=[0,6]", "name": "six.ranks+a_1"})
    assert (pipeline.study.name, pipeline.folder) == ("six.ranks+a_1", "results/six.ranks+a_1")
    assert (
        pipeline.complete == "results/six.ranks+a_1/.complete"
        and pipeline.log("track") == "results/six.ranks+a_1/track/log.txt"
    )
    arguments = pipeline.study_arguments().replace("'", "").split()
    assert study_from_arguments(arguments).name == "six.ranks+a_1"
    compose.compose(arguments)  # as a stage does with its command line


def test_the_folder_of_a_changed_study_is_not_that_of_the_study():
    pipeline = Pipeline({"study": "smoke", "overrides": "study.ranks=[0,6] runtime.batch_tokens=512"})
    assert pipeline.folder == "results/smoke+ranks=0,6"
    assert pipeline.record("report") == "results/smoke+ranks=0,6/report/run.json"
    arguments = pipeline.study_arguments().replace("'", "").split()
    assert arguments[:2] == ["study=smoke", "study.ranks=[0,6]"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "ä", "-x", ".x", "x=1", "a,b", "a{b}", 5, None, ["x"], "x" * 121])
def test_names_that_no_folder_should_have_are_refused(name):
    with pytest.raises(ConfigError, match=r"^name=.*expected at most 120 letters, digits and \._\+-"):
        Pipeline({"study": "smoke", "name": name})


@pytest.mark.parametrize("name", ["demo", "smoke", "cache", "mlflow.db", "mlflow-artifacts"])
def test_names_of_something_else_are_refused(name):
    with pytest.raises(ConfigError, match=rf"^name={re.escape(name)}: .*{re.escape(name)}|of that name"):
        Pipeline({"study": "smoke", "name": name})


def test_a_study_of_ones_own_cannot_be_called_as_a_part_of_the_results_folder(tmp_path, monkeypatch):
    (tmp_path / "study").mkdir()
    (tmp_path / "study/cache.yaml").write_text((compose.conf_dir() / "study/smoke.yaml").read_text())
    monkeypatch.setenv("LORCBENCH_CONF", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^name=cache: results/cache is no study's"):
        load_study("cache")

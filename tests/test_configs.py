"""Every file under conf/ composes and validates, every study expands, and what makes no sense is refused in one line."""

import itertools

import pytest

from lorcbench import config, study
from lorcbench.config import ConfigError
from lorcbench.formats import ActivationFormat, WeightFormat
from lorcbench.workflow import Workflow

FILES = [
    (folder.name, path.stem)
    for folder in sorted(path for path in config.conf_dir().iterdir() if path.is_dir())
    for path in sorted(folder.glob("*.yaml"))
]
STUDIES = [name for group, name in FILES if group == "study"]


@pytest.mark.parametrize(("group", "name"), FILES, ids="/".join)
def test_every_conf_file_composes_and_validates(group, name):
    if (group, name) == ("model", "folder"):
        with pytest.raises(ConfigError, match="path"):
            config.load(group, name)
        return
    assert config.plain(config.load(group, name))
    first = (config.conf_dir() / group / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# "), "a conf file opens with what it is"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_expands_to_known_cells(name):
    expanded = study.load(name)
    assert len(set(expanded.cells)) == len(expanded.cells) > 0
    assert set(expanded.harness) <= set(expanded.cells)
    for cell in expanded.cells:
        assert str(WeightFormat.parse(cell.weight)) == cell.weight
        assert str(ActivationFormat.parse(cell.activation)) == cell.activation
        assert (cell.rank == 0) == (cell.lorc == "none")
    for model in {cell.model for cell in expanded.cells}:
        assert sum(cell.model == model and cell.method == "none" and cell.activation == "a16" for cell in expanded.cells) == 1


def test_the_demo_is_as_large_as_promised():
    demo = study.load("demo")
    assert len(demo.cells) >= 60
    assert len({cell.model for cell in demo.cells}) == 4
    assert len(demo.harness) >= 8


def test_an_override_replaces_an_axis_in_every_grid_and_cells_are_not_repeated():
    overrides = ["study.models=[opt-standin-s]", "study.methods=[rtn,gptq]", "study.weights=[w4-asym-g32]", "study.ranks=[0,8]"]
    cells = study.load("demo", overrides).cells
    keys = {(cell.method, cell.weight, cell.rank) for cell in cells}
    assert keys == {("none", "w16", 0), *itertools.product(["rtn", "gptq"], ["w4-asym-g32"], [0, 8])}
    assert len(cells) == len(keys)


def test_variants_have_one_spelling():
    assert config.canonical("method", "gptq+damp=0.05+act_order=true") == "gptq+act_order=true+damp=0.05"
    assert config.canonical("method", "gptq+damp=0.01") == "gptq"
    assert config.load("method", "gptq+damp=5e-2").damp == 0.05
    assert config.canonical("method", "gptq+damp=5e-2") == "gptq+damp=0.05"


def test_methods_without_data_share_their_work_between_calibrations():
    cells = study.load("demo", ["study.calibrations=[stdlib,stdlib+seed=1]", "study.models=[opt-standin-s]"]).cells
    assert {cell.calibration for cell in cells if cell.method == "rtn"} == {"none"}
    assert {cell.calibration for cell in cells if cell.method == "gptq"} == {"stdlib", "stdlib+seed=1"}


def test_groups_that_do_not_divide_are_listed_where_the_study_says_skip():
    expanded = study.load("demo", ["study.indivisible=skip", "study.weights=[w4-asym-g48,w4-asym-g32]"])
    assert ("opt-standin-s", "w4-asym-g48") in expanded.not_applicable
    assert {cell.weight for cell in expanded.cells} == {"w16", "w4-asym-g32"}


BAD = [
    ({"study": "nope"}, "study 'nope' is unknown; conf/study has demo"),
    ({"overrides": "study.modelz=[a]"}, "unknown key study.modelz; known keys of study"),
    ({"overrides": "study.models=[opt-175b]"}, "model 'opt-175b' is unknown; conf/model has"),
    ({"overrides": "study.models=[../../etc/passwd]"}, "is unknown"),
    ({"overrides": "study.models=[]"}, "at least one entry"),
    ({"overrides": "study.methods=[awq]"}, "method 'awq' is unknown; conf/method has"),
    ({"overrides": "study.methods=[gptq+dump=1]"}, "unknown key method.dump"),
    ({"overrides": "study.methods=[gptq+damp=-1]"}, "expected a positive number"),
    ({"overrides": "study.methods=[gptq+hessian=best]"}, "expected one of propagated, cached"),
    ({"overrides": "study.weights=[w9-asym-row]"}, "bits must be 2 to 8"),
    ({"overrides": "study.weights=[int4]"}, "such as w4-asym-g128"),
    ({"overrides": "study.weights=[w4-asym-g48]"}, "groups of 48 do not divide its width 64"),
    ({"overrides": "study.activations=[a3-sym-token]"}, "bits must be 4 to 8"),
    ({"overrides": "study.ranks=[-1]"}, "a rank is 0 or more"),
    ({"overrides": "study.ranks=[eight]"}, "ranks"),
    ({"overrides": "method.damp=0.5"}, "study.methods=[gptq+damp=0.05]"),
    ({"overrides": "runtime.threads=0"}, "expected a positive number"),
    ({"overrides": "study.ranks='[0]'"}, "without quotes"),
    ({"overrides": ["study.ranks=[0]"]}, "one string"),
    ({"studdy": "demo"}, "known keys are model_path, overrides, study"),
    ({"model_path": "/nonexistent"}, "expected a checkpoint folder"),
]


@pytest.mark.parametrize(("settings", "mend"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_nonsense_is_refused_in_one_line_that_says_what_would_be_right(settings, mend, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("LORCBENCH_JOB", "")
    monkeypatch.setenv(config.RUNTIME_VARIABLE, "")
    with pytest.raises(ConfigError) as refusal:
        Workflow(settings)
    assert mend in str(refusal.value)
    assert "\n" not in str(refusal.value)

"""No override of a stage reaches past the names of its results: every key of every group, with every prefix, is refused."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorcbench.config import commands, compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.protocols import CorpusConfig
from lorcbench.config.schema import SCHEMAS, JobConfig, StandinConfig
from lorcbench.jobs.job import Job
from lorcbench.study.stages import FACTOR, STAGES

# One choice in every group, as rules pass them.
CHOSEN = {
    "model": "opt-standin-s",
    "method": "gptq",
    "calibration": "stdlib",
    "lorc": "plain-int8",
    "text": "stdlib",
    "task": "stdlib_prose",
    "eval": "stdlib",
}
NESTED = {"standin": StandinConfig, "corpora": CorpusConfig}
PREFIXES = ("", "+", "++", "~")
MODULES = sorted({stage.module for stage in STAGES.values()})


def keys_of(group: str) -> set[str]:
    """Every key below a group, those of dataclasses inside it too."""
    keys = set()
    for schema in SCHEMAS[group].values():
        for field in fields(schema):
            keys.add(field.name)
            if nested := NESTED.get(field.name):
                inner = "" if field.name == "standin" else "reference."
                keys |= {f"{field.name}.{inner}{part.name}" for part in fields(nested)}
    return keys


REACHING = [f"{group}.{key}" for group in CHOSEN for key in sorted(keys_of(group)) if f"{group}.{key}" != "eval.tasks"]
VALUES = ("0.05", "5", "1", "true", "null", "abc", "[1]", "{a: 1}", "'x'", "")
COMMAND = [f"{group}={name}" for group, name in CHOSEN.items()]


def refused(overrides: list[str], stage: str = "quantize") -> str:
    """The one line with which a stage refuses its command line."""
    with pytest.raises(ConfigError) as refusal:
        Job(stage, overrides)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_there_is_a_key_of_every_group_and_every_schema_among_them():
    assert len(REACHING) > 80
    assert {key.partition(".")[0] for key in REACHING} == set(CHOSEN)
    assert {"method.damp", "calibration.seed", "model.standin.seed", "eval.corpora.reference.seed"} < set(REACHING)
    assert all(is_dataclass(schema) for schemas in SCHEMAS.values() for schema in schemas.values())
    Job("quantize", COMMAND)  # which is refused for nothing else


@pytest.mark.parametrize("key", REACHING)
def test_no_setting_of_a_group_passes_whatever_its_prefix(key):
    for prefix in PREFIXES:
        for value in VALUES:
            override = f"{prefix}{key}={value}"
            for overrides in ([*COMMAND, override], [override, *COMMAND]):
                with pytest.raises(ConfigError) as refusal:
                    commands.check(overrides)
                assert str(refusal.value).startswith(f"{override}: "), override
    assert "is given" not in refused([*COMMAND, f"{key}=1"])


@pytest.mark.parametrize("stage", MODULES)
def test_every_stage_has_the_same_door(stage):
    said = refused([*COMMAND, "method.damp=0.05"], stage)
    assert said == "method.damp=0.05: settings go into names, such as method=gptq+damp=0.05"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method=gptq", "method.damp=0.05"], "such as method=gptq+damp=0.05"),
        (["method=gptq+act_order=true", "++method.damp=0.1"], "such as method=gptq+act_order=true+damp=0.1"),
        (["method=gptq+damp=0.05", "method.damp=0.1"], "such as method=gptq+damp=0.1"),
        (["+calibration.seed=5", "calibration=stdlib"], "such as calibration=stdlib+seed=5"),
        (["eval.window=64"], "such as eval=stdlib+window=64"),
        (["method.damp=0.05"], "such as method=NAME+damp=0.05"),
        (["method=zq_local", "method.lr_grid=[1e-3]"], "expected a conf file of your own, conf/method/NAME.yaml"),
        (["model=opt-standin-s", "model.standin.steps=5"], "expected a conf file of your own, conf/model/NAME.yaml"),
        (["method=gptq", "method.dump=1"], "unknown key method.dump; known keys of method: act_order, block"),
        (["+foo=1"], "unknown key foo; known keys are activation, calibration"),
        (["hydra.run.dir=/tmp/x"], "unknown key hydra.run.dir; known keys are"),
        (["~method"], "nothing can be left out"),
        (["method=gptq", "~method.damp"], "nothing can be left out"),
        (["+method=gptq"], "expected method=gptq, without a prefix"),
        (["method@calibration=gptq"], "unknown key method@calibration"),
        (["schema/method@method=rtn"], "unknown key schema/method@method"),
        (["method=gptq", "method=rtn"], "method is given 2 times"),
        (["cap=8", "cap=16"], "cap is given 2 times"),
        (["method"], "expected KEY=VALUE"),
        (["--help"], "unknown key --help"),
        (["method=../method/gptq"], "method '../method/gptq' is unknown; conf/method has"),
        (["method='gptq'"], "is unknown; conf/method has"),
        (["method=gptq+damp=[0.05]"], "expected gptq, or gptq+key=value with a known key"),
        (["model=opt-standin-s", "model.name=opt-standin-m"], "expected model=folder beside it"),
        (["model=opt-standin-s", "model.path=/tmp"], "expected model=folder beside it"),
        (["model=folder", "model.name=opt-standin-s", "model.path=/tmp"], "conf/model has a model of that name"),
        (["model=folder", "model.name=../x", "model.path=/tmp"], "expected a name of letters"),
        (["model=folder", "model.name=x"], "expected model.path=FOLDER beside it"),
        (["model=folder", "model.path=/nonexistent"], "model.path=/nonexistent: no such file or folder; expected a checkpoint"),
        (["study.ranks=[8]"], "expected study=NAME beside it"),
    ],
)
def test_the_refusal_spells_what_would_be_right(overrides, said):
    assert said in refused(overrides)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["", "+", "++", "~", "~~", "+++", " ", "@"]),
    st.sampled_from([*CHOSEN, "hydra", "study", "runtime", "name", "foo"]),
    st.text(max_size=12),
    st.text(max_size=8),
)
def test_whatever_is_typed_behind_a_group_is_refused_or_no_setting(prefix, group, key, value):
    override = f"{prefix}{group}.{key}={value}"
    try:
        commands.check([*COMMAND, override])
    except ConfigError as refusal:
        assert str(refusal)
    else:
        assert override.startswith(("eval.tasks=", "runtime.", "tracking."))


def test_what_rules_pass_passes():
    passing = [
        [*COMMAND, "weight=w3-asym-g32", "trained=a16", "activation=a8-asym-token", "cap=32", "damp=0.05", "order=act_order"],
        ["model=folder", "model.name=mine", 'model.path="/a b/$c"', "method=rtn", "weight=w4-asym-row"],
        ["model=opt-standin-s", "eval.tasks=[stdlib_prose]", "variants=[r0,plain-int8/r8]"],
        ["model=opt-standin-s", "runtime.threads=2", "tracking.uri=null"],
        ["study=demo", "study.ranks=[0]", "eval.tasks=[]", 'model_path="/a b"', "model.name=mine", "tracking.uri=null"],
    ]
    for overrides in passing:
        commands.check(overrides)
    assert {field.name for field in fields(JobConfig)} >= {"weight", "variants", "model_path"}


def test_the_environment_of_a_workflow_is_no_way_around_it(monkeypatch):
    monkeypatch.setenv(compose.RUNTIME_VARIABLE, "runtime.threads=1 method.damp=0.05")
    assert "method.damp=0.05: expected runtime.KEY=VALUE" in refused(COMMAND)


def test_a_folders_name_may_look_like_a_number(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in ("007", "1e3", "null", "true"):
        job = Job("quantize", ["model=folder", f"model.name={name}", f"model.path={tmp_path}"])
        assert job.names.model == job.model.name == name


def test_two_dampings_never_share_the_folder_of_factors():
    folders = {FACTOR.folder(Job("factor", [*COMMAND, f"damp={damp}"]).names) for damp in ("0.01", "0.010000001", "1e-2")}
    assert len(folders) == 2
    factors = {compose.load("method", f"gptq-cached+damp={damp}").factor["damp"] for damp in ("0.01", "0.010000001")}
    assert factors == {"0.01", "0.010000001"}

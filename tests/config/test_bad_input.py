"""What makes no sense is refused in one line that names the place, before anything is written.

Configurations are refused while the workflow is parsed; a generated list of them, and hypothesis, try to get past that.
"""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import snakemake

from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.pipeline.rules import Pipeline

pytestmark = pytest.mark.slow

NAMES = (
    *("..", "../x", "a/../b", "/etc/passwd", "~", "%2e%2e", "a\\b", ".", "-", "*", "gptq+damp=../../x", "x" * 300),  # paths
    *("ä", "日本", "\u202e", "😀", "a b", "a,", "a;b", "a|b", "a&b", "<a>", "`id`", "$HOME", "!!python/object"),  # signs
    *("${HOME}", "${oc.env:HF_TOKEN}", "${study.title}", "${now:%Y}"),  # values from elsewhere
    *("", "null", "1.5", "true", "[", "]", "{", "{a:1}", "[a]", "a=b", "a+b", "+x=1", "none+", "None"),  # no names
)
AXES = ("models", "methods", "calibrations", "weights", "activations", "lorc")
WHOLE = ("-1", "1.5", "abc", "null", "1e3", "true", "99999999999999999999", "0x10", "nan")
KEYS = {
    "study.methods=[gptq+{}={}]": {
        "damp": ("-1", "0", "nan", "inf", "1e400", "abc", "null", "true"),
        "block": ("0", *WHOLE[:1], "1e3", "abc", "99999999999"),
        "hessian": ("best", "1", "null"),
        "group_params": ("x", "1", "null"),
        "dead": ("x", "1", "true", "null"),
        "clip": ("x", "1", "true", "null", "MSE"),
        "kind": ("rtn", "0", "x", "null"),
        "act_order": ("maybe", "1.5", "null"),
        "nope": ("1",),
    },
    "study.methods=[zq_local+{}={}]": {
        "lr": ("-1", "0", "nan", "inf", "best", "null"),
        "iterations": ("0", "-1", "1.5", "99999999999"),
        "held_out": ("0", "1", "2", "nan"),
        "seed": ("-1", "1.5", "99999999999999"),
        "unit": ("model", "1"),
        "keep": ("first", "1"),
    },
    "study.calibrations=[stdlib+{}={}]": {
        "n_samples": ("0", "-1", "1.5", "99999999999", "2000000000"),
        "length": ("0", "-1", "abc", "4096"),
        "seed": ("-1", "abc"),
        "dtype": ("int8", "1", "null"),
    },
    "study.eval=stdlib+{}={}": {
        "window": ("0", "1", "-1", "abc", "4096"),
        "max_windows": ("0", "-1", "1.5"),
        "bos": ("x", "1"),
        "dtype": ("float8", "null"),
        "tasks": ("nope", "1"),
    },
    "study.models=[opt-standin-xs+{}={}]": {
        "layers": ("0", "-1", "nan", "99999999", "null"),
        "hidden": ("0", "-1", "65", "1.5"),
        "heads": ("0", "-1", "5"),
        "ffn": ("0", "-1"),
        "family": ("gpt", "1"),
        "source": ("hub", "folder", "web"),
        "repo": ("abc",),
        "path": ("abc",),
    },
    "runtime.{}={}": {"threads": ("0", *WHOLE), "batch_tokens": ("0", *WHOLE), "bootstrap": ("0", "500", *WHOLE)},
}
FORMATS = ("w", "w0-asym-row", "w1-asym-row", "w9-sym-row", "w16-asym-row", "w4", "w4-asym", "w4-asym-g", "w4-asym-g0")
FORMATS += ("w4-asym-g-1", "w4-asym-g1000000", "w4-asym-g48", "w4-asym-row-pow3", "W4-asym-row", "w4_asym_row", "w４-asym-row")
HUGE = f"study.ranks=[{','.join(map(str, range(300)))}] study.weights=[{','.join(f'w4-asym-g{n}' for n in range(1, 100))}]"
LINES = (
    *("study", "study.", "study.models", "=x", "~study.models", "+study.models=[a]", "hydra.run.dir=/tmp/x", "model=x"),
    *("study=smoke", "study.models=opt-standin-xs", "study.models=[a", "study.models=a]", "study.name=x", "study.title=null"),
    *("study.grids=[{models:[x]}]", "study.grids=[{mod:[x]}]", "study.exclude=[{a:1}]", "study.harness=[{ranks:[x]}]"),
    *("study.indivisible=maybe", "study.gate=maybe", "study.max_cells=0", "study.max_cells=1", "study.max_params=-1"),
    *("runtime.verify=never", "runtime.verify=null", "runtime.keep_minutes=0", "runtime.keep_minutes=nan"),
    *("runtime.device=tpu", "runtime.foo=1", "runtime.data_dir=/nonexistent", "runtime.data_dir="),
    *("tracking.uri=", "tracking.uri=ftp://x", "tracking.uri=../x", "tracking.foo=1"),
    *("eval.tasks=[nope]", "eval.tasks=nope", "eval.tasks=[../x]", "eval.tasks=[1]", "eval.window=5", "'x'", 'study.title="a"'),
    *(HUGE, "study.ranks=[]", "study.ranks=[[1]]", "study.ranks=[a]"),
    *("study.ranks=[-1]", "study.ranks=[99999999999999999999]", "study.ranks=4", "study.ranks=[1.5]"),
)
BAD = (
    [{"study": "smoke", "overrides": f"study.{axis}=[{name}]"} for axis, name in itertools.product(AXES, NAMES)]
    + [{"study": name} for name in NAMES]
    + [{"study": "smoke", "overrides": f"study.eval={name}"} for name in NAMES if name != "[a]"]
    + [
        {"study": "smoke", "overrides": pattern.format(key, value)}
        for pattern, keys in KEYS.items()
        for key, values in keys.items()
        for value in values
    ]
    + [{"study": "smoke", "overrides": f"study.weights=[{name}]"} for name in FORMATS]
    + [{"study": "smoke", "overrides": f"study.activations=[a{name[1:]}]"} for name in FORMATS if name != "W4-asym-row"]
    + [{"study": "smoke", "overrides": line} for line in LINES]
    + [{"study": 1}, {"study": None}, {"study": ["smoke"]}, {"studdy": "smoke"}, {"overrides": 1}, {"overrides": ["a"]}]
    + [{"model_path": path} for path in (1, "", "../../..", "/dev/null", "a\0b", ["x"], "x" * 5000, "/nonexistent")]
)


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Nothing of the workflow's environment leaks into other tests; what is written is seen."""
    for variable in ("LORCBENCH_JOB", compose.RUNTIME_VARIABLE):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    monkeypatch.chdir(tmp_path)


EVERY = 4  # CI tries one case in so many; `make test-all` tries all


def test_there_are_more_than_two_hundred_of_them():
    assert len({str(case) for case in BAD}) > 400


@pytest.mark.parametrize("start", [0, *(pytest.param(start, marks=pytest.mark.long) for start in range(1, EVERY))])
def test_every_generated_configuration_is_refused_in_one_line(start, tmp_path, monkeypatch):
    for case in BAD[start::EVERY]:
        monkeypatch.setenv("PATH", "/usr/bin")
        try:
            Pipeline(case)
        except ConfigError as refusal:
            said = str(refusal)
            assert said and "\n" not in said, case
            assert "hf_planted" not in said, case
        else:
            pytest.fail(f"accepted: {case}")
    assert list(tmp_path.iterdir()) == []


AXIS_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*AXES, "ranks", "eval", "title", "indivisible"]), AXIS_TEXT, st.booleans())
def test_whatever_is_typed_is_understood_or_refused_in_one_line(axis, text, as_list):
    value = f"[{text}]" if as_list else text
    try:
        pipeline = Pipeline({"study": "smoke", "overrides": f"study.{axis}={value}"})
    except ConfigError as refusal:
        assert str(refusal) and "\n" not in str(refusal)
        return
    finally:
        os.environ["PATH"] = "/usr/bin"
    for path in pipeline.inputs("track")({}):  # a name that was understood stays in the results folder
        assert path.startswith("results/") and ".." not in path.split("/")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "study=../../etc"],
        ["--config", "study=smoke", "overrides=study.weights=[../../w4]"],
        ["--config", "study=smoke", "overrides=study.models=[${oc.env:HF_TOKEN}]"],
        ["--config", "study=smoke", f"overrides={HUGE}"],
        ["--config", "model_path=/nonexistent"],
    ],
)
def test_the_command_line_says_the_same_and_writes_nothing(arguments, tmp_path):
    refused = snakemake(tmp_path, *arguments)
    assert refused.returncode != 0
    lines = refused.stdout.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in refused.stdout and "hf_planted" not in refused.stdout
    assert not (tmp_path / "results").exists()

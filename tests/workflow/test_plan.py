"""The plan: every job of a study once, with what it takes; what does not fit is refused before the first job."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import tiny
from synthetic import Wildcards

from lorcbench.common import paths
from lorcbench.common.artifacts import write_json
from lorcbench.common.versions import code_version
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import ModelConfig, RuntimeConfig
from lorcbench.config.shape import Shape
from lorcbench.pipeline import plan
from lorcbench.pipeline.estimate import estimate, shape_of
from lorcbench.pipeline.rules import Pipeline
from lorcbench.study.cells import Study
from lorcbench.study.expansion import load_study
from lorcbench.study.graph import upstream
from lorcbench.study.stages import STAGES as STAGES_BY_NAME
from lorcbench.study.stages import StageJob

STAGES = ("prepare", "calibrate", "factor", "quantize", "lorc", "evaluate", "harness")
NAMES = paths.Wildcards(method="gptq", calibration="c4-128x2048", weight="w4-asym-g128", cap="32", protocol="gptq-old")
PUBLISHED = [f"opt-{size}" for size in ("125m", "1.3b", "6.7b", "30b", "66b")]
MACHINE = plan.Machine(2, 8_000, 100_000, 50e9)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("PATH", "LORCBENCH_JOB", compose.RUNTIME_VARIABLE):
        monkeypatch.setenv(name, "")


def shape(name: str) -> Shape:
    return shape_of(compose.load("model", name))


@pytest.mark.parametrize("stage", [*STAGES, "sensitivity"])
def test_a_larger_model_takes_more_of_everything(stage):
    takes = [estimate(stage, shape(name), NAMES, RuntimeConfig()) for name in PUBLISHED]
    for smaller, larger in pairwise(takes):
        assert smaller.memory < larger.memory
        assert smaller.operations <= larger.operations
        assert smaller.disk <= larger.disk


@pytest.mark.parametrize("stage", ["calibrate", "quantize", "lorc", "evaluate"])
def test_memory_does_not_grow_with_depth(stage):
    shallow, deep = (replace(shape("opt-1.3b"), layers=layers) for layers in (6, 24))
    one, other = (estimate(stage, each, NAMES, RuntimeConfig()) for each in (shallow, deep))
    assert one.memory == other.memory
    assert 3.9 * one.operations <= other.operations <= 4 * one.operations or stage == "evaluate"


def test_weights_of_a_block_are_those_that_the_paper_counts():
    for name in PUBLISHED:
        assert shape(name).block * shape(name).layers == compose.load("model", name).block_weights


def test_the_shape_of_a_folder_is_in_the_headers_of_its_tensors(tmp_path):
    tiny.header(tmp_path, tiny.opt_shapes(12, 768, 3072, 50272))
    found, published = shape_of(ModelConfig(name="mine", source="folder", path=str(tmp_path))), shape("opt-125m")
    assert sorted(found.inputs) == sorted(published.inputs)
    assert replace(found, inputs=published.inputs) == published
    (tmp_path / "model.safetensors").write_text("[]")
    assert shape_of(ModelConfig(name="mine", source="folder", path=str(tmp_path))) is None


def test_every_job_is_planned_once_and_those_with_a_result_are_done():
    expanded = load_study("smoke")
    planned = plan.jobs(expanded, RuntimeConfig())
    stages = [job.stage for job in planned]
    assert {stage: stages.count(stage) for stage in stages} == {
        **{"prepare": 2, "tokens": 4, "calibrate": 1, "factor": 1, "quantize": 4, "lorc": 2, "evaluate": 6, "harness": 1}
    }
    assert not any(job.done for job in planned)
    for folder, kind in (("checkpoint/opt-standin-xs", "checkpoint"), ("text/stdlib", "text")):
        write_json(plan.Path("results/cache") / folder / "result.json", kind, {})
    assert [job.stage for job in plan.jobs(expanded, RuntimeConfig()) if job.done] == ["prepare"]


def test_what_code_or_ranks_make_run_again_is_not_done_and_neither_is_what_rests_on_it():
    study = load_study("smoke", ["study.models=[opt-standin-xs]", "study.methods=[rtn]", "study.ranks=[0,4]"])
    planned = plan.jobs(study, RuntimeConfig())
    waiting = [StageJob(STAGES_BY_NAME[job.rule], job.names) for job in planned]
    for job in upstream(study, *waiting):
        ranks = {cell.variant: {} for cell in study.evaluated(job.names)} if job.stage.name in ("evaluate", "harness") else {}
        about = {"identity": {"code": code_version(job.stage.module)}, "variants": ranks}
        write_json(job.folder / "result.json", job.stage.kind, about)

    def left(asked: Study) -> set[str]:
        return {job.stage for job in plan.jobs(asked, RuntimeConfig()) if not job.done}

    assert left(study) == set()
    other = load_study("smoke", ["study.models=[opt-standin-xs]", "study.methods=[rtn]", "study.ranks=[0,2]"])
    assert left(other) == {"evaluate"}  # its factors are those of rank 4
    quantized = next(job for job in waiting if job.stage.name == "quantize")
    write_json(quantized.folder / "result.json", quantized.stage.kind, {"identity": {"code": "another"}})
    assert left(study) == {"quantize", "lorc", "evaluate"}


def test_the_answer_of_a_plan_is_in_its_first_lines_which_name_the_models():
    text, _ = plan.report(load_study("own"), RuntimeConfig(), replace(MACHINE, products=("GFLOP/s of a library",)))
    first, second, *others = text.splitlines()
    assert first.startswith("study own: 13 cells on opt-standin-m (a stand-in; your own model: model_path=FOLDER); 24 jobs, ")
    assert second.startswith("together about ")
    assert ["GFLOP/s" in line for line in others[-2:]] == [True, True] and "GFLOP/s" not in "".join(others[:-2])


def test_the_report_names_every_stage_and_nothing_is_amiss_where_all_fits():
    text, misfits = plan.report(load_study("smoke"), RuntimeConfig(), MACHINE)
    assert misfits == []
    assert all(f"\n{stage} " in text for stage in ("prepare", "tokens", *STAGES[1:]))
    assert "study smoke: 8 cells on opt-standin-xs, bloom-standin-xs (stand-ins); 21 jobs, 0 of them done" in text


def test_models_that_do_not_fit_are_named_with_what_would():
    expanded = load_study("smoke", ["study.models=[opt-125m,opt-66b]", "study.methods=[rtn]", "study.weights=[w4-asym-row]"])
    text, misfits = plan.report(expanded, RuntimeConfig(), MACHINE)
    assert misfits[0].startswith("opt-66b: evaluate needs about 13.8 GiB of memory, here are 7.8")
    assert f"study.max_params={compose.load('model', 'opt-125m').block_weights:.3g}" in misfits[1]
    assert misfits[2].startswith("disk: about ")
    assert re.search(r"\ntogether about [\d.,]+ hours \(\d+ days\) on 2 cores, and ", text)


def test_a_local_run_refuses_what_memory_cannot_hold_before_its_first_job():
    pipeline = Pipeline({"study": "smoke", "overrides": "runtime.memory_gib=0.5"})
    with pytest.raises(ConfigError, match=r"standin-xs: \w+ needs about .* here are 0\.5.*runtime\.memory_gib=…"):
        pipeline.resources.totals({})
    assert Pipeline({"study": "smoke", "overrides": "runtime.memory_gib=4"}).resources.totals({}) == {"mem_mb": 4096}


def test_jobs_ask_for_more_with_every_attempt():
    pipeline = Pipeline({"study": "smoke"})
    cell = next(cell for cell in pipeline.study.cells if cell.method == "gptq")
    wildcards = Wildcards(vars(pipeline.study.wildcards(cell)))
    for ask in (
        pipeline.resources.memory("quantize"),
        pipeline.resources.minutes("quantize"),
        pipeline.resources.memory("evaluate"),
    ):
        first, second = ask(wildcards, attempt=1), ask(wildcards, attempt=2)
        assert 0 < first < math.inf
        assert second in (2 * first, 2 * first + 1)


def test_times_are_in_the_unit_in_which_they_are_not_zero_and_one_is_singular():
    assert [plan._duration(seconds) for seconds in (0, 1, 60, 95, 5399, 5400)] == [
        *("0 seconds", "1 second", "60 seconds", "2 minutes", "90 minutes"),
        "1.5 hours",
    ]
    assert [plan._short(seconds) for seconds in (0, 1, 95, 5399, 5400)] == ["0 s", "1 s", "1.6 min", "90.0 min", "1.5 h"]


def test_short_stages_of_a_long_study_have_a_time_too():
    text, _ = plan.report(load_study("lorc", ["study.models=[opt-6.7b]"]), RuntimeConfig(), MACHINE)
    times = re.findall(r"^\w+ +\d+ +0 +([\d.]+) (s|min|h) ", text, re.MULTILINE)
    assert {unit for _, unit in times} >= {"s", "h"}
    assert all(float(number) > 0 for number, _ in times)

"""GPU memory: in the plan, in what is refused before the first job, and in what is said when a job runs out of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from lorcbench.common import paths
from lorcbench.common.gpus import CHOICE
from lorcbench.config import compose
from lorcbench.config.machine import RuntimeConfig
from lorcbench.config.shape import Shape
from lorcbench.jobs.job import Job
from lorcbench.jobs.process import run
from lorcbench.pipeline import plan
from lorcbench.pipeline.estimate import estimate, shape_of
from lorcbench.pipeline.fitting import Sized, setting_that_fits
from lorcbench.pipeline.out_of_memory import explained
from lorcbench.pipeline.walking import placed
from lorcbench.study.expansion import load_study
from lorcbench.study.stages import QUANTIZE

GIB = 1024  # MiB
COMPUTING = ("calibrate", "factor", "quantize", "sensitivity", "lorc", "evaluate", "harness")
HALF = "dtype=float16"
NAMES = paths.Wildcards(
    **{"method": "gptq", "calibration": f"c4-128x2048+{HALF}", "weight": "w4-asym-g128", "lorc": "plain-int8", "cap": "32"},
    protocol=f"own+max_windows=512+{HALF}",
)
CUDA = RuntimeConfig(device="cuda", batch_tokens=16_384)
HOST = 512 * GIB


def shape(name: str) -> Shape:
    return shape_of(compose.load("model", name))


# benchmarks/README.md, "On a GPU": GiB that PyTorch held at the peak on an H200, at OPT-6.7b's shape.
@pytest.mark.parametrize(
    ("stage", "method", "reserved"), [("quantize", "gptq", 7.3), ("lorc", "gptq", 2.3), ("evaluate", "none", 10.8)]
)
def test_estimates_are_above_what_was_measured_and_below_one_and_a_half_times_it(stage, method, reserved):
    takes = estimate(stage, shape("opt-6.7b"), replace(NAMES, method=method), CUDA)
    assert reserved <= takes.gpu / GIB < 1.5 * reserved
    assert reserved + 0.5 <= takes.gpu / GIB  # with the context, which PyTorch does not count


def test_only_what_computes_uses_a_gpu_and_only_if_there_is_one():
    opt = shape("opt-6.7b")
    assert estimate("prepare", opt, NAMES, CUDA).gpu == 0
    assert all(estimate(stage, opt, NAMES, CUDA).gpu > 0 for stage in COMPUTING)
    assert all(estimate(stage, opt, NAMES, RuntimeConfig()).gpu == 0 for stage in ("prepare", *COMPUTING))


@pytest.mark.parametrize("method", ["rtn", "gptq", "gptq-best", "gptq-cached", "zq_local", "zq_global"])
def test_every_method_takes_more_of_a_gpu_for_a_larger_model_and_as_much_for_a_deeper_one(method):
    names = replace(NAMES, method=method, calibration="c4-128x2048")
    takes = [estimate("quantize", shape(name), names, CUDA).gpu for name in ("opt-125m", "opt-1.3b", "opt-6.7b", "opt-66b")]
    assert takes == sorted(takes)
    assert takes[0] < takes[-1]
    deep = replace(shape("opt-1.3b"), layers=96)
    assert estimate("quantize", deep, names, CUDA).gpu == takes[1]


def test_distilled_factors_take_more_than_plain_ones():
    plain, distilled = (
        estimate("lorc", shape("opt-1.3b"), replace(NAMES, lorc=lorc), CUDA) for lorc in ("plain-int8", "distilled-int8")
    )
    assert plain.gpu < distilled.gpu
    assert plain.memory < distilled.memory


def test_attention_that_holds_all_scores_takes_them_into_account():
    bloom = shape("bloom-7.1b")
    assert bloom.score_heads == 32
    assert shape("opt-6.7b").score_heads == 0
    with_scores, without = (estimate("evaluate", each, NAMES, CUDA).gpu for each in (bloom, replace(bloom, score_heads=0)))
    windows = CUDA.batch_tokens // 2048
    assert with_scores - without >= windows * 32 * 2048**2 * 8 / 2**20


def test_states_stay_on_the_device_as_long_as_the_budget_allows():
    assert placed([3, 6, 4, 1], 8) == (8, [6])
    assert placed([3, 6], 0) == (0, [3, 6])


def test_hidden_states_on_the_host_count_as_memory():
    opt = shape("opt-6.7b")
    near, far = (estimate("evaluate", opt, NAMES, replace(CUDA, hidden_gib=gib)) for gib in (8, 1))
    assert near.gpu - far.gpu == pytest.approx(8 * GIB, rel=0.1)
    assert far.memory - near.memory == pytest.approx(8 * GIB)
    # Of inputs of a linear, which are larger, none is pinned: those beyond the budget are in a file.
    names = replace(NAMES, method="zq_local", calibration="c4-128x2048")
    memory = [estimate("quantize", opt, names, replace(CUDA, hidden_gib=gib)).memory for gib in (64, 1)]
    assert memory[1] - memory[0] == pytest.approx(2 * 4 * GIB)


# The plan


def planned(runtime: RuntimeConfig, gib: float, *models: str) -> tuple[str, list[str]]:
    overrides = [f"study.models=[{','.join(models)}]", "study.methods=[gptq]", "study.calibrations=[c4-128x2048]"]
    study = load_study("smoke", [*overrides, "study.weights=[w4-asym-row]", "study.lorc=[plain-int8]"])
    return plan.report(study, runtime, plan.Machine(8, HOST, 1e9, 50e9, (gib * GIB / 2, gib * GIB)))


def test_the_plan_has_a_column_of_gpu_memory_where_there_is_a_gpu():
    text, misfits = planned(replace(CUDA, batch_tokens=2048), 80, "opt-1.3b")
    assert misfits == []
    assert "GPUs of 40, 80 GiB" in text
    lines = text.splitlines()
    (head,) = (number for number, line in enumerate(lines) if line.endswith("GPU GiB"))
    gpu = {row.split()[0]: float(row.split()[-1]) for row in lines[head + 1 : lines.index("", head)]}
    assert gpu["prepare"] == gpu["tokens"] == 0
    assert gpu["quantize"] > 1
    assert "GPU GiB" not in planned(RuntimeConfig(), 80, "opt-1.3b")[0]


def settings_of(line: str) -> dict[str, float]:
    pairs = re.findall(r"runtime\.(batch_tokens|hidden_gib)=([\d.]+\d|\d)", line)
    return {key: int(value) if key == "batch_tokens" else float(value) for key, value in pairs}


@pytest.mark.parametrize(
    ("model", "runtime", "gib", "key"),
    [
        ("opt-6.7b", replace(CUDA, batch_tokens=2048), 10, "hidden_gib"),
        ("bloom-7.1b", replace(CUDA, hidden_gib=0.5), 20, "batch_tokens"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_value_that_fits(model, runtime, gib, key):
    _, misfits = planned(runtime, gib, model)
    needs, fits = (line for line in misfits if model in line or "runtime." in line)
    assert f"GiB of GPU memory, here are {gib:.1f}" in needs
    setting = settings_of(fits)
    assert set(setting) == {key}
    assert planned(replace(runtime, **setting), gib, model)[1] == []
    nearer = {"hidden_gib": setting.get("hidden_gib", 0) + 0.2, "batch_tokens": 2 * setting.get("batch_tokens", 0)}
    assert planned(replace(runtime, **{key: nearer[key]}), gib, model)[1] != []


def test_one_setting_is_named_for_all_models_that_can_fit_and_the_others_are_left_out():
    _, misfits = planned(replace(CUDA, hidden_gib=0.5), 13, "opt-125m", "bloom-7.1b", "bloom-176b")
    hopeless = next(line for line in misfits if line.startswith("bloom-176b"))
    assert "with any runtime.batch_tokens and runtime.hidden_gib" in hopeless
    fits = compose.load("model", "bloom-7.1b").block_weights
    assert misfits[-1] == f"what fits: study.max_params={fits:.3g} runtime.batch_tokens=4096"
    assert [line.split(":")[0] for line in misfits] == ["bloom-7.1b", "bloom-176b", "what fits"]


def test_no_setting_is_named_that_the_host_cannot_hold():
    job = Sized("evaluate", shape("opt-6.7b"), NAMES)
    assert setting_that_fits([job], CUDA, 8 * GIB, HOST) == "runtime.hidden_gib=7.9"
    with_little_memory = setting_that_fits([job], CUDA, 8 * GIB, 8 * GIB)
    assert with_little_memory is None


def test_lm_eval_of_a_model_that_is_larger_than_a_gpu_takes_several():
    job = Sized("harness", shape("opt-66b"), replace(NAMES, protocol=f"python+{HALF}"))
    runtime = replace(CUDA, batch_tokens=2048)
    assert setting_that_fits([job], runtime, 80 * GIB, HOST) is None
    assert setting_that_fits([job], runtime, 80 * GIB, HOST, gpus=4) == "runtime.gpus_per_job=3"
    assert setting_that_fits([job], replace(runtime, gpus_per_job=3), 80 * GIB, HOST) is None  # as it is


# In mid-job

MESSAGE = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.50 GiB of which 512.00 MiB is free. "
    "Including non-PyTorch memory, this process has 11.00 GiB memory in use. Of the allocated memory 9.00 GiB is allocated by "
    "PyTorch, and 1.50 GiB is reserved by PyTorch but unallocated."
)
JOB = [
    "model=opt-6.7b", "method=gptq", "calibration=c4-128x2048", "weight=w4-asym-g128", "trained=a16", "runtime.device=cuda"
]  # fmt: skip


class OutOfMemoryError(RuntimeError):
    """As PyTorch's, which is known by its name."""


def test_a_job_that_runs_out_of_memory_says_what_was_asked_and_what_would_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CHOICE, json.dumps({"device": "cuda", "gpus": None}))  # a cluster gives each job its GPU
    work = []

    def run_out(job: Job) -> None:
        job.at(QUANTIZE)
        work.append(job)
        raise OutOfMemoryError(MESSAGE)

    with pytest.raises(SystemExit) as end:
        run("quantize", JOB, run_out, explained)
    assert end.value.code == 1
    assert len(work) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert (
        "quantize opt-6.7b gptq w4-asym-g128 is out of GPU memory: asked for 2.00 GiB on a GPU of 11.5 GiB, 0.50 free" in line
    )
    setting = settings_of(line)
    assert setting.keys() <= {"hidden_gib", "batch_tokens"}
    takes = estimate("quantize", shape("opt-6.7b"), work[0].names, replace(work[0].runtime, **setting))
    assert takes.gpu < 11.5 * GIB
    record = json.loads((tmp_path / QUANTIZE.folder(work[0].names) / "failed.json").read_text())
    assert record["reason"] in line
    assert "what would fit: runtime." in record["reason"]


def test_memory_that_other_processes_hold_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = Job("quantize", JOB)
    line = explained(job, OutOfMemoryError(MESSAGE.replace("process has 11.00", "process has 6.00")))
    assert "5.0 taken by other processes" in line


def test_an_estimate_that_was_too_low_is_scaled_to_what_was_needed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = Job("quantize", JOB)
    line = explained(job, OutOfMemoryError(MESSAGE.replace("11.50", "40.00").replace("11.00", "39.50")))
    takes = (
        estimate("quantize", shape("opt-6.7b"), job.names, replace(job.runtime, **values)).gpu
        for values in ({}, settings_of(line))
    )
    before, after = takes
    assert before < 40 * GIB
    assert after <= before * 40 / 41.5


def test_libraries_of_cuda_run_out_of_memory_too_and_other_errors_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = Job("quantize", JOB)
    failed = RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling\n`cusolverDnCreate(handle)`")
    assert "is out of GPU memory: cusolver error" in explained(job, failed)
    assert "runtime.batch_tokens" in explained(job, failed)
    assert explained(job, ValueError("out of range")) is None
    job.explain = explained
    assert job.reason(ValueError("out of\nrange")) == "ValueError: out of range"

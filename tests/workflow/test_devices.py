"""What a run computes on, what its jobs ask for, and what another device computed: kept, marked, or computed again."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pretended import fake_driver
from runs import ROOT, digests, snakemake
from synthetic import Wildcards

from lorcbench.common import gpus, slots
from lorcbench.common.artifacts import read_json, write_json
from lorcbench.common.gpus import CHOICE, VISIBLE, Choice, Gpu
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.jobs import devices, variants
from lorcbench.jobs.job import Job
from lorcbench.jobs.process import run
from lorcbench.pipeline.rules import Pipeline
from lorcbench.report.devices import lines, of_variant, together
from lorcbench.study.stages import EVALUATE, ON_DEVICE, QUANTIZE, STAGES, StageJob

TWO = [Gpu("GPU-0", "NVIDIA Pretended", 40_960), Gpu("GPU-1", "NVIDIA Pretended", 40_960)]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("PATH", "LORCBENCH_JOB", "PYTHONSAFEPATH", compose.RUNTIME_VARIABLE, CHOICE, VISIBLE, devices.MEMORY):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # what a Pipeline sets is taken back
    for name in (CHOICE, VISIBLE, devices.MEMORY):
        monkeypatch.delenv(name)


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    """A machine with two GPUs, and a torch that can use them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpus, "visible", lambda: list(TWO))
    monkeypatch.setattr(gpus, "torch_without_cuda", lambda: "")


def pipeline(*overrides: str, **how: bool) -> Pipeline:
    return Pipeline({"study": "smoke", "overrides": " ".join(overrides)}, **how)


def wildcards(made: Pipeline) -> Wildcards:
    cell = next(cell for cell in made.study.cells if cell.method == "gptq")
    return Wildcards(vars(made.study.wildcards(cell)))


# What jobs ask for


def test_stages_that_do_arithmetic_ask_for_a_gpu_and_no_other_does(two_gpus):
    assert {"calibrate", "factor", "quantize", "sensitivity", "lorc", "evaluate", "harness"} == ON_DEVICE
    resources = pipeline().resources
    assert {stage: resources.gpus(stage) for stage in STAGES} == {stage: int(stage in ON_DEVICE) for stage in STAGES}
    text = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    rules = dict(re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", text, re.MULTILINE))
    assert {name for name, text in rules.items() if f'gpu=pipeline.resources.gpus("{name}")' in text} == ON_DEVICE
    assert {name for name, text in rules.items() if f'gpu_mb=pipeline.resources.gpu_memory("{name}")' in text} == ON_DEVICE
    assert {name for name, text in rules.items() if "LORCBENCH_GPU_MB={resources.gpu_mb}" in text} == ON_DEVICE


def test_a_local_job_asks_for_whole_shares_of_one_gpu(two_gpus):
    made = pipeline()
    for stage in ("quantize", "evaluate"):
        once, twice = (made.resources.gpu_memory(stage)(wildcards(made), attempt) for attempt in (1, 2))
        assert once % slots.SHARE == 0 and slots.SHARE <= once <= twice <= slots.SHARE * slots.shares_of(TWO[0])
    large = pipeline("study.models=[opt-66b]", "study.methods=[gptq]", "study.weights=[w4-asym-g128]", "study.max_params=1e12")
    assert large.resources.gpu_memory("harness")(wildcards(large)) == slots.SHARE * slots.shares_of(TWO[0])


def test_lm_eval_takes_several_gpus_whole(two_gpus):
    made = pipeline("runtime.gpus_per_job=2")
    assert (made.resources.gpus("harness"), made.resources.gpus("evaluate")) == (2, 1)
    whole = slots.SHARE * slots.shares_of(TWO[0])
    assert made.resources.gpu_memory("harness")(wildcards(made)) == 2 * whole
    with pytest.raises(ConfigError, match=r"runtime.gpus_per_job=3: expected at most 2"):
        pipeline("runtime.gpus_per_job=3")


def test_a_job_on_a_cluster_asks_for_a_gpu_of_its_own_and_takes_no_slot(two_gpus):
    made = pipeline("runtime.device=cuda", local=False)
    assert (made.resources.gpus("lorc"), made.resources.gpu_memory("lorc")(wildcards(made))) == (1, 0)
    assert Choice.handed_down() == Choice("cuda", None)
    assert made.resources.group(wildcards(made)) is None
    assert pipeline(local=False).choice == Choice("cpu")  # auto, there, is what the profile says: no GPU


def test_totals_of_the_user_win(two_gpus):
    resources = pipeline("runtime.memory_gib=8").resources
    shares = sum(map(slots.shares_of, TWO))
    assert resources.totals({}) == {"mem_mb": 8192, "gpu_mb": slots.SHARE * shares}
    assert resources.totals({"mem_mb": 9000, "gpu_mb": 5000, "gpu": 1}) == {"mem_mb": 9000, "gpu_mb": 5000}
    assert pipeline("runtime.memory_gib=8", "runtime.gpus=1").resources.totals({})["gpu_mb"] == slots.SHARE * shares // 2
    assert pipeline("runtime.memory_gib=8", "runtime.device=cpu").resources.totals({"gpu": 0}) == {"mem_mb": 8192}
    with pytest.raises(ConfigError, match=r"--resources gpu=0: expected 1 or more, or overrides='runtime.device=cpu'"):
        resources.totals({"gpu": 0})


def test_a_gpu_that_is_not_there_is_said_once(two_gpus, monkeypatch):
    monkeypatch.setattr(gpus, "visible", list)
    assert pipeline().choice == Choice("cpu")
    made = pipeline("runtime.device=cuda")
    assert made.choice.refusal.startswith("runtime.device=cuda: no GPU")
    assert made.device_lines() == [made.choice.refusal]


@pytest.mark.parametrize("override", ["runtime.device=gpu", "runtime.gpus=0", "runtime.gpus_per_job=0"])
def test_a_wrong_value_is_refused_with_what_would_be_right(two_gpus, override):
    with pytest.raises(ConfigError, match=rf"{override}: expected (one of auto, cpu, cuda|a positive number)"):
        pipeline(override)


# What a stage sees and says


def test_a_stage_sees_its_own_gpu_before_it_begins_and_its_result_says_so(two_gpus, monkeypatch, tmp_path):
    monkeypatch.setenv(slots.FOLDER, str(tmp_path / "slots"))
    pipeline()  # which hands its choice down
    seen = {}

    def work(job: Job) -> None:
        job.at(QUANTIZE)
        seen.update(visible=os.environ[VISIBLE], device=job.runtime.device)
        identity = job.identity({})
        seen["result"] = job.finish(identity, {})

    run("quantize", ["model=opt-standin-xs", "method=rtn", "weight=w4-asym-row"], work)
    assert (seen["visible"], seen["device"]) == ("GPU-0", "cuda")
    assert gpus.computed_on(seen["result"]) == {"cuda"}
    (record,) = (tmp_path / "results").rglob("run.json")
    assert read_json(record, "run")["device"] == "NVIDIA Pretended"


def test_a_result_of_the_cpu_says_nothing_of_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Choice("cpu").hand_down()
    job = Job("quantize", ["model=opt-standin-xs", "method=rtn", "weight=w4-asym-row"])
    assert job.runtime.device == "cpu"
    assert set(job.identity({})) == {"stage", "code", "settings", "inputs", "threads", "versions"}


def evaluation(device: str, *ranks: str) -> Job:
    arguments = ["model=opt-standin-xs", "method=rtn", "weight=w4-asym-row", f"variants=[{','.join(ranks)}]"]
    job = Job("evaluate", [*arguments, *([f"runtime.device={device}"] if device else [])])
    job.at(EVALUATE)
    return job


def test_ranks_are_kept_by_auto_and_measured_again_for_a_device_that_was_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "use", lambda *_, **__: None)
    monkeypatch.setattr(variants, "mark", lambda job, variant, settings: variant)

    def measured(device: str, *ranks: str) -> tuple[list[str], dict[str, str]]:
        """The ranks that a job measures, and the device of each in its result."""
        now: list[str] = []
        job = evaluation(device, *ranks)
        one = variants.one_by_one(job, lambda variant: now.append(variant) or {"n": 0})
        variants.bring_up_to_date(job, {}, {}, lambda job: one)
        entries = job.read_result()["variants"]
        return now, {name: entry.get("device", "cpu") for name, entry in entries.items()}

    assert measured("cpu", "r0", "plain-int8/r8") == (["r0", "plain-int8/r8"], {"r0": "cpu", "plain-int8/r8": "cpu"})
    # The rank of another study, which does not ask now, is kept.
    places = {"r0": "cuda", "plain-int8/r4": "cuda", "plain-int8/r8": "cpu"}
    assert measured("cuda", "r0", "plain-int8/r4") == (["r0", "plain-int8/r4"], places)
    Choice("cpu").hand_down()
    assert measured("", "r0", "plain-int8/r4", "plain-int8/r8") == ([], places)
    assert measured("", "plain-int8/r16") == (["plain-int8/r16"], places | {"plain-int8/r16": "cpu"})
    assert measured("cpu", "r0") == (["r0"], places | {"plain-int8/r16": "cpu", "r0": "cpu"})


# What people are told


def test_the_report_names_the_devices_and_what_another_one_did(monkeypatch):
    assert together(["cpu", "NVIDIA H200", "cpu"]) == "cpu + NVIDIA H200"
    result = {"variants": {"r0": {}, "r8": {"device": "cuda"}}}
    assert [of_variant(result, name, {"device": "NVIDIA H200"}) for name in ("r0", "r8")] == ["cpu", "NVIDIA H200"]
    assert of_variant(result, "r8", {"device": "cpu"}) == "cuda"
    Choice("cpu").hand_down()
    assert lines(["cpu", "cpu"]) == lines([]) == []
    assert lines(["NVIDIA H200", "cpu", "cpu"]) == ["computed: 1 cells on NVIDIA H200, 2 cells on cpu"]
    Choice("cuda", tuple(TWO)).hand_down()
    (line,) = lines(["cpu", "cpu"])
    assert line.startswith("computed: 2 cells on cpu; what the CPU did is kept, overrides='runtime.device=cuda'")
    assert lines(["NVIDIA H200"]) == ["computed: 1 cells on NVIDIA H200"]


# Whole runs


def planned(text: str) -> dict[str, int]:
    counts = (line.split() for line in text.splitlines() if re.fullmatch(r"\w+ +\d+", line))
    return {rule: int(count) for rule, count in counts if rule not in ("all", "total")}


def rewrite(job: StageJob, change) -> None:
    """Change a result as if another machine had written it, at the time at which it was written."""
    path = job.folder / "result.json"
    times = path.stat()
    result = read_json(path, job.stage.kind)
    change(result)
    del result["digest"], result["kind"], result["format"]
    write_json(path, job.stage.kind, result)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_auto_keeps_what_another_device_computed_and_a_name_computes_it_again(copy, monkeypatch):
    monkeypatch.chdir(copy)
    expected = digests(copy)
    results = {
        kind: Path("results/cache", kind, "opt-standin-xs/rtn/none/w2-asym-row/a16") for kind in ("quantize", "evaluate/")
    }
    measured = next(path for path in results["evaluate/"].rglob("result.json"))
    names = compose_names(measured)
    rewrite(StageJob(QUANTIZE, names), lambda result: result["identity"].update(device="cuda"))
    rewrite(StageJob(EVALUATE, names), lambda result: result["variants"]["r0"].update(device="cuda"))
    for device in ("", "runtime.device=auto"):
        assert planned(snakemake(copy, "-n", "--config", "study=smoke", f"overrides={device}").stdout) == {}
    named = ("--config", "study=smoke", "overrides=runtime.device=cpu")
    again = snakemake(copy, "-n", *named)
    assert planned(again.stdout) == {"quantize": 1, "lorc": 1, "evaluate": 1, "track": 1, "report": 1}
    assert snakemake(copy, *named).returncode == 0
    assert digests(copy) == expected
    assert "Nothing to be done" in snakemake(copy, "-n", *named).stdout
    assert "Nothing to be done" in snakemake(copy, "-n", "--config", "study=smoke").stdout


def compose_names(result: Path):
    """The names of an evaluation's folder."""
    from lorcbench.common.paths import Wildcards as Names

    axes = ("model", "method", "calibration", "weight", "trained", "activation", "protocol")
    return Names(**dict(zip(axes, result.parent.parts[-len(axes) :], strict=True)))


def test_a_named_device_runs_all_again_that_the_other_computed(smoke):
    text = snakemake(smoke, "-n", "--config", "study=smoke", "overrides=runtime.device=cuda", PATH=without_driver()).stdout
    jobs = planned(text)
    # The study has no mixed formats, hence no sensitivity.
    assert {rule for rule in jobs if rule in ON_DEVICE} == ON_DEVICE - {"sensitivity"}
    assert {"prepare", "text", "tokens", "calibration_tokens"}.isdisjoint(jobs)


def without_driver() -> str:
    """The search path without a program nvidia-smi."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if not Path(folder, "nvidia-smi").exists())


def test_a_gpu_that_torch_cannot_use_is_said_in_one_line_and_nothing_runs_again(smoke, tmp_path):
    if not gpus.torch_without_cuda():
        pytest.skip("this torch has CUDA")
    done = snakemake(smoke, "-n", "--config", "study=smoke", **fake_driver(tmp_path, TWO))
    (line,) = [line for line in done.stdout.splitlines() if "NVIDIA Pretended" in line]
    assert "build without CUDA" in line and "computes on the CPU" in line
    assert "Nothing to be done" in done.stdout


def test_the_table_says_what_computed_each_cell(smoke):
    with open(smoke / "results/smoke/cells.csv", newline="") as file:
        assert {row["device"] for row in csv.DictReader(file)} == {"cpu"}
    for record in (smoke / "results/cache").rglob("run.json"):
        assert json.loads(record.read_text())["device"] == "cpu"


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_refused_before_the_first_job(tmp_path):
    done = snakemake(tmp_path, "--config", "study=smoke", "device=cuda", PATH=without_driver())
    assert done.returncode != 0
    assert "error: runtime.device=cuda: no GPU is here: there is no program nvidia-smi" in done.stdout
    assert not list(tmp_path.rglob("log.txt"))


WARM = """
import torch
asked = []
torch._C._cuda_getCurrentRawStream = None                         # which is there in a build with CUDA
torch._C._cuda_getDeviceCount = lambda: asked.append(1) or 2      # on a machine with GPUs, this starts CUDA
torch._C._cuda_init = lambda: asked.append(1)
torch.cuda._device_count_nvml = lambda: 2                         # and this does not
from lorcbench.pipeline import warm
warm.preload()
warm.check_forkable()
assert torch.cuda.is_available(), "the pretended GPUs are not seen, so nothing is tested"
print(asked)
"""


@pytest.mark.slow
def test_the_warm_process_does_not_start_cuda_before_it_forks():
    environment = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    done = subprocess.run([sys.executable, "-c", WARM], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "_COUNTED_BY_DRIVER] = " in (ROOT / "src/lorcbench/pipeline/warm.py").read_text()


@pytest.mark.slow  # imports torch
def test_a_warm_process_that_has_started_cuda_gives_up_in_one_line(monkeypatch):
    import torch

    from lorcbench.pipeline import warm

    warm.check_forkable()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(SystemExit, match="each job starts by itself"):
        warm.check_forkable()

"""Parts b and e: every stage that takes a device, run on the CPU and on the device, from the same checkpoint and tokens."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from gpu.record import Record, Settings
from threadpoolctl import threadpool_limits

from lorcbench.common import paths
from lorcbench.common.artifacts import read_json
from lorcbench.core.formats import WeightFormat
from lorcbench.core.lorc import correction
from lorcbench.jobs.job import Job
from lorcbench.jobs.quantized import stored_matrix
from lorcbench.jobs.shards import Shards
from lorcbench.study.stages import CALIBRATION_TOKENS, PREPARE, TEXT, TOKENS

MODELS = ("opt-standin-s", "bloom-standin-s")
_SHORT = "+iterations=8+lr=0.0001"
_DATA = "calibration=stdlib"
_GPTQ = ("method=gptq", _DATA, "weight=w3-asym-g32")
CELLS = (
    ("method=rtn", "weight=w3-asym-g32"),
    _GPTQ,
    ("method=gptq-cached", _DATA, "weight=w3-asym-g32"),
    (f"method=zq_local{_SHORT}", _DATA, "weight=w3-asym-g32"),
    (f"method=zq_global{_SHORT}", _DATA, "weight=w3-asym-g32"),
)
LORC = (
    ("lorc=plain-int8", "cap=32"),
    ("lorc=plain-fp16", "cap=32"),
    ("lorc=plain-int8+decomposition=exact", "cap=32"),
    (f"lorc=distilled-int8{_SHORT}", _DATA, "cap=4"),
)
_RANKS = f"variants=[r0,plain-int8/r8,plain-fp16/r8,plain-int8+decomposition=exact/r8,distilled-int8{_SHORT}/r4]"


def prepared(folder: Path, models: tuple[str, ...]) -> Path:
    """A folder with text, stand-ins and tokens, made by the project's own stages unless it is there."""
    jobs = [("text", ("text=stdlib",), TEXT.pattern.format(text="stdlib"))]
    for model in models:
        jobs.append(("prepare", (f"model={model}",), PREPARE.pattern.format(model=model)))
        tokens = CALIBRATION_TOKENS.pattern.format(model=model, calibration="stdlib")
        jobs.append(("tokens", (f"model={model}", _DATA), tokens))
        jobs.append(("tokens", (f"model={model}", "eval=stdlib"), TOKENS.pattern.format(model=model, protocol="stdlib")))
    folder.mkdir(parents=True, exist_ok=True)
    for stage, overrides, result in jobs:
        if not (folder / result / "result.json").is_file():
            run_stage(folder, stage, *overrides)
    return folder


def run_stage(folder: Path, stage: str, *overrides: str, threads: int = 1, device: str = "cpu") -> float:
    """Run a stage in this process, in `folder`, as its command would; returns its seconds."""
    module = importlib.import_module(f"lorcbench.stages.{stage}")
    start = time.perf_counter()
    with contextlib.chdir(folder), threadpool_limits(threads, user_api="blas"):
        job = Job(stage, [*overrides, f"runtime.threads={threads}", f"runtime.device={device}"])
        with open("/dev/null", "w") as quiet, contextlib.redirect_stderr(quiet):
            module.main(job)
    return time.perf_counter() - start


def run(record: Record, settings: Settings, base: Path) -> None:
    """Part b: the stages; what they leave on the device beside what they leave on the CPU."""
    from gpu.drift import run as drift

    start = time.perf_counter()
    for model in MODELS[: 1 if settings.tiny else None]:
        prepared(base, (model,))
        folders = [settings.folder / "work" / name for name in ("cpu", "device")]
        for device, folder in zip(("cpu", settings.device), folders, strict=True):
            _copy(base, folder)
            for stage, overrides in _jobs(f"model={model}"):
                _try(record, settings, folder, device, stage, overrides)
        _compare(record, model, *folders)
    record.add("b", "time of the stages", time.perf_counter() - start, "s")
    with threadpool_limits(1, user_api="blas"):
        drift(record, settings, base)


def harness(record: Record, settings: Settings, base: Path) -> None:
    """Part e: lm-eval over staged documents, on both devices."""
    model = MODELS[0]
    prepared(base, (model,))
    found = []
    for device, name in (("cpu", "cpu-harness"), (settings.device, "device-harness")):
        folder = settings.folder / "work" / name
        _copy(base, folder)
        _try(record, settings, folder, device, "quantize", (f"model={model}", *_GPTQ), part="e")
        for overrides in ((), _GPTQ):
            _try(record, settings, folder, device, "harness", (f"model={model}", *overrides, "variants=[r0]"), part="e")
        results = sorted(folder.glob("**/harness/**/result.json"))
        found.append({path.parts[-7]: json.loads(path.read_text()) for path in results})
    cpu, here = found
    for method in cpu.keys() & here.keys():
        one, other = (results[method]["variants"]["r0"]["metrics"] for results in (cpu, here))
        differences = {name: abs(other[name] - value) / max(abs(value), 1e-12) for name, value in one.items()}
        record.add("e", f"lm-eval, {model}, {method}: metrics", len(differences), metrics=one, device_metrics=other)
        record.add("e", f"lm-eval, {model}, {method}: largest relative difference", max(differences.values()))


def _copy(base: Path, folder: Path) -> None:
    shutil.copytree(base / "results", folder / "results", dirs_exist_ok=True)


def _jobs(model: str) -> list[tuple[str, tuple[str, ...]]]:
    """Stages and their arguments, in an order in which each finds what it reads."""
    jobs = [("calibrate", (model, _DATA)), ("factor", (model, _DATA))]
    jobs += [("quantize", (model, *cell)) for cell in CELLS]
    jobs += [("lorc", (model, *_GPTQ, *lorc)) for lorc in LORC]
    jobs += [("evaluate", (model, "variants=[r0]"))]
    jobs += [("evaluate", (model, *cell, _RANKS if cell is _GPTQ else "variants=[r0]")) for cell in CELLS]
    return jobs


def _try(record: Record, settings: Settings, folder: Path, device: str, stage: str, overrides: tuple, part: str = "b") -> None:
    """Run a stage; one that fails is a result too, and the check goes on."""
    what = " ".join(override for override in overrides if not override.startswith("variants="))
    try:
        seconds = run_stage(folder, stage, *overrides, device=device)
    except Exception as error:
        traceback.print_exc()
        record.add(part, f"FAILED on {device}: {stage} {what}", f"{type(error).__name__}: {error}")
    else:
        with open(settings.folder / "stages.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"device": device, "stage": stage, "overrides": what, "seconds": seconds}) + "\n")


def _compare(record: Record, model: str, cpu: Path, here: Path) -> None:
    """What both folders hold, by stage: largest relative difference, or share of equal codes."""
    for result in sorted((cpu / paths.CACHE).glob("**/result.json")):
        place = result.relative_to(cpu).parent
        stage = place.parts[2]
        other = here / place / "result.json"
        if model not in place.parts or stage in ("checkpoint", "tokens") or place.name == "tokens" or not other.is_file():
            continue
        name = "/".join(place.parts[3:])
        if stage == "evaluate":
            for variant, difference in _perplexities(result, other).items():
                record.add("b", f"evaluate {name} {variant}: relative difference of perplexity", difference)
        elif stage == "quantize":
            shares = _codes(result, other)
            record.add("b", f"quantize {name}: share of equal codes by block", " ".join(f"{share:.6f}" for share in shares))
        elif stage == "lorc":
            record.add("b", f"lorc {name}: relative difference of B·A", _products(result, other))
        else:
            kind = "hessians" if "hessians" in place.parts else "statistics"
            record.add("b", f"{kind} {name}: largest relative difference", _tensors(result, other, kind))


def _perplexities(one: Path, other: Path) -> dict[str, float]:
    found = []
    for path in (one, other):
        variants = read_json(path, "perplexity")["variants"]
        found.append({name: {c: np.exp(np.mean(nll)) for c, nll in entry["nll"].items()} for name, entry in variants.items()})
    cpu, here = found
    return {v: max(abs(here[v][c] / cpu[v][c] - 1) for c in cpu[v]) for v in cpu.keys() & here.keys()}


def _codes(one: Path, other: Path) -> list[float]:
    fmt, shards = WeightFormat.parse(one.parts[-3]), [Shards(path, "quantized") for path in (one, other)]
    shares = []
    for index in range(len(shards[0].result["shards"])):
        blocks, equal, count = [part.block(index) for part in shards], 0, 0
        for linear, width in shards[0].result["widths"].items():
            cpu, here = (stored_matrix(block, linear, fmt, width).codes for block in blocks)
            equal, count = equal + int((cpu == here).sum()), count + cpu.numel()
        shares.append(equal / count)
    return shares


def _products(one: Path, other: Path) -> float:
    shards, largest = [Shards(path, "factors") for path in (one, other)], 0.0
    for index in range(len(shards[0].result["shards"])):
        products = []
        for part in shards:
            stored: dict[str, dict[str, torch.Tensor]] = {}
            for name, tensor in part.block(index).items():
                stored.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = tensor
            products.append({name: correction(factors, 10**6) for name, factors in stored.items()})
        cpu, here = products
        largest = max(largest, *(float((here[name] - cpu[name]).norm() / cpu[name].norm()) for name in cpu))
    return largest


def _tensors(one: Path, other: Path, kind: str) -> float:
    cpu, here = (Shards(path, kind) for path in (one, other))
    largest = 0.0
    for index in range(len(cpu.result["shards"])):
        a, b = cpu.block(index), here.block(index)
        pairs = [(a[name].double(), b[name].double()) for name in a if a[name].is_floating_point()]
        largest = max(largest, *(float((y - x).norm() / x.norm()) for x, y in pairs))
    return largest

"""What a study would run on this machine: jobs that are there and to do, time, memory and disk, and what cannot fit."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

from lorcbench.common import paths
from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline.estimate import Estimate, estimate, shape_of
from lorcbench.study.cells import Cell, Study
from lorcbench.study.ranks import rank_lines
from lorcbench.study.stages import STAGES, StageJob, jobs_of

_SMALL = {"tokens": Estimate(600, 0, 30), "gate": Estimate(100, 0, 0), "gate_half": Estimate(100, 0, 0)}  # alike for all models
_START = 2.0  # seconds of a job that are no arithmetic


@dataclass(frozen=True)
class PlannedJob:
    """One job: its stage and model, whether its result exists, and what it takes; None for a model of unknown shape."""

    stage: str
    model: str
    done: bool
    takes: Estimate | None


@dataclass(frozen=True)
class Machine:
    """What there is to run on: cores, MiB of memory and of free disk, floating-point operations a second of one core."""

    cores: int
    memory: float
    disk: float
    rate: float


def this_machine(runtime: RuntimeConfig) -> Machine:
    """Measured here, in a tenth of a second; `runtime.memory_gib` overrules what the machine says of its memory."""
    import numpy as np

    matrix, best = np.ones((1024, 1024), np.float32), float("inf")
    for _ in range(3):
        started = time.thread_time()
        matrix @ matrix
        best = min(best, time.thread_time() - started)
    place = next(folder for folder in (Path(paths.CACHE), Path(paths.CACHE).parent, Path()) if folder.is_dir())
    memory, disk = total_memory(runtime), shutil.disk_usage(place).free
    # Products of the shapes that occur run at about half of the rate of this one.
    return Machine(len(os.sched_getaffinity(0)), memory, disk / 2**20, 0.5 * 2 * 1024**3 / best)


def total_memory(runtime: RuntimeConfig) -> float:
    """MiB that the jobs of a local run may take together: nine tenths of the machine's, unless the configuration says."""
    return 1024 * runtime.memory_gib if runtime.memory_gib else 0.9 * psutil.virtual_memory().total / 2**20


def jobs(study: Study, runtime: RuntimeConfig) -> list[PlannedJob]:
    """Every job that the study's cells rest on, each once, in the order of the stages."""
    cells: dict[Path, list[Cell]] = {}
    first: dict[Path, StageJob] = {}
    for cell in study.cells:
        for job in jobs_of(study, cell).values():
            cells.setdefault(job.folder, []).append(cell)
            first.setdefault(job.folder, job)
    shapes = {model: shape_of(study.model(model)) for model in study.models}
    order = list(STAGES)
    planned = []
    for folder, job in sorted(first.items(), key=lambda item: order.index(item[1].stage.name)):
        stage, shape = job.stage.module, shapes[job.names.model]
        takes = _SMALL.get(stage)
        if shape and not takes:
            takes = estimate(stage, shape, job.names, runtime, len(cells[folder]))
        planned.append(PlannedJob(stage, job.names.model, (folder / "result.json").is_file(), takes))
    return planned


def report(study: Study, runtime: RuntimeConfig, machine: Machine) -> tuple[str, list[str]]:
    """The plan as text, and a line for everything that does not fit this machine."""
    planned = jobs(study, runtime)
    to_do = [job for job in planned if not job.done]
    known = [job.takes for job in to_do if job.takes]
    # Cores and memory are both shared: a job that needs half of either keeps half of the machine.
    share = [max(runtime.threads / machine.cores, min(1.0, takes.memory / machine.memory)) for takes in known]
    seconds = [_seconds(takes, runtime, machine) for takes in known]
    wall = max([sum(part * time_ for part, time_ in zip(share, seconds, strict=True)), *seconds, 0.0])
    disk = sum(takes.disk for takes in known)
    lines = [
        f"study {study.name}: {len(study.cells)} cells on {len({cell.model for cell in study.cells})} models, "
        f"{len(planned)} jobs, {len(planned) - len(to_do)} of them done",
        f"this machine: {machine.cores} cores of {machine.rate / 1e9:.0f} GFLOP/s, {machine.memory / 1024:.1f} GiB of memory "
        f"for jobs, {machine.disk / 1024:.0f} GiB of disk free",
        "",
        f"{'stage':10}{'jobs':>7}{'done':>7}{'hours':>10}{'peak GiB':>10}{'disk GiB':>10}",
    ]
    counts, done = Counter(job.stage for job in planned), Counter(job.stage for job in planned if job.done)
    for stage in counts:
        takes = [job.takes for job in to_do if job.stage == stage and job.takes]
        hours = sum(_seconds(one, runtime, machine) for one in takes) / 3600
        peak, written = max((one.memory for one in takes), default=0), sum(one.disk for one in takes)
        lines.append(f"{stage:10}{counts[stage]:7}{done[stage]:7}{hours:10.2f}{peak / 1024:10.1f}{written / 1024:10.1f}")
    lines += ["", f"together about {_duration(wall)} here, and {disk / 1024:.1f} GiB on disk, without downloads and the page"]
    if unknown := sorted({job.model for job in to_do if job.takes is None}):
        lines.append(f"not estimated, for want of a shape: {', '.join(unknown)}")
    if study.too_large:
        lines.append(f"left out by study.max_params={study.config.max_params:g}: {', '.join(study.too_large)}")
    lines += rank_lines(study)
    return "\n".join(lines), misfits(study, to_do, machine)


def misfits(study: Study, to_do: list[PlannedJob], machine: Machine) -> list[str]:
    """A line for every model whose jobs need more memory than there is, and one if the disk is too small."""
    lines, large = [], set()
    for model in dict.fromkeys(job.model for job in to_do):
        needs = {job.stage: job.takes.memory for job in to_do if job.model == model and job.takes}
        stage = max(needs, key=needs.get, default=None)
        if stage and needs[stage] > machine.memory:
            large.add(model)
            wanted, there = needs[stage] / 1024, machine.memory / 1024
            lines.append(f"{model}: {stage} needs about {wanted:.1f} GiB of memory, here are {there:.1f}")
    if large:
        fitting = [study.model(cell.model).block_weights or 0 for cell in study.cells if cell.model not in large]
        lines.append(f"what fits: study.max_params={max(fitting):.3g}" if any(fitting) else "none of the study's models fits")
    disk = sum(job.takes.disk for job in to_do if job.takes)
    if disk > machine.disk:
        lines.append(f"disk: about {disk / 1024:.0f} GiB will be written, {machine.disk / 1024:.0f} are free")
    return lines


def _seconds(takes: Estimate, runtime: RuntimeConfig, machine: Machine) -> float:
    return _START + takes.operations / (machine.rate * runtime.threads)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"

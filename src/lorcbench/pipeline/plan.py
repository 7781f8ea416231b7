"""What a study would run on this machine: jobs that are there and to do, time, memory and disk, and what cannot fit."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

from lorcbench.common import paths
from lorcbench.common.artifacts import ArtifactError, read_json
from lorcbench.common.paths import Wildcards
from lorcbench.common.spelling import counted
from lorcbench.config import compose
from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline import machine as of_machine
from lorcbench.pipeline.estimate import Estimate, shape_of
from lorcbench.pipeline.finished import Finished
from lorcbench.pipeline.fitting import Sized, setting_that_fits
from lorcbench.study.cells import Cell, Study
from lorcbench.study.graph import jobs_of
from lorcbench.study.outline import models_line
from lorcbench.study.ranks import rank_lines
from lorcbench.study.stages import STAGES, StageJob, sensitivities, spectra

_SMALL = {"tokens": Estimate(600, 0, 30), "gate": Estimate(100, 0, 0), "gate_half": Estimate(100, 0, 0)}  # alike for all models
_LONG = 5400  # seconds, from which times are spelled in hours
_SHORT = 90  # seconds, up to which they are spelled in seconds
_DAY = 86400  # seconds
_START = 2.0  # seconds of a job that are no arithmetic
_SHARE_OF_PRODUCTS = 0.5  # of the rate of products, what a job gets done with all that it does beside them
USUAL_RATE = 30e9  # floating-point operations per second that any core gets done
GPU_RATE = 50e12  # floating-point operations per second that any GPU gets done


@dataclass(frozen=True)
class PlannedJob:
    """One job of a study.

    Attributes:
        stage: its module.
        names: of its folder.
        done: whether a run would leave it alone: `lorcbench.pipeline.finished`.
        takes: what it takes; None for a model of unknown shape.
        sized: what `takes` was computed from; None too for a job that takes as much for all models.
        seconds: that it took on this machine, if it has run here.
        rule: its name in the workflow; the rules `tokens` and `calibration_tokens` run one module.
    """

    stage: str
    names: Wildcards
    done: bool
    takes: Estimate | None
    sized: Sized | None = None
    seconds: float | None = None
    rule: str = ""

    @property
    def model(self) -> str:
        """The name of its model."""
        return self.names.model


@dataclass(frozen=True)
class Machine:
    """What there is to run on.

    Attributes:
        cores: that jobs may use.
        memory, disk: MiB of memory for jobs, and of free disk.
        rate: floating-point operations per second of one core, in float32.
        gpus: MiB of memory of each GPU that jobs may use; empty where none is known.
        bfloat16_gain: how many times as fast a core is in bfloat16.
        products: what was measured of it, for people; see `lorcbench.pipeline.machine`.
    """

    cores: int
    memory: float
    disk: float
    rate: float
    gpus: tuple[float, ...] = ()
    bfloat16_gain: float = 1.0
    products: tuple[str, ...] = ()

    @property
    def gpu(self) -> float:
        """MiB of memory of the largest GPU; 0 where none is known."""
        return max(self.gpus, default=0.0)


def this_machine(runtime: RuntimeConfig, gpus: tuple[float, ...] = ()) -> Machine:
    """What is here; `runtime.memory_gib` overrules what the machine says of its memory.

    Args:
        gpus: MiB of memory for jobs of each GPU of the run.
    """
    rates = of_machine.rates()
    place = next(folder for folder in (Path(paths.CACHE), Path(paths.CACHE).parent, Path()) if folder.is_dir())
    memory, disk = total_memory(runtime), shutil.disk_usage(place).free
    cores = len(os.sched_getaffinity(0))
    return Machine(
        cores,
        memory,
        disk / 2**20,
        _SHARE_OF_PRODUCTS * rates.float32,
        gpus,
        rates.bfloat16_gain,
        tuple(of_machine.lines(rates)),
    )


def total_memory(runtime: RuntimeConfig) -> float:
    """MiB that the jobs of a local run may take together: nine tenths of the machine's, unless the configuration says."""
    return 1024 * runtime.memory_gib if runtime.memory_gib else 0.9 * psutil.virtual_memory().total / 2**20


def jobs(study: Study, runtime: RuntimeConfig) -> list[PlannedJob]:
    """Every job that the study's cells rest on, each once, in the order of the stages."""
    cells: dict[Path, list[Cell]] = {}
    first: dict[Path, StageJob] = {}
    for cell in study.cells:
        names = study.wildcards(cell)
        for job in (*jobs_of(study, cell).values(), *sensitivities(names), *spectra(names)):
            cells.setdefault(job.folder, []).append(cell)
            first.setdefault(job.folder, job)
    shapes = {model: shape_of(study.model(model)) for model in study.models}
    order, finished = list(STAGES), Finished(study, runtime.threads)
    planned = []
    for folder, job in sorted(first.items(), key=lambda item: order.index(item[1].stage.name)):
        stage, shape = job.stage.module, shapes[job.names.model]
        sized = Sized(stage, shape, job.names, len(cells[folder])) if shape and stage not in _SMALL else None
        takes = sized.takes(runtime) if sized else _SMALL.get(stage)
        done = finished.has(job)
        seconds = _took(folder) if takes else None
        planned.append(PlannedJob(stage, job.names, done, takes, sized, seconds, job.stage.name))
    return planned


def _took(folder: Path) -> float | None:
    """Seconds that a finished job took, if that was on this machine."""
    try:
        record = read_json(folder / "run.json", "run")
    except ArtifactError:
        return None
    return record["seconds"] if record["host"] == platform.node() else None


def corrections(planned: list[PlannedJob], runtime: RuntimeConfig, machine: Machine) -> dict[str, float]:
    """By stage, how many times as long as computed its finished jobs took on this machine: the median."""
    ratios: dict[str, list[float]] = {}
    for job in planned:
        if job.seconds is not None:
            ratios.setdefault(job.stage, []).append(job.seconds / _seconds(job, runtime, machine))
    return {stage: statistics.median(values) for stage, values in ratios.items()}


def report(study: Study, runtime: RuntimeConfig, machine: Machine) -> tuple[str, list[str]]:
    """The plan as text, and a line for everything that does not fit this machine."""
    planned = jobs(study, runtime)
    to_do = [job for job in planned if not job.done]
    known = [job.takes for job in to_do if job.takes]
    share = [_share(takes, runtime, machine) for takes in known]
    corrected = corrections(planned, runtime, machine)
    seconds = [_seconds(job, runtime, machine, corrected) for job in to_do if job.takes]
    timed = zip([job for job in to_do if job.takes], seconds, strict=True)
    wall = max(sum(part * time_ for part, time_ in zip(share, seconds, strict=True)), _longest_chain(timed))
    disk = sum(takes.disk for takes in known)
    here = counted(machine.cores, "core")
    here = f"{counted(len(machine.gpus), 'GPU')} and {here}" if machine.gpus and runtime.device == "cuda" else here
    days = f" ({wall / _DAY:.0f} days)" if wall >= 2 * _DAY else ""
    lines = [
        f"study {study.name}: {counted(len(study.cells), 'cell')} on {models_line(study)}; "
        f"{counted(len(planned), 'job')}, {len(planned) - len(to_do)} of them done; texts, MLflow and the page are a few more",
        f"together about {_duration(wall)}{days} on {here}, and {disk / 1024:.1f} GiB on disk, without downloads and the page",
        "",
        f"the time of a stage is that of its jobs one after another, on {counted(runtime.threads, 'core')} each:",
        *_table(planned, runtime, machine, corrected),
        "",
    ]
    if unknown := sorted({job.model for job in to_do if job.takes is None}):
        lines.append(f"not estimated, for want of a shape: {', '.join(unknown)}")
    if study.too_large:
        lines.append(f"left out by study.max_params={study.config.max_params:g}: {', '.join(study.too_large)}")
    lines += [*rank_lines(study), *_how(machine, corrected)]
    return "\n".join(lines), misfits(study, to_do, machine) + gpu_misfits(study, to_do, runtime, machine)


def _longest_chain(timed: Iterable[tuple[PlannedJob, float]]) -> float:
    """Seconds that the jobs of one model take if each stage waits for the one before, and all jobs of a stage run together."""
    longest: dict[str, dict[str, float]] = {}
    for job, seconds in timed:
        of_model = longest.setdefault(job.model, {})
        of_model[job.rule] = max(of_model.get(job.rule, 0.0), seconds)
    return max((sum(of_model.values()) for of_model in longest.values()), default=0.0)


def _how(machine: Machine, corrected: dict[str, float]) -> list[str]:
    """What the times rest on, which comes last: what there is here, what that multiplies per second, and finished jobs."""
    gpus = f", GPUs of {', '.join(f'{gpu / 1024:.0f}' for gpu in machine.gpus)} GiB" if machine.gpus else ""
    lines = [
        f"this machine: {counted(machine.cores, 'core')}, {machine.memory / 1024:.1f} GiB of memory for jobs, "
        f"{machine.disk / 1024:.0f} GiB of disk free{gpus}",
        *machine.products,
        f"the times count on {machine.rate / 1e9:.0f} GFLOP/s on one core in float32: half of the rate of products, "
        "since a job does more than products",
    ]
    if corrected:
        spelled = ", ".join(f"{stage} {ratio:.1f}" for stage, ratio in corrected.items())
        lines.append(f"they are corrected by your finished jobs here, measured time / estimated time: {spelled}")
    return lines


def _table(planned: list[PlannedJob], runtime: RuntimeConfig, machine: Machine, corrected: dict[str, float]) -> list[str]:
    """A line per rule: its jobs, and what those that are to do take; GPU memory too if the jobs use a GPU."""
    on_gpu = runtime.device == "cuda"
    head = f"{'stage':19}{'jobs':>7}{'done':>7}{'time':>10}{'peak GiB':>10}{'disk GiB':>10}"
    lines = [head + f"{'GPU GiB':>10}" if on_gpu else head]
    counts, done = Counter(job.rule for job in planned), Counter(job.rule for job in planned if job.done)
    for rule in counts:
        waiting = [job for job in planned if job.rule == rule and job.takes and not job.done]
        time_ = _short(sum(_seconds(job, runtime, machine, corrected) for job in waiting))
        takes = [job.takes for job in waiting]
        peak, written = max((one.memory for one in takes), default=0), sum(one.disk for one in takes)
        line = f"{rule:19}{counts[rule]:7}{done[rule]:7}{time_:>10}{peak / 1024:10.1f}{written / 1024:10.1f}"
        gpu = max((one.gpu for one in takes), default=0)
        lines.append(line + f"{gpu / 1024:10.1f}" if on_gpu else line)
    return lines


def misfits(study: Study, to_do: list[PlannedJob], machine: Machine) -> list[str]:
    """A line for every model whose jobs need more memory than there is, and one if the disk is too small."""
    lines, large = [], set()
    for model in dict.fromkeys(job.model for job in to_do):
        largest = max(
            (job for job in to_do if job.model == model and job.takes), key=lambda job: job.takes.memory, default=None
        )
        if largest and largest.takes.memory > machine.memory:
            large.add(model)
            needed, there = largest.takes.memory / 1024, machine.memory / 1024
            lines.append(f"{model}: {largest.stage} needs about {needed:.1f} GiB of memory, here are {there:.1f}")
    if large:
        lines.append(_what_fits(study, large))
    disk = sum(job.takes.disk for job in to_do if job.takes)
    if disk > machine.disk:
        lines.append(f"disk: about {disk / 1024:.0f} GiB will be written, {machine.disk / 1024:.0f} are free")
    return lines


def gpu_misfits(study: Study, to_do: list[PlannedJob], runtime: RuntimeConfig, machine: Machine) -> list[str]:
    """A line for every model whose jobs need more memory than the largest GPU has, and one that says what would fit.

    None if the jobs use no GPU, or nobody knows how much memory it has.
    """
    lines, large, fitting = [], set(), []
    for model in dict.fromkeys(job.model for job in to_do) if machine.gpus else ():
        own = [job for job in to_do if job.model == model and job.sized]
        largest = max(own, key=lambda job: job.takes.gpu, default=None)
        sized = [job.sized for job in own]
        if largest is None or largest.takes.gpu <= machine.gpu:
            fitting += sized
            continue
        needed, there = largest.takes.gpu / 1024, machine.gpu / 1024
        line = f"{model}: {largest.stage} needs about {needed:.1f} GiB of GPU memory, here are {there:.1f}"
        if setting_that_fits(sized, runtime, machine.gpu, machine.memory, len(machine.gpus)):
            fitting += sized
        else:
            large.add(model)
            line += ", with any runtime.batch_tokens and runtime.hidden_gib"
        lines.append(line)
    if not lines:
        return []
    setting = setting_that_fits(fitting, runtime, machine.gpu, machine.memory, len(machine.gpus))
    if large:
        lines.append(_what_fits(study, large) + (f" {setting}" if setting else ""))
    else:
        lines.append(f"what fits: {setting}" if setting else "each model fits with other settings: run them one by one")
    return lines


def _what_fits(study: Study, large: set[str]) -> str:
    """The setting that leaves out the models that do not fit."""
    fitting = [study.model(cell.model).block_weights or 0 for cell in study.cells if cell.model not in large]
    return f"what fits: study.max_params={max(fitting):.3g}" if any(fitting) else "none of the study's models fits"


def _share(takes: Estimate, runtime: RuntimeConfig, machine: Machine) -> float:
    """The part of the machine that a job keeps busy: of its cores, its memory or its GPUs, whichever is more.

    A job that needs half of any keeps half of the machine. Jobs that share a GPU take as long as one after the other.
    """
    of_gpus = 1 / max(1, len(machine.gpus)) if takes.gpu else 0.0
    return max(runtime.threads / machine.cores, min(1.0, takes.memory / machine.memory), of_gpus)


def _seconds(
    job: PlannedJob, runtime: RuntimeConfig, machine: Machine, corrected: Mapping[str, float] = MappingProxyType({})
) -> float:
    """The time of a job, as computed, times what finished jobs of its stage say of that."""
    rate = GPU_RATE if job.takes.gpu else machine.rate * runtime.threads
    if not job.takes.gpu and _dtype(job) == "bfloat16":
        rate *= machine.bfloat16_gain
    return (_START + job.takes.operations / rate) * corrected.get(job.stage, 1.0)


def known_machine() -> Machine:
    """One core of this machine as it was measured before, or as any is; nothing is measured for it."""
    rates = of_machine.known()
    if rates is None:
        return Machine(1, 0.0, 0.0, USUAL_RATE)
    return Machine(1, 0.0, 0.0, _SHARE_OF_PRODUCTS * rates.float32, bfloat16_gain=rates.bfloat16_gain)


def expected_seconds(stage: str, names: Wildcards, takes: Estimate, runtime: RuntimeConfig, machine: Machine) -> float:
    """The time of a job as computed, on `known_machine`."""
    return _seconds(PlannedJob(stage, names, False, takes), runtime, machine)


def _dtype(job: PlannedJob) -> str:
    """The type of the forward passes of a job; float32 if it has none."""
    if job.stage in ("evaluate", "harness"):
        return compose.load("eval", job.names.protocol).dtype
    walks = job.stage == "calibrate" or (job.stage == "quantize" and compose.load("method", job.names.method).data == "tokens")
    return compose.load("calibration", job.names.calibration).dtype if walks else "float32"


def _duration(seconds: float) -> str:
    """A time in a sentence."""
    if seconds >= _LONG:
        return f"{seconds / 3600:.1f} hours"
    return counted(round(seconds), "second") if seconds < _SHORT else counted(round(seconds / 60), "minute")


def _short(seconds: float) -> str:
    """A time in a table, in the unit in which it does not round to zero."""
    if seconds >= _LONG:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds:.0f} s" if seconds < _SHORT else f"{seconds / 60:.1f} min"

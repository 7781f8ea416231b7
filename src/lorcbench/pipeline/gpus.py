"""What a run of the workflow computes on, and which finished results the other kind of device computed."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

from lorcbench.common.artifacts import ArtifactError, read_json
from lorcbench.common.gpus import CPU, CUDA, Choice, GpuError, choose, computed_on
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import RuntimeConfig
from lorcbench.study.cells import Study
from lorcbench.study.graph import jobs_of
from lorcbench.study.stages import EVALUATE, HARNESS, StageJob


def chosen(runtime: RuntimeConfig, local: bool) -> Choice:
    """The device of a run. That a GPU is missing is its `refusal`, since a dry run or a plan needs none.

    Args:
        local: its jobs run on this machine. Elsewhere ``auto`` is the CPU, and who gives the jobs their GPUs is the cluster.

    Raises:
        ConfigError: the settings want more GPUs than are here.
    """
    if not local:
        return Choice(CUDA, None) if runtime.device == CUDA else Choice(CPU)
    try:
        choice = choose(runtime.device, runtime.gpus)
    except GpuError as error:
        if runtime.device != CUDA or str(error).startswith("runtime.gpus"):
            raise ConfigError(str(error)) from None
        return Choice(CUDA, None, refusal=str(error))
    if choice.gpus and runtime.gpus_per_job > len(choice.gpus):
        raise ConfigError(f"runtime.gpus_per_job={runtime.gpus_per_job}: expected at most {len(choice.gpus)}, which are here")
    return choice


def plan_lines(study: Study, choice: Choice) -> list[str]:
    """What a plan says of devices: what a run here would compute on, and what computed the jobs that are done."""
    folders = {job.folder for cell in study.cells for job in jobs_of(study, cell).values() if job.stage.on_device}
    devices: Counter[str] = Counter()
    for folder in sorted(folders):
        with suppress(ArtifactError):  # it is not done
            devices[read_json(folder / "run.json", "run").get("device", CPU)] += 1
    done = ", ".join(f"{count} on {device}" for device, count in devices.items())
    lines = [line for line in (choice.note, choice.refusal) if line]
    return [*lines, f"computes on {choice.line()}" + (f"; results that are here: {done}" if done else "")]


def of_another(job: StageJob, device: str, study: Study) -> Path | None:
    """The result of a job if another kind of device computed what the study needs of it."""
    path, ranks = job.folder / "result.json", None
    if job.stage in (EVALUATE, HARNESS):
        ranks = [cell.variant for cell in study.evaluated(job.names, harness=job.stage is HARNESS)]
    with suppress(ArtifactError):  # no result, or one that runs again anyway
        if computed_on(read_json(path, job.stage.kind), ranks) - {device}:
            return path
    return None

"""What one job computes on: chosen once per run, held as slots of a GPU, and said in its result and its record.

A result of a GPU says so, one of the CPU does not: its bytes are those of the time before there was a choice.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import replace

from lorcbench.common import slots
from lorcbench.common.gpus import AUTO, CPU, CUDA, VISIBLE, Choice, choose
from lorcbench.config.schema import RuntimeConfig

MEMORY = "LORCBENCH_GPU_MB"  # environment variable: MiB of a GPU that the workflow planned for a job; without it, all


def resolved(runtime: RuntimeConfig) -> RuntimeConfig:
    """The runtime with ``cpu`` or ``cuda`` in place of ``auto``: what the workflow chose, else what this machine has."""
    if runtime.device != AUTO:
        return runtime
    choice = Choice.handed_down() or choose(AUTO, runtime.gpus)
    if choice.note:  # of a stage by hand: a workflow says it once for all
        _say(choice.note)
    return replace(runtime, device=choice.device)


def take(runtime: RuntimeConfig, whole: bool) -> slots.Slots | None:
    """Hold room on a GPU until the process ends, and see no other; on a cluster the job has its own already.

    Call this before anything asks CUDA for its devices.

    Args:
        runtime: resolved.
        whole: take ``runtime.gpus_per_job`` GPUs if those are several; else a part of one.

    Returns:
        None if nothing is to be shared out.

    Raises:
        GpuError: there is no such GPU.
    """
    if runtime.device != CUDA:
        os.environ[VISIBLE] = ""
        return None
    told = Choice.handed_down()
    choice = told if told and told.device == CUDA else choose(CUDA, runtime.gpus)
    if choice.gpus is None:
        return None
    memory = int(os.environ.get(MEMORY) or 0) or None
    count = runtime.gpus_per_job if whole else 1
    held = slots.take(choice.gpus, memory, count, _say)
    os.environ[VISIBLE] = ",".join(gpu.uuid for gpu in held.gpus)
    return held


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def record(device: str, held: slots.Slots | None) -> dict:
    """What the record of a run says of its device: its name, and the largest memory that torch had of a GPU, in MiB."""
    if device != CUDA:
        return {"device": CPU}
    torch = sys.modules.get("torch")  # which a job that had nothing to compute has not imported
    used = torch is not None and torch.cuda.is_initialized()
    names = [gpu.name for gpu in held.gpus] if held else []
    if used and not names:
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    counted = [name if count == 1 else f"{count} × {name}" for name, count in Counter(names).items()]
    about: dict = {"device": ", ".join(counted) or CUDA}
    if used:
        peak = max(torch.cuda.max_memory_reserved(index) for index in range(torch.cuda.device_count()))
        about["peak_gpu_mib"] = round(peak / 2**20, 1)
    return about

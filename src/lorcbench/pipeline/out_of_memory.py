"""A job that runs out of GPU memory, as one line that says what would fit; it never tries again with other arithmetic."""

from __future__ import annotations

import re
from dataclasses import replace

from lorcbench.config.checks import ConfigError
from lorcbench.jobs.job import Job
from lorcbench.pipeline import plan
from lorcbench.pipeline.estimate import shape_of
from lorcbench.pipeline.fitting import Sized, setting_that_fits

_MIB_OF = {"bytes": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}
# What PyTorch's message says: how much was asked for, what the GPU has, what of it is free, and what this process has taken.
_AMOUNTS = {
    "asked": r"Tried to allocate ([\d.]+) (\w+)",
    "total": r"total capacity of ([\d.]+) (\w+)",
    "free": r"of which ([\d.]+) (\w+) is free",
    "taken": r"this process has ([\d.]+) (\w+) memory in use",
}
# Libraries of CUDA ask for memory of their own, beside PyTorch; their messages have no amounts.
_LIBRARIES = ("CUBLAS_STATUS_ALLOC_FAILED", "CUSOLVER_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def explained(job: Job, error: BaseException) -> str | None:
    """What happened, and the setting that would fit, in one line; None if the error is another one."""
    message = " ".join(str(error).split())
    if type(error).__name__ != "OutOfMemoryError" and not any(name in message for name in _LIBRARIES):
        return None
    amounts = {name: amount for name, pattern in _AMOUNTS.items() if (amount := _amount(pattern, message)) is not None}
    said = "".join(
        text.format(amounts[name] / 1024)
        for name, text in {
            "asked": ": asked for {:.2f} GiB",
            "total": " on a GPU of {:.1f} GiB",
            "free": ", {:.2f} free",
        }.items()
        if name in amounts
    )
    others = amounts["total"] - amounts["free"] - amounts["taken"] if {"total", "free", "taken"} <= amounts.keys() else 0
    beside = f", {others / 1024:.1f} taken by other processes" if others > 100 else ""
    return f"{job.title} is out of GPU memory{said or f': {message}'}{beside}; {_advice(job, amounts, max(others, 0))}"


def _amount(pattern: str, message: str) -> float | None:
    """An amount of memory in MiB."""
    match = re.search(pattern, message, re.IGNORECASE)
    return float(match[1]) * _MIB_OF[match[2]] if match and match[2] in _MIB_OF else None


def _advice(job: Job, amounts: dict[str, float], others: float) -> str:
    """What would fit, computed from the estimate, which is scaled to what was really needed if it was too low."""
    elsewhere = "run it on a GPU with more memory, or with runtime.device=cpu"
    runtime = replace(job.runtime, device="cuda")
    try:
        shape = shape_of(job.model)
    except ConfigError:
        shape = None
    if shape is None or "total" not in amounts:
        return f"with fewer runtime.batch_tokens than {runtime.batch_tokens} it takes less; else {elsewhere}"
    sized = Sized(job.stage, shape, job.names, max(1, len(job.config.variants or ())))
    available = amounts["total"] - others
    estimated = sized.takes(runtime).gpu
    needed = amounts.get("taken", 0) + amounts.get("asked", 0)
    limit = min(available, available * estimated / needed if needed else available, 0.95 * estimated)
    if setting := setting_that_fits([sized], runtime, limit, plan.total_memory(runtime)):
        return f"what would fit: {setting}"
    return f"no runtime.batch_tokens and runtime.hidden_gib would fit: {elsewhere}"

"""Which device computed what: a GPU by its name, or the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lorcbench.common.gpus import CPU, CUDA, Choice, computed_on


def named(run: dict | None) -> str:
    """The device of a job, as its record names it; a record of the time before there was a choice is the CPU's."""
    return (run or {}).get("device", CPU)


def of_variant(result: dict, variant: str, run: dict | None) -> str:
    """The device that measured one rank. The record is that of the latest job, which may have measured others."""
    kind, name = computed_on(result, [variant]), named(run)
    if kind != {CUDA}:
        return CPU
    return CUDA if name == CPU else name


def together(devices: Iterable[str]) -> str:
    """Several devices in words, each once, in the order in which they came."""
    return " + ".join(dict.fromkeys(devices))


def lines(devices: Iterable[str]) -> list[str]:
    """What people are told at the end of a study, unless the CPU computed all of it and is what this run computes on.

    Args:
        devices: of each measured cell, as `together` says them.
    """
    counts = Counter(devices)
    choice = Choice.handed_down()  # None for a report by hand
    on_gpu = choice is not None and choice.device == CUDA
    if not counts or (set(counts) == {CPU} and not on_gpu):
        return []
    line = "computed: " + ", ".join(f"{count} cells on {device}" for device, count in counts.items())
    if on_gpu and any(CPU in device.split(" + ") for device in counts):
        line += "; what the CPU did is kept, overrides='runtime.device=cuda' computes it again"
    return [line]

"""Which device computed what: a GPU by its name, or the CPU."""

from __future__ import annotations

from collections.abc import Iterable

from lorcbench.common.gpus import CPU, CUDA, computed_on


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
    """What people are told at the end of a study whose cells have these devices; nothing if the CPU computed all of it.

    Args:
        devices: of each measured cell, as `together` says them.
    """
    counts: dict[str, int] = {}
    for device in devices:
        counts[device] = counts.get(device, 0) + 1
    if not set(counts) - {CPU, ""}:
        return []
    text = ", ".join(f"{count} cells on {device}" for device, count in counts.items() if device)
    if len(set(counts) - {""}) == 1:
        return [f"computed: {text}"]
    return [f"computed: {text}; overrides='runtime.device=cuda', or cpu, computes the others again"]

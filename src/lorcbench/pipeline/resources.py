"""What jobs ask of a machine or a cluster, from the estimates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lorcbench.common.gpus import CUDA, Choice
from lorcbench.common.paths import Wildcards
from lorcbench.common.slots import SHARE, shares_of
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline import plan
from lorcbench.pipeline.estimate import Estimate, estimate, shape_of
from lorcbench.study.cells import Study
from lorcbench.study.stages import HARNESS, STAGES

_SMALL = 400_000_000  # weights of the decoder blocks, up to which jobs on a cluster share submissions: minutes on one core
# MiB of a GPU that each process takes for itself, and by how much the rest may exceed its estimate.
_GPU_START, _GPU_SLACK = 600, 1.25
_CORE_RATE, _GPU_RATE = 30e9, 50e12  # floating-point operations per second that any core, and any GPU, gets done


class Resources:
    """Memory, time, cores and GPUs of the jobs of one run.

    Args:
        choice: what they compute on.
    """

    def __init__(self, study: Study, runtime: RuntimeConfig, choice: Choice) -> None:
        self._study, self._runtime, self._choice = study, runtime, choice
        self._shapes = {model: shape_of(study.model(model)) for model in study.models}

    def memory(self, stage: str) -> Callable[..., int]:
        """MiB that a job of a stage asks for: half as much again as estimated, and twice that with every further attempt."""

        def ask(wildcards: Any, attempt: int = 1) -> int:
            takes = self._takes(stage, wildcards)
            return int((1.5 * takes.memory if takes else 4000) * 2 ** (attempt - 1))

        return ask

    def minutes(self, stage: str) -> Callable[..., int]:
        """Minutes that a job of a stage may run on a cluster: generous, and twice as many with every further attempt."""

        def ask(wildcards: Any, attempt: int = 1) -> int:
            takes = self._takes(stage, wildcards)
            rate = _GPU_RATE if self.gpus(stage) else _CORE_RATE * self.threads
            return int((10 + 3 * takes.operations / rate / 60 if takes else 240) * 2 ** (attempt - 1))

        return ask

    def _takes(self, stage: str, wildcards: Any) -> Estimate | None:
        """None for a model of unknown shape."""
        shape = self._shapes.get(wildcards.model)
        names, variants = Wildcards.of(wildcards), 1
        if stage in ("evaluate", "harness"):
            variants = len(self._study.evaluated(names, harness=stage == "harness"))
        return estimate(stage, shape, names, self._runtime, variants) if shape else None

    @property
    def threads(self) -> int:
        """Cores that a job uses."""
        return self._runtime.threads

    def gpus(self, stage: str) -> int:
        """GPUs that a job of a stage asks for; one of a local run may share it with others."""
        if self._choice.device != CUDA or not STAGES[stage].on_device:
            return 0
        return self._runtime.gpus_per_job if stage == HARNESS.name else 1

    def gpu_memory(self, stage: str) -> Callable[..., int]:
        """MiB of GPU memory that a job of a local run asks for, in whole shares; 0 where a cluster gives it a GPU of its own.

        A job that is said to need more than any GPU has asks for the largest whole: what cannot fit is refused elsewhere.
        """

        def ask(wildcards: Any, attempt: int = 1) -> int:
            count = self.gpus(stage)
            if not count or not self._choice.gpus:
                return 0
            largest = sorted(map(shares_of, self._choice.gpus), reverse=True)
            takes = self._takes(stage, wildcards)
            if count > 1 or not takes:
                return SHARE * sum(largest[:count])
            needed = (_GPU_START + _GPU_SLACK * gpu_need(takes)) * 2 ** (attempt - 1)
            return SHARE * min(math.ceil(needed / SHARE), largest[0])

        return ask

    def group(self, wildcards: Any) -> str | None:
        """The group of a job: quantizing, factors and measurements of small models share submissions, others stand alone."""
        shape = self._shapes.get(wildcards.model)
        return "cell" if shape and self._choice.device != CUDA and shape.layers * shape.block <= _SMALL else None

    def totals(self, given: dict[str, int]) -> dict[str, int]:
        """What Snakemake shares out among the jobs of a local run: without a total it ignores what they say of a resource.

        Args:
            given: totals that the user gave (``--resources``); they stand.

        Raises:
            ConfigError: a job that is still to do needs more.
        """
        totals = {"mem_mb": self.total_memory(given.get("mem_mb"))}
        if self._choice.device == CUDA and self._choice.gpus:
            if given.get("gpu") == 0 or given.get("gpu_mb") == 0:
                raise ConfigError("--resources gpu=0: expected 1 or more, or overrides='runtime.device=cpu'")
            totals["gpu_mb"] = SHARE * sum(map(shares_of, self._choice.gpus))
        return totals | {name: given[name] for name in totals if name in given}

    def total_memory(self, limit: int | None = None) -> int:
        """MiB for all jobs of a local run together.

        Args:
            limit: that the user gave to Snakemake, if any.

        Raises:
            ConfigError: a job that is still to do needs more.
        """
        total = plan.total_memory(self._runtime) if limit is None else limit
        to_do = [job for job in plan.jobs(self._study, self._runtime) if not job.done]
        if misfits := plan.misfits(self._study, to_do, plan.Machine(1, total, math.inf, 1.0)):
            key = "runtime.memory_gib=…" if limit is None else "--resources mem_mb=…"
            more = f"run them where there is more, or say how much there is with {key}"
            raise ConfigError(f"{'; '.join(misfits)}; {more}")
        return int(total)


def gpu_need(takes: Estimate) -> float:
    """MiB of GPU memory that a job takes, as estimated; as much as of the host's where that is not estimated."""
    return getattr(takes, "gpu", takes.memory)

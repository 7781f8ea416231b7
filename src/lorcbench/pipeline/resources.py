"""What jobs ask of a machine or a cluster, from the estimates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lorcbench.common.paths import Wildcards
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline import plan
from lorcbench.pipeline.estimate import Estimate, estimate, shape_of
from lorcbench.study.cells import Study

_SMALL = 400_000_000  # weights of the decoder blocks, up to which jobs on a cluster share submissions: minutes on one core
_CORE_RATE, _GPU_RATE = 30e9, 50e12  # floating-point operations per second that any core, and any GPU, gets done


class Resources:
    """Memory, time, cores and GPUs of the jobs of one run."""

    def __init__(self, study: Study, runtime: RuntimeConfig) -> None:
        self._study, self._runtime = study, runtime
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
            rate = _GPU_RATE if self.gpus() else _CORE_RATE * self.threads
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

    def gpus(self) -> int:
        """GPUs that a job which walks a model asks for."""
        return int(self._runtime.device == "cuda")

    def group(self, wildcards: Any) -> str | None:
        """The group of a job: quantizing, factors and measurements of small models share submissions, others stand alone."""
        shape = self._shapes.get(wildcards.model)
        return "cell" if shape and not self.gpus() and shape.layers * shape.block <= _SMALL else None

    def total_memory(self, limit: int | None = None) -> int:
        """MiB for all jobs of a local run together.

        Args:
            limit: that the user gave to Snakemake; the smaller of both counts.

        Raises:
            ConfigError: a job that is still to do needs more.
        """
        total = min(plan.total_memory(self._runtime), math.inf if limit is None else limit)
        to_do = [job for job in plan.jobs(self._study, self._runtime) if not job.done]
        if misfits := plan.misfits(self._study, to_do, plan.Machine(1, total, math.inf, 1.0)):
            key = "runtime.memory_gib=…" if limit is None else "--resources mem_mb=…"
            more = f"run them where there is more, or say how much there is with {key}"
            raise ConfigError(f"{'; '.join(misfits)}; {more}")
        return int(total)

"""What jobs ask of a machine or a cluster, from the estimates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from lorcbench.common.gpus import CUDA, Choice
from lorcbench.common.paths import Wildcards
from lorcbench.common.slots import SHARE, memory_for_jobs
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline import plan
from lorcbench.pipeline.estimate import Estimate, estimate, shape_of
from lorcbench.study.cells import Study
from lorcbench.study.stages import HARNESS, STAGES

_SMALL = 400_000_000  # weights of the decoder blocks, up to which jobs on a cluster share submissions: minutes on one core
_COMPUTING = frozenset({"prepare", "calibrate", "factor", "quantize", "lorc", "evaluate", "harness", "export"})
_GUESSED = {"track": 10.0, "report": 10.0, "unknown": 60.0}  # seconds


class Resources:
    """Memory, time, cores and GPUs of the jobs of one run.

    Args:
        choice: what they compute on.
    """

    def __init__(self, study: Study, runtime: RuntimeConfig, choice: Choice) -> None:
        self._study, self._choice = study, choice
        self._runtime = replace(runtime, device=choice.device)
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
            rate = plan.GPU_RATE if self.gpus(stage) else plan.USUAL_RATE * self.threads
            return int((10 + 3 * takes.operations / rate / 60 if takes else 240) * 2 ** (attempt - 1))

        return ask

    @cached_property
    def _machine(self) -> plan.Machine:
        """Read once: a study may have thousands of jobs."""
        return plan.known_machine()

    def seconds(self, stage: str, wildcards: Any) -> float:
        """Seconds that the plan gives a job of a rule on this machine; a guess for one that is in no plan."""
        if stage not in _COMPUTING:
            return _GUESSED.get(stage, 2.0)
        module, names = STAGES[stage].module, Wildcards.of(wildcards)
        takes = self._takes(module, names)
        return plan.expected_seconds(module, names, takes, self._runtime, self._machine) if takes else _GUESSED["unknown"]

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
            largest = sorted(memory_for_jobs(self._choice.gpus), reverse=True)
            takes = self._takes(stage, wildcards)
            if count > 1 or not takes:
                return sum(largest[:count])
            needed = takes.gpu * 2 ** (attempt - 1)
            return min(SHARE * math.ceil(needed / SHARE), largest[0])

        return ask

    def group(self, wildcards: Any) -> str | None:
        """The group of a job: quantizing, factors and measurements of small models share submissions, others stand alone.

        So does what measures an unquantized model: many others wait for it, which would all become one submission with it.
        """
        if wildcards.method == "none":
            return None
        shape = self._shapes.get(wildcards.model)
        return "cell" if shape and self._choice.device != CUDA and shape.layers * shape.block <= _SMALL else None

    def totals(self, given: dict[str, int]) -> dict[str, int]:
        """What Snakemake shares out among the jobs of a local run: without a total it ignores what they say of a resource.

        Args:
            given: totals that the user gave (``--resources``); they stand.

        Raises:
            ConfigError: a job that is still to do needs more.
        """
        totals = {"mem_mb": given.get("mem_mb", int(plan.total_memory(self._runtime)))}
        if gpus := memory_for_jobs(self._choice.gpus or ()):
            if given.get("gpu") == 0 or given.get("gpu_mb") == 0:
                raise ConfigError("--resources gpu=0: expected 1 or more, or overrides='runtime.device=cpu'")
            totals["gpu_mb"] = given.get("gpu_mb", sum(gpus))
        self._refuse_misfits(plan.Machine(1, totals["mem_mb"], math.inf, 1.0, gpus), "mem_mb" in given)
        return totals

    def _refuse_misfits(self, machine: plan.Machine, is_memory_given: bool) -> None:
        """Refuse to begin what cannot end here.

        Args:
            machine: what there is for the jobs of the run.
            is_memory_given: the user said how much memory there is.

        Raises:
            ConfigError: a job that is still to do needs more memory, or more of a GPU, than there is.
        """
        to_do = [job for job in plan.jobs(self._study, self._runtime) if not job.done]
        if misfits := plan.misfits(self._study, to_do, machine):
            key = "--resources mem_mb=…" if is_memory_given else "runtime.memory_gib=…"
            more = f"run them where there is more, or say how much there is with {key}"
            raise ConfigError(f"{'; '.join(misfits)}; {more}")
        if misfits := plan.gpu_misfits(self._study, to_do, self._runtime, machine):
            raise ConfigError("; ".join(misfits))

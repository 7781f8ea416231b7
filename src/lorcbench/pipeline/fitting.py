"""Which settings of the runtime make jobs fit a GPU: fewer tokens in one forward pass, or hidden states on the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lorcbench.common.paths import Wildcards
from lorcbench.config.schema import RuntimeConfig
from lorcbench.config.shape import Shape
from lorcbench.pipeline.estimate import Estimate, estimate

_FEWEST_TOKENS = 64  # in one forward pass; a pass has one sequence at least, so that fewer change nothing for most protocols
_HIDDEN_STEPS = 100  # values of `hidden_gib` that are tried between the present one and none


@dataclass(frozen=True)
class Sized:
    """A job whose model has a known shape.

    Attributes:
        stage: its module.
        shape: of its model.
        names: of its folder.
        variants: LoRC ranks that it measures.
    """

    stage: str
    shape: Shape
    names: Wildcards
    variants: int = 1

    def takes(self, runtime: RuntimeConfig) -> Estimate:
        """What it takes with other settings of the runtime."""
        return estimate(self.stage, self.shape, self.names, runtime, self.variants)


def setting_that_fits(jobs: list[Sized], runtime: RuntimeConfig, gpu: float, memory: float, gpus: int = 1) -> str | None:
    """The values with which all jobs fit, as the command line takes them; None if there are none, or all fit as it is.

    Hidden states that move to the host change no result and hardly any time, so they are tried first, then half as many
    tokens in one forward pass, and so on: the first that fits is as near as can be to the present values. Only if there is none
    lm-eval's jobs take more GPUs.

    Args:
        jobs: of one run, which has one setting.
        gpu: MiB of GPU memory for one job.
        memory: MiB of the host's for one job.
        gpus: how many GPUs there are.
    """
    large = [job for job in jobs if job.takes(runtime).gpu > gpu]
    counts = range(runtime.gpus_per_job, gpus + 1) if gpus > runtime.gpus_per_job else [runtime.gpus_per_job]
    runtimes = (replace(runtime, gpus_per_job=count) for count in counts) if large else ()
    for candidate in (candidate for one in runtimes for candidate in _candidates(large, one, gpu, one != runtime)):
        takes = [job.takes(candidate) for job in jobs]
        if all(one.gpu <= gpu and one.memory <= memory for one in takes):
            keys = ("gpus_per_job", "batch_tokens", "hidden_gib")
            changed = {key: getattr(candidate, key) for key in keys if getattr(candidate, key) != getattr(runtime, key)}
            return " ".join(
                f"runtime.{key}={value:g}" if key == "hidden_gib" else f"runtime.{key}={value}"
                for key, value in changed.items()
            )
    return None


def _candidates(large: list[Sized], runtime: RuntimeConfig, gpu: float, with_present: bool) -> Iterator[RuntimeConfig]:
    """Runtimes with which the large jobs fit the GPU, by falling numbers of tokens in one forward pass.

    Args:
        with_present: whether the present values may fit.
    """
    tokens = runtime.batch_tokens
    while tokens >= min(_FEWEST_TOKENS, runtime.batch_tokens):
        with_tokens = replace(runtime, batch_tokens=tokens)
        if (with_present or tokens < runtime.batch_tokens) and all(job.takes(with_tokens).gpu <= gpu for job in large):
            yield with_tokens
        if (hidden := _hidden_gib(large, with_tokens, gpu)) is not None:
            yield replace(with_tokens, hidden_gib=hidden)
        tokens //= 2


def _hidden_gib(large: list[Sized], runtime: RuntimeConfig, gpu: float) -> float | None:
    """The largest value below the present one, in tenths, with which the jobs fit; None if there is none."""
    step = max(0.1, runtime.hidden_gib / _HIDDEN_STEPS)
    tried = [round(runtime.hidden_gib - step * number, 1) for number in range(1, _HIDDEN_STEPS)]
    hidden = runtime.hidden_gib
    for job in large:
        values = (value for value in [hidden, *tried] if 0 < value <= hidden)
        fitting = (value for value in values if job.takes(replace(runtime, hidden_gib=value)).gpu <= gpu)
        if (hidden := next(fitting, None)) is None:
            return None
    return hidden if hidden < runtime.hidden_gib else None

"""The table of stages: what each makes, where it lies, and what its bytes depend on.

Whose results it reads is in `lorcbench.study.graph`. To add a stage, write its file under ``stages/``, a record here, its
inputs there, and a rule under ``workflow/rules``.

Every setting that changes bytes is in the folder's pattern, as a name that Hydra takes as it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lorcbench.common.paths import CACHE, STUDY, Wildcards
from lorcbench.config import compose
from lorcbench.config.mixed import METHOD as MIXED
from lorcbench.config.protocols import HALF
from lorcbench.study.published import GATE_PROTOCOL

GATE_PROTOCOL_HALF = HALF[GATE_PROTOCOL]

_WEIGHTS = "{model}/{method}/{calibration}/{weight}/{trained}"  # what quantized weights are called
_CALIBRATION = CACHE + "/calibration/{model}/{calibration}"


class StageJob(NamedTuple):
    """One job of a stage: the stage, and the names that fill the pattern of its folder."""

    stage: Stage
    names: Wildcards

    @property
    def folder(self) -> Path:
        """Where its result lies."""
        return self.stage.folder(self.names)


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: of its rule.
        module: its file in ``lorcbench.stages``; two rules may share one.
        artifact: what is said of its result in results that were made from it, in plans and in tables.
        kind: of its ``result.json``.
        pattern: of its folder, with wildcards in braces.
        settings: the config groups that its bytes depend on, besides its inputs and its code; as a function of the names where
            that differs from job to job.
        own_names: the names of the job, out of those of a job that reads its result.
        on_device: whether it does its arithmetic on a GPU if the run has one (``runtime.device``).
    """

    name: str
    module: str
    artifact: str
    kind: str
    pattern: str
    settings: tuple[str, ...] | Callable[[Wildcards], tuple[str, ...]]
    own_names: Callable[[Wildcards], Wildcards] = lambda names: names
    on_device: bool = False

    def folder(self, names: Wildcards) -> Path:
        """The folder of one job."""
        return Path(self.own_names(names).fill(self.pattern))

    def groups(self, names: Wildcards) -> tuple[str, ...]:
        """The config groups that the bytes of one job depend on."""
        return self.settings(names) if callable(self.settings) else self.settings


def _lorc_settings(names: Wildcards) -> tuple[str, ...]:
    return ("lorc", "calibration") if compose.load("lorc", names.lorc).data == "tokens" else ("lorc",)


def _without_foreign_calibration(names: Wildcards) -> Wildcards:
    """The names of quantized weights: those of a method that reads no data have no calibration, though their factors may."""
    return names if compose.load("method", names.method).data else replace(names, calibration="none")


TEXT = Stage(
    name="text",
    module="text",
    artifact="text",
    kind="text",
    pattern=CACHE + "/text/{text}",
    settings=("text",),
)
TASK = Stage(
    name="task",
    module="task",
    artifact="task",
    kind="task",
    pattern=CACHE + "/task/{task}",
    settings=("task",),
)
PREPARE = Stage(
    name="prepare",
    module="prepare",
    artifact="checkpoint",
    kind="checkpoint",
    pattern=CACHE + "/checkpoint/{model}",
    settings=("model",),
)
TOKENS = Stage(
    name="tokens",
    module="tokens",
    artifact="tokens",
    kind="tokens",
    pattern=CACHE + "/tokens/{model}/{protocol}",
    settings=("eval",),
)
CALIBRATION_TOKENS = Stage(
    name="calibration_tokens",
    module="tokens",
    artifact="calibration",
    kind="tokens",
    pattern=_CALIBRATION + "/tokens",
    settings=("calibration",),
)
CALIBRATE = Stage(
    name="calibrate",
    module="calibrate",
    artifact="statistics",
    kind="statistics",
    pattern=_CALIBRATION + "/statistics",
    settings=("calibration",),
    on_device=True,
)
FACTOR = Stage(
    name="factor",
    module="factor",
    artifact="hessians",
    kind="hessians",
    pattern=_CALIBRATION + "/hessians/damp{damp}-{order}-{dead}",
    settings=(),
    on_device=True,
)
GATE = Stage(
    name="gate",
    module="gate",
    artifact="gate",
    kind="gate",
    pattern=CACHE + "/gate/{model}",
    settings=(),
)
GATE_HALF = Stage(
    name="gate_half",
    module="gate_half",
    artifact="gate_half",
    kind="gate",
    pattern=CACHE + "/gate-half/{model}",
    settings=(),
)
QUANTIZE = Stage(
    name="quantize",
    module="quantize",
    artifact="quantized",
    kind="quantized",
    pattern=f"{CACHE}/quantize/{_WEIGHTS}",
    settings=("method", "calibration"),
    own_names=_without_foreign_calibration,
    on_device=True,
)
SENSITIVITY = Stage(
    name="sensitivity",
    module="sensitivity",
    artifact="sensitivity",
    kind="sensitivity",
    pattern=f"{CACHE}/sensitivity/{_WEIGHTS}",
    settings=("calibration",),
    on_device=True,
)
LORC = Stage(
    name="lorc",
    module="lorc",
    artifact="factors",
    kind="factors",
    pattern=f"{CACHE}/lorc/{_WEIGHTS}" + "/{lorc}/cap{cap}",
    settings=_lorc_settings,
    on_device=True,
)
EVALUATE = Stage(
    name="evaluate",
    module="evaluate",
    artifact="evaluation",
    kind="perplexity",
    pattern=f"{CACHE}/evaluate/{_WEIGHTS}" + "/{activation}/{protocol}",
    settings=("eval",),
    on_device=True,
)
HARNESS = Stage(
    name="harness",
    module="harness",
    artifact="harness",
    kind="harness",
    pattern=f"{CACHE}/harness/{_WEIGHTS}" + "/{activation}/{protocol}",
    settings=("eval",),
    on_device=True,
)
EXPORT = Stage(
    name="export",
    module="export",
    artifact="export",
    kind="export",
    pattern=f"{CACHE}/export/{_WEIGHTS}" + "/{activation}/{protocol}/{lorc}/r{rank}/{export}/{verify}",
    settings=(),
)
TRACK = Stage(
    name="track",
    module="track",
    artifact="track",
    kind="track",
    pattern=STUDY + "/track",
    settings=(),
)
MODELS = Stage(
    name="models",
    module="models",
    artifact="models",
    kind="models",
    pattern=STUDY + "/models",
    settings=(),
)
REPORT = Stage(
    name="report",
    module="report",
    artifact="report",
    kind="report",
    pattern=STUDY + "/report",
    settings=(),
)

# In the order in which a study runs them.
STAGES = {
    stage.name: stage
    for stage in (
        *(TEXT, TASK, PREPARE, TOKENS, CALIBRATION_TOKENS, CALIBRATE, FACTOR),
        *(GATE, GATE_HALF, QUANTIZE, SENSITIVITY, LORC, EVALUATE, HARNESS, EXPORT, MODELS, TRACK, REPORT),
    )
}
ON_DEVICE = {stage.module for stage in STAGES.values() if stage.on_device}


def spectra(names: Wildcards) -> list[StageJob]:
    """The factors of the candidates of mixed formats, whose spectra say what a rank is worth; none where no rank is chosen."""
    method = compose.load("method", names.method)
    if method.kind != MIXED or not method.choice_of_ranks:
        return []
    cap = str(compose.components(method.correction, method.choice_of_ranks[-1]))
    own = replace(names, method=method.base, lorc=method.correction, cap=cap)
    return [StageJob(LORC, replace(own, weight=str(fmt))) for fmt in method.candidates]


def sensitivities(names: Wildcards) -> list[StageJob]:
    """The jobs that measure the candidates of mixed formats, from few bits to many; none for another method."""
    method = compose.load("method", names.method)
    if method.kind != MIXED or not method.measures:
        return []
    return [StageJob(SENSITIVITY, replace(names, method=method.base, weight=str(fmt))) for fmt in method.candidates]

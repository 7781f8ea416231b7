"""The table of stages: what each makes, where it lies, what its bytes depend on, and whose results it reads.

The workflow's rules, the plan, the report and the stages themselves ask this table, so the graph of jobs is spelled here and
nowhere else. To add a stage, write its file under ``stages/``, a record here, and a rule under ``workflow/rules``.

Every setting that changes bytes is in the folder's pattern, as a name that Hydra takes as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lorcbench.common.paths import CACHE, STUDY, Wildcards
from lorcbench.config import compose
from lorcbench.config.protocols import HALF, MEASURED
from lorcbench.config.variants import Variant
from lorcbench.study.cells import Cell, Study
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
        inputs: the jobs whose results a job reads.
        own_names: the names of the job, out of those of a job that reads its result.
        on_device: whether it does its arithmetic on a GPU if the run has one (``runtime.device``).
    """

    name: str
    module: str
    artifact: str
    kind: str
    pattern: str
    settings: tuple[str, ...] | Callable[[Wildcards], tuple[str, ...]]
    inputs: Callable[[Study, Wildcards], list[StageJob]]
    own_names: Callable[[Wildcards], Wildcards] = lambda names: names
    on_device: bool = False

    def folder(self, names: Wildcards) -> Path:
        """The folder of one job."""
        return Path(self.own_names(names).fill(self.pattern))

    def groups(self, names: Wildcards) -> tuple[str, ...]:
        """The config groups that the bytes of one job depend on."""
        return self.settings(names) if callable(self.settings) else self.settings


# What each stage reads. The study says what the names do not: folders of checkpoints, ranks, tasks, whether there is a gate.


def _nothing(study: Study, names: Wildcards) -> list[StageJob]:
    """A text or a task comes from a file of the user's, or from the hub."""
    return []


def _prepare(study: Study, names: Wildcards) -> list[StageJob]:
    """A stand-in is trained on a text; other checkpoints are there already."""
    standin = study.model(names.model).standin
    return _texts([standin.text]) if standin else []


def _tokens(study: Study, names: Wildcards) -> list[StageJob]:
    """The tokenizer is the checkpoint's."""
    return [StageJob(PREPARE, names), *_texts(compose.load("eval", names.protocol).texts())]


def _calibration_tokens(study: Study, names: Wildcards) -> list[StageJob]:
    """The tokenizer is the checkpoint's."""
    return [StageJob(PREPARE, names), *_texts(compose.load("calibration", names.calibration).texts())]


def _texts(texts: Iterable[str]) -> list[StageJob]:
    return [StageJob(TEXT, Wildcards(text=text)) for text in texts]


def _calibrate(study: Study, names: Wildcards) -> list[StageJob]:
    return [StageJob(PREPARE, names), StageJob(CALIBRATION_TOKENS, names)]


def _factor(study: Study, names: Wildcards) -> list[StageJob]:
    return [StageJob(CALIBRATE, names)]


def _gate(study: Study, names: Wildcards) -> list[StageJob]:
    """The evaluation of the unquantized model, by the protocol of the published tables, whatever the study's is."""
    return [StageJob(EVALUATE, Wildcards(model=names.model, protocol=GATE_PROTOCOL))]


def _gate_half(study: Study, names: Wildcards) -> list[StageJob]:
    """The same in float16."""
    return [StageJob(EVALUATE, Wildcards(model=names.model, protocol=GATE_PROTOCOL_HALF))]


def _quantize(study: Study, names: Wildcards) -> list[StageJob]:
    """The checkpoint, and what the method wants of the calibration. A published model has to pass the gate before."""
    method = compose.load("method", names.method)
    needed = [StageJob(PREPARE, names)]
    if method.data == "statistics":
        needed.append(StageJob(FACTOR, replace(names, **method.factor)) if method.factor else StageJob(CALIBRATE, names))
    elif method.data:
        needed.append(StageJob(CALIBRATION_TOKENS, names))
    if study.gated(names.model):
        needed.append(StageJob(GATE, names))
    return needed


def _lorc(study: Study, names: Wildcards) -> list[StageJob]:
    """The error is the checkpoint's minus the quantized weights'; and what the factors want of the calibration."""
    data = compose.load("lorc", names.lorc).data
    calibration = {None: [], "tokens": [StageJob(CALIBRATION_TOKENS, names)], "statistics": [StageJob(CALIBRATE, names)]}
    return [StageJob(PREPARE, names), StageJob(QUANTIZE, names), *calibration[data]]


def _lorc_settings(names: Wildcards) -> tuple[str, ...]:
    return ("lorc", "calibration") if compose.load("lorc", names.lorc).data == "tokens" else ("lorc",)


def _without_foreign_calibration(names: Wildcards) -> Wildcards:
    """The names of quantized weights: those of a method that reads no data have no calibration, though their factors may."""
    return names if compose.load("method", names.method).data else replace(names, calibration="none")


def _evaluate(study: Study, names: Wildcards) -> list[StageJob]:
    """Test windows, and the weights of all cells that one evaluation measures; what their predictions are compared with.

    In float16 there is a gate of its own for these. The gate in float32, which quantizing waits for, is no evidence of
    float16: numbers may overflow there, or kernels be wrong.
    """
    cells = study.evaluated(names)
    in_half = names.protocol.partition("+")[0] in HALF.values() and names.method != "none"
    gate = [StageJob(GATE_HALF, names)] if in_half and study.gated(names.model) else []
    full = [job] if (job := full_precision(names)) else []
    return [StageJob(PREPARE, names), StageJob(TOKENS, names), *gate, *full, *_weights(study, cells)]


def full_precision(names: Wildcards) -> StageJob | None:
    """The evaluation of the unquantized model, with whose predictions an evaluation by the same protocol compares its own.

    None for that one itself, and for a protocol that measures no divergence.
    """
    full = StageJob(EVALUATE, Wildcards(model=names.model, protocol=names.protocol))
    is_compared = full.folder != EVALUATE.folder(names) and compose.load("eval", names.protocol).divergence
    return full if is_compared else None


def _harness(study: Study, names: Wildcards) -> list[StageJob]:
    """The documents of the tasks, and the weights of all cells that one run of lm-eval measures."""
    documents = (task_documents(name) for name in study.tasks)
    return [StageJob(PREPARE, names), *_unique(documents), *_weights(study, study.evaluated(names, harness=True))]


def task_documents(task: str) -> StageJob:
    """The job that stages the documents of an lm-eval task: that of the text which carries them, or one of their own."""
    if text := compose.load("task", task).text:
        return StageJob(TEXT, Wildcards(text=text))
    documents = Variant.parse(task)
    for key in MEASURED:
        documents = documents.without(key)
    return StageJob(TASK, Wildcards(task=str(documents)))


def _weights(study: Study, cells: Iterable[Cell]) -> list[StageJob]:
    """Quantized weights, and the factors of every rank."""
    needed = []
    for cell in cells:
        names = study.wildcards(cell)
        needed += [StageJob(QUANTIZE, names)] if cell.method != "none" else []
        needed += [StageJob(LORC, names)] if cell.rank else []
    return _unique(needed)


def _unique(needed: Iterable[StageJob]) -> list[StageJob]:
    """Each folder once, in the order in which it comes first."""
    return list({job.folder: job for job in needed}.values())


def _export(study: Study, names: Wildcards) -> list[StageJob]:
    """The weights of one cell, the windows on which it is compared, and what was measured of it and of full precision."""
    names = replace(names, cap=str(compose.components(names.lorc, int(names.rank))))
    factors = [StageJob(LORC, names)] if names.rank != "0" else []
    full_precision = Wildcards(model=names.model, protocol=names.protocol)
    measured = [StageJob(EVALUATE, full_precision), StageJob(EVALUATE, names)]
    return [StageJob(PREPARE, names), StageJob(TOKENS, names), StageJob(QUANTIZE, names), *factors, *measured]


def _track(study: Study, names: Wildcards) -> list[StageJob]:
    """Every evaluation of the study."""
    evaluations = [StageJob(EVALUATE, study.wildcards(cell)) for cell in study.cells]
    return _unique([*evaluations, *(StageJob(HARNESS, study.wildcards(cell)) for cell in study.harness)])


def _report(study: Study, names: Wildcards) -> list[StageJob]:
    """What was tracked, too: the page links to it."""
    return [*_track(study, names), StageJob(TRACK, Wildcards(study=study.name))]


TEXT = Stage(
    name="text",
    module="text",
    artifact="text",
    kind="text",
    pattern=CACHE + "/text/{text}",
    settings=("text",),
    inputs=_nothing,
)
TASK = Stage(
    name="task",
    module="task",
    artifact="task",
    kind="task",
    pattern=CACHE + "/task/{task}",
    settings=("task",),
    inputs=_nothing,
)
PREPARE = Stage(
    name="prepare",
    module="prepare",
    artifact="checkpoint",
    kind="checkpoint",
    pattern=CACHE + "/checkpoint/{model}",
    settings=("model",),
    inputs=_prepare,
)
TOKENS = Stage(
    name="tokens",
    module="tokens",
    artifact="tokens",
    kind="tokens",
    pattern=CACHE + "/tokens/{model}/{protocol}",
    settings=("eval",),
    inputs=_tokens,
)
CALIBRATION_TOKENS = Stage(
    name="calibration_tokens",
    module="tokens",
    artifact="calibration",
    kind="tokens",
    pattern=_CALIBRATION + "/tokens",
    settings=("calibration",),
    inputs=_calibration_tokens,
)
CALIBRATE = Stage(
    name="calibrate",
    module="calibrate",
    artifact="statistics",
    kind="statistics",
    pattern=_CALIBRATION + "/statistics",
    settings=("calibration",),
    inputs=_calibrate,
    on_device=True,
)
FACTOR = Stage(
    name="factor",
    module="factor",
    artifact="hessians",
    kind="hessians",
    pattern=_CALIBRATION + "/hessians/damp{damp}-{order}-{dead}",
    settings=(),
    inputs=_factor,
    on_device=True,
)
GATE = Stage(
    name="gate",
    module="gate",
    artifact="gate",
    kind="gate",
    pattern=CACHE + "/gate/{model}",
    settings=(),
    inputs=_gate,
)
GATE_HALF = Stage(
    name="gate_half",
    module="gate_half",
    artifact="gate_half",
    kind="gate",
    pattern=CACHE + "/gate-half/{model}",
    settings=(),
    inputs=_gate_half,
)
QUANTIZE = Stage(
    name="quantize",
    module="quantize",
    artifact="quantized",
    kind="quantized",
    pattern=f"{CACHE}/quantize/{_WEIGHTS}",
    settings=("method", "calibration"),
    inputs=_quantize,
    own_names=_without_foreign_calibration,
    on_device=True,
)
LORC = Stage(
    name="lorc",
    module="lorc",
    artifact="factors",
    kind="factors",
    pattern=f"{CACHE}/lorc/{_WEIGHTS}" + "/{lorc}/cap{cap}",
    settings=_lorc_settings,
    inputs=_lorc,
    on_device=True,
)
EVALUATE = Stage(
    name="evaluate",
    module="evaluate",
    artifact="evaluation",
    kind="perplexity",
    pattern=f"{CACHE}/evaluate/{_WEIGHTS}" + "/{activation}/{protocol}",
    settings=("eval",),
    inputs=_evaluate,
    on_device=True,
)
HARNESS = Stage(
    name="harness",
    module="harness",
    artifact="harness",
    kind="harness",
    pattern=f"{CACHE}/harness/{_WEIGHTS}" + "/{activation}/{protocol}",
    settings=("eval",),
    inputs=_harness,
    on_device=True,
)
EXPORT = Stage(
    name="export",
    module="export",
    artifact="export",
    kind="export",
    pattern=f"{CACHE}/export/{_WEIGHTS}" + "/{activation}/{protocol}/{lorc}/r{rank}/{export}/{verify}",
    settings=(),
    inputs=_export,
)
TRACK = Stage(
    name="track",
    module="track",
    artifact="track",
    kind="track",
    pattern=STUDY + "/track",
    settings=(),
    inputs=_track,
)
MODELS = Stage(
    name="models",
    module="models",
    artifact="models",
    kind="models",
    pattern=STUDY + "/models",
    settings=(),
    inputs=_nothing,  # which exports a run makes, its command line says
)
REPORT = Stage(
    name="report",
    module="report",
    artifact="report",
    kind="report",
    pattern=STUDY + "/report",
    settings=(),
    inputs=_report,
)

# In the order in which a study runs them.
STAGES = {
    stage.name: stage
    for stage in (
        *(TEXT, TASK, PREPARE, TOKENS, CALIBRATION_TOKENS, CALIBRATE, FACTOR),
        *(GATE, GATE_HALF, QUANTIZE, LORC, EVALUATE, HARNESS, EXPORT, MODELS, TRACK, REPORT),
    )
}


ON_DEVICE = {stage.module for stage in STAGES.values() if stage.on_device}


def jobs_of(study: Study, cell: Cell) -> dict[str, StageJob]:
    """The jobs on its model that a cell rests on, by artifact, in the order of the stages.

    There is one for every stage. Of two the nearer to the cell counts: its own evaluation, not the one that its gate compares
    or whose predictions it is compared with.
    """
    alone = replace(study, cells=(cell,), harness=(cell,) if cell in study.harness else ())
    waiting = [StageJob(EVALUATE, study.wildcards(cell))]
    waiting += [StageJob(HARNESS, study.wildcards(cell))] if alone.harness else []
    nearest: dict[str, StageJob] = {}
    for job in waiting:  # which grows: breadth first, from the cell to the checkpoint
        if job.stage.name not in nearest:
            nearest[job.stage.name] = job
            waiting += job.stage.inputs(alone, job.names)
    ordered = (nearest[name] for name in STAGES if name in nearest)
    return {job.stage.artifact: job for job in ordered if "{model}" in job.stage.pattern}


def upstream(study: Study, *ends: StageJob) -> list[StageJob]:
    """Some jobs and all that have to finish before them, texts and tasks too, each once, in the order of the stages.

    Of one stage the jobs that were asked for come last.

    They are more than `jobs_of` has: an evaluation waits for the factors of all its ranks and for full precision's, and a gate
    for another evaluation.
    """
    jobs = {job.folder: job for job in ends}
    waiting = list(jobs.values())
    for one in waiting:  # which grows
        new = {other.folder: other for other in one.stage.inputs(study, one.names) if other.folder not in jobs}
        jobs |= new
        waiting += new.values()
    order = list(STAGES)
    return sorted(jobs.values(), key=lambda one: (order.index(one.stage.name), one in ends))


def job_folders(study: Study, cell: Cell) -> dict[str, Path]:
    """The folders of the jobs that a cell rests on, as `jobs_of` orders them."""
    return {artifact: job.folder for artifact, job in jobs_of(study, cell).items()}

"""The graph of jobs: whose results each stage reads, and what follows from it.

The workflow's rules, the plan, the report and the stages themselves ask this module, so the graph is spelled here and nowhere
else. What a stage makes and where it lies is in `lorcbench.study.stages`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from lorcbench.common.paths import Wildcards
from lorcbench.config import compose
from lorcbench.config.protocols import HALF, MEASURED
from lorcbench.config.variants import Variant
from lorcbench.study.cells import Cell, Study
from lorcbench.study.published import GATE_PROTOCOL
from lorcbench.study.stages import (
    CALIBRATE,
    CALIBRATION_TOKENS,
    EVALUATE,
    EXPORT,
    FACTOR,
    GATE,
    GATE_HALF,
    GATE_PROTOCOL_HALF,
    HARNESS,
    LORC,
    MODELS,
    PREPARE,
    QUANTIZE,
    REPORT,
    SENSITIVITY,
    STAGES,
    TASK,
    TEXT,
    TOKENS,
    TRACK,
    Stage,
    StageJob,
    sensitivities,
    spectra,
)


def inputs(study: Study, job: StageJob) -> list[StageJob]:
    """The jobs whose results a job reads."""
    return _INPUTS[job.stage](study, job.names)


# The study says what the names of a job do not: folders of checkpoints, ranks, tasks, whether there is a gate.


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
    needed += [*sensitivities(names), *spectra(names)]
    if study.gated(names.model):
        needed.append(StageJob(GATE, names))
    return needed


def _sensitivity(study: Study, names: Wildcards) -> list[StageJob]:
    """The checkpoint, what takes the place of its linears one after another, and the text on which that is measured."""
    return [StageJob(PREPARE, names), StageJob(CALIBRATION_TOKENS, names), StageJob(QUANTIZE, names)]


def _lorc(study: Study, names: Wildcards) -> list[StageJob]:
    """The error is the checkpoint's minus the quantized weights'; and what the factors want of the calibration."""
    data = compose.load("lorc", names.lorc).data
    calibration = {None: [], "tokens": [StageJob(CALIBRATION_TOKENS, names)], "statistics": [StageJob(CALIBRATE, names)]}
    return [StageJob(PREPARE, names), StageJob(QUANTIZE, names), *calibration[data]]


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


_INPUTS: dict[Stage, Callable[[Study, Wildcards], list[StageJob]]] = {
    TEXT: _nothing,
    TASK: _nothing,
    PREPARE: _prepare,
    TOKENS: _tokens,
    CALIBRATION_TOKENS: _calibration_tokens,
    CALIBRATE: _calibrate,
    FACTOR: _factor,
    GATE: _gate,
    GATE_HALF: _gate_half,
    QUANTIZE: _quantize,
    SENSITIVITY: _sensitivity,
    LORC: _lorc,
    EVALUATE: _evaluate,
    HARNESS: _harness,
    EXPORT: _export,
    TRACK: _track,
    MODELS: _nothing,
    REPORT: _report,
}


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
            waiting += inputs(alone, job)
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
        new = {other.folder: other for other in inputs(study, one) if other.folder not in jobs}
        jobs |= new
        waiting += new.values()
    order = list(STAGES)
    return sorted(jobs.values(), key=lambda one: (order.index(one.stage.name), one in ends))


def job_folders(study: Study, cell: Cell) -> dict[str, Path]:
    """The folders of the jobs that a cell rests on, as `jobs_of` orders them."""
    return {artifact: job.folder for artifact, job in jobs_of(study, cell).items()}

"""Why a cell has no numbers: the line that the first failed job left, of whatever stage, is said at the end of the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from recorded import identity

from lorcbench.common.artifacts import write_json
from lorcbench.common.paths import Wildcards
from lorcbench.report.comparison import changes
from lorcbench.report.findings import find
from lorcbench.report.results import collect
from lorcbench.report.summary import summary
from lorcbench.study.cells import Study
from lorcbench.study.expansion import load_study
from lorcbench.study.graph import inputs, jobs_of, upstream
from lorcbench.study.stages import EVALUATE, LORC, STAGES, TASK, TEXT, StageJob

LINE = "/data/book.txt cannot be read as txt: line 7: no UTF-8; expected UTF-8"
SMALL = ["study.weights=[w3-asym-g32]", "study.methods=[none,gptq-cached]", "study.ranks=[0,4,8]", "study.exactly=true"]
SMALL += ["study.models=[opt-standin-xs]", "study.calibrations=[stdlib]"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked() -> Study:
    """Full precision, and GPTQ with and without LoRC, on one model."""
    return load_study("smoke", [*SMALL, "study.harness=[{methods:[none]}]", "eval.tasks=[piqa]"])


def failed(folder: Path, stage: str, **variants: str) -> None:
    """Leave what a failed job leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"stage": stage, "reason": LINE, "variants": variants or None}
    (folder / "failed.json").write_text(json.dumps(record))
    (folder / "log.txt").write_text("")


def said(study: Study) -> list[str]:
    """The first lines at the end of a run, about cells without numbers."""
    results = collect(study)
    lines = summary(study, results, find(study, results, changes(results)), Path("results")).splitlines()
    return [line for line in lines if LINE in line or "killed" in line]


def job_of(study: Study, stage: str) -> StageJob:
    """A job of a stage, upstream of the last cell."""
    last = jobs_of(study, study.cells[-1])["evaluation"]
    return next(job for job in upstream(study, last) if job.stage.name == stage)


@pytest.mark.parametrize("stage", ["text", "prepare", "tokens", "calibration_tokens", "calibrate", "factor", "quantize"])
def test_every_stage_before_the_cells_says_why_they_have_no_numbers(asked, stage):
    job = job_of(asked, stage)
    failed(job.folder, job.stage.module)
    lines = said(asked)
    concerned = len(asked.cells) if stage in ("text", "prepare", "tokens") else len(asked.cells) - 1
    assert sum(int(line.split(": ")[1].split()[0]) for line in lines) == concerned
    assert all(line.endswith(f": {job.stage.module}: {LINE}") for line in lines)


def test_the_ranks_beside_one_whose_factors_failed_say_so(asked):
    """One evaluation measures all ranks, and waits for the factors of each."""
    study = load_study("smoke", [*SMALL, "study.lorc=[plain-int8,plain-fp16]"])
    (folder,) = {StageJob(LORC, study.wildcards(cell)).folder for cell in study.cells if cell.lorc == "plain-fp16"}
    failed(folder, "lorc")
    results = {result.cell.variant: result for result in collect(study) if result.cell.method != "none"}
    assert {name: result.status for name, result in results.items()} == {
        **dict.fromkeys(["r0", "plain-int8/r4", "plain-int8/r8"], "not run"),
        **dict.fromkeys(["plain-fp16/r4", "plain-fp16/r8"], "failed"),
    }
    assert {result.reason for result in results.values()} == {f"lorc: {LINE}"}
    assert said(study) == [f"  not run: 3 cells: lorc: {LINE}", f"  failed: 2 cells: lorc: {LINE}"]


def test_what_was_killed_is_named_and_what_did_not_begin_needs_no_line(asked):
    assert said(asked) == []
    job = job_of(asked, "text")
    job.folder.mkdir(parents=True)
    (job.folder / "log.txt").write_text("")
    assert said(asked) == [f"  not run: {len(asked.cells)} cells: text: killed without a record, or cut off"]


@pytest.mark.parametrize("stage", [TASK, TEXT])
def test_a_task_that_failed_is_said_beside_the_perplexity_that_is_there(asked, stage):
    study = asked if stage is TASK else replace(asked, tasks=("stdlib_prose",))
    names = Wildcards(model="opt-standin-xs", protocol=study.eval)
    about = {"identity": identity(EVALUATE, names), "variants": {"r0": {"nll": {"reference": [1.0] * 64}}}}
    write_json(EVALUATE.folder(names) / "result.json", "perplexity", about)
    failed(stage.folder(Wildcards(task="piqa", text="stdlib")), stage.name)
    full_precision = collect(study)[0]
    assert (full_precision.status, full_precision.tasks_reason) == ("ok", f"{stage.name}: {LINE}")
    assert f"  no numbers of lm-eval: {study.cells[0].key}: {stage.name}: {LINE}" in said(study)


def test_of_a_failed_evaluation_the_ranks_that_it_names_have_failed(asked):
    job = jobs_of(asked, asked.cells[-1])["evaluation"]
    failed(job.folder, "evaluate", r0=LINE)
    statuses = {result.cell.variant: result.status for result in collect(asked) if result.cell.method != "none"}
    assert statuses == {"r0": "failed", "plain-int8/r4": "not run", "plain-int8/r8": "not run"}


def test_upstream_is_all_that_a_job_waits_for_and_itself(asked):
    last = jobs_of(asked, asked.cells[-1])["evaluation"]
    jobs = upstream(asked, last)
    assert jobs[-1] == last and len({job.folder for job in jobs}) == len(jobs)
    assert {job.folder for job in jobs} >= {other.folder for job in jobs for other in inputs(asked, job)}
    order = [list(STAGES).index(job.stage.name) for job in jobs]
    assert order == sorted(order) and {job.stage.name for job in jobs} >= {"text", "tokens", "calibration_tokens", "factor"}

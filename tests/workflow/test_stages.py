"""The table of stages is what rules, files and results say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from runs import ROOT

from lorcbench import stages
from lorcbench.common.gpus import Choice
from lorcbench.common.paths import Wildcards
from lorcbench.config import compose
from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline.resources import Resources
from lorcbench.study.expansion import load_study
from lorcbench.study.graph import full_precision, inputs, job_folders
from lorcbench.study.stages import EVALUATE, HARNESS, REPORT, STAGES, StageJob

RULES = {
    match[1]: match[0]
    for path in sorted((ROOT / "workflow/rules").glob("*.smk"))
    for match in re.finditer(r"^rule (\w+):\n.*?(?=^\w|^#|\Z)", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
}


def everything(study) -> dict[Path, StageJob]:
    """Every job of a study by folder, from the page up to the texts."""
    waiting, jobs = [StageJob(REPORT, Wildcards(study=study.name))], {}
    while waiting:
        job = waiting.pop()
        if job.folder not in jobs:
            jobs[job.folder] = job
            waiting += inputs(study, job)
    return jobs


def test_every_stage_has_a_rule_and_a_file():
    assert RULES.keys() - STAGES.keys() == {"prefetch"}
    assert STAGES.keys() - RULES.keys() == set()
    assert {stage.module for stage in STAGES.values()} | {"plan"} == set(stages.names())
    assert len({stage.pattern for stage in STAGES.values()}) == len(STAGES)
    assert len({stage.artifact for stage in STAGES.values()}) == len(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_a_rule_asks_the_table_for_its_own_stage(name):
    rule, stage = RULES[name], STAGES[name]
    assert set(re.findall(r'pipeline\.(?:inputs|params|result|record|log|variants|resources\.\w+)\("(\w+)"\)', rule)) == {name}
    assert f"python -m lorcbench.stages {stage.module} " in rule
    # `Pipeline.model_arguments`, `study_arguments` and `text_arguments` tell the stage what these are.
    told = {*re.findall(r"arguments=pipeline\.(\w+)_arguments", rule), *re.findall(r"\{wildcards\.(\w+):q\}", rule)}
    assert set(re.findall(r"\{(\w+)\}", stage.pattern)) <= told, "the stage is told every name of its folder"
    assert "{wildcards" not in re.sub(r"\{wildcards\.\w+:q\}", "", rule), "names are quoted"


def test_what_a_result_was_made_from_is_what_the_table_says(smoke, monkeypatch):
    monkeypatch.chdir(smoke)
    results = {folder: json.loads((folder / "result.json").read_text()) for folder in everything(load_study("smoke"))}
    checked = set()
    for folder, job in everything(load_study("smoke")).items():
        assert results[folder]["kind"] == job.stage.kind
        if job.stage in (EVALUATE, HARNESS) or "{study}" in job.stage.pattern:
            continue  # their identities are one per rank, or none
        read = {results[source.folder]["digest"] for source in inputs(load_study("smoke"), job)}
        assert set(results[folder]["identity"]["inputs"].values()) == read
        checked.add(job.stage.name)
    assert checked == {"text", "prepare", "tokens", "calibration_tokens", "calibrate", "factor", "quantize", "lorc"}


def test_settings_in_the_table_are_names_of_the_folder():
    groups = {*compose.SCHEMAS}
    for stage in STAGES.values():
        names = Wildcards(**{name: "none" for name in re.findall(r"\{(\w+)\}", stage.pattern)})
        chosen = stage.groups(names)
        assert set(chosen) <= groups
        assert {"protocol" if group == "eval" else group for group in chosen} <= set(re.findall(r"\{(\w+)\}", stage.pattern))


def test_the_jobs_of_a_cell_are_its_own_and_in_the_order_in_which_they_run():
    study = load_study("lorc-a8", ["study.models=[opt-125m]", "study.lorc=[distilled-int8]", "study.methods=[gptq-cached]"])
    cell = next(cell for cell in study.cells if cell.rank and cell.activation != "a16")
    folders = job_folders(study, cell)
    assert list(folders) == [
        *("checkpoint", "tokens", "calibration", "statistics", "hessians", "gate", "quantized", "factors", "evaluation")
    ]
    assert folders["evaluation"] == EVALUATE.folder(study.wildcards(cell)), "not the evaluation that the gate compares"
    assert "/a8-" in str(folders["evaluation"])
    full = job_folders(study, next(cell for cell in study.cells if cell.is_full_precision))
    assert list(full) == ["checkpoint", "tokens", "evaluation"]


@pytest.mark.parametrize("protocol", ["gptq-old", "gptq-new-half", "stdlib", "stdlib+divergence=false"])
def test_every_evaluation_reads_that_of_full_precision_by_its_own_protocol(protocol):
    """Unless the protocol measures no divergence; none reads itself."""
    study = load_study("lorc-a8", ["study.models=[opt-125m]", f"study.eval={protocol}", "study.methods=[none,rtn]"])
    for cell in study.cells:
        read = [job.folder for job in inputs(study, StageJob(EVALUATE, study.wildcards(cell))) if job.stage is EVALUATE]
        full = EVALUATE.folder(Wildcards(model=cell.model, protocol=protocol))
        assert read == ([] if cell.is_full_precision or "false" in protocol else [full]), cell.key
    activations_alone = full_precision(Wildcards(model="opt-125m", activation="a8-asym-token", protocol=protocol))
    assert (activations_alone is None) == ("false" in protocol)


def test_what_all_evaluations_of_a_model_wait_for_is_in_no_group(monkeypatch):
    """On a cluster a group of jobs that depend on one another is one submission."""
    study = load_study("smoke")
    resources = Resources(study, RuntimeConfig(), Choice("cpu"))
    groups = {cell.method: resources.group(study.wildcards(cell)) for cell in study.cells}
    assert groups.pop("none") is None
    assert set(groups.values()) == {"cell"}

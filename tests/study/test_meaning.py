"""A reader compares what a name means with what a result says it was made with: any other setting is foreign."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import stage

from lorcbench.common.artifacts import ArtifactError, canonical, write_json
from lorcbench.common.paths import Wildcards
from lorcbench.config import compose
from lorcbench.jobs.job import Job
from lorcbench.report import results
from lorcbench.study import meaning
from lorcbench.study.expansion import load_study
from lorcbench.study.graph import jobs_of
from lorcbench.study.stages import (
    CALIBRATE,
    CALIBRATION_TOKENS,
    EVALUATE,
    FACTOR,
    HARNESS,
    LORC,
    PREPARE,
    QUANTIZE,
    TASK,
    TEXT,
    TOKENS,
    StageJob,
)

NAMES = Wildcards(
    model="opt-standin-s",
    method="gptq+damp=0.05",
    calibration="stdlib+seed=3",
    weight="w3-asym-g32",
    lorc="distilled-int8",
    cap="8",
    damp="0.05",
    order="natural",
    dead="published",
    protocol="stdlib+window=64",
    text="wikitext2-test",
    task="piqa",
)
STAGES = (TEXT, TASK, PREPARE, TOKENS, CALIBRATION_TOKENS, CALIBRATE, FACTOR, QUANTIZE, LORC, EVALUATE, HARNESS)


def leaves(settings: dict, place: tuple = ()) -> Iterator[tuple]:
    """The places of all settings that are no dictionaries."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*place, key))
        else:
            yield (*place, key)


def altered(settings: dict, place: tuple, value: Any) -> dict:
    """The settings with another value at `place`."""
    changed = copy.deepcopy(settings)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def recorded(job: StageJob) -> dict:
    return json.loads(canonical(meaning.settings(job, compose.load)))


@pytest.mark.parametrize("record", STAGES, ids=lambda record: record.name)
def test_every_setting_of_every_stage_is_compared(record):
    job = StageJob(record, NAMES)
    settings = recorded(job)
    meaning.check(job, compose.load, {"identity": {"settings": settings | {"another": 1}}})
    places = list(leaves(settings))
    assert places
    for place in places:
        for value in ("changed", None, 0.123):
            foreign = altered(settings, place, value)
            if foreign == settings:
                continue
            with pytest.raises(ArtifactError) as refusal:
                meaning.check(job, compose.load, {"identity": {"settings": foreign}})
            said = str(refusal.value)
            assert f"made with {'.'.join(place)}=" in said and "\n" not in said
            assert f"delete the folder {job.folder} and run again" in said
    for nothing in ({}, {"identity": {}}, {"identity": {"settings": {}}}):
        with pytest.raises(ArtifactError, match="foreign"):
            meaning.check(job, compose.load, nothing)


def test_a_setting_that_the_name_does_not_have_is_foreign_too():
    job = StageJob(QUANTIZE, NAMES)
    with pytest.raises(ArtifactError, match=r"made with method\.extra=1, but its name means method\.extra=nothing"):
        meaning.check(job, compose.load, {"identity": {"settings": altered(recorded(job), ("method", "extra"), 1)}})


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_result_that_is_older_than_a_setting_was_made_with_what_was_the_only_way_then(method):
    job, searched = (StageJob(QUANTIZE, replace(NAMES, method=name)) for name in (method, f"{method}+clip=mse"))
    older = recorded(job)
    assert older["method"].pop("clip") == "none"
    meaning.check(job, compose.load, {"identity": {"settings": older}})
    with pytest.raises(ArtifactError, match=r"made with method\.clip=none, but its name means method\.clip=mse"):
        meaning.check(searched, compose.load, {"identity": {"settings": older}})


def poison(folder: Path, place: tuple, value: Any) -> None:
    """Make a result say that it was made with another setting, as if an override had reached it."""
    result = json.loads((folder / "result.json").read_text())
    body = {key: entry for key, entry in result.items() if key not in ("digest", "format", "kind")}
    body["identity"]["settings"] = altered(body["identity"]["settings"], place, value)
    write_json(folder / "result.json", result["kind"], body)


def test_every_result_of_a_study_means_what_its_names_say(smoke, monkeypatch):
    monkeypatch.chdir(smoke)
    study = load_study("smoke")
    jobs = {job.folder: job for cell in study.cells for job in jobs_of(study, cell).values()}
    made = {job.stage.name for job in jobs.values()}
    assert made >= {"prepare", "tokens", "calibrate", "factor", "quantize", "lorc", "evaluate", "harness"}
    for job in jobs.values():
        meaning.check(job, compose.load, json.loads((job.folder / "result.json").read_text()))
    for text in (smoke / "results/cache/text").glob("*/result.json"):
        meaning.check(StageJob(TEXT, Wildcards(text=text.parent.name)), compose.load, json.loads(text.read_text()))


def test_weights_that_an_override_reached_are_neither_evaluated_nor_reported(copy, monkeypatch):
    monkeypatch.chdir(copy)
    study = load_study("smoke")
    cell = next(cell for cell in study.cells if cell.method == "gptq")
    folder = QUANTIZE.folder(study.wildcards(cell))
    assert {result.status for result in results.collect(study)} == {"ok"}
    poison(folder, ("method", "damp"), 0.05)
    arguments = [f"{key}={getattr(cell, key)}" for key in ("model", "method", "calibration", "weight", "activation")]
    refused = stage(copy, "evaluate", *arguments, "eval=stdlib")
    assert refused.returncode != 0 and "Traceback" not in refused.stderr
    why = "made with method.damp=0.05, but its name means method.damp=0.01"
    expected = f"{folder}/result.json: foreign ({why}); delete the folder {folder}"
    assert expected in refused.stderr
    measured = {result.cell: result for result in results.collect(study)}
    assert measured[cell].status == "failed" and expected in measured[cell].reason
    assert all(result.status == "ok" for other, result in measured.items() if other != cell)


def test_a_perplexity_of_other_windows_is_no_number_of_the_study(copy, monkeypatch):
    monkeypatch.chdir(copy)
    study = load_study("smoke")
    cell = next(cell for cell in study.cells if cell.method == "gptq")
    poison(EVALUATE.folder(study.wildcards(cell)), ("window",), 64)
    measured = {result.cell: result for result in results.collect(study)}
    assert measured[cell].status == "failed" and not measured[cell].nll
    assert "made with window=64, but its name means window=128" in measured[cell].reason
    assert all(result.status == "ok" for other, result in measured.items() if other != cell)


def test_another_folder_under_the_same_name_is_foreign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = (["model=folder", "model.name=mine", f"model.path={folder}"] for folder in ("a", "b"))
    job = Job("prepare", one)
    job.at(PREPARE)
    job.finish(job.identity(compose.plain(job.model)), {})
    job.log_file.close()
    assert len(Job("tokens", one).digest(PREPARE)) == 64
    assert len(Job("tokens", [*one[:2], f"model.path={tmp_path}/a"]).digest(PREPARE)) == 64
    with pytest.raises(ArtifactError, match=rf"made with path={tmp_path}/a, but its name means path={tmp_path}/b"):
        Job("tokens", other).digest(PREPARE)

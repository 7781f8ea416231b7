"""Exports as models of an experiment in MLflow: each once, with its card and its cell's numbers, and no other project's."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tracked
from synthetic import study

from lorcbench.common.artifacts import write_json
from lorcbench.report.tracking.models import Exported, exported, note_of, register
from lorcbench.report.tracking.place import mend
from lorcbench.report.tracking.store import MlflowClient, Store
from lorcbench.study.stages import EXPORT

pytestmark = pytest.mark.slow

CARD = "---\nlicense: mit\n---\n\n# A model\n\n![Change](loss.png)\n\nHow it was checked.\n"
RESULTS = tracked.study_results()
STUDY = study(RESULTS, name="tiny")
CELLS = [result.cell for result in RESULTS if result.cell.key in ("model-a/rtn/none/w4-asym-g32/a16/r0",) or result.cell.rank]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def export(cell, text: str = CARD, form: str = "merged") -> Path:
    """An export of a cell as its stage leaves it."""
    names = replace(STUDY.wildcards(cell), rank=str(cell.rank), export=form, verify="whole")
    folder = EXPORT.folder(names)
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "README.md").write_text(text)
    (folder / "model" / "loss.png").write_bytes(b"a picture")
    write_json(folder / "result.json", EXPORT.kind, {"bytes": 3_000_000, "text": text})
    return folder


def store(owner=tracked.ANN) -> Store:
    path = Path("mlflow.db").resolve()
    return Store(f"sqlite:///{path}", f"{path}.artifacts", "tiny", owner)


def models(there: Store) -> dict:
    """The models of the experiment by the name of their export."""
    client = MlflowClient(there.uri)
    found = client.search_logged_models([client.get_experiment_by_name("tiny").experiment_id])
    return {model.tags["lorcbench.key"]: model for model in found}


def test_an_export_is_a_model_of_the_run_of_its_cell_with_its_numbers_and_its_card():
    there = store()
    runs = tracked.imported(there.uri, RESULTS)["runs"]
    places = [export(cell) for cell in CELLS]
    assert len(register(STUDY, there)) == len(CELLS) == 3
    for cell, place in zip(CELLS, places, strict=True):
        model = models(there)[f"{cell.key}/merged/whole"]
        run = MlflowClient(there.uri).get_run(runs[cell.key])
        assert model.source_run_id == run.info.run_id and str(model.status) == "READY"
        numbers = {metric.key: metric.value for metric in model.metrics}
        assert numbers["ppl_mean"] == run.data.metrics["ppl_mean"] and numbers["export_megabytes"] == 3
        assert model.params["weight"] == cell.weight and model.params["format"] == "merged"
        note = model.tags["mlflow.note.content"]
        assert str(place / "model") in note and "How it was checked." in note
        assert "license" not in note and "loss.png" not in note
        folder = Path(model.artifact_location.removeprefix("file://"))
        assert (folder / "README.md").read_text() == CARD and (folder / "loss.png").is_file()


def test_registering_again_changes_nothing_and_a_run_keeps_its_numbers():
    there = store()
    before = tracked.imported(there.uri, RESULTS)
    export(CELLS[0])
    first = register(STUDY, there)
    assert register(STUDY, there) == first
    again = tracked.imported(there.uri, RESULTS)
    assert again["runs"] == before["runs"] and again["created"] == again["deleted"] == 0
    assert register(STUDY, there) == first


def test_another_export_replaces_a_model_and_one_that_is_gone_goes():
    there = store()
    tracked.imported(there.uri, RESULTS)
    place = export(CELLS[0])
    export(CELLS[1])
    first = register(STUDY, there)
    export(CELLS[0], CARD + "Made anew.\n")
    second = register(STUDY, there)
    key, other = (f"{cell.key}/merged/whole" for cell in CELLS[:2])
    assert second[key] != first[key] and second[other] == first[other] and len(models(there)) == 2
    shutil.rmtree(place / "model")
    assert register(STUDY, there) == {other: first[other]} and set(models(there)) == {other}


def test_an_export_of_a_study_that_is_not_tracked_yet_gets_its_numbers_later():
    there = store()
    export(CELLS[0])
    first = register(STUDY, there)
    (model,) = models(there).values()
    assert not model.source_run_id and not model.metrics
    tracked.imported(there.uri, RESULTS)
    second = register(STUDY, there)
    (model,) = models(there).values()
    assert second != first and model.source_run_id and model.metrics


def test_two_formats_of_a_cell_are_two_models():
    there = store()
    tracked.imported(there.uri, RESULTS)
    export(CELLS[0])
    export(CELLS[0], form="compressed-tensors")
    assert len(register(STUDY, there)) == 2
    assert [one.export for one in exported(STUDY)] == ["merged", "compressed-tensors"]
    assert all(isinstance(one, Exported) for one in exported(STUDY))


def test_models_of_another_results_folder_are_left_alone():
    there = store()
    tracked.imported(there.uri, RESULTS)
    export(CELLS[0])
    first = register(STUDY, there)
    assert register(STUDY, store(tracked.BOB)).keys() == first.keys()
    client = MlflowClient(there.uri)
    assert len(client.search_logged_models([client.get_experiment_by_name("tiny").experiment_id])) == 2
    assert register(STUDY, there) == first


def test_a_store_that_was_moved_finds_its_models_files(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    there = Store(f"sqlite:///{results}/mlflow.db", str(results / "mlflow-artifacts"), "tiny", tracked.ANN, True)
    export(CELLS[0])
    register(STUDY, there)
    moved = tmp_path / "moved"
    results.rename(moved)
    assert mend(moved / "mlflow.db", moved / "mlflow-artifacts") > 0
    client = MlflowClient(f"sqlite:///{moved}/mlflow.db")
    (model,) = client.search_logged_models([client.get_experiment_by_name("tiny").experiment_id])
    assert Path(model.artifact_location.removeprefix("file://"), "README.md").read_text() == CARD
    assert str(moved) in model.artifact_location


def test_a_card_without_metadata_is_a_note_as_it_is():
    assert note_of("# A\n\n---\n\nB\n") == "# A\n\n---\n\nB\n"

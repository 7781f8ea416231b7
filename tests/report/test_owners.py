"""Whose runs an import may touch, which runs stay, and where artifacts are after a project was moved or copied."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tracked import ANN, BOB, MlflowClient, imported, result, runs_of, study_results, track

from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import TrackingConfig
from lorcbench.report.tracking import ui
from lorcbench.report.tracking.place import OWNER, artifact_root, mend, owner_of, relocated, store_uri
from lorcbench.report.tracking.records import LATEST
from lorcbench.report.tracking.view import TAG, local_folder

pytestmark = pytest.mark.slow


def snapshot(uri: str, run_ids: list[str]) -> dict[str, dict]:
    return {run_id: MlflowClient(uri).get_run(run_id).to_dictionary() for run_id in run_ids}


def test_two_people_import_the_same_study_into_one_store_and_nobody_loses_a_run(uri):
    anns = imported(uri, study_results(), ANN)
    before = snapshot(uri, [*anns["runs"].values(), anns["parent_run_id"]])
    other = [result("model-a", "rtn", "w2-asym-g32", seconds=9.0), *study_results()[:2]]  # fewer cells
    other[0].nll = {corpus: values + 1e-7 for corpus, values in other[0].nll.items()}  # and other last digits
    bobs = imported(uri, other, BOB)
    assert (bobs["created"], bobs["deleted"], bobs["experiment_id"]) == (3, 0, anns["experiment_id"])
    assert snapshot(uri, list(before)) == before
    assert imported(uri, study_results(), ANN)["kept"] == 12 and imported(uri, other, BOB)["kept"] == 3
    assert snapshot(uri, list(before)) == before
    run = MlflowClient(uri).get_run(bobs["runs"]["model-a/none/none/w16/a16/r0"])
    assert (run.data.tags[OWNER], run.data.tags["mlflow.user"], run.data.tags["lorcbench.results"]) == (
        BOB.id,
        "bob",
        BOB.place,
    )


def test_a_smaller_set_of_cells_deletes_nothing_and_a_larger_one_finds_everything(uri):
    client = MlflowClient(uri)
    everything = imported(uri, study_results())
    noted = everything["runs"]["model-b/rtn/none/w4-asym-g32/a16/r0"]
    client.set_tag(noted, "mlflow.note.content", "compare to the paper")
    client.set_tag(noted, "mlflow.runColor", "#077a9d")
    client.set_experiment_tag(everything["experiment_id"], "mlflow.note.content", "my description")
    before = snapshot(uri, list(everything["runs"].values()))
    few = [one for one in study_results() if one.cell.model == "model-a" and one.cell.method == "none"]
    smaller = imported(uri, few)
    assert (smaller["created"], smaller["kept"], smaller["deleted"], smaller["former"]) == (0, 1, 0, 11)
    runs = runs_of(uri, everything["experiment_id"])
    assert {run.data.tags[LATEST] for key, run in runs.items() if key in everything["runs"] and key not in smaller["runs"]} == {
        "false"
    }
    (shown,) = runs_of(uri, everything["experiment_id"], f"tags.{LATEST} = 'true'")
    assert shown == "model-a/none/none/w16/a16/r0"
    again = imported(uri, study_results())
    assert (again["runs"], again["created"], again["deleted"]) == (everything["runs"], 0, 0)
    assert snapshot(uri, list(everything["runs"].values())) == before
    assert client.get_experiment(everything["experiment_id"]).tags["mlflow.note.content"] == "my description"


def test_the_saved_view_hides_cells_that_the_study_no_longer_has(uri):
    tags = MlflowClient(uri).get_experiment(imported(uri, study_results())["experiment_id"]).tags
    assert json.loads(json.loads(tags[TAG])["state"])["searchFilter"] == f"tags.{LATEST} = 'true'"
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_only_numbers_replace_a_run(uri):
    first = imported(uri, study_results())
    renamed = [dataclasses.replace(one, cell=dataclasses.replace(one.cell)) for one in study_results()]
    further = dataclasses.replace(renamed[3], cell=dataclasses.replace(renamed[3].cell, calibration="self+seed=1"))
    second = imported(uri, [*renamed, further])  # the calibration is now a parameter, and part of the names
    assert (second["created"], second["kept"], second["deleted"]) == (1, 12, 0)
    run = MlflowClient(uri).get_run(first["runs"]["model-a/gptq/self/w4-asym-g32/a16/r0"])
    assert (run.info.run_name, run.data.params["calibration"]) == ("model-a gptq w4-asym-g32 self", "self")
    renamed[3].nll["code"][7] += 1e-6
    third = imported(uri, renamed)
    assert (third["created"], third["deleted"], third["former"]) == (1, 1, 1)
    assert third["runs"]["model-a/gptq/self/w4-asym-g32/a16/r0"] != run.info.run_id


def test_two_studies_in_one_experiment_are_apart(uri):
    artifacts = uri.removeprefix("sqlite:///") + ".artifacts"
    first = track("tiny", "One", study_results(), uri, artifacts, experiment="team")
    second = track("other", "Two", study_results()[:2], uri, artifacts, experiment="team")
    assert first["experiment_id"] == second["experiment_id"] and second["former"] == second["deleted"] == 0
    assert track("tiny", "One", study_results(), uri, artifacts, experiment="team")["kept"] == 12
    assert MlflowClient(uri).get_experiment(first["experiment_id"]).name == "team"


def test_runs_from_before_there_were_owners_are_ours_in_our_own_store_only(uri):
    first = imported(uri, study_results()[:2])
    for run_id in [*first["runs"].values(), first["parent_run_id"]]:
        MlflowClient(uri).delete_tag(run_id, OWNER)
    assert imported(uri, study_results()[:2], BOB)["created"] == 2
    assert imported(uri, study_results()[:2], ANN, ours=True)["runs"] == first["runs"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "demo+gate=off"),
        ({"uri": "http://127.0.0.1:1"}, "lorcbench/demo+gate=off"),
        ({"uri": "environment"}, "lorcbench/demo+gate=off"),
        ({"experiment": "team/STUDY"}, "team/demo+gate=off"),
        ({"uri": "databricks", "experiment": "/Users/ann@example.org/STUDY"}, "/Users/ann@example.org/demo+gate=off"),
        ({"experiment": "everything"}, "everything"),
    ],
)
def test_the_experiment_has_the_studys_name_or_the_one_asked_for(settings, name):
    assert TrackingConfig(**settings).experiment_of("demo+gate=off") == name


@pytest.mark.parametrize("name", ["", "../x", "a/../../b", "a b", "x" * 121, "a'b", "a\nb", "ä"])
def test_experiments_that_no_store_should_have_are_refused(name):
    with pytest.raises(ConfigError, match=r"^tracking\.experiment=.*expected at most 120 letters"):
        TrackingConfig(experiment=name)


def test_a_results_folder_is_the_same_owner_after_a_move_and_another_as_a_copy(tmp_path):
    (tmp_path / "a").mkdir()
    first = owner_of(tmp_path / "a")
    assert owner_of(tmp_path / "a") == first and first.earlier is None
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copied = owner_of(tmp_path / "b")
    assert copied.id != first.id and copied.earlier == first.id
    assert owner_of(tmp_path / "b") == dataclasses.replace(copied, earlier=None)
    (tmp_path / "a").rename(tmp_path / "c")
    moved = owner_of(tmp_path / "c")
    assert (moved.id, moved.earlier) == (first.id, None) and moved.place.endswith("/c")
    shutil.copytree(tmp_path / "c", tmp_path / "a")  # where it was: a backup, for all that can be known
    assert owner_of(tmp_path / "c").id == first.id and owner_of(tmp_path / "a").id != first.id
    (tmp_path / "a/.owner").write_text("damaged")
    assert len(owner_of(tmp_path / "a").id) == 32


def project(folder: Path, owner: str = "results") -> dict:
    """Import two cells into the store of a project in `folder`, as the stage does."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    address = f"sqlite:///{folder / 'results/mlflow.db'}"
    who = owner_of(folder / owner)
    return track("tiny", "A tiny study", study_results()[:2], address, str(artifact_root(address)), who, ours=True)


def places(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT artifact_location FROM experiments UNION SELECT artifact_uri FROM runs").fetchall()
    return {str(local_folder(row[0])) for row in rows}


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_project_elsewhere_writes_into_itself_and_finds_its_old_files(tmp_path, how, monkeypatch):
    old, new = tmp_path / "before it", tmp_path / "after+it"
    first = project(old)
    assert all(place.startswith(str(old / "results/mlflow-artifacts/")) for place in places(old / "results/mlflow.db"))
    if how == "moved":
        old.rename(new)
    else:
        shutil.copytree(old, new)
    left = {str(path): path.stat().st_mtime_ns for path in old.rglob("*")}
    again = project(new)
    assert (again["runs"], again["parent_run_id"], again["created"]) == (first["runs"], first["parent_run_id"], 0)
    assert all(place.startswith(str(new / "results/mlflow-artifacts/")) for place in places(new / "results/mlflow.db"))
    client = MlflowClient(f"sqlite:///{new / 'results/mlflow.db'}")
    for run_id in first["runs"].values():
        run = client.get_run(run_id)
        assert (local_folder(run.info.artifact_uri) / "cell.json").is_file()
        assert [file.path for file in client.list_artifacts(run_id)] == ["cell.json"]
        assert run.data.tags[OWNER] == owner_of(new / "results").id
    changed = [dataclasses.replace(one, bits_per_weight=5.0) for one in study_results()[:2]]
    address = f"sqlite:///{new / 'results/mlflow.db'}"
    track("tiny", "", changed, address, str(artifact_root(address)), owner_of(new / "results"), ours=True)
    assert {str(path): path.stat().st_mtime_ns for path in old.rglob("*")} == left and old.exists() == (how == "copied")
    monkeypatch.chdir(new)
    assert mend(new / "results/mlflow.db", artifact_root(store_uri(None))) == 0


def test_the_line_of_make_ui_mends_a_store_that_was_moved(tmp_path, monkeypatch, capsys):
    project(tmp_path / "before")
    (tmp_path / "before/results/tiny/track").mkdir(parents=True)
    (tmp_path / "before/results/tiny/track/pages.txt").write_text("tiny, table: /#/experiments/1/runs\n")
    (tmp_path / "before").rename(tmp_path / "after")
    monkeypatch.chdir(tmp_path / "after")
    ui.main("http://127.0.0.1:5000")
    assert capsys.readouterr().out == "study tiny:\n  http://127.0.0.1:5000/#/experiments/1/runs\n"
    inside = str(tmp_path / "after/results/mlflow-artifacts/")
    assert all(place.startswith(inside) for place in places(tmp_path / "after/results/mlflow.db"))
    monkeypatch.chdir(tmp_path)
    ui.main("http://127.0.0.1:5000")
    assert capsys.readouterr().out == "Nothing was tracked yet\n" and not (tmp_path / "results").exists()


def test_artifacts_of_a_shared_store_lie_beside_it_and_never_in_another_project(tmp_path):
    shared = f"sqlite:///{tmp_path / 'shared/mlflow.db'}"
    assert artifact_root(shared) == tmp_path / "shared/mlflow-artifacts"
    (tmp_path / "shared").mkdir()
    ann = track("tiny", "", study_results()[:1], shared, str(tmp_path / "ann/results/mlflow-artifacts"), ANN)
    assert ann["parent_artifacts"] is not None
    # Bob's import would go into the folder that Ann's import gave the experiment.
    files = sorted(tmp_path.rglob("*"))
    bob = track("tiny", "", study_results()[:2], shared, str(tmp_path / "bob/results/mlflow-artifacts"), BOB)
    assert bob["parent_artifacts"] is None and bob["created"] == 2
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.parametrize(
    "uri", ["mlflow-artifacts:/5/ab/artifacts", "s3://bucket/mlflow-artifacts/5", "file:///data/5", "/mlruns/0"]
)
def test_other_peoples_places_stay(uri):
    assert relocated(uri, Path("/new/results/mlflow-artifacts")) == uri

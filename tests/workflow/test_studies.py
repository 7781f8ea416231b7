"""Studies beside each other in one results folder, and results folders that are moved or copied."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from runs import snakemake
from test_reruns import planned

from lorcbench.common.artifacts import write_json

OTHERS = "study.models=[bloom-standin-xs] study.methods=[rtn] study.weights=[w2-asym-row,w3-asym-row] study.ranks=[0,4,6]"
NAME = "smoke+models=bloom-standin-xs+methods=rtn+weights=w2-asym-row,w3-asym-row+ranks=0,4,6"
SMOKE = ("--config", "study=smoke")


def runs_in(folder: Path) -> dict[str, str]:
    """The runs of the project's own store that are not in MLflow's bin, and the experiment of each."""
    with closing(sqlite3.connect(folder / "results/mlflow.db")) as connection:
        return dict(
            connection.execute(
                "SELECT run_uuid, experiments.name FROM runs JOIN experiments USING (experiment_id) "
                "WHERE runs.lifecycle_stage = 'active'"
            )
        )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_after_a_changed_study_the_first_is_as_it_was(copy):
    before, view = runs_in(copy), contents(copy / "results/smoke")
    changed = snakemake(copy, *SMOKE, f"overrides={OTHERS}")
    assert changed.returncode == 0, changed.stdout
    assert f"results/{NAME}/report.html" in changed.stdout
    table = (copy / f"results/{NAME}/cells.csv").read_text()
    assert ",6,plain-int8," in table and "w3-asym-row" in table
    assert contents(copy / "results/smoke") == view
    both = runs_in(copy)
    assert before.items() <= both.items(), "no run is lost"
    assert {experiment for run, experiment in both.items() if run not in before} == {NAME}
    assert f"{NAME}, table: /#/" in (copy / f"results/{NAME}/track/pages.txt").read_text()

    third = snakemake(copy, *SMOKE)
    assert third.returncode == 0 and "Nothing to be done" in third.stdout, third.stdout
    assert runs_in(copy) == both and contents(copy / "results/smoke") == view
    fourth = snakemake(copy, *SMOKE, f"overrides={OTHERS}")
    assert fourth.returncode == 0 and "Nothing to be done" in fourth.stdout, fourth.stdout


def test_numbers_of_ones_own_that_changed_make_the_page_again(copy):
    file = copy / "results/cache/evaluate/bloom-standin-xs/rtn/none/w2-asym-row/a16/a16/stdlib/result.json"
    shutil.rmtree(file.parent)
    axes = "study.models=[bloom-standin-xs] study.methods=[rtn] study.weights=[w2-asym-row] study.ranks=[0]"
    other = snakemake(copy, *SMOKE, f"overrides={axes}")  # measures a part of what is missing
    assert other.returncode == 0, other.stdout
    assert set(json.loads(file.read_text())["variants"]) == {"r0"}
    assert planned(snakemake(copy, "--dry-run", *SMOKE).stdout) == {"evaluate": 1, "track": 1, "report": 1}
    again = snakemake(copy, *SMOKE)
    assert again.returncode == 0, again.stdout
    assert "Nothing to be done" in snakemake(copy, *SMOKE).stdout


@pytest.mark.long
def test_ranks_of_another_study_are_measured_again_when_their_factors_changed(copy):
    six = (*SMOKE, "overrides=study.models=[bloom-standin-xs] study.ranks=[0,6]", "name=six")
    changed = snakemake(copy, *six)
    assert changed.returncode == 0, changed.stdout
    file = copy / "results/cache/evaluate/bloom-standin-xs/rtn/none/w2-asym-row/a16/a16/stdlib/result.json"
    first = json.loads(file.read_text())
    assert set(first["variants"]) == {"r0", "plain-int8/r4", "plain-int8/r6"}
    # Factors that are others, as another version of the code would make them.
    factors = next((copy / "results/cache/lorc/bloom-standin-xs/rtn").rglob("cap32/result.json"))
    body = {key: value for key, value in json.loads(factors.read_text()).items() if key not in ("digest", "kind", "format")}
    write_json(factors, "factors", {**body, "note": "others"})
    assert planned(snakemake(copy, "--dry-run", *SMOKE).stdout) == {"evaluate": 1, "track": 1, "report": 1}
    again = snakemake(copy, *SMOKE)
    assert again.returncode == 0, again.stdout
    found = json.loads(file.read_text())
    assert set(found["variants"]) == {"r0", "plain-int8/r4"} and found["outdated"] == ["plain-int8/r6"]
    assert "Nothing to be done" in snakemake(copy, *SMOKE).stdout
    assert planned(snakemake(copy, "--dry-run", *six).stdout) == {"evaluate": 1, "track": 1, "report": 1}
    assert snakemake(copy, *six).returncode == 0
    found = json.loads(file.read_text())
    assert "outdated" not in found
    assert {name: entry["nll"] for name, entry in found["variants"].items()} == {
        name: entry["nll"] for name, entry in first["variants"].items()
    }


@pytest.mark.parametrize("how", ["moved", pytest.param("copied", marks=pytest.mark.long)])
def test_a_project_that_was_moved_or_copied_writes_into_itself(copy, tmp_path, how):
    elsewhere = tmp_path / "else where/after"
    elsewhere.parent.mkdir()
    copy.rename(elsewhere) if how == "moved" else shutil.copytree(copy, elsewhere, symlinks=True)
    outside = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if not path.is_relative_to(elsewhere)}
    before = runs_in(elsewhere)
    one_more = "study.weights=[w2-asym-row,w3-asym-row] study.models=[opt-standin-xs] study.methods=[rtn] study.ranks=[0]"
    more = snakemake(elsewhere, *SMOKE, f"overrides={one_more}", "name=more")
    assert more.returncode == 0, more.stdout
    (elsewhere / "results/smoke/report.html").unlink()  # the page alone is made again, and attached to its run
    again = snakemake(elsewhere, *SMOKE)
    assert again.returncode == 0, again.stdout
    here = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if not path.is_relative_to(elsewhere)}
    assert here == outside | {elsewhere.parent: here[elsewhere.parent]}
    assert before.items() <= runs_in(elsewhere).items()
    with closing(sqlite3.connect(elsewhere / "results/mlflow.db")) as connection:
        rows = connection.execute("SELECT artifact_location FROM experiments UNION SELECT artifact_uri FROM runs").fetchall()
    assert all(uri.startswith((elsewhere / "results/mlflow-artifacts").as_uri()) for (uri,) in rows), rows

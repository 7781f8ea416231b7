"""The whole pipeline as its users start it: the smoke study, again with nothing to do, one rank more, killed, and failing."""

import csv
import fcntl
import json
import re
import shutil
import signal
import subprocess
import time

import pytest
from runs import ROOT, SNAKEMAKE, command, digests, snakemake, stage, stages_in

from lorcbench.report.tables import COLUMNS

pytestmark = pytest.mark.slow


def test_the_table_is_tidy_and_complete(smoke):
    with open(smoke / "results/smoke/cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["corpus"] for row in rows} == {"reference", "docstrings", "source", "mean"}
    assert len(rows) == 8 * 4
    for row in rows:
        assert float(row["ppl"]) > 1
        if row["corpus"] != "mean":
            assert float(row["delta_nll_low"]) <= float(row["delta_nll"]) <= float(row["delta_nll_high"])
    full = [row for row in rows if row["method"] == "none"]
    assert all(float(row["delta_nll"] or 0) == 0 and float(row["bits_per_weight"]) == 16 for row in full)
    assert all(float(row["peak_rss_mib"]) < 2048 for row in rows)
    rtn = [row for row in rows if row["method"] == "rtn" and row["corpus"] == "mean"]
    # 2-bit codes with a float16 scale and a 2-bit zero a row, and one row has 64 or 256 inputs
    assert all(2 + 18 / 256 <= float(row["bits_per_weight"]) <= 2 + 18 / 64 for row in rtn if row["rank"] == "0")
    assert all(float(row["bits_per_weight"]) > 2.3 for row in rtn if row["rank"] == "4")


def test_the_page_stands_alone_and_the_summary_says_where_it_is(smoke):
    page = (smoke / "results/smoke/report.html").read_text()
    assert "stand-in" in page
    assert re.findall(r"https://.{0,40}", page) == []
    summary = (smoke / "summary.txt").read_text()
    assert "results/smoke/report.html" in summary
    assert "8 cells measured, 0 failed" in summary
    assert "profiles/default" in summary, "the default profile is in force"


def test_snakemakes_own_report_shows_page_table_and_figures(smoke):
    done = snakemake(smoke, "--config", "study=smoke", "--report", "snakemake-report.html")
    assert done.returncode == 0, done.stdout
    text = (smoke / "snakemake-report.html").read_text()
    assert all(label in text for label in ("the whole study", "every perplexity", "published numbers beside ours"))
    # Captions, rendered, and one entry a figure.
    assert "made it. Its links to logs and records work in the folder of the page" in text and "results/smoke</tt>" in text
    drawn = {path.stem for path in (smoke / "results/smoke/figures").glob("*.svg")}
    assert len(drawn) >= 3 and all(f"smoke/figures/{stem}.svg" in text for stem in drawn)


def test_a_packed_artifact_is_as_small_as_its_bits(smoke):
    cache = smoke / "results/cache"
    stored = sum(p.stat().st_size for p in (cache / "quantize/opt-standin-xs/rtn").rglob("*.safetensors"))
    result = json.loads((cache / "quantize/opt-standin-xs/rtn/none/w2-asym-row/a16/result.json").read_text())
    assert stored < 2 * result["weights"] * 2.3 / 16 + 2 * 4096  # a seventh of float16, and two file headers


def test_factors_keep_the_spectrum_of_the_error(smoke):
    (path,) = (smoke / "results/cache/lorc/bloom-standin-xs").rglob("cap32/result.json")
    found = json.loads(path.read_text())
    blocks = list(zip(found["singular_values"], found["error_norm"], strict=True))
    assert len(blocks) == 2
    for spectra, norms in blocks:
        assert set(spectra) == set(norms) and len(norms) == 6  # q, k and v one by one
        for name, values in spectra.items():
            assert len(values) == 32 and values == sorted(values, reverse=True) and values[-1] > 0
            assert 0.5 * norms[name] ** 2 < sum(value**2 for value in values) <= norms[name] ** 2 * (1 + 1e-3)


def test_nothing_changed_runs_no_job(smoke):
    again = snakemake(smoke, "--config", "study=smoke")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout


def test_a_rank_more_computes_that_rank_alone(copy):
    measured = copy / "results/cache/evaluate/bloom-standin-xs/rtn/none/w2-asym-row/a16/a16/stdlib/result.json"
    before, factors = json.loads(measured.read_text())["variants"], digests(copy)
    axes = "study.models=[bloom-standin-xs] study.methods=[rtn] study.weights=[w2-asym-row]"
    more = snakemake(copy, "--config", "study=smoke", f"overrides={axes} study.ranks=[0,4,6]")
    assert more.returncode == 0, more.stdout
    after = json.loads(measured.read_text())["variants"]
    assert set(after) - set(before) == {"plain-int8/r6"}
    assert {name: after[name] for name in before} == before
    changed = {name for name, digest in digests(copy).items() if factors.get(name) != digest}
    assert changed == {str(measured.relative_to(copy / "results/cache"))}
    (changed,) = (copy / "results").glob("smoke+*")
    assert changed.name == "smoke+models=bloom-standin-xs+methods=rtn+weights=w2-asym-row+ranks=0,4,6"
    assert ",6,plain-int8," in (changed / "cells.csv").read_text()


def test_a_killed_run_is_finished_by_the_same_command_with_the_same_bytes(copy):
    expected = digests(copy)
    for folder in ("cache/quantize", "cache/lorc", "cache/evaluate", "cache/harness", "cache/calibration", "smoke"):
        shutil.rmtree(copy / "results" / folder)
    arguments = command("--config", "study=smoke")
    run = subprocess.Popen(arguments, cwd=copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    results = copy / "results/cache/quantize"
    while run.poll() is None and not list(results.rglob("log.txt")):
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    time.sleep(0.5)
    assert stages_in(copy) == [], "no orphans"
    again = snakemake(copy, "--config", "study=smoke")
    assert again.returncode == 0, again.stdout
    assert digests(copy) == expected


def test_another_study_of_the_same_cells_has_nothing_to_compute(copy, tmp_path, monkeypatch):
    (tmp_path / "conf/study").mkdir(parents=True)
    own = (ROOT / "conf/study/smoke.yaml").read_text().replace("The whole pipeline", "Another study")
    (tmp_path / "conf/study/another.yaml").write_text(own)
    monkeypatch.setenv("LORCBENCH_CONF", str(tmp_path / "conf"))
    planned = snakemake(copy, "--dry-run", "--config", "study=another")
    assert planned.returncode == 0, planned.stdout
    jobs = dict(line.split() for line in planned.stdout.splitlines() if re.fullmatch(r"\w+ +\d+", line))
    assert set(jobs) == {"track", "report", "all", "total"}


def test_a_stage_by_hand_makes_the_bytes_of_the_workflow(copy):
    # The workflow's stages are forks of a warm process; this one is a process of its own.
    expected = digests(copy)
    shutil.rmtree(copy / "results/cache/quantize/opt-standin-xs/gptq")
    arguments = ["model=opt-standin-xs", "method=gptq", "calibration=stdlib", "weight=w2-asym-g32"]
    done = stage(copy, "quantize", *arguments)
    assert done.returncode == 0, done.stderr
    assert digests(copy) == expected


def test_a_stage_says_in_one_line_what_is_wrong_with_its_arguments(tmp_path):
    refused = stage(tmp_path, "quantize", "model=opt-standin-xs", "method=gptq+dump=1")
    assert refused.returncode != 0
    assert refused.stderr.splitlines() == [
        "error: quantize: unknown key method.dump; known keys of method: "
        "act_order, block, calibration_activations, clip, damp, dead, group_params, hessian, kind, static_groups; "
        "did you mean damp?"
    ]


def test_a_failed_cell_stops_no_other_shows_as_failed_and_is_tried_again(copy):
    cache = copy / "results/cache"
    expected = digests(copy)
    shard = next((cache / "lorc/opt-standin-xs/rtn").rglob("block001.safetensors"))
    intact = shard.read_bytes()
    shard.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    shutil.rmtree(cache / "evaluate/opt-standin-xs")
    shutil.rmtree(copy / "results/smoke")
    failing = snakemake(copy, "--config", "study=smoke")
    assert failing.returncode != 0
    said = failing.stdout
    assert "damaged or foreign" in said
    assert "Traceback" not in said
    with open(copy / "results/smoke/cells.csv", newline="") as file:
        status = {(row["model"], row["method"], row["rank"]): row["status"] for row in csv.DictReader(file)}
    assert status["opt-standin-xs", "rtn", "4"] == "failed"
    assert status["opt-standin-xs", "none", "0"] == "ok"
    assert "damaged or foreign" in (copy / "results/smoke/report.html").read_text()
    shard.write_bytes(intact)
    healed = snakemake(copy, "--config", "study=smoke")
    assert healed.returncode == 0, healed.stdout
    assert digests(copy) == expected


def test_a_second_run_on_the_same_results_is_refused_in_one_line(copy):
    (copy / "results/smoke/.complete").unlink()
    with open(copy / "results/.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = snakemake(copy, "--config", "study=smoke")
    assert refused.returncode != 0
    assert "another run is using this results folder" in refused.stdout


def test_nonsense_is_refused_before_the_first_job(tmp_path):
    for arguments in (["study=nope"], ["overrides=study.weights=[w9-asym-row]"]):
        refused = snakemake(tmp_path, "--dry-run", "--config", *arguments)
        said = refused.stdout.strip().splitlines()
        assert refused.returncode != 0
        assert said[-1].startswith("error: ")
        assert not any("Traceback" in line for line in said)
    assert not (tmp_path / "results").exists()


def test_the_linter_has_nothing_but_its_wish_for_containers():
    # The environment is one hashed lock for the whole project, not a container a rule.
    lint = subprocess.run([SNAKEMAKE, "--lint"], cwd=ROOT, capture_output=True, text=True, check=False)
    remarks = {line.strip() for line in (lint.stdout + lint.stderr).splitlines() if line.startswith("    * ")}
    assert remarks <= {"* Specify a conda environment or container for each rule.:"}

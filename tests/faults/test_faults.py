"""Kills at any moment, damaged and foreign files, a folder that cannot be written, a clock that goes backwards.

What a user gets is never silently wrong: the same bytes in the end, or one line that names the file.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from runs import command, digests, one_line, online, snakemake, stage, stages_in, wait_for

SMOKE = ("--config", "study=smoke")
KILLS = int(os.environ.get("LORCBENCH_KILLS", "30"))
MADE = ("quantize", "lorc", "evaluate", "harness", "calibration", "tokens")  # all but texts and trained stand-ins


def forget(folder: Path, *parts: str) -> None:
    """Remove parts of the cache, and all that a study shows."""
    for part in parts:
        shutil.rmtree(folder / "results/cache" / part)
    shutil.rmtree(folder / "results/smoke")


def test_killed_at_random_moments_the_same_command_ends_with_the_same_bytes(copy):
    expected = digests(copy)
    forget(copy, *MADE)
    rng, unfinished = random.Random(0), 0
    for number in range(KILLS):
        run = subprocess.Popen(command(*SMOKE), cwd=copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            run.wait(timeout=rng.uniform(2.5, 14))
        except subprocess.TimeoutExpired:
            unfinished += 1
            # By turns: the workflow, the warm process that its jobs fork from, or one of the jobs.
            victims = [[run.pid], stages_in(copy, ".warm"), stages_in(copy)][number % 3] or [run.pid]
            os.kill(rng.choice(victims), signal.SIGKILL)
            time.sleep(rng.uniform(0, 0.5))
            run.kill()
        run.wait()
        wait_for(lambda: not stages_in(copy), "the end of every orphan", 10)
        if run.returncode == 0:  # it got to the end between two kills: start over
            assert digests(copy) == expected
            forget(copy, *MADE)
    assert unfinished >= KILLS // 2
    done = snakemake(copy, *SMOKE)
    assert done.returncode == 0, done.stdout
    assert digests(copy) == expected


def read_everything(folder: Path) -> None:
    """Read every artifact of the study as stages and the report do."""
    from lorcbench.common.artifacts import read_json, verified
    from lorcbench.common.paths import Wildcards
    from lorcbench.jobs import sources
    from lorcbench.jobs.full_precision import verified_states
    from lorcbench.jobs.shards import Shards
    from lorcbench.report import results
    from lorcbench.study.expansion import load_study
    from lorcbench.study.stages import EVALUATE

    cache = Path("results/cache")
    os.chdir(folder)
    results.collect(load_study("smoke"))
    verified(cache / "text/stdlib", "text")
    for name in ("opt-standin-xs", "bloom-standin-xs"):
        sources.checkpoint_folder(Wildcards(model=name))
        sources.tokenizer_file(Wildcards(model=name))
        verified_states(EVALUATE.folder(Wildcards(model=name, protocol="stdlib")))
    for result in cache.rglob("result.json"):
        kind = json.loads(result.read_text())["kind"]
        for index in range(len(read_json(result, kind).get("shards", []))):
            Shards(result, kind).block(index)


def test_every_file_truncated_or_with_one_bit_flipped_is_noticed_and_named(copy, monkeypatch):
    from lorcbench.common.artifacts import ArtifactError

    monkeypatch.chdir(copy)
    read_everything(copy)
    files = [path for path in sorted((copy / "results/cache").rglob("*")) if path.is_file()]
    files = [path for path in files if path.name not in ("run.json", "log.txt")]
    assert len(files) > 50
    rng = random.Random(0)
    for path in files:
        whole = path.read_bytes()
        place = rng.randrange(len(whole) - 1)
        flipped = whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]
        for damaged in (whole[: len(whole) // 2], flipped, b""):
            path.write_bytes(damaged)
            try:
                read_everything(copy)
            except (ArtifactError, UnicodeDecodeError, json.JSONDecodeError, KeyError) as error:
                # the reader above guesses the kind from a damaged file; stages know it
                assert path.name == "result.json" or str(path.relative_to(copy)) in str(error)
            else:
                pytest.fail(f"{path}: not noticed")
        path.write_bytes(whole)
    read_everything(copy)


def test_what_is_damaged_is_made_again_when_the_folder_is_deleted_as_the_message_says(copy):
    expected = digests(copy)
    folder = copy / "results/cache/quantize/opt-standin-xs/rtn/none/w2-asym-row/a16"
    shard = folder / "block001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    forget(copy, "lorc", "evaluate")
    failed = snakemake(copy, *SMOKE)
    assert failed.returncode != 0
    message = f"delete the folder {folder.relative_to(copy)} and run again"
    assert message in failed.stdout
    assert "Traceback" not in failed.stdout
    shutil.rmtree(folder)
    done = snakemake(copy, *SMOKE)
    assert done.returncode == 0, done.stdout
    assert digests(copy) == expected


@pytest.fixture
def silent_server():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["gone", "silent"])
def test_without_its_tracking_server_a_study_keeps_its_results_and_is_imported_later(kind, copy, silent_server):
    expected = digests(copy)
    address = silent_server if kind == "silent" else "http://127.0.0.1:9"
    shutil.rmtree(copy / "results/smoke")
    failed = snakemake(copy, *SMOKE, f"overrides=tracking.uri={address}")
    assert failed.returncode != 0
    assert f"tracking store {address}" in failed.stdout
    assert "Traceback" not in failed.stdout
    assert (copy / "results/smoke/report.html").is_file()
    assert digests(copy) == expected
    done = snakemake(copy, *SMOKE)
    assert done.returncode == 0, done.stdout
    assert json.loads((copy / "results/smoke/track/result.json").read_text())["cells"] == 8


HUB = {"prepare": ("model=opt-125m", "facebook/opt-125m"), "text": ("text=wikitext2-test", "Salesforce/wikitext")}


# The client asks a silent hub for a text again and again, and says so, for eight minutes; that is left to it.
@pytest.mark.parametrize(("name", "kind"), [("prepare", "gone"), ("prepare", "silent"), ("text", "gone")])
def test_a_hub_that_is_gone_or_never_answers_is_said_in_one_line_with_the_mend(name, kind, tmp_path, silent_server):
    address = silent_server if kind == "silent" else "http://127.0.0.1:9"
    argument, repository = HUB[name]
    said = one_line(stage(tmp_path, name, argument, **online(address, tmp_path)))
    assert f"{repository} " in said and "cannot be downloaded" in said
    assert "runtime.data_dir" in said if name == "text" else "model_path" in said
    assert {path.name for path in (tmp_path / "results").rglob("*") if path.is_file()} == {"log.txt", "failed.json"}


def test_a_results_folder_that_cannot_be_written_is_said_before_the_first_job(copy):
    shutil.rmtree(copy / "results/smoke")
    folder = copy / "results"
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        refused = snakemake(copy, *SMOKE)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
    assert refused.returncode != 0
    assert "results/.lock cannot be written (Read-only file system)" in refused.stdout
    assert "Traceback" not in refused.stdout


def test_a_clock_that_went_backwards_changes_no_byte(copy):
    expected = digests(copy)
    tomorrow = time.time() + 86_400
    for path in (copy / "results/cache").rglob("*"):
        if path.is_file():
            os.utime(path, (tomorrow, tomorrow))
    forget(copy, "quantize", "lorc", "evaluate")
    done = snakemake(copy, *SMOKE)
    assert done.returncode == 0, done.stdout
    assert digests(copy) == expected


def test_one_core_and_two_make_the_same_bytes(copy):
    expected = digests(copy)
    forget(copy, *MADE)
    done = snakemake(copy, "--cores", "1", *SMOKE)
    assert done.returncode == 0, done.stdout
    assert digests(copy) == expected


def test_of_two_users_who_start_at_once_one_is_told_to_wait(copy):
    expected = digests(copy)
    forget(copy, *MADE)
    others = ("--config", "study=smoke", "overrides=study.ranks=[0]")
    started = [
        subprocess.Popen(command(*arguments), cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for arguments in (SMOKE, SMOKE, others)
    ]
    said = [(run.communicate()[0], run.returncode) for run in started]
    refused = [text for text, code in said if code]
    assert len(refused) == 2
    assert all("another run is using this results folder" in text and "Traceback" not in text for text in refused)
    done = snakemake(copy, *SMOKE)
    assert done.returncode == 0, done.stdout
    assert digests(copy) == expected


SECRETS = {
    "HF_TOKEN": "hf_plantedsecret",
    "MLFLOW_TRACKING_TOKEN": "mlflow-planted-token",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-planted-password",
    "MLFLOW_TRACKING_USERNAME": "mlflow-planted-user",
}


def test_no_secret_reaches_a_log_a_result_the_page_or_an_artifact(copy):
    forget(copy, *MADE)
    address = "http://someone:planted-in-address@127.0.0.1:9"
    secrets = {**SECRETS, "MLFLOW_TRACKING_URI": address}
    refused = snakemake(copy, *SMOKE, f"overrides=tracking.uri={address}", **SECRETS)
    assert refused.returncode != 0 and "MLFLOW_TRACKING_URI" in refused.stdout
    said = snakemake(copy, *SMOKE, "overrides=tracking.uri=environment", **secrets).stdout
    assert "tracking store http://***@127.0.0.1:9" in said
    said += refused.stdout + snakemake(copy, *SMOKE, **secrets).stdout
    planted = [value.encode() for value in (*SECRETS.values(), "planted-in-address")]
    assert not [value for value in planted if value in said.encode()]
    for path in copy.rglob("*"):
        if path.is_file():
            found = path.read_bytes()
            assert not [value for value in planted if value in found], path

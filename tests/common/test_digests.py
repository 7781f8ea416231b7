"""Recorded digests: a file that may have changed is never trusted, one that cannot have changed is not hashed again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lorcbench.common import digests
from lorcbench.common.artifacts import ArtifactError, read_shard, verified, write_json, write_shard
from lorcbench.common.paths import DIGESTS

CONTENT = bytes(range(256)) * 8
OTHER = CONTENT[:-1] + b"\0"  # as long


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder where files of any size are recorded, however young they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digests, "WORTH", 1)
    monkeypatch.setattr(digests, "_SETTLED", -(10**9))
    Path("results").mkdir()
    return tmp_path


def digest(path: Path) -> tuple[str, bool]:
    """The digest that a reader gets, and whether it was computed."""
    calls = []
    with open(path, "rb") as file:
        value = digests.Reading(file).digest(lambda: calls.append(1) or hashlib.sha256(file.read()).hexdigest())
    return value, bool(calls)


def written(path: Path, content: bytes = CONTENT) -> str:
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_hashed_once_as_long_as_it_stays(place):
    right = written(place / "a")
    assert [digest(place / "a") for _ in range(3)] == [(right, True), (right, False), (right, False)]
    with digests.verifying("always"):
        assert digest(place / "a") == (right, True)
    assert digest(place / "a") == (right, False)


def in_place(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read()[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def with_its_old_time(path: Path) -> None:
    before = path.stat()
    in_place(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(OTHER)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


def shortened(path: Path) -> None:
    os.truncate(path, 5)


@pytest.mark.parametrize("change", [in_place, with_its_old_time, replaced, shortened])
def test_whatever_was_written_to_is_hashed_again(place, change):
    path = place / "a"
    written(path)
    digest(path)
    os.utime(path, (1e9, 1e9))  # long ago
    assert digest(path)[1] and not digest(path)[1]
    change(path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest(path) == (right, True)
    assert digest(path) == (right, False)


def test_a_copy_of_a_results_folder_is_hashed_again(place, monkeypatch):
    right = written(place / "results/a")
    digest(Path("results/a"))
    shutil.copytree(place / "results", place / "copy/results", copy_function=shutil.copy2)
    monkeypatch.chdir(place / "copy")
    assert digest(Path("results/a")) == (right, True)
    shutil.copytree("results", "../results", dirs_exist_ok=True)
    monkeypatch.chdir(place)
    assert digest(Path("results/a")) == (right, True)


def test_a_file_that_was_written_a_moment_ago_is_not_trusted_yet(place, monkeypatch):
    monkeypatch.setattr(digests, "_SETTLED", 2 * 10**9)
    written(place / "a")
    os.utime(place / "a", (1e9, 1e9))  # its time of change stays young
    assert digest(place / "a")[1] and digest(place / "a")[1]
    monkeypatch.setattr(digests, "_clock", lambda folder: (place / "a").stat().st_ctime_ns + 2 * 10**9)
    Path(DIGESTS).mkdir(exist_ok=True)
    assert digest(place / "a")[1] and not digest(place / "a")[1]


def test_a_file_that_changes_while_it_is_read_is_not_recorded(place):
    path = place / "a"
    written(path)
    with open(path, "rb") as file:
        digests.Reading(file).digest(lambda: in_place(path) or "0" * 64)
    assert digest(path) == (hashlib.sha256(path.read_bytes()).hexdigest(), True)


def test_half_a_record_or_a_damaged_one_is_as_none(place):
    right = written(place / "a")
    digest(place / "a")
    (record,) = Path(DIGESTS).iterdir()
    whole = record.read_text()
    other = json.loads(whole)
    other["sha256"] = "0" * 64
    for damaged in (whole[:30], "", "[]", "{}", json.dumps(other), whole.replace('"size"', '"sise"')):
        record.write_text(damaged)
        assert digest(place / "a") == (right, True)
    assert digest(place / "a") == (right, False)


def test_small_files_are_not_recorded_and_a_folder_without_results_gets_none(place, monkeypatch):
    written(place / "a")
    monkeypatch.setattr(digests, "WORTH", len(CONTENT) + 1)
    assert digest(place / "a")[1] and digest(place / "a")[1]
    monkeypatch.setattr(digests, "WORTH", len(CONTENT))
    Path("results").rmdir()
    assert digest(place / "a")[1] and digest(place / "a")[1]
    assert sorted(os.listdir()) == ["a"]


def test_where_nothing_can_be_recorded_everything_is_hashed(place):
    Path(DIGESTS).write_text("in the way")
    right = written(place / "a")
    assert [digest(place / "a") for _ in range(2)] == [(right, True)] * 2


def test_many_readers_at_once_agree_and_leave_one_whole_record(place):
    right = written(place / "a")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: digest(place / "a")[0], range(200)))
    assert set(found) == {right}
    assert len(os.listdir(DIGESTS)) == 1
    assert digest(place / "a") == (right, False)


def rot(path: Path) -> None:
    """Flip a bit as a failing disk would: the kernel knows nothing of it. Here its record is told that all is as it was."""
    with open(path, "rb") as file:
        before = digests._state(file)
    in_place(path)
    for record in Path(DIGESTS).iterdir():
        body = json.loads(record.read_text())
        if body["path"] == before["path"]:
            with open(path, "rb") as file:
                digests._write(record, {**digests._state(file), "sha256": body["sha256"]})


@pytest.mark.parametrize("kind", ["shard", "listed"])
def test_what_is_flipped_by_writing_is_noticed_and_by_a_failing_disk_only_by_verify_always(place, kind):
    sha = write_shard(place / "shard", {"w": torch.arange(50.0)}, "job")
    write_json(place / "result.json", "text", {"files": {"listed": written(place / "listed")}})
    path = place / kind

    def read() -> None:
        verified(place, "text") if kind == "listed" else read_shard(path, sha)

    whole = path.read_bytes()
    read()
    in_place(path)
    with pytest.raises(ArtifactError, match=rf"{kind}: damaged"):
        read()
    path.write_bytes(whole)
    read()
    rot(path)
    read()
    with digests.verifying("always"), pytest.raises(ArtifactError, match=rf"{kind}: damaged"):
        read()
    with pytest.raises(ArtifactError, match=rf"{kind}: damaged"):  # what `always` saw is recorded
        read()

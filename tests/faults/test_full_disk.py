"""A full disk: one line that says so, nothing half written, and the same bytes when there is room again."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from runs import RUN_RECORDS, digests, one_line, stage

from lorcbench.jobs.variants import MEASURED

OPT = ["model=opt-standin-xs"]
BLOOM = ["model=bloom-standin-xs", "calibration=stdlib"]
RTN = [*OPT, "method=rtn", "weight=w2-asym-row"]
COMMANDS = {
    "text": ["text=stdlib"],
    "prepare": OPT,
    "tokens": [*OPT, "eval=stdlib"],
    "calibrate": BLOOM,
    "factor": [*BLOOM, "damp=0.01", "order=natural"],
    "quantize": RTN,
    "lorc": [*RTN, "lorc=plain-int8", "cap=32"],
    "evaluate": [*RTN, "eval=stdlib", "variants=[r0,plain-int8/r4]"],
    "harness": [*OPT, "eval=stdlib", "variants=[r0]"],
}
MAKES = {"text": "text", "prepare": "checkpoint/opt-standin-xs", "tokens": "tokens/opt-standin-xs"}
MAKES |= {
    name: f"calibration/bloom-standin-xs/stdlib/{made}" for name, made in (("calibrate", "statistics"), ("factor", "hessians"))
}
MAKES |= {name: f"{name}/opt-standin-xs/rtn" for name in ("quantize", "lorc", "evaluate")}
MAKES["harness"] = "harness/opt-standin-xs"
FULL = ("No space left on device", "StorageFull", "code: 28")  # as Python, safetensors and tokenizers say it


@pytest.fixture
def small_disk(smoke, tmp_path):
    """A copy of the study on a file system of its own, and a function that leaves so many bytes free on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        shutil.copytree(smoke / "results", folder / "results")

        def leave(free: int) -> None:
            (folder / "filler").unlink(missing_ok=True)
            status = os.statvfs(folder)
            (folder / "filler").write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - free)))

        yield folder, leave
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_said_in_one_line_leaves_nothing_half_written_and_is_no_end(name, small_disk):
    folder, leave = small_disk
    expected = digests(folder)
    made = folder / "results/cache" / MAKES[name]
    for path in sorted(made.rglob("*")):
        if path.is_file():
            path.unlink()
    whole = {path: expected[path] for path in digests(folder)}
    for free in (0, 16_384):
        leave(free)
        said = one_line(stage(folder, name, *COMMANDS[name]))
        assert any(words in said for words in FULL)
        left = {path: digest for path, digest in digests(folder).items() if Path(path).name != MEASURED}
        assert all(expected[path] == digest for path, digest in left.items()), "a file is there whole, or not at all"
        assert not list(made.rglob("*.tmp"))
    assert whole.items() <= digests(folder).items()
    (folder / "filler").unlink()
    done = stage(folder, name, *COMMANDS[name])
    assert done.returncode == 0, done.stderr
    assert digests(folder) == expected


@pytest.mark.parametrize("kept", [True, False], ids=["imported before", "never imported"])
def test_a_full_disk_breaks_no_tracking_store(kept, small_disk):
    folder, leave = small_disk
    store, result = folder / "results/mlflow.db", folder / "results/smoke/track/result.json"
    if not kept:
        store.unlink()
    for free in (0, 16_384, 300_000):
        result.unlink(missing_ok=True)
        leave(free)
        done = stage(folder, "track", "study=smoke")
        if free == 0 or not kept:  # little is to be written where all was imported before
            assert any(words in one_line(done) for words in (*FULL, "disk is full"))
        assert result.is_file() == (done.returncode == 0)
    (folder / "filler").unlink()
    done = stage(folder, "track", "study=smoke")
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(store) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        living = "SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'"
        assert connection.execute(living).fetchone() == (9,)  # of the eight cells, and the study's


def test_a_full_disk_leaves_no_half_of_a_page_a_table_or_a_figure(small_disk):
    folder, leave = small_disk
    shown = folder / "results/smoke"

    def views() -> dict[str, bytes]:
        files = [path for path in shown.rglob("*") if path.suffix in (".csv", ".svg", ".png", ".json", ".html")]
        return {str(path.relative_to(shown)): path.read_bytes() for path in files if path.name not in RUN_RECORDS}

    expected = views()
    for free in (0, 16_384, 300_000):
        for path in (*shown.glob("*.*"), *shown.glob("figures/*")):
            path.unlink()
        leave(free)
        assert any(words in one_line(stage(folder, "report", "study=smoke")) for words in FULL)
        assert views().items() <= expected.items()
        assert not list(folder.rglob("*.tmp"))
    (folder / "filler").unlink()
    done = stage(folder, "report", "study=smoke")
    assert done.returncode == 0, done.stderr
    assert views() == expected

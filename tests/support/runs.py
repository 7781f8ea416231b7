"""Start the workflow as its users do, and compare what it left: for the tests of whole runs, of faults and of clusters."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SNAKEMAKE = Path(sys.executable).parent / "snakemake"
# Time, memory, host and logs differ from run to run; so do MLflow's identifiers, the page and the table, which show them.
RUN_RECORDS = {"run.json", "log.txt", "failed.json"}
PATIENCE = 1800  # seconds that a run may take, twenty times what it needs on a quiet machine: only what hangs takes longer


def command(*arguments: str) -> list[str]:
    """The workflow's command line, on two cores unless the arguments say otherwise."""
    where = [] if {"--cores", "--profile"} & set(arguments) else ["--cores", "2"]
    return [str(SNAKEMAKE), "--snakefile", str(ROOT / "Snakefile"), *where, *arguments]


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A run of the workflow in `folder`, to its end; output and errors are both in stdout."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def stage(folder: Path, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A stage by hand."""
    line = [sys.executable, "-m", "lorcbench.stages", name, *arguments]
    return subprocess.run(
        line, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def online(address: str, folder: Path) -> dict[str, str]:
    """The environment of a machine for which the hub is at `address`, and which has downloaded nothing yet."""
    home = str(folder / "home")
    return {"HF_ENDPOINT": address, "HF_HOME": home, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}


def one_line(done: subprocess.CompletedProcess) -> str:
    """The line with which a stage failed; there is no traceback beside it."""
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if " failed: " in line]
    return line


def digests(folder: Path, *parts: str) -> dict[str, str]:
    """Every deterministic file of the cache, or of the named parts of it, by path."""
    cache = folder / "results" / "cache"
    roots = [cache / part for part in parts] or [cache]
    files = [path for root in roots for path in sorted(root.rglob("*")) if path.is_file() and path.name not in RUN_RECORDS]
    return {str(path.relative_to(cache)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stages_in(folder: Path, stage: str = "") -> list[int]:
    """The processes that run a stage, or are the warm process, of a run in `folder`."""
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _is_ours(pid, folder, stage)]


def _is_ours(pid: str, folder: Path, stage: str) -> bool:
    """Whether a process runs the stage, or the module, that `stage` names behind a point; "" is any."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        # ``python -m lorcbench.stages NAME …``, or ``python -m lorcbench.pipeline.warm …``
        ours = arguments[1:2] == ["-m"] and arguments[2].startswith("lorcbench.")
        ours = ours and any(f".{part}".endswith(stage) for part in arguments[2:4])
        return ours and os.readlink(f"/proc/{pid}/cwd") == str(folder)
    except OSError:
        return False


def wait_for(found: Callable, what: str, limit: float = 600):
    """What `found` returns, as soon as that is true."""
    end = time.monotonic() + limit
    while not (value := found()):
        assert time.monotonic() < end, f"{what}: not within {limit} s"
        time.sleep(0.05)
    return value


def skip_or_fail(reason: str, variable: str) -> None:
    """Skip a test whose programs are missing, or fail where `variable` says that they must be there, as in CI."""
    if os.environ.get(variable):
        pytest.fail(f"{reason}, and {variable} is set")
    pytest.skip(reason)

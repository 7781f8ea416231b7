"""What every stage does around its work: configuration, logging, progress, failure records, run records."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf

from lorcbench.common import paths
from lorcbench.common.artifacts import fingerprint, read_json, remove_leftovers, write_json, write_text
from lorcbench.common.process import PARENT, die_with_parent
from lorcbench.common.versions import code_version
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.jobs.threads import kernel_threads

_GROUPS = ("model", "method", "calibration", "lorc", "eval", "text", "task")
_LIBRARIES = ("torch", "transformers", "tokenizers", "lm_eval", "numpy", "scipy", "numba")
_PROGRESS_EVERY = 5.0  # seconds between progress lines


class Job:
    """One run of one stage.

    Attributes:
        stage: its name.
        overrides: the command line.
        names: the wildcards of the path patterns, canonical names as given on the command line.
        cfg: the composed configuration.
        folder: where its result goes; set by `at`.
        log_file: its log, open for writing; set by `at`.
    """

    def __init__(self, stage: str, overrides: list[str]) -> None:
        self.stage, self.overrides = stage, overrides
        self.cfg = compose.compose([*overrides, *os.environ.get(compose.RUNTIME_VARIABLE, "").split()])
        given = dict(override.partition("=")[::2] for override in overrides)
        self.names = {group: given.get(group, "none") for group in _GROUPS}
        self.names["protocol"] = given.get("eval", "stdlib")
        self.names |= {key: str(self.cfg[key]) for key in ("weight", "trained", "activation", "cap", "damp", "order")}
        if name := given.get("model.name"):
            self.names["model"] = name
        self.folder: Path | None = None
        # From the start of the process: imports are a large part of a small job.
        self.started = time.monotonic() - (time.time() - psutil.Process().create_time())
        self.log_file = None
        self._first = self._said = None  # (done, when) of the first and the latest progress line

    def __getattr__(self, group: str) -> Any:
        """A config group as its dataclass: ``job.method``, ``job.calibration``, …"""
        if group not in (*_GROUPS, "runtime", "tracking"):
            raise AttributeError(group)
        node = self.cfg.get(group)
        if node is None:
            raise ConfigError(f"stage {self.stage} needs {group}=NAME; known: {', '.join(compose.names(group))}")
        if group == "model":
            node.name = self.names["model"]
        return OmegaConf.to_object(node)

    def at(self, pattern: str) -> Path:
        """Name the folder of the result, from a pattern of `lorcbench.common.paths`, and start its log there."""
        self.folder = Path(pattern.format(**self.names))
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        self.log_file = open(self.folder / "log.txt", "w", encoding="utf-8", buffering=1)  # noqa: SIM115  lives as long as the job
        faulthandler.enable(self.log_file)
        self.log(f"{self.stage} {' '.join(sys.argv[1:])}")
        return self.folder

    def log(self, line: str) -> None:
        """One line into the job's log; without it if the disk is full."""
        if self.log_file:
            with contextlib.suppress(OSError):
                print(f"{time.monotonic() - self.started:8.1f} s  {line}", file=self.log_file)

    def progress(self, done: int, total: int, what: str) -> None:
        """Say where a long stage is, on the terminal and in the log, every few seconds at most."""
        now = time.monotonic()
        if self._first is None:
            self._first = self._said = (done, now)
        if now - self._said[1] < _PROGRESS_EVERY and done < total:
            return
        self._said = (done, now)
        steps, seconds = done - self._first[0], now - self._first[1]
        left = f", about {seconds / steps * (total - done):.0f} s left" if steps else ""
        line = f"{what} {done}/{total}, {now - self.started:.0f} s{left}"
        self.log(line)
        if done < total:
            self._say(line)

    def _say(self, line: str) -> None:
        method = ("method", "weight") if self.names["method"] != "none" else ()
        shown = [self.names[key] for key in ("model", *method, "activation")]
        title = " ".join([self.stage, *(name for name in shown if name not in ("none", "a16"))])
        print(f"[{title}] {line}", file=sys.stderr, flush=True)

    @cached_property
    def threads(self) -> int:
        """Kernel threads."""
        return self.runtime.threads

    def identity(self, settings: Any, inputs: dict[str, str]) -> dict:
        """What this job's bytes depend on: settings, digests of inputs, code, kernel threads, library versions."""
        return {
            "stage": self.stage,
            "code": code_version(self.stage),
            "settings": settings,
            "inputs": inputs,
            "threads": self.threads,
            "versions": _versions(),
        }

    def finish(self, kind: str, identity: dict, payload: dict) -> dict:
        """Write result.json, which says whose work it is, and run.json; returns the result."""
        body = self.write_result(kind, {"identity": identity, **payload})
        write_json(self.folder / "run.json", "run", self._run_record())
        (self.folder / "failed.json").unlink(missing_ok=True)
        self._say(f"done, {time.monotonic() - self.started:.1f} s")
        return body

    def write_result(self, kind: str, payload: dict) -> dict:
        """Write result.json alone."""
        place = str(self.folder).removeprefix(f"{paths.CACHE}/")
        return write_json(self.folder / "result.json", kind, {"of": place, **payload})

    def _run_record(self) -> dict:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "stage": self.stage,
            "seconds": round(time.monotonic() - self.started, 3),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
            "peak_rss_mib": round(usage.ru_maxrss / 1024, 1),
            "host": platform.node(),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "commit": _commit(),
        }

    def fail(self, error: BaseException) -> None:
        """Leave a record of the failure beside where the result would be, the traceback in the log."""
        self.log("".join(traceback.format_exception(error)))
        if self.folder:
            record = {"stage": self.stage, "reason": " ".join(str(error).split()) or type(error).__name__}
            record["variants"] = getattr(error, "variants", None)  # the ranks concerned; null is the whole job
            with contextlib.suppress(OSError):  # on a full disk the message on the terminal must do
                write_text(self.folder / "failed.json", json.dumps(record) + "\n")


def _versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _commit() -> str | None:
    found = subprocess.run(
        ["git", "-C", str(compose.conf_dir()), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def input_digest(folder: Path, kind: str) -> str:
    """The digest of the result in `folder`."""
    return read_json(folder / "result.json", kind)["digest"]


def shard_identity(identity: dict) -> str:
    """The mark that shards of one job carry, so that a restarted job knows its own."""
    return fingerprint(identity)


def run(stage: str, work: Callable[[Job], None]) -> None:
    """Run a stage as a process: exit code 0, or 1 with a failure record, or 2 for a configuration that makes no sense."""
    if parent := os.environ.get(PARENT):
        die_with_parent(int(parent))  # so that no orphan of a killed workflow goes on writing
    try:
        job = Job(stage, sys.argv[1:])
        threads = job.threads
    except ConfigError as error:
        sys.exit(f"{stage}: {error}")
    try:
        with kernel_threads(threads):
            work(job)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the boundary of the process: every failure is recorded, none is swallowed
        job.fail(error)
        where = f"; log: {job.folder}/log.txt" if job.folder else ""
        sys.exit(f"{stage} failed: {type(error).__name__}: {' '.join(str(error).split())}{where}")

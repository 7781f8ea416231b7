"""What the benchmarks share: fresh processes with pinned threads, interleaved repeats, medians with their spread.

Every measured piece of work is a process of its own that ends with one line ``RESULT {json}``. Its wall time, CPU seconds and
peak memory are taken from outside, by `wait4`; what it reports itself (seconds without imports and model loading) comes with
them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".bench"  # environments, checkpoints and results; git ignores it
MARK = "RESULT "
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

Sample = dict[str, float]


def parser(description: str) -> argparse.ArgumentParser:
    """Arguments that all benchmarks take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--bench", type=Path, default=BENCH, help="environments, checkpoints and results (default: .bench)")
    made.add_argument("--threads", type=int, default=2, help="kernel threads, of both sides (default: 2)")
    made.add_argument("--repeats", type=int, default=5, help="interleaved repeats (default: 5)")
    return made


def report(result: dict) -> None:
    """What a measured process says at its end."""
    print(MARK + json.dumps(result), flush=True)


def environment(threads: int, **extra: str) -> dict[str, str]:
    """The environment of a measured process: our sources, pinned threads, no hub."""
    variables = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads)), **extra}
    variables["PYTHONPATH"] = str(ROOT / "src")
    variables["PATH"] = os.path.dirname(sys.executable) + os.pathsep + variables["PATH"]
    variables |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return variables


def measure(command: list[str], variables: dict[str, str], folder: Path = ROOT) -> Sample:
    """Run a command in a fresh process.

    Returns:
        ``wall``, ``cpu`` (user and system, children that it waited for included) in seconds, ``rss`` (peak, GiB; of the largest
        process), and what its RESULT line says.

    Raises:
        SystemExit: the command failed; its last lines are shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit("\n".join([*lines[-30:], f"failed with exit code {process.returncode}: {' '.join(map(str, command))}"]))
    said = next((json.loads(line.partition(MARK)[2]) for line in reversed(lines) if MARK in line), {})
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 2**20, **said}


def interleaved(runs: dict[str, Callable[[], Sample]], repeats: int) -> dict[str, list[Sample]]:
    """A B C A B C …: what disturbs the machine disturbs all. Progress goes to stderr."""
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for name, run in runs.items():
            samples[name].append(run())
            shown = ", ".join(f"{key} {value:.2f}" for key, value in samples[name][-1].items() if isinstance(value, float))
            print(f"[{repeat + 1}/{repeats}] {name}: {shown}", file=sys.stderr, flush=True)
    return samples


def median(samples: list[Sample], key: str) -> float:
    """Median of one measured quantity."""
    return statistics.median(sample[key] for sample in samples)


def spread(samples: list[Sample], key: str, digits: int = 1) -> str:
    """``median (least–most)``."""
    values = [sample[key] for sample in samples if key in sample]
    if not values:
        return ""
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return f"{statistics.median(values):.{digits}f} ({low}–{high})"


def table(samples: dict[str, list[Sample]], columns: dict[str, str], digits: int = 1) -> str:
    """A Markdown table: a row for each name, ``median (least–most)`` of each key in `columns` (key → heading)."""
    rows = [["", *columns.values()], ["---", *["---:"] * len(columns)]]
    rows += [[name, *(spread(taken, key, digits) for key in columns)] for name, taken in samples.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def machine(threads: int) -> str:
    """One line on where this runs; the load says whether anything else did."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, {threads} threads; load average {load:.1f} at the start; {time.strftime('%Y-%m-%d')}"
    )


def publish(bench: Path, name: str, text: str, record: dict) -> None:
    """Print a table and keep it, with every sample, under ``measured`` of the benchmark folder."""
    folder = bench / "measured"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def timed(work: Callable[[], object]) -> Sample:
    """Seconds and CPU seconds of a call in this process."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": seconds, "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def removed(*folders: Path) -> None:
    """Delete results, so that nothing of an earlier repeat is reused."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)

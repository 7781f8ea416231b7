"""What the parts of the GPU check share: results that are on disk as soon as they exist, clocks, and the card's own rates."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Settings:
    """How the check runs.

    Attributes:
        device: ``cuda``, or ``cpu`` for a dry run.
        tiny: shapes of a dry run.
        folder: where results and working files go.
        gptq: a checkout of the public GPTQ code, or None.
        layers: blocks of the large model.
        batch_tokens: tokens in one forward pass of the large model.
    """

    device: str
    tiny: bool
    folder: Path
    gptq: Path | None
    layers: int
    batch_tokens: int


class Record:
    """Results, each one line of ``results.jsonl`` from the moment it is known, and the table of them all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "results.jsonl"
        self.rows: list[dict] = []

    def add(self, part: str, name: str, value, unit: str = "", target: str = "", **more) -> None:
        """Write one result down and say it."""
        row = {"part": part, "name": name, "value": value, "unit": unit, "target": target, **more}
        self.rows.append(row)
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"[{part}] {name}: {_shown(value)} {unit}".rstrip(), flush=True)

    def table(self) -> str:
        """All results, a Markdown table."""
        lines = ["| part | what | value | target |", "| --- | --- | ---: | ---: |"]
        lines += [f"| {r['part']} | {r['name']} | {_shown(r['value'])} {r['unit']} | {r['target']} |" for r in self.rows]
        return "\n".join(lines)


def _shown(value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class Clock:
    """Seconds by part of the work; the device's queue is empty at both ends of a part."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time until this is closed to `part`."""
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[part] += time.perf_counter() - start

    def total(self, *left_out: str) -> float:
        """Seconds of all parts but those named."""
        return sum(seconds for part, seconds in self.seconds.items() if part not in left_out)


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def peak_memory(device: str) -> Iterator[dict[str, float]]:
    """GiB of device memory at the highest point while this is open, filled in when it is closed."""
    found: dict[str, float] = {}
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device == "cuda":
        torch.cuda.synchronize()
        found["allocated"] = torch.cuda.max_memory_allocated() / 2**30
        found["reserved"] = torch.cuda.max_memory_reserved() / 2**30


def rate(device: str, dtype: torch.dtype, size: int, repeats: int = 10) -> float:
    """FLOP per second of a large product of random square matrices: the median of `repeats`, after a warm-up."""
    generator = torch.Generator(device=device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator, device=device).to(dtype) for _ in range(2))
    seconds = []
    for repeat in range(repeats + 2):
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        if repeat > 1:
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)


def describe(record: Record, settings: Settings) -> None:
    """The card, the versions, and the rates that the limits rest on."""
    import numpy
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": numpy.__version__}
    if settings.device == "cuda":
        import triton

        versions["triton"] = triton.__version__
        record.add("card", "name", torch.cuda.get_device_name())
    record.add("card", "versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
    record.add("card", "python", platform.python_version())
    record.add("card", "date", time.strftime("%Y-%m-%d"))
    size = 256 if settings.tiny else 8192
    for name, dtype in {"float16": torch.float16, "float32": torch.float32}.items():
        record.add("card", f"{name} product of {size} × {size}", rate(settings.device, dtype, size) / 1e12, "TFLOP/s")

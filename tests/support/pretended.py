"""Machines with GPUs in name only: a program nvidia-smi that says what a test wants."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lorcbench.common.gpus import Gpu


def fake_driver(
    folder: Path, gpus: list[Gpu], monkeypatch: pytest.MonkeyPatch | None = None, said: str = "", code: int = 0
) -> dict[str, str]:
    """A program nvidia-smi in `folder` that lists these GPUs, or fails with what it said.

    Args:
        monkeypatch: puts it before the others for this process; without it the caller does, for another.

    Returns:
        the environment in which it is found.
    """
    rows = "\n".join(f"{number}, {gpu.uuid}, {gpu.name}, {gpu.memory}, [N/A]" for number, gpu in enumerate(gpus))
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{said or rows}\nEND\nexit {code}\n")
    program.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    if monkeypatch:
        monkeypatch.setenv("PATH", path)
    return {"PATH": path}

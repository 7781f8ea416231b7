"""What tests of more than one room use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from runs import snakemake


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Path:
    """The folder of a finished smoke study, made once per test run. Tests read it; those that change it take `copy`.

    What the run said is in ``summary.txt``.
    """
    folder = tmp_path_factory.mktemp("smoke")
    done = snakemake(folder, "--config", "study=smoke")
    assert done.returncode == 0, done.stdout
    (folder / "summary.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def copy(smoke, tmp_path) -> Path:
    """A copy of the finished smoke study, with its modification times, to be changed."""
    return shutil.copytree(smoke, tmp_path / "copy", symlinks=True)

"""What tests of more than one folder use, and which tier a test is in."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from runs import snakemake
from threadpoolctl import threadpool_limits
from trees import copy_tree

from lorcbench.common.gpus import CHOICE
from lorcbench.common.process import PARENT
from lorcbench.config.compose import RUNTIME_VARIABLE

TESTS = Path(__file__).parent
# A tier is a marker. These follow from where a test lies and what it uses; others are written at the test. See README.md.
TIER_OF_FOLDER = {"cluster": "slurm", "faults": "faults"}
SLOW_FIXTURES = {"smoke", "server", "browser", "hub"}


@pytest.hookimpl(tryfirst=True)  # before -m chooses by them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its tier; one without a marker is quick."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in TIER_OF_FOLDER:
            item.add_marker(TIER_OF_FOLDER[folder])
        elif SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Kernels use one thread, as in a job: tensors of tests are tiny, and threads that wait for work cost more than they do."""
    if torch := sys.modules.get("torch"):  # imported by the tests that were collected, or not needed
        torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> None:
    """Work in a folder of its own; what a workflow sets in the environment of its process is taken back."""
    monkeypatch.chdir(tmp_path)
    for name in (PARENT, RUNTIME_VARIABLE, CHOICE, "PYTHONSAFEPATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PATH", os.environ["PATH"])  # a workflow prepends to it


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Path:
    """The folder of a finished smoke study, made once per test run. Tests read it; those that change it take `copy`.

    What the run said is in ``summary.txt``. Test runs beside or after each other, as in CI, share one study: the first of them
    makes it in the folder that ``LORCBENCH_SMOKE`` names, and each works in a copy of its own.
    """
    folder = tmp_path_factory.mktemp("smoke")
    if shared := os.environ.get("LORCBENCH_SMOKE"):
        made = Path(shared) / "made"
        with open(Path(shared) / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (made / "summary.txt").exists():  # nobody has made it, or who did has failed
                shutil.rmtree(made, ignore_errors=True)
                made.mkdir()
                _make_smoke(made)
        shutil.copytree(made, folder, symlinks=True, dirs_exist_ok=True)
    else:
        _make_smoke(folder)
    return folder


def _make_smoke(folder: Path) -> None:
    """Run the smoke study in an empty folder."""
    done = snakemake(folder, "--config", "study=smoke")
    assert done.returncode == 0, done.stdout
    (folder / "summary.txt").write_text(done.stdout)


@pytest.fixture
def copy(smoke, tmp_path) -> Path:
    """A copy of the finished smoke study, with its modification times, to be changed."""
    return shutil.copytree(smoke, tmp_path / "copy", symlinks=True)


@pytest.fixture
def tiny_checkpoint(tmp_path, monkeypatch):
    """A function kind → folder of a tiny checkpoint that stages find under the name ``tiny``; the test works beside it."""
    from tiny_stages import prepare  # imports torch and transformers, which most tests do without

    monkeypatch.chdir(tmp_path)
    return partial(prepare, tmp_path)


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of the source tree, to be changed."""
    return copy_tree(tmp_path / "tree")

"""A wheel carries conf/, Snakefile, workflow/ and profiles/, and works where there is nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from runs import PATIENCE, ROOT
from trees import copy_tree

from lorcbench.common import shipped
from lorcbench.config import compose

BUILD = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


def run(*line: str | Path, folder: Path, **environment: str) -> str:
    """What a command prints, on both streams; it succeeds."""
    done = subprocess.run(
        [str(part) for part in line],
        cwd=folder,
        env={**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """A wheel of this tree, built in a copy of it."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = copy_tree(folder / "tree")
    for name in BUILD:
        shutil.copy(ROOT / name, tree / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    run(*pip, "--wheel-dir", folder, tree, folder=folder)
    (file,) = folder.glob("*.whl")
    return file


def files_of_repository() -> dict[str, bytes]:
    """What a wheel carries of the repository, by its path there."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", *shipped.PARTS], capture_output=True, text=True, check=True)
    return {name: (ROOT / name).read_bytes() for name in listed.stdout.splitlines()}


def test_in_a_checkout_the_repository_is_used():
    assert not shipped.is_wheel()
    assert shipped.root() == ROOT
    assert all((shipped.root() / part).exists() for part in shipped.PARTS)


@pytest.mark.slow
def test_a_wheel_has_the_files_of_the_repository_and_works_in_an_empty_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        prefix = f"lorcbench/{shipped.FOLDER}/"
        carried = {name.removeprefix(prefix): archive.read(name) for name in archive.namelist() if name.startswith(prefix)}
        archive.extractall(tmp_path / "installed")
    assert carried == files_of_repository()
    (tmp_path / "empty").mkdir()
    place = {"PYTHONPATH": str(tmp_path / "installed")}
    listed = run(sys.executable, "-m", "lorcbench", "list", "studies", folder=tmp_path / "empty", **place)
    assert [line.split()[0] for line in listed.splitlines()] == compose.names("study")
    planned = run(sys.executable, "-m", "lorcbench", "run", "smoke", "--dry-run", "--quiet", folder=tmp_path / "empty", **place)
    assert f"--snakefile {tmp_path}/installed/lorcbench/shipped/Snakefile" in planned
    assert "study smoke: 8 cells; " in planned
    assert "profiles/default" in planned


@pytest.mark.long
def test_an_installed_wheel_runs_a_study_in_an_empty_folder(wheel, tmp_path):
    """The packages that it needs are those of this environment; pip resolves nothing."""
    python = tmp_path / "venv/bin/python"
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", folder=tmp_path)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages, own = (run(interpreter, "-c", code, folder=tmp_path).strip() for interpreter in (sys.executable, python))
    Path(own, "dependencies.pth").write_text(packages + "\n")
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, folder=tmp_path
    )
    (tmp_path / "empty").mkdir()
    said = run(python.parent / "lorcbench", "run", "smoke", "--cores", "2", folder=tmp_path / "empty")
    assert "8 cells measured, 0 failed, 0 not run" in said
    assert (tmp_path / "empty/results/smoke/report.html").stat().st_size > 100_000
    where = run(python, "-c", "from lorcbench.common import shipped; print(shipped.root())", folder=tmp_path / "empty")
    assert where.strip() == f"{own}/lorcbench/{shipped.FOLDER}"

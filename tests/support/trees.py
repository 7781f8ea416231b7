"""A copy of the source tree that a test changes, and the workflow run from it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from runs import ROOT, snakemake

TREE = ("src", "conf", "workflow", "profiles", "Snakefile")


def copy_tree(folder: Path) -> Path:
    """Copy what a run of the workflow needs into `folder`; returns it."""
    folder.mkdir(parents=True)
    for name in TREE:
        source = ROOT / name
        if source.is_file():
            shutil.copyfile(source, folder / name)
        else:
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


def change(tree: Path, changes: dict) -> None:
    """Change a tree.

    Args:
        changes: by file, either (a text that is there once, what takes its place) pairs, or the text of a file to be added.
    """
    for name, change in changes.items():
        path = tree / name
        if isinstance(change, str):
            assert not path.exists()
            path.write_text(change, encoding="utf-8")
            continue
        text = path.read_text(encoding="utf-8")
        for old, new in change:
            assert text.count(old) == 1, f"{name}: {old!r} is there {text.count(old)} times"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def apply(tree: Path, *pages: str) -> None:
    """Apply the diffs of each of these pages of docs/ to a tree, one after the other, as a reader would."""
    for page in pages:
        for diff in diffs(page):
            if said := why_not(tree, diff):
                raise AssertionError(f"{page}: {said}")
            _git_apply(tree, diff)


def why_not(tree: Path, diff: str) -> str:
    """Why a diff cannot be applied to a tree; "" if it can be, or has been: a reader may have tried the example."""
    done = _git_apply(tree, diff, "--check")
    return "" if done.returncode == 0 or _git_apply(tree, diff, "--check", "--reverse").returncode == 0 else done.stderr


def _git_apply(tree: Path, diff: str, *flags: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    line = ["git", "apply", *flags, "-"]
    return subprocess.run(line, cwd=tree, input=diff, env=environment, capture_output=True, text=True, check=False)


def diffs(page: str) -> list[str]:
    """The diffs of a page of docs/, at least one."""
    found = re.findall(r"^```diff\n(.*?)^```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found, page
    return found


def run(tree: Path, folder: Path, *arguments: str) -> str:
    """The workflow of the changed tree, in `folder`; what it said."""
    done = snakemake(folder, "--snakefile", str(tree / "Snakefile"), *arguments, PYTHONPATH=str(tree / "src"))
    assert done.returncode == 0, done.stdout
    return done.stdout

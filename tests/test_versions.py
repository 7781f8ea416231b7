"""Code versions: they follow the code that a stage can reach, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import lorcbench
from lorcbench import versions

PACKAGE = Path(lorcbench.__file__).parent
STAGES = sorted(path.stem for path in (PACKAGE / "stages").glob("*.py") if path.stem != "__init__")


def forget() -> None:
    for cached in (versions.code_version, versions._tree, versions._digest):
        cached.cache_clear()


class Package:
    """A copy of the package whose files may be edited."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.root / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def append(self, file: str, text: str) -> None:
        path = self.root / file
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")

    def version(self, stage: str = "quantize") -> str:
        forget()
        return versions.code_version(stage)


@pytest.fixture
def package(tmp_path, monkeypatch):
    copy = tmp_path / "lorcbench"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(versions, "_ROOT", copy)
    yield Package(copy)
    forget()


def test_every_stage_has_a_version_of_its_own():
    found = {stage: versions.code_version(stage) for stage in STAGES}
    assert len(STAGES) >= 10
    assert all(len(version) == 16 and int(version, 16) >= 0 for version in found.values())
    assert len(set(found.values())) == len(STAGES)


def test_a_copy_of_the_same_code_has_the_same_version(package):
    here = {stage: package.version(stage) for stage in STAGES}
    package.root, versions._ROOT = PACKAGE, PACKAGE
    assert {stage: package.version(stage) for stage in STAGES} == here


@pytest.mark.parametrize("file", ["stages/quantize.py", "quantizer.py", "formats.py", "artifacts.py", "__init__.py"])
def test_code_that_is_reached_changes_the_version(package, file):
    before = package.version()
    package.append(file, "\n_ADDED = 1\n")
    assert package.version() != before


def test_a_changed_number_changes_the_version(package):
    before = package.version()
    package.edit("quantizer.py", "_ROWS_AT_ONCE = 1024", "_ROWS_AT_ONCE = 1025")
    assert package.version() != before


@pytest.mark.parametrize("file", ["methods/gptq.py", "blocks.py", "statistics.py", "surgery.py"])
def test_modules_imported_inside_functions_are_reached(package, file):
    before = package.version()
    package.append(file, "\n_ADDED = 1\n")
    assert package.version() != before


def test_comments_blank_lines_and_docstrings_do_not(package):
    before = package.version()
    package.edit("quantizer.py", "_ROWS_AT_ONCE = 1024  #", "\n\n# a remark\n_ROWS_AT_ONCE = 1024  # another:")
    package.edit("quantizer.py", '"""Scales and zero points', '"""Steps and zero points')
    package.edit("quantizer.py", '"""Ŵ (out, in) in float32."""', '"""The matrix that the codes mean."""')
    package.edit("quantizer.py", '    """A quantized matrix.\n', '    """One quantized matrix.\n')
    assert package.version() == before


def test_a_docstring_where_there_was_none_does_not(package):
    before = package.version()
    package.edit("stages/quantize.py", "def _file(index: int) -> str:\n", 'def _file(index: int) -> str:\n    """A name."""\n')
    assert package.version() == before


@pytest.mark.parametrize("file", ["tracking.py", "page.py", "figures.py", "standin.py", "stages/evaluate.py", "harness.py"])
def test_code_that_is_not_reached_does_not(package, file):
    before = package.version()
    package.append(file, "\n_ADDED = 1\n")
    assert package.version() == before
    stage = {"standin.py": "prepare", "stages/evaluate.py": "evaluate", "harness.py": "harness"}.get(file, "report")
    assert f"lorcbench.{file.removesuffix('.py').replace('/', '.')}" in versions.imported(f"lorcbench.stages.{stage}") | versions.imported(
        "lorcbench.stages.track"
    )


def test_a_module_that_a_stage_begins_to_import_counts(package):
    before = package.version("text")
    assert "lorcbench.quantizer" not in versions.imported("lorcbench.stages.text")
    package.append("quantizer.py", "\n_ADDED = 1\n")
    assert package.version("text") == before
    package.edit("stages/text.py", "from lorcbench import paths\n", "from lorcbench import paths, quantizer\n")
    assert package.version("text") != before
    assert {"lorcbench.quantizer", "lorcbench.formats"} <= versions.imported("lorcbench.stages.text")


@pytest.mark.parametrize(
    ("stage", "reached", "not_reached"),
    [
        ("quantize", {"quantizer", "methods.gptq", "job"}, {"standin", "stdlib_text", "tracking", "perplexity", "lorc"}),
        ("tokens", {"corpora", "artifacts"}, {"blocks", "quantizer", "standin", "stdlib_text"}),
        ("report", {"page", "claims", "figures", "results"}, {"blocks", "quantizer", "tracking"}),
        ("evaluate", {"perplexity", "surgery", "lorc", "blocks"}, {"methods.gptq", "linalg_", "standin", "tracking"}),
    ],
)
def test_what_is_reached(stage, reached, not_reached):
    found = versions.imported(f"lorcbench.stages.{stage}")
    assert {f"lorcbench.{name}" for name in reached} <= found
    # inputs.py imports lorc for the factors, so quantize reaches it; that costs a rerun, not a wrong result
    assert not {f"lorcbench.{name}" for name in not_reached - {"lorc"}} & found
    assert f"lorcbench.stages.{stage}" in found

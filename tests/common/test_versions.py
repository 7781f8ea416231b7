"""Code versions: they follow the code that a stage can reach, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import lorcbench
from lorcbench.common import versions

pytestmark = pytest.mark.slow

PACKAGE = Path(lorcbench.__file__).parent
STAGES = sorted(path.stem for path in (PACKAGE / "stages").glob("[a-z]*.py"))


def forget() -> None:
    for cached in (versions.code_version, versions._read):
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
        """As a process that starts now would find it."""
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
    here = package.version("quantize")
    versions._ROOT = PACKAGE  # put back by the fixture
    assert package.version("quantize") == here


def test_code_that_is_reached_changes_the_version(package):
    seen = [package.version()]
    for file in ("stages/quantize.py", "core/quantizer.py", "core/formats.py", "jobs/inputs.py", "jobs/threads.py"):
        package.append(file, "\n_ADDED = 1\n")
        seen.append(package.version())
    assert len(set(seen)) == len(seen)


def test_a_changed_number_changes_the_version(package):
    before = package.version()
    package.edit("core/quantizer.py", "_CODES_TOGETHER = 8", "_CODES_TOGETHER = 16")
    assert package.version() != before


def test_modules_imported_inside_functions_are_reached(package):
    seen = [package.version()]
    for file in ("core/gptq.py", "models/blocks.py", "core/moments.py", "models/surgery.py"):
        package.append(file, "\n_ADDED = 1\n")
        seen.append(package.version())
    assert len(set(seen)) == len(seen)


def test_comments_blank_lines_and_docstrings_do_not(package):
    before = package.version()
    package.edit("core/quantizer.py", "_CODES_TOGETHER = 8  #", "\n\n# a remark\n_CODES_TOGETHER = 8  # another:")
    package.edit("core/quantizer.py", '"""Scales and zero points', '"""Steps and zero points')
    package.edit("core/quantizer.py", '"""Ŵ (out, in) in float32."""', '"""The matrix that the codes mean."""')
    package.edit("core/quantizer.py", '    """A quantized matrix.\n', '    """One quantized matrix.\n')
    assert package.version() == before


def test_a_docstring_where_there_was_none_does_not(package):
    before = package.version()
    definition = "def forward(ctx, values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:\n"
    package.edit("core/quantizer.py", definition, f'{definition}        """Not the values."""\n')
    assert package.version() == before


def test_code_that_is_not_reached_does_not(package):
    before = {stage: package.version(stage) for stage in ("quantize", "report", "prepare")}
    for file in ("pipeline/warm.py", "models/standin.py", "models/perplexity.py", "models/harness.py", "stages/evaluate.py"):
        package.append(file, "\n_ADDED = 1\n")
    assert package.version("quantize") == before["quantize"]
    assert package.version("report") == before["report"]
    assert package.version("prepare") != before["prepare"]  # trains stand-ins


def test_a_module_that_a_stage_begins_to_import_counts(package):
    before = package.version("text")
    package.append("report/figures/bits.py", "\n_ADDED = 1\n")
    assert package.version("text") == before
    package.append("stages/text.py", "\nfrom lorcbench.report import figures\n")
    begun = package.version("text")
    package.append("report/spelling.py", "\n_ADDED = 1\n")  # which the figures import
    assert len({before, begun, package.version("text")}) == 3


@pytest.mark.parametrize(
    ("stage", "reached", "not_reached"),
    [
        (
            "text",
            {"data.stdlib_text", "data.texts"},
            {"models.blocks", "core.quantizer", "models.standin", "report.tracking.store"},
        ),
        (
            "quantize",
            {"core.quantizer", "core.gptq", "models.blocks", "jobs.inputs"},
            {"models.standin", "data.stdlib_text", "report.tracking.store", "models.perplexity"},
        ),
        (
            "evaluate",
            {"models.perplexity", "models.surgery", "core.lorc", "models.blocks"},
            {"core.gptq", "models.standin", "report.tracking.store", "report.page.render"},
        ),
        (
            "report",
            {"report.page.cells", "report.claims", "report.figures.bits", "report.results"},
            {"models.blocks", "core.quantizer", "pipeline.warm"},
        ),
    ],
)
def test_what_is_reached(stage, reached, not_reached):
    found = versions.imported(f"lorcbench.stages.{stage}")
    assert {f"lorcbench.{name}" for name in reached} <= found
    assert not {f"lorcbench.{name}" for name in not_reached} & found
    assert f"lorcbench.stages.{stage}" in found


def test_the_template_of_the_page_belongs_to_the_report_alone(package):
    report, quantize = package.version("report"), package.version("quantize")
    package.append("report/page/render.html", "<!-- changed -->")
    assert package.version("report") != report
    assert package.version("quantize") == quantize


def test_the_machinery_does_not(package):
    before = {stage: package.version(stage) for stage in STAGES}
    common, config = ("common/paths.py", "common/artifacts.py", "common/process.py"), ("config/schema.py", "config/compose.py")
    for file in (*common, *config, "jobs/job.py", "pipeline/rules.py", "study/stages.py", "stages/__init__.py", "__init__.py"):
        package.append(file, "\n_ADDED = 1\n")
    assert {stage: package.version(stage) for stage in STAGES} == before


def test_where_the_rows_of_a_fused_linear_are_is_hashed(package):
    reading, others = ("prepare", "quantize", "evaluate", "lorc"), ("text", "report")
    before = {stage: package.version(stage) for stage in (*reading, *others)}
    package.edit("models/architecture.py", "view(groups, -1)", "view(-1, groups)")
    after = {stage: package.version(stage) for stage in (*reading, *others)}
    assert {stage for stage in before if after[stage] != before[stage]} == set(reading)


def test_how_stand_ins_are_built_is_hashed_though_it_lies_in_config(package):
    before = {stage: package.version(stage) for stage in STAGES}
    package.edit("config/families.py", '"dropout": 0.0', '"dropout": 0.1')
    assert {stage for stage in STAGES if package.version(stage) != before[stage]} == {"prepare"}


def test_words_said_to_people_do_not(package):
    before = {stage: package.version(stage) for stage in STAGES}
    package.edit("core/lorc.py", "a LoRC factor overflows float16", "a factor is too large")
    package.edit("jobs/shards.py", 'self._depth, "block")', 'self._depth, "layer")')
    package.edit("models/checkpoint.py", "raise CheckpointError(", "raise CheckpointError('Sorry: ' + ")
    assert {stage: package.version(stage) for stage in STAGES} == before


def test_an_exception_of_another_class_does(package):
    before = package.version("lorc")
    package.edit("core/lorc.py", 'raise ValueError("a LoRC factor overflows', 'raise OverflowError("a LoRC factor overflows')
    assert package.version("lorc") != before


def test_what_only_machinery_imports_does_not(package):
    """`config` imports settings of `core`; a stage that reaches `core` by no other way does not depend on it."""
    reached = versions.imported("lorcbench.stages.text")
    assert "lorcbench.config.compose" in reached
    assert not any(name.startswith("lorcbench.core.") for name in reached)

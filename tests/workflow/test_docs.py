"""What the documentation names is there: files, links between pages, headings, make's targets, columns, rules, conf files."""

from __future__ import annotations

import ast
import csv
import json
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import code_pages
import notebook_page
import pytest
import site_pages
import yaml
from runs import ROOT, skip_or_fail
from trees import diffs, why_not

from lorcbench.config import compose
from lorcbench.pipeline.closing import SUMMARY
from lorcbench.report import budget, rounding, shared, tables
from lorcbench.report.claims import Verdict
from lorcbench.stages.report import ATTACHED
from lorcbench.study import started
from lorcbench.study.expansion import load_study
from lorcbench.study.stages import STAGES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CELLS = ROOT / "docs/reference-cells.md"
PATH = re.compile(r"`((?:src|tests|conf|workflow|docs|benchmarks|profiles)/[\w./-]*[\w/])`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")
ANCHOR = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LONGEST_README = 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    missing = [name for name in PATH.findall(text) if not (ROOT / name).exists()]
    missing += [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert missing == []


def test_pages_name_files_at_all():
    assert sum(len(PATH.findall(page.read_text(encoding="utf-8"))) for page in PAGES) > 20


def test_every_target_of_make_that_a_page_names_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    command = re.compile(r"(?:`|^)make ([a-z][a-z-]*)", re.MULTILINE)
    named = {name for page in PAGES for name in command.findall(page.read_text(encoding="utf-8"))}
    assert named
    assert named <= targets


def headings(page: Path) -> set[str]:
    """What a link to a page may name behind #: as GitHub and mkdocs make it of a heading, or as the page itself says."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        own = re.search(r"\{#([\w-]+)\}\s*$", heading)
        plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
        found.add(own.group(1) if own else re.sub(r"[\s-]+", "-", plain))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_heading_that_a_link_names_is_there(page):
    links = ANCHOR.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    wrong = [f"{link}#{anchor}" for link, anchor in links if anchor not in headings(page.parent / link if link else page)]
    assert wrong == []


def test_readme_can_be_read_in_a_minute():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


class _Any(yaml.SafeLoader):
    """Reads mkdocs.yml whatever tags it has."""


def _in_navigation(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in _in_navigation(part)]


def test_the_site_has_every_page_once(tmp_path):
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Any)
    listed = _in_navigation(config["nav"])
    apart = config["not_in_nav"].split()
    pages = site_pages.stage(tmp_path / "site")
    assert len(set(listed)) == len(listed)
    assert set(listed) <= set(pages) <= {*listed, *apart}
    assert (tmp_path / "site/results-1.png").stat().st_size > 10_000, "the notebook's figure"


def test_a_link_out_of_the_documentation_brings_its_file_along():
    files = {}
    text = "[a](../benchmarks/README.md#memory) [b](../src/lorcbench/study/published.csv) [c](faq.md) [d](https://e.f)"
    mended = site_pages.mended("docs/x.md", text, files.setdefault)
    assert mended == "[a](benchmarks.md#memory) [b](files/src/lorcbench/study/published.csv) [c](faq.md) [d](https://e.f)"
    assert list(files) == ["src/lorcbench/study/published.csv"]
    assert site_pages.mended("docs/x.md", "```\n[a](nowhere)\n```", files.setdefault) == "```\n[a](nowhere)\n```"
    with pytest.raises(site_pages.LinkError, match=r"docs/x\.md: nowhere is no file"):
        site_pages.mended("docs/x.md", "[a](nowhere)", files.setdefault)


@pytest.mark.parametrize("name", code_pages.pages())
def test_pages_that_are_made_from_the_code_are_up_to_date(name):
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == code_pages.pages()[name], "python docs/tools/code_pages.py writes it again"


def _first_column(page: str, heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}


def test_every_column_of_a_table_of_results_is_explained():
    assert _first_column("reference-cells.md", "cells.csv") == set(tables.COLUMNS)
    assert _first_column("reference-cells.md", "tasks.csv") == set(tables.HARNESS_COLUMNS)
    assert _first_column("reference-cells.md", "recommended.csv") == set(budget.COLUMNS)
    assert _first_column("reference-cells.md", "recommended-shared.csv") == set(shared.COLUMNS)
    assert _first_column("reference-cells.md", "against.csv") == set(rounding.COLUMNS)
    assert _first_column("reference-cells.md", "claims.json") == {field.name for field in fields(Verdict)}


def _files_of_a_study() -> set[str]:
    """The files and folders of results/STUDY that its reference names."""
    rows = re.findall(r"^\| (`.+?) \|", CELLS.read_text(encoding="utf-8").partition("\n## ")[0], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w.-]+)`", row)}


def test_every_file_that_the_report_writes_is_explained():
    assert {*ATTACHED, SUMMARY, started.COMMAND} - _files_of_a_study() == set()


def test_every_file_of_a_finished_study_is_explained(smoke):
    there = {file.name for file in (smoke / "results/smoke").iterdir() if not file.name.startswith(".")}
    assert there - _files_of_a_study() == set()


def _literals() -> list[str]:
    """Every text in the code of the package, with … for each value that is put into it."""
    found = []
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            if isinstance(node, ast.JoinedStr | ast.Constant):
                found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts))
    return found


def test_the_page_about_errors_has_the_words_that_the_program_prints():
    text = (ROOT / "docs/trouble.md").read_text(encoding="utf-8").partition("\n## What it says, and what to do\n")[2]
    messages = re.findall(r"^\| (`.+?) \|", text.partition("\n## ")[0], re.MULTILINE)
    pieces = {piece.strip(" ;:,.()") for message in messages for piece in re.split("[…`]", message)} - {""}
    assert len(messages) > 15
    literals = "\n".join(_literals())
    assert sorted(piece for piece in pieces if piece not in literals) == []


def test_every_kind_of_result_is_explained():
    assert _first_column("reference-results.md", "Further keys, by kind") == {stage.kind for stage in STAGES.values()}


def test_every_key_of_a_result_is_explained(smoke):
    text = (ROOT / "docs/reference-results.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`(\w+)`", text))
    keys = set()
    for file in smoke.glob("results/**/result.json"):
        result = json.loads(file.read_text(encoding="utf-8"))
        keys |= result.keys() | {key for variant in result.get("variants", {}).values() for key in variant}
    assert len(keys) > 20
    assert keys <= explained


def test_the_picture_of_the_rules_has_all_of_them():
    drawn = set(re.findall(r">(\w+)</text>", (ROOT / "docs/figures/rules.svg").read_text(encoding="utf-8")))
    rules = "\n".join(
        file.read_text(encoding="utf-8") for file in [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]
    )
    named = set(re.findall(r"^rule (\w+):", rules, re.MULTILINE))
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    left_out = set(re.findall(r"`(\w+)`", page.partition("draws it again; ")[2].partition(" are not in\n")[0]))
    assert left_out and drawn | left_out == named


@pytest.mark.parametrize("page", [page.name for page in PAGES if page.name.startswith("add-")])
def test_the_diffs_of_a_page_apply(page):
    for diff in diffs(page):
        assert why_not(ROOT, diff) == ""


def set_up_own_files(folder: Path, monkeypatch) -> None:
    """Put the files of the page about files of one's own into a folder, and name it in the environment."""
    text = (ROOT / "docs/own-files.md").read_text(encoding="utf-8")
    for name, content in re.findall(r"^`mine/([\w/-]+\.yaml)`\n\n```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    monkeypatch.setenv(compose.EXTRA_CONF, str(folder))
    compose.load.cache_clear()  # of an earlier test, with the same names


def test_the_files_of_your_own_are_complete(tmp_path, monkeypatch):
    set_up_own_files(tmp_path, monkeypatch)
    files = sorted(tmp_path.glob("*/*.yaml"))
    assert len(files) > 6
    for file in files:
        if file.parent.name != "study":
            assert compose.load(file.parent.name, file.stem)
        assert compose.headline(file.parent.name, file.stem).endswith((".", "?"))
    (study,) = tmp_path.glob("study/*.yaml")
    expanded = load_study(study.stem)
    assert len(expanded.cells) == 13 and expanded.texts == ("book",)


def test_the_notebook_runs_on_another_study(smoke, monkeypatch):
    monkeypatch.chdir(smoke)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict = {}
    said = ""
    for cell in notebook_page.cells(ROOT / "docs/results.ipynb"):
        if cell["cell_type"] == "code":
            said += notebook_page.run(cell["source"].replace("results/demo", "results/smoke"), names)
    assert said.startswith("32 rows; corpora: docstrings, reference, source, mean")
    assert "nats [" in said
    assert [axis.get_title() for axis in names["axes"][0]] == ["opt-standin-xs", "bloom-standin-xs"]


def test_the_difference_of_two_cells_has_an_interval(smoke, monkeypatch):
    monkeypatch.chdir(smoke)
    text = (ROOT / "docs/numbers.md").read_text(encoding="utf-8")
    names: dict = {}
    said = [
        notebook_page.run(snippet, names) for snippet in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]
    of_one_study, of_two = said
    assert of_one_study == of_two, "the same cells, by way of two studies"
    value, low, high = map(float, re.findall(r"[+-]\d+\.\d+", of_one_study))
    with open(smoke / "results/smoke/cells.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["corpus"] == "mean" and row["model"] == "opt-standin-xs"]
    mean = {row["method"]: float(row["ppl"]) for row in rows if row["rank"] == "0"}
    assert value == pytest.approx(mean["gptq"] - mean["rtn"], abs=1e-3)
    assert low < value < high


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    mkdocs = ROOT / ".venv-docs/bin/mkdocs"
    if not mkdocs.exists():
        skip_or_fail("mkdocs is not installed (make docs)", "LORCBENCH_REQUIRE_DOCS")
    site_pages.stage(tmp_path / ".docs")
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("paths: [src]", f"paths: [{ROOT / 'src'}]")
    (tmp_path / "mkdocs.yml").write_text(config, encoding="utf-8")
    line = [str(mkdocs), "build", "--strict", "--quiet"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr

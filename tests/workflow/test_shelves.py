"""What others look for in a repository is there and true: the catalog's files, how to cite, what changed, how to contribute."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml
from runs import ROOT, snakemake

import lorcbench
from lorcbench.pipeline import checks, commandline
from lorcbench.pipeline.rules import Pipeline

PAGES = [ROOT / name for name in ("config/README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
PATH = re.compile(
    r"`((?:src|tests|conf|config|workflow|docs|benchmarks|profiles)/[\w./-]*[\w/]|[\w.-]+\.(?:md|toml|cff|lock|py))`"
)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)\)")
RULE = re.compile(r'^rule (\w+):\n(    "[^"]{10,110}"\n)?', re.MULTILINE)
SETTINGS = (ROOT / "config/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_target_of_make_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    missing = [name for name in PATH.findall(text) if not (ROOT / name).exists() and name != "mine.yaml"]
    missing += [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    missing += sorted(set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", text, re.MULTILINE)) - targets)
    assert missing == []


def test_every_rule_says_what_it_does():
    rules = [RULE.findall(file.read_text(encoding="utf-8")) for file in (ROOT / "workflow/rules").glob("*.smk")]
    rules = [rule for found in rules for rule in found] + RULE.findall((ROOT / "Snakefile").read_text(encoding="utf-8"))
    assert len(rules) == 20
    assert [name for name, text in rules if not text] == []


def test_every_key_of_a_run_is_explained_and_no_other():
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", SETTINGS, re.MULTILINE)
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert sorted(keys) == sorted({*checks.KEYS, *checks.STRUCTURED})


def test_the_examples_of_settings_are_understood(elsewhere):
    (example,) = re.findall(r"```yaml\n(.*?)```", SETTINGS, re.DOTALL)
    study = Pipeline(yaml.safe_load(example)).study
    assert set(study.models) == {"opt-125m", "opt-350m"}
    assert {cell.rank for cell in study.cells} == {0, 8, 16}
    study = Pipeline(yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))).study
    assert (study.name, len(study.cells)) == ("smoke-example", 5)
    (command,) = re.findall(r"`lorcbench run (lorc .*?)`", SETTINGS)
    same = commandline.command(shlex.split(command))
    (typed,) = re.findall(r"`snakemake (--cores all --config .*?)`", SETTINGS)
    assert same[-5:] == shlex.split(typed)


@pytest.mark.slow
def test_the_workflow_starts_at_the_place_where_its_catalog_looks(tmp_path):
    done = snakemake(
        tmp_path,
        *("--snakefile", str(ROOT / "workflow/Snakefile"), "--configfile", str(ROOT / "config/config.yaml")),
        "--dry-run",
    )
    assert done.returncode == 0, done.stdout
    assert "study smoke-example: 5 cells; models: opt-standin-xs (a stand-in); " in done.stdout
    assert re.search(r"^quantize +2$", done.stdout, re.MULTILINE)
    assert re.search(r"^report +1$", done.stdout, re.MULTILINE)


def test_the_catalog_is_told_what_is_so():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    assert usage["report"]
    assert usage["software-stack-deployment"] == {"conda": False, "apptainer": False, "apptainer+conda": False}
    assert not list((ROOT / "workflow").rglob("envs"))  # with one, conda would be true


def test_the_citation_and_the_changes_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == lorcbench.__version__
    assert f"({lorcbench.__version__})" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_public_ci_runs_what_ci_runs_and_says_that_it_was_not_tried():
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(text)["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert "was never run by such a host" in text

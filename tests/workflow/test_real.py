"""Two cells of a real pretrained language model, from its package to the page. `make real` runs sixteen, on more text."""

from __future__ import annotations

import csv

import pytest
from runs import ROOT, snakemake
from tiny_gguf import PACKAGE, require

from lorcbench.pipeline.rules import Pipeline

SMALL = "study.eval=python+max_windows=4+window=128 study.exactly=true study.methods=[rtn] study.weights=[w3-asym-g64]"
SMALL += " study.harness=[]"


@pytest.mark.slow
def test_two_cells_of_a_real_model(tmp_path):
    require(PACKAGE)
    require("gguf")
    done = snakemake(tmp_path, "--config", "study=real", "name=two", f"overrides={SMALL}")
    assert done.returncode == 0, done.stdout
    assert "two: 2 cells measured, 0 failed, 0 not run" in done.stdout
    assert "smollm2-135m: from a 4-bit GGUF, dequantized" in done.stdout
    folder = tmp_path / "results" / "two"
    rows = list(csv.DictReader((folder / "cells.csv").open(encoding="utf-8")))
    assert {(row["family"], row["origin"]) for row in rows} == {("llama", "from a 4-bit GGUF")}
    ppl = {(row["method"], row["corpus"]): float(row["ppl"]) for row in rows}
    # A model that was read wrongly, with queries and keys in GGUF's order, has perplexities of thousands.
    assert 5 < ppl["none", "source"] < ppl["none", "docstrings"] < 50
    assert 1.3 * ppl["none", "mean"] < ppl["rtn", "mean"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "smollm2-135m (from a 4-bit GGUF)" in page
    assert "Massive activations" in page


def test_the_study_has_no_4_bit_cell_and_at_most_16_cells(monkeypatch, tmp_path):
    require(PACKAGE)
    require("gguf")
    monkeypatch.chdir(tmp_path)
    study = Pipeline({"study": "real"}).study
    assert len(study.cells) <= 16
    assert {cell.weight_format.bits for cell in study.cells} == {2, 3, 8, 16}
    assert len(study.harness) == 2


def test_ci_installs_the_model_and_requires_its_tests():
    assert "LORCBENCH_REQUIRE_REAL=1" in (ROOT / ".ci/run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert "\ntest: $(REAL_INSTALLED) " in makefile
    assert "--require-hashes --no-deps -r requirements-real.txt" in makefile

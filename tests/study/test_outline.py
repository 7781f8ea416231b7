"""Overrides of a study: what they make of it is said before the first job, and exactly the cells that are meant can be had."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from lorcbench.config.checks import ConfigError
from lorcbench.report.results import CellResult
from lorcbench.report.summary import window_lines
from lorcbench.study.expansion import load_study
from lorcbench.study.outline import outline

MEANT = ["study.methods=[gptq]", "study.weights=[w3-asym-g64]"]
EXACTLY = "study.exactly=true"


def recipes(overrides: list[str], study: str = "demo") -> set[tuple]:
    """What is measured of each model, full precision aside."""
    cells = load_study(study, overrides).cells
    return {(cell.method, cell.weight, cell.activation, cell.rank) for cell in cells if not cell.is_full_precision}


def test_an_axis_runs_through_every_grid_and_a_line_says_so():
    assert ("gptq", "w3-asym-g64", "a8-asym-token", 0) in recipes(MEANT)  # of the grid none/w16/a8
    study, replaced = outline(load_study("demo", MEANT))
    cells = load_study("demo", MEANT).cells
    quantized = [cell for cell in cells if not cell.is_full_precision]
    rounded = sum(cell.activation == "a8-asym-token" for cell in quantized)
    models = "opt-standin-s, opt-standin-m, opt-standin-w, bloom-standin-m (stand-ins)"
    assert study.startswith("study demo")
    assert f": {len(cells)} cells; models: {models}; methods: gptq; weights: w3-asym-g64; " in study
    plain = len(quantized) - rounded
    assert f"activations: a8-asym-token ({rounded} cells), a16 ({plain}); ranks: " in study and rounded > 0
    assert study.endswith(f"; full precision: {len(cells) - len(quantized)} cells")
    grids = len(load_study("demo").config.grids)
    assert replaced == (
        f"methods, weights replaced in each of the {grids} grids of the study's file, whose other axes stay; "
        "exactly=true takes only what you name"
    )


def test_cells_whose_activations_alone_are_rounded_are_counted_beside_full_precision():
    demo = load_study("demo")
    alone = sum(cell.weight == "w16" and cell.activation != "a16" for cell in demo.cells)
    whole = sum(cell.is_full_precision for cell in demo.cells)
    said = f"; full precision: {whole} cells, and {alone} whose activations alone are rounded"
    assert alone and outline(demo)[0].endswith(said)


def test_exactly_takes_the_product_of_what_is_named():
    assert recipes([*MEANT, EXACTLY]) == {("gptq", "w3-asym-g64", "a16", 0)}
    asked = [*MEANT, "study.methods=[rtn,gptq]", "study.activations=[a16,a8-asym-token]", "study.ranks=[0,8]", EXACTLY]
    product = itertools.product(["rtn", "gptq"], ["w3-asym-g64"], ["a16", "a8-asym-token"], [0, 8])
    assert recipes(asked[1:]) == set(product)
    study = load_study("demo", [*MEANT, EXACTLY])
    assert study.models == load_study("demo").models
    assert {cell.calibration for cell in study.cells} == {"none", "stdlib"}  # the study's own, for all its grids
    (line,) = outline(study)
    assert "activations: a16; ranks: 0" in line and f"{2 * len(study.models)} cells" in line


def test_exactly_leaves_out_nothing_that_is_named():
    named = ["study.models=[opt-125m]", "study.methods=[zq_global+lr=5e-08]", EXACTLY]
    assert recipes(named, "learning-rates")  # which its file excludes for this model
    with pytest.raises(ConfigError, match="no cells"):
        load_study("learning-rates", named[:2])


def test_exactly_holds_for_rehearsals_too():
    cells = load_study("groups+standins=true", ["study.methods=[rtn]", "study.weights=[w4-asym-g32]", EXACTLY]).cells
    assert {(cell.method, cell.weight) for cell in cells} == {("none", "w16"), ("rtn", "w4-asym-g32")}


def test_exactly_wants_the_axes_that_only_grids_have():
    with pytest.raises(ConfigError, match=r"study\.weights=None: expected a list with at least one entry"):
        load_study("demo", ["study.methods=[gptq]", EXACTLY])
    with pytest.raises(ConfigError, match=r"those of study\.grids=… too"):
        load_study("demo", ["study.grids=[{methods: [rtn], weights: [w4-asym-row]}]", EXACTLY])


def test_a_study_as_its_file_has_it_is_one_short_line():
    for name in ("demo", "smoke", "lorc+standins=true"):
        study = load_study(name)
        (line,) = outline(study)
        assert line.startswith(f"study {study.name}: {len(study.cells)} cells; models: ")
        assert len(line) < 270


def test_the_line_names_a_model_that_replaces_all_others_without_a_warning():
    (line,) = outline(load_study("demo", ["study.models=[opt-standin-s]"]))
    assert "models: opt-standin-s (a stand-in);" in line


def test_a_study_of_many_models_counts_them_and_one_for_a_model_of_ones_own_says_how_it_is_given():
    assert "; models: 6 models; " in outline(load_study("lorc"))[0]
    assert "; models: opt-standin-m (a stand-in; your own model: model_path=FOLDER); " in outline(load_study("own"))[0]


def test_grids_that_are_alike_once_their_axes_are_replaced_need_no_warning():
    alike = ["study.methods=[rtn]", "study.weights=[w4-asym-row,w4-asym-g96]", "study.ranks=[0]"]
    line, left_out = outline(load_study("own", alike))
    assert "; ranks: 0" in line and left_out.startswith("left out, because groups do not divide the width: w4-asym-g96 on ")
    _, replaced = outline(load_study("own", ["study.methods=[rtn,gptq]"]))
    assert replaced.startswith("methods replaced in each of the 2 grids of the study's file, ")


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ("study.weights=[w4-asm-g128]", "did you mean w4-asym-g128?"),
        ("study.activations=[a8-asym-tokens]", "did you mean a8-asym-token?"),
        ("study.methods=[gtpq]", "did you mean gptq?"),
        ("study.methods=[something-else]", "zq_local"),
        (
            "study.weights=[w3-asym-g33]",
            "no cells; the groups of w3-asym-g33 do not divide the widths of opt-standin-m, 128, 512",
        ),
        ("study.weights=[w3-asym-g33]", "expected a row, or groups of 8, 16, 32, 64, 128"),
        ("study.weights=[w3-asym-g33] study.indivisible=refuse", "its width 128; expected a row, or groups of 8, 16, 32, 64"),
    ],
)
def test_a_format_or_a_name_that_does_not_fit_is_answered_with_one_that_does(axes, said):
    with pytest.raises(ConfigError) as error:
        load_study("own", axes.split())
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_model_and_a_text_of_a_conf_file_have_the_lines_of_those_that_are_typed(tmp_path, monkeypatch):
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"hidden_size": 64}')
    files = {
        "model/mine": f"source: folder\npath: {tmp_path}/llama\n",
        "text/volume": f"source: file\npath: {tmp_path}/book.txt\n",
        "eval/ours": "corpora: {book: {text: volume}}\nwindow: 256\n",
    }
    for name, text in files.items():
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# Ours.\n{text}")
    monkeypatch.setenv("LORCBENCH_CONF", str(tmp_path / "conf"))
    overrides = [
        "study.models=[mine]",
        "study.methods=[rtn]",
        "study.weights=[w4-asym-row]",
        "study.ranks=[0]",
        "study.eval=ours",
    ]
    study = load_study("smoke", [*overrides, EXACTLY])
    _, *lines = outline(study)
    assert lines == [f"model mine is {tmp_path}/llama", f"text volume is {tmp_path}/book.txt"]
    full = next(cell for cell in study.cells if cell.is_full_precision)
    about = {"window": 256, "windows": 60, "stream_tokens": 20000, "text": "book"}
    result = CellResult(full, status="ok", nll={"book": np.zeros(60)}, corpora={"book": about})
    assert window_lines(study, [result]) == [
        "mine: perplexity 1.00 in full precision, in 60 windows of 256 tokens, out of 20,000 of book"
    ]
    assert window_lines(load_study("smoke"), [replace(result, cell=load_study("smoke").cells[0])]) == []

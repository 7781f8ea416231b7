"""Mixed formats in the report: which cells they are held against, what the page says, and the map of formats."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib import image
from synthetic import result

from lorcbench.common.artifacts import write_json
from lorcbench.report import figures, mixed
from lorcbench.report.comparison import changes
from lorcbench.report.page.cells import degraded
from lorcbench.report.page.mixed import mixed_formats
from lorcbench.report.results import CellResult, collect
from lorcbench.report.wording import recipe
from lorcbench.study.expansion import load_study

NAME = "mixed+bits=3.0+formats=w2-w3-w4-asym-g32"
DEPTH = "mixed+bits=3.0+by=depth+formats=w2-w3-w4-asym-g32"


def uniform(weight: str, loss: float, bits: float, method: str = "gptq", rank: str = "r0") -> CellResult:
    return result(f"opt-standin-s {method} {weight} {rank}", loss, bits_per_weight=bits, seed=len(weight))


def mixed_cell(method: str = NAME, loss: float = 0.1, bits: float = 2.98) -> CellResult:
    made = result("opt-standin-s gptq w2-asym-g32 r0", loss, bits_per_weight=bits, seed=7)
    return replace(made, cell=replace(made.cell, method=method, weight="mixed"))


def found() -> list[CellResult]:
    worse, better = uniform("w2-asym-g32", 0.3, 2.56), uniform("w2-asym-g16", 0.2, 2.98)
    larger, corrected = uniform("w3-asym-row", 0.02, 3.1), uniform("w2-asym-row", 0.01, 2.9, rank="r8")
    other, clipped = uniform("w2-asym-g16", 0.01, 2.98, "rtn"), uniform("w2-asym-g32", 0.25, 2.56, "gptq+clip=mse")
    full = result("opt-standin-s none w16 r0")
    return [full, mixed_cell(), mixed_cell(DEPTH, 0.15), worse, better, larger, corrected, other, clipped]


def test_the_rival_is_the_best_cell_of_one_format_and_no_more_bits():
    results = found()
    chosen, by_depth = mixed.find(results)
    assert chosen.uniform.baseline is results[4]
    assert chosen.uniform.relative.high < 0
    assert chosen.depth.baseline is by_depth.result
    assert by_depth.depth is None
    results[8] = replace(results[8], nll=results[5].nll)
    assert mixed.find(results)[0].uniform.baseline is results[8]
    assert mixed.find(results[:2])[0].uniform is None
    (line,) = mixed.sentences(mixed.find(found()))
    assert "over w2-asym-g16, the best uniform cell of no more bits" in line and "over early layers high" in line


def test_the_page_has_a_row_per_cell_and_nothing_where_there_is_none():
    page = mixed_formats(mixed.find(found()))
    assert page.count("<tr>") == 3 and page.count("w2-asym-g16") == 2
    assert mixed_formats(mixed.find(found()[3:])) == ""
    assert recipe(mixed_cell().cell) == "mixed (bits=3.0, formats=w2-w3-w4-asym-g32)"


@pytest.mark.slow
def test_the_map_shows_what_the_result_says_and_other_figures_leave_mixed_cells_out(tmp_path):
    results = found()
    drawn = [figure.stem for figure in figures.draw(results, changes(results), tmp_path / "without")]
    assert "mixed" not in drawn
    linears = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2")
    blocks = [dict.fromkeys(linears, "w4-asym-g32" if index == 0 else "w2-asym-g32") for index in range(6)]
    ink = []
    for number, formats in enumerate((blocks, blocks[::-1])):
        folder = tmp_path / f"quantized{number}"
        (folder / "checkpoint").mkdir(parents=True)
        write_json(folder / "result.json", "quantized", {"formats": formats})
        write_json(
            folder / "checkpoint" / "result.json", "checkpoint", {"architecture": {"linears": [linears[:3], linears[3:]]}}
        )
        results[1].folders = {"quantized": folder, "checkpoint": folder / "checkpoint"}
        (figure,) = (one for one in figures.draw(results, changes(results), tmp_path / str(number)) if one.stem == "mixed")
        assert figure.title == "Which linear got how many bits?"
        picture = image.imread(tmp_path / str(number) / "mixed.png")[..., :3]
        ink.append(picture)
        assert 0.01 < float((picture.min(axis=-1) < 0.8).mean()) < 0.5
        assert sum(text in (tmp_path / str(number) / "mixed.svg").read_text() for text in ("w2-asym-g32", "fc1")) == 2
    assert (ink[0] != ink[1]).any()


@pytest.mark.usefixtures("elsewhere")
def test_a_mixed_cell_without_results_is_not_run_and_rests_on_the_sensitivities_of_all_its_candidates():
    overrides = ["study.exactly=true", "study.models=[opt-standin-xs]", "study.methods=[mixed+bits=3.0+formats=w2-w3-asym-g32]"]
    found = collect(load_study("smoke", [*overrides, "study.weights=[mixed]", "study.ranks=[0]"]))
    (one,) = (result for result in found if result.cell.weight == "mixed")
    assert one.status == "not run"
    assert {"sensitivity w2-asym-g32", "sensitivity w3-asym-g32"} <= one.folders.keys()


def test_a_mixed_cell_whose_damping_was_raised_says_so():
    assert degraded(replace(mixed_cell(), max_damp=0.1)) == "damp 0.1 > 0.01"

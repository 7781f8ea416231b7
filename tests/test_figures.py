"""Figures from synthetic results: they exist, show something, do not change from run to run, and survive small studies."""

import dataclasses

import numpy as np
import pytest
from matplotlib import image
from synthetic import result, results

from lorcbench.figures import draw

STEMS = ["bits", "lorc", "pareto"]


def ink(path) -> float:
    """The share of pixels that are not background."""
    pixels = image.imread(path)
    return float((pixels[..., :3].min(axis=-1) < 0.8).mean())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The figures of the whole synthetic study."""
    folder = tmp_path_factory.mktemp("figures") / "made"
    return draw(results(), folder), folder


def test_all_figures_are_drawn_large_opaque_and_not_empty(drawn):
    figures, folder = drawn
    assert [figure.stem for figure in figures] == STEMS
    for figure in figures:
        pixels = image.imread(folder / f"{figure.stem}.png")
        assert pixels.shape[1] == 1350 and pixels.shape[0] > 500
        assert (pixels[..., 3] == 1).all() and (pixels[0, 0, :3] == 1).all()
        assert 0.01 < ink(folder / f"{figure.stem}.png") < 0.3
        assert (folder / f"{figure.stem}.svg").read_text().count("<path") > 50
        assert figure.title.endswith("?") and len(figure.caption) > 80


def test_equal_results_give_equal_bytes(drawn, tmp_path):
    figures, folder = drawn
    assert draw(results(), tmp_path) == figures
    for name in (f"{stem}.{kind}" for stem in STEMS for kind in ("png", "svg")):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_other_results_give_another_picture(drawn, tmp_path):
    _, folder = drawn
    changed = results()
    changed[-1].nll = {corpus: values + 0.1 for corpus, values in changed[-1].nll.items()}
    draw(changed, tmp_path)
    assert (tmp_path / "lorc.svg").read_bytes() != (folder / "lorc.svg").read_bytes()


FP = "opt-standin-s none w16 r0"
SMALL = {
    "nothing": ([], []),
    "full precision only": ([FP], []),
    "one cell and no full precision": (["opt-standin-s rtn w4-asym-row r0"], ["pareto"]),
    "one method without LoRC": ([FP, "opt-standin-s rtn w4-asym-row r0"], ["bits", "pareto"]),
    "LoRC without its plain cell": ([FP, "opt-standin-s rtn w2-asym-row r8"], ["lorc", "pareto"]),
    "LoRC where nothing was lost": ([FP, *(f"opt-standin-s rtn w8-asym-row r{r}" for r in (0, 8))], ["bits", "pareto"]),
    "more methods and formats than colours": (
        [FP, *(f"opt-standin-s gptq+damp=0.{d} w{b}-asym-g{2**d} r0" for d in range(1, 10) for b in (2, 4))],
        ["bits", "pareto"],
    ),
    "more models than a row holds": (
        [f"opt-{n}m {recipe} r0" for n in range(6) for recipe in ("none w16", "rtn w3-asym-row")],
        ["bits", "pareto"],
    ),
}


@pytest.mark.parametrize("case", SMALL)
def test_a_figure_is_left_out_where_there_is_nothing_to_show(case, tmp_path):
    names, expected = SMALL[case]
    losses = {"w16": 0.0, "w8": 0.0001, "w4": 0.02, "w3": 0.1, "w2": 0.4}
    found = [result(name, losses[name.split()[2].partition("-")[0]], seed=index) for index, name in enumerate(names)]
    assert [figure.stem for figure in draw(found, tmp_path)] == expected
    assert all(ink(tmp_path / f"{stem}.png") > 0.005 for stem in expected)


def test_failed_cells_and_losses_that_are_no_numbers_are_left_out(drawn, tmp_path):
    figures, folder = drawn
    failed = result("opt-standin-s zq_local w2-asym-row r0", status="failed", nll={}, bits_per_weight=None)
    broken = result("opt-standin-s zq_local w3-asym-row r0", np.inf)
    assert draw([*results(), failed, broken], tmp_path) == figures
    assert (tmp_path / "pareto.svg").read_bytes() == (folder / "pareto.svg").read_bytes()


def test_a_collapsed_cell_is_counted_rather_than_drawn_off_the_chart(tmp_path):
    collapsed = result("opt-standin-s rtn w2-sym-row r0", 6.0)
    pareto = draw([*results(), collapsed], tmp_path)[-1]
    assert pareto.caption.endswith("are not drawn: 1.")


def test_the_caption_says_what_lorc_gives_back(tmp_path):
    found = [result(FP), result("opt-standin-s rtn w2-asym-row r0", 0.4, 0.0)]
    half = np.log1p(np.expm1(0.4) / 2)
    found.append(result("opt-standin-s rtn w2-asym-row r8", half, 0.0))
    lorc = draw(found, tmp_path)[1]
    assert "At 2 bits, rank 8 gives back on average 50 % of what rtn lost." in lorc.caption


def test_one_method_keeps_its_colour_when_others_join(tmp_path):
    alone = [one for one in results() if one.cell.method in ("none", "gptq")]
    draw(alone, tmp_path)
    assert "#0072b2" in (tmp_path / "bits.svg").read_text()
    assert "#d55e00" not in (tmp_path / "bits.svg").read_text()


def test_seeds_and_lorc_settings_are_lines_of_their_own(tmp_path):
    found = results(("opt-standin-s",))
    once = draw(found, tmp_path) and (tmp_path / "lorc.svg").read_text().count("<path")
    for other in [one for one in found if one.cell.rank]:
        found.append(dataclasses.replace(other, cell=dataclasses.replace(other.cell, lorc="plain-fp16")))
    assert draw(found, tmp_path) and (tmp_path / "lorc.svg").read_text().count("<path") > once

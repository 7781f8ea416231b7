"""Figures from synthetic results: they exist, show something, do not change from run to run, and survive small studies."""

import dataclasses
import json
import re

import numpy as np
import pytest
from matplotlib import image
from synthetic import result, results

from lorcbench.common.artifacts import write_json
from lorcbench.report import figures as report_figures
from lorcbench.report.comparison import changes
from lorcbench.report.figures.style import Figure
from lorcbench.report.scorecard import Row

pytestmark = pytest.mark.slow

STEMS = ["pareto", "equal-bits", "fronts", "bits", "sensitivity", "lorc"]


def draw(found, folder, rows=()) -> list[Figure]:
    """The figures of results by themselves."""
    return report_figures.draw(found, changes(found), folder, rows)


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
    "one method without LoRC": ([FP, "opt-standin-s rtn w4-asym-row r0"], ["pareto", "bits"]),
    "LoRC without its plain cell": ([FP, "opt-standin-s rtn w2-asym-row r8"], ["pareto", "lorc"]),
    "LoRC where nothing was lost": (
        [FP, *(f"opt-standin-s rtn w8-asym-row r{r}" for r in (0, 8))],
        ["pareto", "equal-bits", "fronts", "bits"],
    ),
    "more methods and formats than colours": (
        [FP, *(f"opt-standin-s gptq+damp=0.{d} w{b}-asym-g{2**d} r0" for d in range(1, 10) for b in (2, 4))],
        ["pareto", "bits"],
    ),
    "more models than a row holds": (
        [f"opt-{n}m {recipe} r0" for n in range(6) for recipe in ("none w16", "rtn w3-asym-row")],
        ["pareto", "bits", "size"],
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
    pareto = draw([*results(), collapsed], tmp_path)[0]
    assert pareto.caption.endswith("are not drawn: 1.")


def test_the_caption_says_what_lorc_gives_back(tmp_path):
    found = [result(FP), result("opt-standin-s rtn w2-asym-row r0", 0.4, 0.0)]
    half = np.log1p(np.expm1(0.4) / 2)
    found.append(result("opt-standin-s rtn w2-asym-row r8", half, 0.0))
    lorc = next(figure for figure in draw(found, tmp_path) if figure.stem == "lorc")
    assert lorc.finding == "At 2 bits, rank 8 gives back on average 50 % of what RTN lost."


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


def of_kind(one, kind: str, share: float):
    """The same cell with factors of another kind, which lose `share` less in every window."""
    nll = {corpus: values - share for corpus, values in one.nll.items()}
    return dataclasses.replace(one, cell=dataclasses.replace(one.cell, calibration="stdlib", lorc=f"{kind}-int8"), nll=nll)


def test_kinds_of_correction_have_a_colour_each_and_a_front_each(tmp_path):
    found = [one for one in results(("opt-standin-s",)) if one.cell.weight_format.bits in (2, 16)]
    draw(found, tmp_path)
    assert "#7b5ea7" not in (tmp_path / "fronts.svg").read_text() + (tmp_path / "lorc.svg").read_text()
    plain = [one for one in found if one.cell.rank]
    found += [of_kind(one, kind, share) for kind, share in (("diag-rms", 0.001), ("exact", 0.005)) for one in plain]
    drawn = {figure.stem: figure for figure in draw(found, tmp_path)}
    for stem in ("fronts", "lorc"):
        text = (tmp_path / f"{stem}.svg").read_text()
        assert all(f"<!-- {label} -->" in text for label in ("plain", "diag-rms", "exact")) and "#7b5ea7" in text
    panels = (tmp_path / "equal-bits.svg").read_text()
    assert all(f"<!-- {kind} -->" in panels for kind in ("plain", "diag-rms", "exact"))
    assert "of 4 exact cells" in drawn["equal-bits"].finding
    assert all(ink(tmp_path / f"{stem}.png") > 0.005 for stem in ("fronts", "lorc", "equal-bits"))


def rounded(one, activation: str, loss: float):
    """The same recipe with its activations rounded."""
    nll = {corpus: values + loss for corpus, values in one.nll.items()}
    return dataclasses.replace(one, cell=dataclasses.replace(one.cell, activation=activation), nll=nll)


def test_activation_groups_are_a_curve_for_each_recipe(tmp_path):
    whole = [result(FP), result("opt-standin-s gptq w4-asym-row r0", 0.02)]
    one_group = [rounded(one, "a8-asym-token", 0.1) for one in whole]
    assert "activation" not in [figure.stem for figure in draw([*whole, *one_group], tmp_path)]
    curves = [*whole, *one_group, *(rounded(one, "a8-asym-g32", 0.01) for one in whole)]
    assert "activation" in [figure.stem for figure in draw(curves, tmp_path)]
    text = (tmp_path / "activation.svg").read_text()
    assert all(f"<!-- {label} -->" in text for label in ("token", "g32", "none", "w4-asym-row a8-asym", "w16 a8-asym"))


def test_learning_rates_of_one_method_are_one_line(tmp_path):
    rates = ("0.0001", "0.001", "0.01")
    found = [result(f"opt-standin-s zq_local+iterations=32+lr={rate} w3-asym-row r0", 0.1) for rate in rates]
    assert "rates" not in [figure.stem for figure in draw([result(FP), found[0]], tmp_path)]
    assert "rates" in [figure.stem for figure in draw([result(FP), *found], tmp_path)]
    text = (tmp_path / "rates.svg").read_text()
    assert "<!-- learning rate -->" in text and text.count("stroke: #009e73; stroke-width: 4") == 1


def sizes() -> list:
    """Two models of a family, the larger one better, with and without LoRC."""
    models = {"opt-125m": (100_000, 0.0), "opt-350m": (400_000, -0.3)}
    recipes = {"rtn w3-asym-row r0": 0.2, "gptq w3-asym-row r0": 0.1, "gptq w3-asym-g32 r8": 0.05}
    found = []
    for model, (weights, better) in models.items():
        found.append(result(f"{model} none w16 r0", better))
        found += [result(f"{model} {recipe}", better + loss, weights=weights) for recipe, loss in recipes.items()]
    return found


def in_print(one, corpus: str = "mean") -> Row:
    """A scorecard row that says that the paper printed 40 for this cell."""
    axes = {axis: value for axis, value in vars(one.cell).items() if axis != "trained"}
    numbers = {"measured": one.mean_ppl, "published": 40.0, "difference": 0.0, "relative": 0.0, "tolerance": 0.1}
    numbers["within"] = True
    return Row(**axes, corpus=corpus, **numbers, class_measured=None, class_published=None, table="7", derived=False)


def test_published_points_are_drawn_where_cells_match(tmp_path):
    found = sizes()
    assert "size" in [figure.stem for figure in draw(found, tmp_path)]
    alone = (tmp_path / "size.svg").read_text()
    draw(found, tmp_path, [in_print(found[1], "c4"), in_print(result("opt-66b rtn w3-asym-row r0"))])
    assert (tmp_path / "size.svg").read_text() == alone
    draw(found, tmp_path, [in_print(found[1])])
    assert "<!-- in print -->" in (tmp_path / "size.svg").read_text() and "<!-- in print -->" not in alone


def test_a_derived_cell_is_no_point_of_its_own(tmp_path):
    found = sizes()
    best = dataclasses.replace(found[2], cell=dataclasses.replace(found[2].cell, method="best"), derived=found[2].cell.key)
    draw(found, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")}
    draw([*found, best], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")} == before
    draw([*found, best], tmp_path, [in_print(best)])
    assert "<!-- in print -->" in (tmp_path / "size.svg").read_text()


def test_errors_and_spectra_come_from_the_factors_of_the_fewest_bits(tmp_path):
    found = [result(FP)]
    for bits in (2, 3):
        one = result(f"opt-standin-s gptq w{bits}-asym-row r8", 0.1)
        one.folders = {"factors": tmp_path / f"w{bits}"}
        blocks = [{"self_attn.q_proj": 0.1 * bits + 0.01 * index, "fc1": 0.2} for index in range(3)]
        spectra = {"singular_values": [{"self_attn.q_proj": [3.0, 2.0, 1.0], "fc1": [1.0] * 9}] * 3}
        spectra["error_norm"] = [{"self_attn.q_proj": 14**0.5, "fc1": 12**0.5}] * 3
        spectra["dead_inputs"] = [{}, {"fc1": {"count": 3, "error_share": 0.4}}, {"fc1": {"count": 4, "error_share": 0.25}}]
        write_json(tmp_path / f"w{bits}" / "result.json", "factors", {"relative_error": blocks, **spectra})
        found.append(one)
    drawn = {figure.stem: figure for figure in draw(found, tmp_path / "made")}
    assert {"errors", "spectra"} <= drawn.keys()
    # Of q all, of fc1 eight of twelve equal components.
    assert "hold 83 % of ‖E‖² with gptq" in drawn["spectra"].finding
    assert "opt-standin-s with gptq 7, up to 40 % of ‖E‖² of a linear" in drawn["spectra"].caption
    text = (tmp_path / "made" / "errors.svg").read_text()
    assert "<!-- opt-standin-s, 2 bits -->" in text and text.index("<!-- q_proj -->") < text.index("<!-- fc1 -->")
    old = json.loads((tmp_path / "w2" / "result.json").read_text())
    write_json(tmp_path / "w2" / "result.json", "factors", {"relative_error": old["relative_error"]})
    assert "spectra" not in [figure.stem for figure in draw(found, tmp_path / "made")]


def test_spectra_of_factors_that_know_the_inputs_are_said_to_be_of_another_matrix(tmp_path):
    plain = result("opt-standin-s rtn w2-asym-row r8", 0.1)
    found = [result(FP), plain, *(of_kind(plain, kind, 0.01) for kind in ("diag-abs", "exact"))]
    for one, values in zip(found[1:], ([3.0, 2.0], [9.0, 1.0], [4.0, 1.0]), strict=True):
        one.folders = {"factors": tmp_path / one.cell.lorc}
        block = {"singular_values": [{"fc1": values}], "error_norm": [{"fc1": 5.0}], "relative_error": [{"fc1": 0.1}]}
        write_json(one.folders["factors"] / "result.json", "factors", block)
    drawn = {figure.stem: figure for figure in draw(found, tmp_path / "made")}
    caption = drawn["spectra"].caption
    assert "52 % of ‖E‖² with rtn, 68 % of ‖E R^½‖² with rtn" in drawn["spectra"].finding and "exact: of E R^½" in caption
    text = (tmp_path / "made" / "spectra.svg").read_text()
    assert all(f"<!-- asym-row {kind} -->" in text for kind in ("plain", "exact")) and "diag-abs" not in text
    depth = (tmp_path / "made" / "errors.svg").read_text()
    assert "<!-- asym-row -->" in depth and "exact" not in depth, "the error before a correction is the same for all kinds"


def test_the_heat_map_says_what_each_format_costs(tmp_path):
    weights = {"w8-asym-row": 0.0, "w4-asym-row": 0.05, "w4-asym-g32": 0.02, "w3-asym-row": 0.5}
    found = [result(FP), *(result(f"opt-standin-s rtn {weight} r0", loss, 0.0) for weight, loss in weights.items())]
    assert "sensitivity" in [figure.stem for figure in draw(found, tmp_path)]
    text = (tmp_path / "sensitivity.svg").read_text()
    assert all(f"<!-- {rise} -->" in text for rise in ("0.00", "5.1", "2.0", "65"))
    assert "sensitivity" not in [figure.stem for figure in draw(found[:-1], tmp_path)]


def test_a_dark_page_gets_other_ink_and_print_does_not(drawn):
    _, folder = drawn
    for stem in STEMS:
        text = (folder / f"{stem}.svg").read_text()
        (rules,) = re.findall(r"<style>@media \(prefers-color-scheme: dark\)\{(.*)\}</style>", text)
        assert '[style*="fill: #222222"]{fill:#e6e8ea !important}' in rules
        painted = set(re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", text.replace(rules, "")))
        assert set(re.findall(r'\*="([^"]+)"', rules)) <= painted

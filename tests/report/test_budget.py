"""What to take within a budget: choices and filters, by what must hold between them whatever the numbers."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from browser import Browser
from page_reader import Reader
from synthetic import result, results, study

from lorcbench import cli
from lorcbench.common.artifacts import write_text
from lorcbench.config.checks import ConfigError
from lorcbench.pipeline import commandline
from lorcbench.report import budget, shared
from lorcbench.report.budget import Budget, Choice
from lorcbench.report.choices import choices, exported_megabytes, shared_recipes
from lorcbench.report.comparison import changes
from lorcbench.report.exported import Files, Linear
from lorcbench.report.findings import find
from lorcbench.report.intervals import relative_change
from lorcbench.report.page import take_away
from lorcbench.report.page.render import render
from lorcbench.report.recommend import BUDGETS, advise, fronts, recommend
from lorcbench.study import started

# A checkpoint in float16, most of which is embeddings.
FILES = Files(((Linear(128, 256, 2, (128,)), 8),), ((2, True, 800_000),), dtype="float16")


def measured(seed: int = 0) -> list:
    """A study of two models; each cell's losses and size are arbitrary, and some are nearly equal."""
    draw = np.random.default_rng(seed)
    found = results()
    for one in found:
        one.files = FILES
        if one.cell.method != "none":
            one.bits_per_weight = float(draw.integers(8, 36)) / 4
            name = f"{one.cell.model} rtn {one.cell.weight} r0"
            one.nll = result(name, 0.01 * draw.integers(0, 8), noise=0.05, seed=int(draw.integers(1000))).nll
    return found


def of(found: list) -> list[Choice]:
    """The choices of results by themselves."""
    return choices("synthetic", found, changes(found), "lorcbench export synthetic")


@pytest.mark.parametrize("seed", range(5))
def test_the_choices_are_the_quantized_cells_of_the_fronts_with_the_comparisons_numbers(seed):
    found = measured(seed)
    by_key = {choice.cell: choice for choice in of(found)}
    front, compared = fronts(found), changes(found)
    assert set(by_key) == {cell.key for cell, better in front.items() if better is None and cell.method != "none"}
    for cell, change in compared.items():
        if choice := by_key.get(cell.key):
            assert (choice.rise, choice.rise_low, choice.rise_high) == (
                change.relative.value,
                change.relative.low,
                change.relative.high,
            )
            assert choice.delta_ppl == change.mean.value and choice.ppl == change.result.mean_ppl
            assert choice.export.endswith(f" {cell.key}")


@pytest.mark.parametrize("seed", range(5))
def test_what_is_alike_is_smaller_and_not_told_apart_and_nothing_else_is(seed):
    found = measured(seed)
    by_key = {one.cell.key: one for one in found}
    chosen = of(found)
    for choice in chosen:
        own = by_key[choice.cell]
        for other in (one for one in chosen if one.model == choice.model and one.bits_per_weight < choice.bits_per_weight):
            change = relative_change(by_key[other.cell].nll, own.nll)
            assert (other.cell in choice.alike) == (change.low <= 0 <= change.high)
        assert all(by_key[key].bits_per_weight < choice.bits_per_weight for key in choice.alike)
    assert any(choice.alike for choice in chosen)


@pytest.mark.parametrize("text", ["3", "4.25bits", "0.5 MB", "400000MiB", "2%", "0.5ppl", ".2 PPL"])
def test_a_budget_lets_through_what_keeps_it_the_best_first(text):
    limit = Budget.parse(text)
    for front in budget.fronts(of(measured())).values():
        fitting = budget.within(front, limit)
        assert {one.cell for one in fitting} == {one.cell for one in front if getattr(one, limit.quantity) <= limit.most}
        # On a front the smaller cell loses more, so that one order is the other one turned round.
        by_size = sorted(fitting, key=lambda one: one.bits_per_weight, reverse=limit.is_size)
        assert fitting == by_size


@pytest.mark.parametrize("text", ["", "4.25 apples", "-1", "4,25", "1e3", "ppl", "2 %%", "constructor", "nan"])
def test_another_budget_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match=re.escape(f"expected {budget.EXPECTED}")) as refused:
        Budget.parse(text)
    assert "\n" not in str(refused.value)


def test_units_are_those_of_the_quantities():
    assert Budget.parse("1GB").most == 1000 and Budget.parse("1 MiB").most == pytest.approx(1.048576)
    assert Budget.parse("2%") == Budget("2%", "rise", 0.02) and Budget.parse("0.5ppl").quantity == "delta_ppl"


def test_megabytes_are_those_of_codes_scales_zero_points_and_all_else_in_its_type():
    one = result("opt-standin-s rtn w4-asym-row r0", files=FILES)
    linear = 128 * 256 / 2 + 128 * 2 + 128 / 2 + 16  # codes, scales, zero points, shape
    assert exported_megabytes(one) == pytest.approx((8 * linear + 2 * 800_000) / 1e6)
    wide = Files(((Linear(128, 256, 4, (128,)), 8),), ((4, True, 800_000),))
    assert exported_megabytes(dataclasses.replace(one, files=wide)) == pytest.approx((8 * (linear + 256) + 4 * 800_000) / 1e6)
    assert exported_megabytes(dataclasses.replace(one, files=None)) is None


def test_the_command_names_the_format_that_a_checkpoint_of_conv1d_needs():
    found = measured()
    assert not any("format=" in choice.export for choice in of(found))
    for one in found:
        one.files = dataclasses.replace(FILES, packs=False)
    assert all(choice.export.endswith(f"{choice.cell} format=merged") for choice in of(found))
    assert min(choice.megabytes for choice in of(found)) == 2 * (800_000 + 8 * 128 * 256) / 1e6


def test_where_the_size_is_not_known_no_budget_of_megabytes_is_kept_and_it_is_said():
    found = [dataclasses.replace(one, files=None) for one in results()]
    limit = Budget.parse("1000000MB")
    chosen = of(found)
    assert not any(map(limit.allows, chosen))
    assert sum("nothing is known of its megabytes" in line for line in budget.lines(chosen, limit)) == 2


def test_a_choice_survives_the_table(tmp_path):
    chosen = of(measured())
    chosen[0] = dataclasses.replace(chosen[0], megabytes=None)
    write_text(tmp_path / budget.TABLE, budget.as_csv(chosen))
    assert budget.read(tmp_path, "") == chosen


def test_failed_and_derived_cells_are_no_choices():
    found = measured()
    first = next(one for one in found if one.cell.key == of(found)[0].cell)
    first.status = "failed"
    assert first.cell.key not in {choice.cell for choice in of(found)}
    second = next(one for one in found if one.cell.key == of(found)[0].cell)
    second.derived = "best of two"
    assert second.cell.key not in {choice.cell for choice in of(found)}


def test_the_command_is_the_one_that_ran_the_study():
    assert started.command(["study=smoke"]) == "lorcbench run smoke"
    typed = ["study=own", "name=mine", "study.ranks=[0,8]", "eval.tasks=[a]", 'model_path="/a b/c"', 'study.title="It\'s"']
    expected = "own name=mine 'study.ranks=[0,8]' 'eval.tasks=[a]' 'model_path=/a b/c' "
    assert started.command(typed, "export").startswith(f"lorcbench export {expected}")
    words = commandline.read(shlex.split(started.command(typed))[2:])
    assert set(commandline.stage_arguments(words)) == set(typed)


def test_a_study_with_a_name_is_exported_by_it():
    found = measured()
    typed = ["study=smoke", "study.ranks=[0,8]"]
    by_words, by_name = (find(study(found), found, changes(found), words).choices for words in (typed, [*typed, "name=mine"]))
    assert all(one.export == f"lorcbench export mine {one.cell}" for one in by_name)
    assert all(one.export == f"lorcbench export smoke 'study.ranks=[0,8]' {one.cell}" for one in by_words)


def test_an_interval_that_reaches_beyond_the_budget_is_said():
    choice = of(measured())[0]
    between = Budget("x", "rise", (choice.rise + choice.rise_high) / 2)
    assert budget.remarks(choice, between) == ["its interval reaches beyond the budget"]
    assert budget.remarks(choice, dataclasses.replace(between, most=choice.rise_high)) == []


def test_the_page_has_a_row_per_choice_whose_numbers_a_budget_can_limit():
    found = measured()
    findings = find(study(found), found, changes(found))
    html = take_away.chosen(findings.choices)
    reader = Reader(html)
    rows = [attributes for tag, attributes in reader.elements if tag == "tr" and "data-front" in attributes]
    assert len(rows) == len(findings.choices) > 4
    sizes = Counter((float(row["data-bits_per_weight"]), float(row["data-rise"])) for row in rows)
    assert sizes == Counter((choice.bits_per_weight, choice.rise) for choice in findings.choices)
    command = "<span>lorcbench</span> <span>export</span> <span>synthetic</span>"
    assert all(f"{command} <span>{choice.cell}</span>" in html for choice in findings.choices)
    (units,) = [json.loads(attributes["data-units"]) for _, attributes in reader.elements if "data-units" in attributes]
    assert {name: tuple(pair) for name, pair in units.items()} == budget.UNITS
    assert take_away.chosen([]) == ""


def test_what_full_precision_takes_stands_beside_the_choices_and_what_is_not_packed_says_so():
    found = measured()
    whole = (8 * 128 * 256 * 2 + 2 * 800_000) / 1e6
    assert {choice.megabytes_fp for choice in of(found)} == {whole}
    said = {model: f"{whole:.2f} MB (float16)" for model in sorted({one.cell.model for one in found})}
    assert budget.full_precision(of(found)) == said
    lines = budget.lines(of(found), Budget.parse("8"))
    assert [line for line in lines if " in full precision: " in line] == [
        f"{model} in full precision: {size}" for model, size in said.items()
    ]
    assert "not packed" not in "".join(lines) + take_away.chosen(of(found))
    for one in found:  # as GPT-2's
        one.files = dataclasses.replace(FILES, packs=False)
    assert {choice.megabytes for choice in of(found)} == {whole}
    best = [line for line in budget.lines(of(found), Budget.parse("8")) if line.startswith("best for ")]
    assert len(best) == 2 and all(f"{whole:.2f} MB (merged: not packed), " in line for line in best)
    page = take_away.chosen(of(found))
    assert page.count("<small>merged:<br>not packed</small>") == len(of(found))
    assert f"{next(iter(said))} {whole:.2f} MB (float16)" in page
    for one in found:
        one.files = None
    assert budget.full_precision(of(found)) == {} and "In full precision:" not in take_away.chosen(of(found))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A results folder with the table of a finished study."""
    monkeypatch.chdir(tmp_path)
    chosen = of(measured())
    write_text(tmp_path / "results/synthetic" / budget.TABLE, budget.as_csv(chosen))
    return chosen


def test_the_command_prints_all_that_keeps_the_budget_if_asked_each_with_its_export(finished, capsys):
    budget.recommend(["4.25", "study=synthetic"], everything=True)
    told = capsys.readouterr().out
    kept = [choice for choice in finished if choice.bits_per_weight <= 4.25]
    assert kept and told.count("lorcbench export ") == len(kept) and all(choice.export in told for choice in kept)


def test_else_it_prints_the_best_of_each_model_and_how_many_others_there_are(finished, capsys):
    budget.recommend(["study=synthetic", "8"])
    told = capsys.readouterr().out.splitlines()
    fitting = [budget.within(front, Budget.parse("8")) for front in budget.fronts(finished).values()]
    best = [line for line in told if line.startswith("best for ")]
    assert len(best) == len(fitting) == 2
    for line, (first, *_) in zip(best, fitting, strict=True):
        assert line.startswith(f"best for {first.model}: {first.recipe}: {first.bits_per_weight:.2f} bits")
    others = sum(len(rest) for _, *rest in fitting)
    assert told[-1].startswith(f"{others} more cells on the fronts within 8: --all")
    assert sum("lorcbench export " in line for line in told) == 2


def test_the_command_ends_with_1_if_nothing_keeps_the_budget(finished, capsys):
    with pytest.raises(SystemExit) as ended:
        budget.recommend(["study=synthetic", "1"])
    assert ended.value.code == 1 and capsys.readouterr().out.count("none: the smallest, ") == 2


def test_a_study_may_be_named_as_its_folder_is_or_as_it_was_started(finished, capsys, tmp_path):
    os.rename(tmp_path / "results/synthetic", tmp_path / "results/smoke+ranks=0,8")
    for named in (["study=smoke+ranks=0,8"], ["study=smoke", "study.ranks=[0,8]"]):
        budget.recommend([*named, "4.25"])
        assert "lorcbench export " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["study=smoke", "4.25"], "results/smoke/recommended.csv is missing; run the study first: lorcbench run smoke"),
        (["study=smoke"], "0 budgets; expected one"),
        (["study=smoke", "4", "5"], "2 budgets; expected one"),
        (["4.25"], "expected a study, or model_path=…; studies are "),
    ],
)
def test_the_command_refuses_what_makes_no_sense(settings, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lorcbench", "recommend", *settings])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and expected in capsys.readouterr().err


def test_a_table_of_another_version_is_refused(finished, tmp_path):
    write_text(tmp_path / "results/synthetic" / budget.TABLE, "study,model\na,b\n")
    with pytest.raises(ConfigError, match="other columns than this version writes"):
        budget.recommend(["study=synthetic", "4"])


@pytest.mark.slow
def test_the_command_needs_no_numerical_library(finished):
    heavy = "{'numpy', 'scipy', 'torch', 'matplotlib', 'transformers', 'mlflow'} & set(sys.modules)"
    script = f"import sys; from lorcbench import cli; cli.recommend('study=synthetic', ['4.25']); print({heavy})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page in a browser, and the choices that it shows."""
    found = measured()
    findings = find(study(found), found, changes(found))
    folder = tmp_path_factory.mktemp("page")
    html = render(study(found), found, changes(found), findings, [], folder, [])
    (folder / "report.html").write_text(html)
    browser = Browser()
    browser.open((folder / "report.html").as_uri())
    yield browser, findings.choices
    assert browser.errors == []
    browser.close()


def typed(browser: Browser, text: str) -> tuple[list[str], list[str]]:
    """The export commands in the rows that are left once a budget is typed, and in those that are called best."""
    field = "document.getElementById('budget-field')"
    browser.run("document.getElementById('budget-all').checked = true")
    browser.run(f"{field}.value = {json.dumps(text)}; {field}.dispatchEvent(new Event('input'))")
    rows = "Array.from(document.querySelectorAll('#choices tbody tr:not([hidden])'))"
    commands = ".map(row => row.querySelector('code.command').textContent)"
    best = f"{rows}.filter(row => row.querySelector('.chip').getClientRects().length)"
    return browser.run(rows + commands), browser.run(best + commands)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["3", "4.25 bits", "1.7MB", "2MiB", "1.5%", "0.5ppl", "0", "0.001GB"])
def test_the_page_lets_through_what_the_command_does(page, text):
    browser, chosen = page
    limit = Budget.parse(text)
    kept = [budget.within(front, limit) for front in budget.fronts(chosen).values()]
    shown, best = typed(browser, text)
    assert sorted(shown) == sorted(choice.export for fitting in kept for choice in fitting)
    assert sorted(best) == sorted(fitting[0].export for fitting in kept if fitting)


@pytest.mark.slow
def test_the_page_says_what_would_be_right_and_shows_all_without_a_budget(page):
    browser, chosen = page
    field = "document.getElementById('budget-field')"
    says = "document.querySelector('#budget output').textContent"
    for text in ("apples", "4 apples", "4,25", "constructor"):
        assert len(typed(browser, text)[0]) == len(chosen) and typed(browser, text)[1] == []
        assert browser.run(f"{field}.getAttribute('aria-invalid')") == "true"
        assert browser.run(says) == f"Expected {budget.EXPECTED}."
    assert len(typed(browser, "")[0]) == len(chosen)
    assert browser.run(f"{field}.getAttribute('aria-invalid')") == "false" and browser.run(says) == ""


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "3", "4.25 bits", "1.7MB", "1.5%", "0"])
def test_the_page_shows_the_best_alone_until_all_are_asked_for(page, text):
    browser, chosen = page
    typed(browser, text)
    box = "document.getElementById('budget-all')"
    browser.run(f"{box}.checked = false; {box}.dispatchEvent(new Event('change'))")
    rows = "Array.from(document.querySelectorAll('#choices tbody tr:not([hidden])'))"
    shown = browser.run(f"{rows}.map(row => row.querySelector('code.command').textContent)")
    limits = [Budget.parse(text)] if text else [Budget(str(most), "bits_per_weight", most) for most in BUDGETS]
    fitting = [budget.within(front, limit) for front in budget.fronts(chosen).values() for limit in limits]
    assert sorted(shown) == sorted({first.export for first, *_ in filter(None, fitting)})
    assert len(shown) < len(chosen)


@pytest.mark.slow
def test_the_page_breaks_no_command_inside_a_name(page):
    browser, _ = page
    words = "Array.from(document.querySelectorAll('#choices .command span'))"
    assert browser.run(f"{words}.every(word => word.getClientRects().length <= 1)")


# One recipe for all models


@pytest.mark.parametrize("seed", range(5))
def test_shared_recipes_fit_on_every_model_and_more_bits_lose_less(seed):
    found = measured(seed)
    compared = changes(found)
    recipes = shared_recipes(found, compared, advise(found, compared))
    assert recipes and all(len(one.cells) == len(one.models) == 2 for one in recipes)
    by_key = {one.cell.key: one for one in found}
    for one in recipes:
        own = [by_key[key] for key in one.cells]
        assert one.bits_per_weight == max(result.bits_per_weight for result in own)
        rises = [compared[result.cell].relative.value for result in own]
        assert min(rises) - 1e-12 <= one.rise <= max(rises) + 1e-12 and one.rise_low <= one.rise <= one.rise_high
    assert [one.rise for one in recipes] == sorted((one.rise for one in recipes), reverse=True)
    (best,) = recommend(found, compared, [9])

    def lines(text: str) -> list[str]:
        limit = Budget.parse(text)
        return shared.lines(recipes, limit.quantity, limit.most, limit.is_size)

    (line,) = lines("9")
    assert best.words in line and line.startswith("best of one recipe for all 2 stand-ins: ")
    assert lines("0.5ppl") == [] and len(lines("900%")) == 1


def test_shared_recipes_survive_the_table_and_one_model_has_none(tmp_path):
    found = measured()
    compared = changes(found)
    recipes = shared_recipes(found, compared, advise(found, compared))
    recipes[0] = dataclasses.replace(recipes[0], megabytes=None)
    write_text(tmp_path / shared.TABLE, shared.as_csv(recipes))
    assert shared.read(tmp_path) == recipes
    alone = [one for one in found if one.cell.model == found[0].cell.model]
    assert shared_recipes(alone, changes(alone), advise(alone, changes(alone))) == []
    assert shared.read(tmp_path / "elsewhere") == []
    write_text(tmp_path / shared.TABLE, "study,model\na,b\n")
    with pytest.raises(ConfigError, match="other columns than this version writes"):
        shared.read(tmp_path)

"""What to use: fronts and recommendations, by what must hold between them whatever the numbers."""

import dataclasses
import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from page_reader import Reader
from synthetic import result, results, study

from lorcbench.config import compose
from lorcbench.report import headline
from lorcbench.report.comparison import changes
from lorcbench.report.derived import derive
from lorcbench.report.findings import find
from lorcbench.report.page import advice as page_advice
from lorcbench.report.recommend import BUDGETS, USABLE, advise, fronts, kind_of, rank_costs, recommend
from lorcbench.report.wording import recipe
from lorcbench.study import published
from lorcbench.study.cells import Cell

MODELS = ("opt-standin-s", "opt-standin-m", "bloom-standin-s")


def arbitrary(seed: int, models: tuple[str, ...] = MODELS) -> list:
    """A study whose cells have arbitrary sizes and losses, some of them equal."""
    draw = np.random.default_rng(seed)
    found = results(models)
    for one in found[1:]:
        if one.cell.method != "none":
            one.bits_per_weight = float(draw.integers(8, 36)) / 4
            loss = float(draw.integers(0, 12)) / 20
            one.nll = {corpus: values + loss for corpus, values in result(f"{one.cell.model} none w16 r0").nll.items()}
    return found


@pytest.mark.parametrize("seed", range(5))
def test_no_cell_of_a_front_is_beaten_and_every_other_one_is(seed):
    found = arbitrary(seed)
    front = fronts(found)
    assert len(front) == len(found)
    for one in found:
        rivals = [other for other in found if other.cell.model == one.cell.model]
        at_least_as_good = [o for o in rivals if o.mean_ppl <= one.mean_ppl and o.bits_per_weight <= one.bits_per_weight]
        place = (one.mean_ppl, one.bits_per_weight)
        better = [other for other in at_least_as_good if (other.mean_ppl, other.bits_per_weight) != place]
        assert (front[one.cell] is None) == (better == [])
        if better:
            assert front[one.cell] in better and front[front[one.cell].cell] is None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("models", [MODELS, MODELS[:1]])
def test_a_recommendation_keeps_its_budget_and_more_bits_never_lose_more(seed, models):
    found = arbitrary(seed, models)
    front, compared = fronts(found), changes(found)
    chosen = recommend(found, compared, budgets=[2, 2.5, 3, 4, 5, 6, 8, 9])
    assert chosen and [one.budget for one in chosen] == sorted(one.budget for one in chosen)
    for one in chosen:
        sizes = {model: change.result.bits_per_weight for model, change in one.changes.items()}
        assert set(sizes) == set(models) and max(sizes.values()) == one.bits[1] <= one.budget
        beaten = {model for model, change in one.changes.items() if front[change.result.cell] is not None}
        assert set(one.beaten) == beaten and len(beaten) < len(models)
        assert one.range[0] - 1e-12 <= one.loss.value <= one.range[1] + 1e-12
    losses = [one.loss.value for one in chosen]
    assert losses == sorted(losses, reverse=True)
    for smaller, larger in pairwise(chosen):
        assert larger.recipe != smaller.recipe
        assert math.isclose(1 + larger.gain.value, (1 + larger.loss.value) / (1 + smaller.loss.value), rel_tol=1e-9)


def test_a_recipe_that_one_model_was_not_measured_with_is_not_recommended():
    found = results(MODELS)
    best = recommend(found, changes(found), [3.0])[0].recipe
    lacking = [one for one in found if one.cell != dataclasses.replace(best, model=MODELS[1])]
    assert recommend(lacking, changes(lacking), [3.0])[0].recipe != best
    alone = [one for one in found if one.cell.model == MODELS[0] or one.cell.is_full_precision]
    assert recommend(alone, changes(alone), [3.0])[0].recipe == best  # full precision alone is no measurement of a recipe


def test_what_is_derived_failed_or_no_number_is_never_recommended():
    rates = [result(f"opt-standin-s zq_global+lr={rate} w3-asym-row r0", loss) for rate, loss in ((0.001, 0.1), (0.01, 0.2))]
    found = [result("opt-standin-s none w16 r0"), *rates, result("opt-standin-s rtn w3-asym-row r0", 0.15)]
    found.append(result("opt-standin-s gptq w2-asym-row r0", 0.0, status="failed"))
    broken = result("opt-standin-s gptq w3-asym-row r0", 0.05)
    broken.nll["source"] = np.full(96, np.nan)
    everything = [*found, broken, *derive(found)]
    (one,) = recommend(everything, changes(everything))
    assert one.recipe.method == "zq_global+lr=0.001" and one.budget == 3.5
    assert not any(front.method.endswith("*") or front == broken.cell for front in fronts(everything))


def test_activations_have_fronts_of_their_own():
    found = [result("opt-standin-s none w16 r0"), result("opt-standin-s gptq w4-asym-row r0", 0.1)]
    rounded = result("opt-standin-s rtn w4-asym-row r0", 0.2)
    rounded.cell = dataclasses.replace(rounded.cell, activation="a8-asym-token")
    front = fronts([*found, rounded])
    assert front[rounded.cell] is None
    (only,) = advise([found[0], rounded], changes([found[0], rounded]))
    assert only.activation == "a8-asym-token" and len(only.recommendations) == 1
    (both,) = advise([*found, rounded], changes([*found, rounded]))
    assert both.activation == "a16" and both.recommendations[0].words == "GPTQ, 4 bits, one scale per row"


def test_stand_ins_the_papers_models_and_others_are_advised_apart():
    names = ("opt-standin-s", "opt-125m", "my-own-model")
    found = [
        result(f"{name} {rest}", loss) for name in names for rest, loss in (("none w16 r0", 0), ("rtn w4-sym-g64 r0", 0.1))
    ]
    advice = advise(found, changes(found))
    assert [(part.kind, part.models) for part in advice] == [
        ("stand-ins", ("opt-standin-s",)),
        ("models of the paper", ("opt-125m",)),
        ("other models", ("my-own-model",)),
    ]
    assert {kind_of(one) for one in found} == {part.kind for part in advice}


@pytest.mark.parametrize(("gain", "pays"), [(0.0001, False), (0.02, True)])
def test_what_does_not_pay_is_said(gain, pays):
    found = [result(f"opt-standin-s {name}", 0.1) for name in ("rtn w3-asym-row r0", "rtn w4-asym-row r0")]
    noise = 0.02 * np.random.default_rng(1).standard_normal(96)
    found[1].nll = {corpus: values - gain + noise - noise.mean() for corpus, values in found[0].nll.items()}
    found.append(result("opt-standin-s none w16 r0"))
    first, second = recommend(found, changes(found))
    assert first.is_gain and second.is_gain == pays and ("not told apart" in headline.remark(second)) != pays


def test_the_terminal_has_a_line_per_budget_and_the_price_of_a_rank():
    found = results()
    lines = headline.lines(advise(found, changes(found)), rank_costs(found))
    assert lines[0].startswith("  what to use, 2 stand-ins")
    assert 3 <= len(lines) - 2 <= len(BUDGETS) and all("up to" in line and "% [" in line for line in lines[1:-1])
    assert lines[-1].endswith("rank 8 would cost 0.01.") and "12.5 % of the width" in lines[-1]
    assert headline.lines([], rank_costs(found)) == []


# What nobody should use


def shattered(models: tuple[str, ...] = ("opt-standin-s",)) -> list:
    """A study whose best recipe of 3 bits multiplies the perplexity of the first model by about 190, of others by 1.1."""
    found = []
    for index, model in enumerate(models):
        found.append(result(f"{model} none w16 r0"))
        found.append(result(f"{model} rtn w2-asym-g64 r0", 5.25 if index == 0 else 0.1, seed=1))
        found.append(result(f"{model} gptq w3-asym-g64 r0", 0.3, seed=2))
    return found


def test_a_budget_whose_best_recipe_more_than_doubles_the_perplexity_has_none_usable():
    found = shattered()
    first, second = recommend(found, changes(found), [2.5, 3.5])
    assert not first.usable and second.usable and first.loss.value > 100 * USABLE
    lines = headline.lines(advise(found, changes(found), [2.5, 3.5]), [])
    assert lines[1] == "    up to 2.5 bits: none usable: the best, RTN, 2 bits, groups of 64, rises +18,952 %"
    assert lines[2].startswith("    up to 3.5 bits: GPTQ, 3 bits, groups of 64  3.25 bits, +")


def test_the_page_says_so_too_and_why():
    found = shattered(("opt-standin-s", "bloom-standin-s"))
    compared = changes(found)
    findings = find(study(found), found, compared)
    assert [one.usable for part in findings.advice for one in part.recommendations] == [False, True]
    reader = Reader(page_advice.what_to_use(findings))
    assert reader.row("3 bits")[1].startswith("none usable: the best, RTN, 2 bits, groups of 64, rises +")
    assert headline.criterion() in page_advice.what_to_use(findings)
    by_model = Reader(page_advice.by_model(found, compared, findings.advice)).row("3 bits")
    assert by_model[1].startswith("none usable: the best, RTN") and by_model[2].startswith("+")


def test_a_recipe_that_is_usable_on_average_names_the_models_that_it_breaks():
    found = shattered(MODELS)
    found[1] = result("opt-standin-s rtn w2-asym-g64 r0", 0.9, seed=1)  # e^0.9 is 2.5 times the perplexity
    first = recommend(found, changes(found), [2.5])[0]
    assert first.usable and first.broken == ("opt-standin-s",)
    assert "not usable for opt-standin-s" in headline.remark(first)


def test_the_bound_is_what_a_tenth_of_the_weights_costs_in_print():
    means = {}
    for model in {row.model for row in published.load()}:
        if model in compose.names("model") and (full := published.full_precision(model)):
            means[model] = sum(full.values()) / len(full)
    weights = {model: compose.load("model", model).block_weights for model in means}
    family = {model: model.partition("-")[0] for model in means}
    tenths = [
        means[small] / means[large] - 1
        for small, large in permutations(means, 2)
        if family[small] == family[large] and 5 <= weights[large] / weights[small] <= 15
    ]
    assert len(tenths) > 8 and max(tenths) < USABLE


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gptq w4-asym-g32 r0", "GPTQ, 4 bits, groups of 32"),
        (
            "gptq-cached w3-sym-row r8",
            "GPTQ (gptq-cached), 3 bits, one scale per row, symmetric, LoRC of rank 8 with INT8 factors",
        ),
        ("zq_global+lr=0.001 w2-asym-g64-fp32scale r0", "ZQ-Global (lr=0.001), 2 bits, groups of 64, float32 scales"),
        ("none w16 r0", "full precision"),
        ("rtn w8-asym-row-pow2 r0", "RTN, 8 bits, one scale per row, divisor pow2"),
    ],
)
def test_a_recipe_is_spelled_out(name, words):
    cell = result(f"opt-standin-s {name}").cell
    assert recipe(cell) == words
    if cell.method != "none":
        rounded = recipe(dataclasses.replace(cell, activation="a8-sym-g16"))
        assert "8-bit activations in groups of 16, symmetric" in rounded
    assert isinstance(cell, Cell)

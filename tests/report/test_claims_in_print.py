"""Claims beside print, and counted: what is evidence, what chance alone supports, what the paper printed of a model."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from synthetic import printed_means, result, results

from lorcbench.report import claims, tally
from lorcbench.report.comparison import changes
from lorcbench.report.inprint import printed
from lorcbench.report.intervals import holm, mean_perplexity_difference
from lorcbench.report.page import evidence
from lorcbench.report.statement import OURS
from lorcbench.report.statements import statements
from lorcbench.study import published
from lorcbench.study.expansion import load_study

pytestmark = pytest.mark.slow
PAGE = Path("results/lorc/report.html")

STUDIES = ("sensitivity", "methods", "groups", "groups-w4a8", "lorc", "rank", "factor-precision", "size-quality")


def judge(found) -> list[claims.Verdict]:
    """The verdicts on results by themselves."""
    return claims.judge(found, changes(found))


@pytest.fixture(scope="module")
def papers() -> list:
    """The paper's own means as results."""
    return list(
        {one.cell: one for name in STUDIES for one in printed_means(load_study(name, ["study.max_params=null"]))}.values()
    )


@pytest.fixture(scope="module")
def judged(papers) -> list[claims.Verdict]:
    """The verdicts on the paper's own means."""
    return [verdict for verdict in judge(papers) if not verdict.scope.startswith("all")]


def test_the_papers_own_numbers_come_out_as_printed(judged, papers):
    told = [verdict for verdict in judged if verdict.verdict != "undecided"]
    assert len(told) > 700 and all(verdict.in_print for verdict in told)
    # Print has several numbers of some cells. Here they are those of other tables than the statement's.
    others = {
        (one.claim, one.subject.cell.key)
        for one in statements(papers)
        if (paper := printed(one)) and paper.levels != pytest.approx([term.mean_ppl for _, term in one.terms])
    }
    told_otherwise = [verdict for verdict in told if verdict.agreement != "as printed"]
    assert 0 < len(told_otherwise) <= 12
    for verdict in told_otherwise:
        model, *recipe = verdict.scope.replace(":", "").split()
        assert any(claim == verdict.claim and key.startswith(f"{model}/{recipe[0]}/") for claim, key in others), verdict


def test_what_no_table_has_is_ours_and_only_that(judged):
    assert [verdict.claim for verdict in judged if verdict.is_ours] == []


def test_each_number_in_print_is_of_the_very_cell(papers):
    anywhere: dict[tuple, set[float]] = {}
    for row in published.load():
        if row.corpus == "mean" and row.source == "zeroquant-v2":
            anywhere.setdefault((row.model, row.method, row.weight, row.activation, row.rank), set()).add(row.ppl)
    for statement in statements(papers):
        if (told := printed(statement)) is not None:
            for level, (_, one) in zip(told.levels, statement.terms, strict=True):
                cell = one.cell
                places = [(cell.model, name, cell.weight, cell.activation, cell.rank) for name in (cell.method, "best")]
                assert any(level in anywhere.get(place, ()) for place in places), (statement.claim, cell.key, told)


def test_a_faithful_run_on_opt_125m_agrees_where_the_paper_contradicts_its_own_claim(papers):
    names = ("gptq", "zq_global", "zq_local")
    small = [one for one in papers if one.cell.model == "opt-125m" and one.cell.method in names]
    (verdict,) = [one for one in judge(small) if one.claim == "At W4A16, GPTQ has a lower perplexity than ZQ-Global"]
    assert (verdict.verdict, verdict.agreement) == ("contradicted", "as printed")
    worse = [
        dataclasses.replace(one, nll={c: v + 0.1 for c, v in one.nll.items()}) if "zq" in one.cell.method else one
        for one in small
    ]
    (verdict,) = [one for one in judge(worse) if one.claim == verdict.claim]
    assert (verdict.verdict, verdict.agreement) == ("supported", "not as printed")
    page = evidence.claims([verdict])
    assert "not as printed" in page and f"in print: {verdict.in_print.split()[0]}" in page


@pytest.mark.parametrize(
    ("below", "above"),
    [
        ("gptq w2-asym-row r0", "rtn w2-asym-row r0"),
        ("rtn w2-asym-g64 r0", "rtn w2-asym-row r0"),
        ("rtn w3-asym-row r8", "rtn w3-asym-row r0"),
        ("rtn w2-asym-row r8", "rtn w2-asym-row r0"),
    ],
)
def test_what_no_table_makes_is_marked_as_our_extrapolation(below, above):
    found = [result(f"opt-125m {below}", 0.2, seed=1), result(f"opt-125m {above}", 0.3, seed=2)]
    verdicts = judge(found)
    assert verdicts and all(verdict.source == OURS and verdict.is_ours and not verdict.in_print for verdict in verdicts)
    assert "our extrapolation" in evidence.claims(verdicts)
    assert tally.counted(tally.claims(verdicts), ours=False) == (0, 0)


def test_stand_ins_have_no_numbers_in_print():
    assert not any(verdict.in_print or verdict.agreement for verdict in judge(results()))


def test_cached_statistics_further_seeds_and_pools_are_no_further_evidence():
    models = ("opt-standin-s", "opt-standin-m")
    found = [result(f"{model} rtn w3-asym-row r0", 0.4) for model in models]
    for model in models:
        found += [result(f"{model} {name} w3-asym-row r0", 0.2, seed=1) for name in ("gptq-cached", "gptq", "gptq+damp=0.05")]
        found[-3].hessian = "cached"
        found.append(dataclasses.replace(found[-2], cell=dataclasses.replace(found[-2].cell, calibration="stdlib+seed=1")))
    verdicts = judge(found)
    counted = [verdict.scope for verdict in verdicts if verdict.counted]
    assert counted == [f"{model}: gptq stdlib w3-asym-row" for model in models] and len(verdicts) > 8
    assert all(verdict.familywise == "" for verdict in verdicts if not verdict.counted)
    (claim,) = tally.claims(verdicts)
    assert claim.counts() == {"supported": "2 supported"} and claim.status == "supported"
    alone = judge([one for one in found if one.cell.method in ("rtn", "gptq-cached")])
    assert sum(verdict.counted for verdict in alone) == 2  # there is no other evidence


def noisy(seed: int, count: int = 30) -> list:
    """Comparisons of cells that do not differ but for noise, on as many models."""
    draw = np.random.default_rng(seed)
    found = []
    for index in range(count):
        pair = [result(f"opt-standin-{index} {name} w3-asym-row r0", 0.3) for name in ("rtn", "gptq")]
        pair[1].nll = {corpus: values + 0.01 * draw.standard_normal(96) for corpus, values in pair[0].nll.items()}
        found += pair
    return found


def test_holm_never_supports_or_contradicts_more_than_each_test_by_itself():
    changed = 0
    for seed in range(4):
        for verdict in judge(noisy(seed)):
            if verdict.counted:
                assert verdict.familywise in (verdict.verdict, "undecided")
                changed += verdict.familywise != verdict.verdict
    assert changed > 2  # of 120 tests without an effect, 6 are expected to decide something by themselves


def test_holm_is_as_its_definition_says():
    draw = np.random.default_rng(0)
    for count in (1, 2, 7, 40):
        p_values = list(draw.uniform(0, 0.2, count) ** 2)
        for alpha in (0.01, 0.05):
            rejected = set()
            for step, index in enumerate(np.argsort(p_values)):
                if p_values[index] > alpha / (count - step):
                    break
                rejected.add(index)
            assert {index for index, p in enumerate(holm(p_values)) if p <= alpha} == rejected
    assert holm([]) == [] and holm([0.5, 0.5]) == [1.0, 1.0]


@pytest.mark.parametrize("shift", [-0.01, -0.001, 0.0, 0.0005, 0.02])
@pytest.mark.parametrize("noise", [0.001, 0.02])
def test_a_p_value_is_below_a_fortieth_where_the_interval_excludes_the_bound(shift, noise):
    first, second = (
        result("opt-125m rtn w3-asym-row r0", 0.3),
        result("opt-125m gptq w3-asym-row r0", 0.3 + shift, noise, seed=1),
    )
    for independent in ((), tuple(first.nll)):
        change = mean_perplexity_difference(second.nll, first.nll, independent)
        for bound in (change.low - 1, change.value, 0.0, 0.02, change.high + 1):
            assert (change.p_not_below(bound) < 0.025) == (change.high < bound)
            assert (change.p_not_above(bound) < 0.025) == (change.low > bound)
            assert change.p_not_below(bound) + change.p_not_above(bound) == pytest.approx(1)


def test_claims_are_counted_and_not_their_tests():
    found = tally.claims(judge(results()))
    supported, count = tally.counted(found, ours=False)
    ours = tally.counted(found, ours=True)
    assert supported == count == len([claim for claim in found if not claim.is_ours]) and count < len(judge(results())) / 2
    assert ours[1] == len([claim for claim in found if claim.is_ours])
    lines = tally.lines(judge(results()), PAGE)
    assert f"of the paper: {supported} of {count} supported" in lines[1] and "Holm" in lines[1]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (("opt-standin-s",), "stand-ins"),
        (("opt-125m",), "models of the paper"),
        (("my-own-model",), "other models"),
        (("my-own-model", "bloom-560m"), "models of the paper and other models"),
    ],
)
def test_a_folder_of_ones_own_is_no_published_model(models, said):
    recipes = (("rtn", 0.3, 1), ("gptq", 0.2, 2))
    found = [result(f"{model} {name} w3-asym-row r0", loss, seed=seed) for model in models for name, loss, seed in recipes]
    assert tally.lines(judge(found), PAGE)[0].startswith(f"  claims, tested on {said}: ")


def test_of_models_of_ones_own_the_terminal_says_one_line_of_the_papers_claims():
    own, known = (
        [result(f"{model} {name} w3-asym-row r0", loss, seed=seed) for name, loss, seed in (("rtn", 0.3, 1), ("gptq", 0.2, 2))]
        for model in ("my-own-model", "opt-125m")
    )
    assert tally.is_about_others(judge(own)) and not tally.is_about_others(judge(own + known))
    assert tally.brief(judge(own), PAGE) == [f"  whether the paper's claims hold here, too: {PAGE}#claims"]
    assert tally.brief([], PAGE) == tally.lines([], PAGE) == []

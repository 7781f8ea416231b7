"""Claims against results that were made to support, contradict or leave them open."""

import dataclasses

import numpy as np
import pytest
from synthetic import result, results

from lorcbench.claims import VERDICTS, Verdict, full_precision, judge, number, percent

RESAMPLES = 300


def verdicts_of(found, *words: str) -> list[Verdict]:
    """The verdicts whose claim contains all of `words`."""
    return [verdict for verdict in judge(found, RESAMPLES) if all(word in verdict.claim for word in words)]


def pair(model: str, base: str, other: str, shift: float, noise: float = 0.002) -> list:
    """Two cells, `other` above `base` by `shift` nats in every window but for noise."""
    return [result(f"{model} {base}", 0.3, noise, seed=1), result(f"{model} {other}", 0.3 + shift, noise, seed=2)]


def test_a_study_in_which_everything_helps_supports_every_claim():
    verdicts = judge(results(), RESAMPLES)
    halved = [verdict for verdict in verdicts if "more than half" in verdict.claim]
    assert {verdict.verdict for verdict in verdicts if verdict not in halved} == {"supported"}
    assert {verdict.verdict for verdict in halved} == {"contradicted"}  # LoRC takes away a fifth here
    per_claim = {claim: sum(verdict.claim == claim for verdict in verdicts) for claim in {v.claim for v in verdicts}}
    # Each claim for both models, at 4 and 3 bits also pooled over them, once per remaining recipe.
    assert sorted(per_claim.items()) == [
        ("At 2 bits by row, LoRC takes away more than half of what GPTQ loses", 2),
        ("At 2 bits by row, LoRC takes away more than half of what RTN loses", 2),
        ("At 2 bits, GPTQ has a lower perplexity than RTN", 4),
        ("At 2 bits, LoRC lowers the perplexity of GPTQ", 4),
        ("At 2 bits, LoRC lowers the perplexity of RTN", 4),
        ("At 2 bits, groups instead of rows lower the perplexity of GPTQ", 2),
        ("At 2 bits, groups instead of rows lower the perplexity of RTN", 2),
        ("At 3 bits, GPTQ has a lower perplexity than RTN", 6),
        ("At 3 bits, LoRC lowers the perplexity of GPTQ", 6),
        ("At 3 bits, LoRC lowers the perplexity of RTN", 6),
        ("At 3 bits, groups instead of rows lower the perplexity of GPTQ", 3),
        ("At 3 bits, groups instead of rows lower the perplexity of RTN", 3),
        ("At 4 bits, GPTQ has a lower perplexity than RTN", 6),
        ("At 4 bits, LoRC lowers the perplexity of GPTQ", 6),
        ("At 4 bits, LoRC lowers the perplexity of RTN", 6),
        ("At 4 bits, groups instead of rows lower the perplexity of GPTQ", 3),
        ("At 4 bits, groups instead of rows lower the perplexity of RTN", 3),
        ("INT8 round-to-nearest with one scale a row stays within 0.2 % of full precision", 2),
    ]
    assert all(verdict.standin and verdict.source for verdict in verdicts)
    assert verdicts == judge(results(), RESAMPLES)


CASES = {
    "GPTQ has a lower perplexity than RTN": ("rtn w{}-asym-row r0", "gptq+damp=0.05 w{}-asym-row r0"),
    "groups instead of rows lower the perplexity of RTN": ("rtn w{}-sym-row r0", "rtn w{}-sym-g64 r0"),
    "groups instead of rows lower the perplexity of GPTQ": ("gptq w{}-sym-row r0", "gptq w{}-sym-g64 r0"),
    "LoRC lowers the perplexity of RTN": ("rtn w{}-asym-row r0", "rtn w{}-asym-row r16"),
    "LoRC lowers the perplexity of GPTQ": ("gptq-cached w{}-asym-g32 r0", "gptq-cached w{}-asym-g32 r16"),
}


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("claim", CASES)
@pytest.mark.parametrize(("shift", "expected"), [(-0.05, "supported"), (0.05, "contradicted"), (0.0, "undecided")])
def test_the_sign_of_the_whole_interval_decides(claim, bits, shift, expected):
    base, other = (recipe.format(bits) for recipe in CASES[claim])
    (verdict,) = judge(pair("opt-standin-s", base, other, shift, noise=0.02), RESAMPLES)
    assert (verdict.claim, verdict.verdict) == (f"At {bits} bits, {claim}", expected)
    assert verdict.scope.startswith("opt-standin-s: " + other.split()[0])


@pytest.mark.parametrize(
    ("rise", "noise", "expected"),
    [(0.0002, 0.001, "supported"), (0.004, 0.001, "contradicted"), (-0.004, 0.001, "contradicted"), (0.002, 0.02, "undecided")],
)
def test_int8_must_stay_inside_the_bound_on_both_sides(rise, noise, expected):
    found = [result("opt-standin-s none w16 r0"), result("opt-standin-s rtn w8-asym-row r0", rise, noise, seed=3)]
    (verdict,) = judge(found, RESAMPLES)
    assert verdict.verdict == expected
    assert "%" in verdict.evidence


def test_pooling_decides_what_one_model_cannot_and_keeps_the_noise_that_models_share():
    models = [f"opt-standin-{index}" for index in range(9)]
    base, other = "rtn w3-asym-row r0", "gptq w3-asym-row r0"

    def pooled(seeds: list[int]) -> Verdict:
        found = [result(f"{model} {base}", 0.3, 0.0) for model in models[: len(seeds)]]
        found += [result(f"{model} {other}", 0.295, 0.05, seed=s) for model, s in zip(models, seeds, strict=False)]
        *single, together = judge(found, RESAMPLES)
        assert len(single) == len(seeds) and not any(verdict.scope.startswith("all") for verdict in single)
        return together

    two, independent, shared = pooled([4] * 2), pooled(list(range(1, 10))), pooled([4] * 9)
    assert two.verdict == "undecided" and two.evidence.endswith("geometric mean of 2 models")
    assert independent.verdict == "supported" and independent.evidence.endswith("geometric mean of 9 models")
    # Nine models with the same noise say no more than two of them.
    assert shared.evidence.split(",")[:2] == two.evidence.split(",")[:2]


def test_stand_ins_and_published_models_are_not_pooled():
    recipes = ("rtn w3-asym-row r0", "rtn w3-asym-row r8")
    models = ["opt-standin-s", "opt-125m", "bloom-standin-s", "bloom-560m"]
    found = [result for model in models for result in pair(model, *recipes, -0.1)]
    verdicts = judge(found, RESAMPLES)
    assert [verdict.scope.split(":")[0] for verdict in verdicts] == [*models, "all stand-ins", "all models"]
    assert [verdict.standin for verdict in verdicts] == [True, False] * 3


def test_every_gptq_variant_and_calibration_is_a_comparison_of_its_own():
    rtn = result("opt-standin-s rtn w2-asym-row r0", 0.4)
    variants = [result(f"opt-standin-s {name} w2-asym-row r0", 0.2) for name in ("gptq", "gptq-cached", "gptq+damp=0.05")]
    seeded = result("opt-standin-s gptq w2-asym-row r0", 0.25)
    seeded.cell = dataclasses.replace(seeded.cell, calibration="stdlib+seed=1")
    scopes = [verdict.scope for verdict in judge([rtn, *variants, seeded], RESAMPLES)]
    assert len(set(scopes)) == 4


def test_the_finest_group_is_compared_with_the_row():
    found = [result(f"opt-standin-s rtn w2-asym-{group} r0", 0.3) for group in ("row", "g128", "g32", "g64")]
    (verdict,) = verdicts_of(found, "groups")
    assert verdict.scope == "opt-standin-s: rtn w2-asym-g32"


def test_cells_without_numbers_or_partners_give_no_verdict():
    assert judge([], RESAMPLES) == []
    found = pair("opt-standin-s", "rtn w2-asym-row r0", "gptq w2-asym-row r0", -0.1)
    found[0].status, found[0].nll = "failed", {}
    assert judge(found, RESAMPLES) == []
    unmatched = [result("opt-standin-s rtn w2-asym-row r0"), result("opt-standin-s gptq w2-asym-g32 r0")]
    assert judge(unmatched, RESAMPLES) == []


def test_losses_that_are_no_numbers_decide_nothing():
    found = pair("opt-standin-s", "rtn w2-asym-row r0", "gptq w2-asym-row r0", -0.1)
    found[1].nll["source"] = np.full(96, np.nan)
    (verdict,) = judge(found, RESAMPLES)
    assert verdict.verdict == "undecided"


def test_the_full_precision_cell_of_a_model_is_the_finished_one_without_activation_rounding():
    plain, rounded = result("opt-125m none w16 r0"), result("opt-125m none w16 r0")
    rounded.cell = dataclasses.replace(rounded.cell, activation="a8-asym-token")
    failed = result("bloom-560m none w16 r0", status="failed")
    assert full_precision([rounded, plain, failed]) == {"opt-125m": plain}


def test_numbers_are_spelled_for_people():
    assert [number(-14.357, "+"), number(158.24), number(12345.6)] == ["−14.36", "158.2", "12,346"]
    assert [percent(0.1234), percent(-0.00012, 3)] == ["+12.3 %", "−0.012 %"]
    assert set(VERDICTS) == {"supported", "contradicted", "undecided"}

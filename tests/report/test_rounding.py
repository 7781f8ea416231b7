"""Each method beside rounding to nearest: which cells are compared, the numbers, Holm over all of them, the sentence."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import t
from synthetic import result, results

from lorcbench.report import rounding, rows
from lorcbench.report.page.rounding import against_rounding

RTN = "opt-standin-s rtn w3-asym-g32 r0"
GPTQ = RTN.replace("rtn", "gptq")


def changed(one, **cell):
    """A result under another cell."""
    return dataclasses.replace(one, cell=dataclasses.replace(one.cell, **cell))


def slowly(nll, other) -> tuple[float, float, float]:
    """The difference of the mean perplexities, its standard error and degrees of freedom, sum by sum."""
    value, parts = 0.0, []
    for corpus, losses in nll.items():
        above, below = math.exp(sum(losses) / len(losses)), math.exp(sum(other[corpus]) / len(losses))
        value += (above - below) / len(nll)
        pulls = [(above * a - below * b) / len(nll) for a, b in zip(losses, other[corpus], strict=True)]
        n, terms = len(pulls), round(0.4 * len(pulls) ** (2 / 3))
        squares = []
        for j in range(1, terms + 1):
            wave = [math.sqrt(2 / n) * math.cos(math.pi * j * (i + 0.5) / n) for i in range(n)]
            squares.append(sum(w * (pull - sum(pulls) / n) for w, pull in zip(wave, pulls, strict=True)) ** 2)
        parts.append((sum(squares) / terms / n, terms))
    variance = sum(part for part, _ in parts)
    return value, math.sqrt(variance), variance**2 / sum(part**2 / terms for part, terms in parts)


def test_a_row_is_what_the_losses_of_both_cells_give():
    rounded, other = result(RTN, 0.1), result(GPTQ, 0.0998, seed=1)
    (one,) = rounding.find([rounded, other])
    row = one.row("mine")
    value, error, degrees = slowly(other.nll, rounded.nll)
    assert row["delta_ppl"] == pytest.approx(value)
    half = error * t.ppf(0.975, degrees)
    assert (row["delta_ppl_low"], row["delta_ppl_high"]) == pytest.approx((value - half, value + half))
    assert row["p"] == row["p_holm"] == pytest.approx(2 * t.sf(abs(value) / error, degrees))
    assert row["rise"] == pytest.approx(row["ppl"] / row["ppl_rtn"] - 1)
    assert row["told_apart"] == (row["p"] < 0.05) == (half < abs(value))
    assert row["rtn"] == rounded.cell.key and set(row) == set(rounding.COLUMNS)
    assert rows.as_csv(rounding.COLUMNS, [row]).count("\n") == 2


def test_the_difference_turns_round_with_the_cells():
    rounded, other = result(RTN, 0.1), result(GPTQ, 0.09, seed=1)
    (one,) = rounding.find([rounded, other])
    (turned,) = rounding.find([changed(rounded, method="gptq"), changed(other, method="rtn", calibration="none")])
    there, back = one.change.mean, turned.change.mean
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert (one.told_apart, one.p) == (turned.told_apart, pytest.approx(turned.p))
    assert (1 + one.change.relative.value) * (1 + turned.change.relative.value) == pytest.approx(1)


@pytest.mark.parametrize(
    "cell", [{"weight": "w4-asym-g32"}, {"activation": "a8-asym-token"}, {"model": "opt-125m"}, {"rank": 8}]
)
def test_only_cells_of_one_format_are_compared(cell):
    rounded, other = result(RTN, 0.1), result(GPTQ, 0.09, seed=1)
    assert rounding.find([rounded, changed(other, **cell)]) == []


def test_without_rounding_or_another_method_there_is_nothing():
    assert rounding.find([result(GPTQ, 0.09)]) == rounding.find([result(RTN, 0.1)]) == []
    assert rounding.sentence([]) == against_rounding([]) == ""
    derived = dataclasses.replace(result(GPTQ), derived="chosen")
    assert rounding.find([result(RTN), derived, dataclasses.replace(result(GPTQ), status="failed")]) == []
    shorter = result(GPTQ)
    shorter = dataclasses.replace(shorter, nll={name: losses[:50] for name, losses in shorter.nll.items()})
    assert rounding.find([result(RTN), shorter]) == []


def test_rounding_of_the_same_calibration_comes_before_that_of_none():
    # Factors that know the inputs need a calibration, whoever makes the codes.
    cell = {"calibration": "stdlib", "lorc": "exact-int8", "rank": 8}
    same, other = changed(result(RTN, 0.1), **cell), changed(result(GPTQ, 0.09, seed=1), **cell)
    another = changed(result(RTN, 0.2), **cell | {"calibration": "stdlib+seed=1"})
    (one,) = rounding.find([result(RTN, 0.3), another, same, other])
    assert one.change.baseline is same


def test_holm_is_over_all_comparisons_of_the_study():
    found = rounding.find(results())
    assert len(found) == 26 and [one.change.result.cell.method for one in found] == ["gptq"] * 26
    p = np.array([one.p for one in found])
    smallest = found[int(p.argmin())]
    assert smallest.p_holm == pytest.approx(min(1.0, 26 * p.min()))
    assert all(one.p <= one.p_holm <= 1 for one in found)
    assert all(one.told_apart for one in found if one.survives)


def test_the_sentence_counts_what_the_table_has():
    found = rounding.find(results())
    said = rounding.sentence(found)
    assert said.startswith("Against rounding (RTN) in the same format, surely better (and after Holm): GPTQ in ")
    counted = 0
    for bits in {one.change.result.cell.weight_format.bits for one in found}:
        compared = [one for one in found if one.change.result.cell.weight_format.bits == bits]
        better = [one for one in compared if one.change.mean.value < 0]
        apart, after = sum(one.told_apart for one in better), sum(one.survives for one in better)
        assert f"{apart} ({after}) of {len(compared)} at {bits} bits" in said
        counted += apart
    page = against_rounding(found)
    assert said in page and "Of 26 comparisons an interval may miss zero" in page
    assert page.count('"✓ better"') == counted


def test_every_method_is_counted_by_itself():
    rounded, other = result(RTN, 0.1), result(GPTQ, 0.09, seed=1)
    clipped = changed(result(RTN, 0.2, seed=2), method="rtn+clip=mse")
    said = rounding.sentence(rounding.find([rounded, other, clipped]))
    assert ": GPTQ in " in said and " of 1 at 3 bits; " in said
    assert said.endswith("RTN (clip=mse) in 0 (0) of 1 at 3 bits and surely worse in 1 (1).")

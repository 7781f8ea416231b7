"""Choosing under a budget: as good as trying everything, never above the budget, and the same choice on every call."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lorcbench.core import allocation
from lorcbench.core.allocation import first_ones_dearest, least
from lorcbench.core.formats import WeightFormat


def random_problem(seed: int, linears: int = 5, candidates: int = 3) -> tuple[list[list[float]], list[list[int]], int]:
    """Scores, costs in multiples of a random unit, and a budget between the cheapest and the dearest choice."""
    numbers = np.random.default_rng(seed)
    unit = int(numbers.integers(1, 7))
    costs = (unit * numbers.integers(1, 40, (linears, candidates))).tolist()
    scores = numbers.exponential(size=(linears, candidates)).round(2).tolist()  # rounded, so that some are alike
    low, high = sum(map(min, costs)), sum(map(max, costs))
    return scores, costs, int(numbers.integers(low, high + 3))


def taken(values: list[list], chosen: list[int]) -> float:
    return sum(of_linear[candidate] for of_linear, candidate in zip(values, chosen, strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_no_other_choice_within_the_budget_has_a_lower_sum(seed):
    scores, costs, budget = random_problem(seed)
    chosen = least(scores, costs, budget)
    every = itertools.product(*(range(len(of_linear)) for of_linear in costs))
    best = min(taken(scores, choice) for choice in every if taken(costs, choice) <= budget)
    assert taken(costs, chosen) <= budget
    assert taken(scores, chosen) == pytest.approx(best)
    assert chosen == least(scores, costs, budget)


@pytest.mark.parametrize("seed", range(20))
def test_with_a_coarser_unit_the_budget_holds_and_little_is_lost(seed, monkeypatch):
    scores, costs, budget = random_problem(seed, linears=6)
    exact = taken(scores, least(scores, costs, budget))
    monkeypatch.setattr(allocation, "_MOST_UNITS", 16)
    coarse = least(scores, costs, budget)
    assert taken(costs, coarse) <= budget
    # What costs that are rounded up can take away is the budget less a unit for each linear.
    unit = -(-(budget - sum(map(min, costs))) // 16)
    tighter = max(sum(map(min, costs)), budget - len(costs) * 2 * unit)
    assert exact - 1e-9 <= taken(scores, coarse) <= taken(scores, least(scores, costs, tighter)) + 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_the_first_ones_are_the_dearest_and_the_budget_holds(seed):
    _, costs, budget = random_problem(seed, linears=8)
    chosen = first_ones_dearest(costs, budget)
    assert taken(costs, chosen) <= budget
    spare = budget - sum(map(min, costs))
    first, dearest = min(costs[0]), max(costs[0])
    assert costs[0][chosen[0]] == dearest or dearest - first > spare
    even = first_ones_dearest([[2, 4]] * 6, 18)
    assert even == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("choose", [lambda costs, budget: least([[1.0, 2.0]] * 2, costs, budget), first_ones_dearest])
def test_a_budget_below_the_cheapest_choice_is_refused(choose):
    with pytest.raises(ValueError, match="the cheapest choice takes 20 bits; expected a budget of as many, not 19"):
        choose([[10, 12], [10, 14]], 19)
    assert choose([[10, 12], [10, 14]], 20) == [0, 0]


def test_many_linears_of_a_large_model_are_chosen_for_exactly():
    formats = [WeightFormat(bits, group=64) for bits in (2, 3, 4)]
    shapes = [(3 * 4096, 4096), (4096, 4096), (16384, 4096), (4096, 16384)] * 32
    costs = [[fmt.stored_bits(*shape) for fmt in formats] for shape in shapes]
    numbers = np.random.default_rng(0)
    scores = np.sort(numbers.exponential(size=(len(shapes), 3)), axis=1)[:, ::-1].tolist()
    budget = 3 * sum(rows * width for rows, width in shapes)
    chosen = least(scores, costs, budget)
    assert 0 <= budget - taken(costs, chosen) <= 4096 * 4096 * 2
    assert taken(scores, chosen) < taken(scores, first_ones_dearest(costs, budget))

"""Which linear gets which format under a budget of bits.

Every linear (or group of linears that must agree) has candidates, each with a score, the lower the better, and a cost in bits.
One candidate is to be chosen for each, such that the costs stay within the budget and the sum of the scores is least: the
multiple-choice knapsack problem. It is solved by dynamic programming over the bits that are spent (Kellerer, Pferschy and
Pisinger, Knapsack Problems, 2004, section 11.5).

All costs are multiples of a unit. If the budget has more of them than `_MOST_UNITS`, a coarser unit is taken and costs are
rounded up to it: the budget still holds, and what is lost is at most one of these units per linear.
"""

from __future__ import annotations

import math

import numpy as np

_MOST_UNITS = 1 << 17


def least(scores: list[list[float]], costs: list[list[int]], budget: int) -> list[int]:
    """The candidate of each linear, by its index, such that the sum of scores is least. Of equally good choices it is always
    the same one.

    Args:
        scores, costs: one list per linear, one number per candidate; costs are whole bits.
        budget: bits.

    Raises:
        ValueError: no choice is within the budget; the message has the cheapest.
    """
    cheapest = [min(of_linear) for of_linear in costs]
    spare = budget - sum(cheapest)
    if spare < 0:
        raise ValueError(f"the cheapest choice takes {sum(cheapest):,} bits; expected a budget of as many, not {budget:,}")
    extra = [[cost - least for cost in of_linear] for of_linear, least in zip(costs, cheapest, strict=True)]
    spare = min(spare, sum(map(max, extra)))
    unit = math.gcd(*(cost for of_linear in extra for cost in of_linear)) or 1
    unit *= -(-spare // (unit * _MOST_UNITS)) or 1
    places = spare // unit + 1
    total = np.zeros(places)  # the least sum of scores of the linears so far, if this many units are spent on them at most
    taken = np.empty((len(costs), places), dtype=np.int32)
    for linear, (of_scores, of_costs) in enumerate(zip(scores, extra, strict=True)):
        best = np.full(places, np.inf)
        for candidate, (score, cost) in enumerate(zip(of_scores, of_costs, strict=True)):
            units = -(-cost // unit)
            if units >= places:
                continue
            sums = total[: places - units] + score
            better = sums < best[units:]
            best[units:][better] = sums[better]
            taken[linear, units:][better] = candidate
        total = best
    chosen, place = [], places - 1
    for linear in reversed(range(len(costs))):
        candidate = int(taken[linear, place])
        chosen.append(candidate)
        place -= -(-extra[linear][candidate] // unit)
    return chosen[::-1]


def first_ones_dearest(costs: list[list[int]], budget: int) -> list[int]:
    """What needs no score: the first linears get the dearest candidate that the budget still allows, the others the cheapest.

    The baseline "early layers high" of AutoRound's AutoScheme (docs/auto_scheme_acc.md).

    Raises:
        ValueError: as `least`.
    """
    chosen = [int(np.argmin(of_linear)) for of_linear in costs]
    spare = budget - sum(min(of_linear) for of_linear in costs)
    if spare < 0:
        cheapest = sum(min(of_linear) for of_linear in costs)
        raise ValueError(f"the cheapest choice takes {cheapest:,} bits; expected a budget of as many, not {budget:,}")
    for linear, of_linear in enumerate(costs):
        within = [candidate for candidate, cost in enumerate(of_linear) if cost - of_linear[chosen[linear]] <= spare]
        dearest = max(within, key=lambda candidate: of_linear[candidate])
        spare -= of_linear[dearest] - of_linear[chosen[linear]]
        chosen[linear] = dearest
    return chosen

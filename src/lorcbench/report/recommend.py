"""What to use: per budget of bits per weight the recipe that loses least, from the Pareto front of measured cells only.

Bits are all that is stored for the linears of the blocks: codes, scales, zero points and factors. A cell is *on the front*
unless another cell of its model is at least as good in both bits and perplexity and better in one. All other cells are *beaten*
and never the best of their model. Which activations a model may be run with is no question of bits, so each activation format
has fronts of its own.

    advice = advise(results, changes)            # of a whole study, as its page and the terminal show it
    recommend(results, changes, budgets=[3.25])  # of any selection of its cells, by any budgets
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from lorcbench.config import compose
from lorcbench.report.comparison import Change, mean_change
from lorcbench.report.intervals import Interval
from lorcbench.report.results import CellResult
from lorcbench.report.wording import recipe
from lorcbench.study import published
from lorcbench.study.cells import Cell

BUDGETS = (3.0, 3.5, 4.0, 4.5, 5.0, 8.5)  # bits per weight in all; W2 to W8, each in rows or in fine groups
# The largest rise of the mean PPL, as a share of full precision's, with which a recipe is still called usable. Of the
# published OPT and BLOOM models, one of a tenth of the weights has less than twice the perplexity (28.3 of OPT-125m beside
# 15.4 of OPT-1.3b), and in 16 bits it takes 1.6 bits per weight of the larger one: beyond this bound it is better in both.
USABLE = 1.0


@dataclass(frozen=True, eq=False)
class Recommendation:
    """The recipe of least loss within a budget.

    Attributes:
        budget: bits per weight that it has at most, on every model.
        recipe: the cell without its model, whose name is "".
        words: the recipe spelled out.
        bits: per weight, the fewest and the most over the models.
        changes: what it lost to full precision, by model.
        loss: the geometric mean over the models of the rise of the mean perplexity, as a share of full precision's.
        gain: the same mean, over the recommendation of the next smaller budget instead of full precision; None for the first.
        beaten: the models on which another cell has no more bits and a lower perplexity. None if there is one model.
    """

    budget: float
    recipe: Cell
    words: str
    bits: tuple[float, float]
    changes: dict[str, Change]
    loss: Interval
    gain: Interval | None
    beaten: tuple[str, ...]

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest rise over the models."""
        rises = [change.relative.value for change in self.changes.values()]
        return min(rises), max(rises)

    @property
    def usable(self) -> bool:
        """Whether the mean rise is at most `USABLE`. Else no recipe of the budget is, since all others lose more."""
        return self.loss.value <= USABLE

    @property
    def broken(self) -> tuple[str, ...]:
        """The models that it makes unusable, though not all of them on average."""
        return tuple(model for model, change in self.changes.items() if change.relative.value > USABLE) if self.usable else ()

    @property
    def is_gain(self) -> bool:
        """Whether the interval tells it apart from the recommendation of the next smaller budget."""
        return self.gain is None or self.gain.high < 0


@dataclass(frozen=True, eq=False)
class Advice:
    """The recommendations for models of one kind.

    Attributes:
        kind: of models, of `kind_of`.
        models: their names.
        activation: the format that they are run with.
        origin: what stands beside their names, such as ``from a 4-bit GGUF``, or "".
        recommendations: by budget, the smallest first; a budget for which no better recipe was measured has none.
    """

    kind: str
    models: tuple[str, ...]
    activation: str
    origin: str
    recommendations: list[Recommendation]


def kind_of(result: CellResult) -> str:
    """What kind of model a cell is of; no statement and no recommendation is about several kinds at once."""
    if result.standin:
        return "stand-ins with planted outliers" if result.planted else "stand-ins"
    if result.origin:
        return f"models {result.origin}"
    known = result.cell.model in _printed_models() and result.cell.model in compose.names("model")
    return "models of the paper" if known else "other models"


@cache
def _printed_models() -> frozenset[str]:
    return frozenset(row.model for row in published.studied())


def fronts(results: Iterable[CellResult]) -> dict[Cell, CellResult | None]:
    """For each finished cell whose size is known: None if it is on its front, else the best cell that beats it.

    Derived cells and those whose perplexity is no number are left out.
    """
    rivals: dict[tuple[str, str], list[CellResult]] = {}
    for result in results:
        if result.status == "ok" and not result.derived and result.bits_per_weight and math.isfinite(result.mean_ppl):
            rivals.setdefault((result.cell.model, result.cell.activation), []).append(result)
    return {result.cell: _beaten_by(result, members) for members in rivals.values() for result in members}


def _beaten_by(result: CellResult, rivals: list[CellResult]) -> CellResult | None:
    """The cell of lowest perplexity, and of those the smallest, that is at least as good in both and better in one."""
    place = (result.mean_ppl, result.bits_per_weight)
    better = [(rival.mean_ppl, rival.bits_per_weight, rival) for rival in rivals if rival.bits_per_weight <= place[1]]
    ppl, bits, best = min(better, key=lambda item: item[:2])
    return None if (ppl, bits) == place else best


def advise(results: list[CellResult], changes: dict[Cell, Change], budgets: Iterable[float] = BUDGETS) -> list[Advice]:
    """The recommendations of a study, one record per kind of its models; a kind without a quantized cell has none.

    Args:
        results: all cells of the study; failed and derived ones are left out.
        changes: what they lost to full precision.
    """
    kinds: dict[str, list[CellResult]] = {}
    for result in results:
        if result.cell in changes and result.cell.method != "none" and not result.derived:
            kinds.setdefault(kind_of(result), []).append(result)
    advice = []
    for kind, members in kinds.items():
        formats = [result.cell.activation for result in members]
        activation = "a16" if "a16" in formats else max(dict.fromkeys(formats), key=formats.count)
        models = tuple(dict.fromkeys(result.cell.model for result in members))
        of_kind = [result for result in results if result.cell.model in models]
        advice.append(Advice(kind, models, activation, members[0].origin, recommend(of_kind, changes, budgets, activation)))
    return advice


def recommend(
    results: list[CellResult], changes: dict[Cell, Change], budgets: Iterable[float] = BUDGETS, activation: str = "a16"
) -> list[Recommendation]:
    """Per budget the recipe of least mean loss that fits it on every model; none where no recipe was measured on all of them.

    It is on the front of one model at least, so of a single model it is the best cell within the budget. Nothing is said of a
    budget whose recipe is the one of a smaller budget.

    Args:
        results: cells of one or several models.
        changes: what they lost to full precision.
        budgets: bits per weight, all that is stored counted.
        activation: the format that the models are run with.
    """
    front = fronts(results)
    fitting_all = candidates(results, changes, activation, front)
    chosen: list[Recommendation] = []
    for budget in sorted(budgets):
        fitting = [key for key, members in fitting_all.items() if _bits(members)[1] <= budget]
        if not fitting:
            continue
        best = min(fitting, key=lambda key: (mean_log(fitting_all[key], changes), _bits(fitting_all[key])[1]))
        if not chosen or best != chosen[-1].recipe:
            chosen.append(_recommendation(budget, best, fitting_all[best], changes, front, chosen[-1] if chosen else None))
    return chosen


def candidates(
    results: list[CellResult],
    changes: dict[Cell, Change],
    activation: str = "a16",
    front: dict[Cell, CellResult | None] | None = None,
) -> dict[Cell, dict[str, CellResult]]:
    """The recipes that were measured on all models, and are on the front of one: the cell without its model → its results.

    Args:
        results: cells of one or several models.
        changes: what they lost to full precision.
        activation: the format that the models are run with.
        front: of `results`, if it is known.
    """
    front = fronts(results) if front is None else front
    recipes: dict[Cell, dict[str, CellResult]] = {}
    for result in results:
        cell = result.cell
        if cell in front and cell in changes and cell.activation == activation and cell.method != "none":
            recipes.setdefault(replace(cell, model=""), {})[cell.model] = result
    models = {model for members in recipes.values() for model in members}
    common = {key: members for key, members in recipes.items() if set(members) == models}
    return {key: members for key, members in common.items() if any(front[one.cell] is None for one in members.values())}


def _bits(members: dict[str, CellResult]) -> tuple[float, float]:
    """The fewest and the most bits per weight."""
    bits = [result.bits_per_weight for result in members.values()]
    return min(bits), max(bits)


def mean_log(members: dict[str, CellResult], changes: dict[Cell, Change]) -> float:
    """The mean logarithm of perplexity over full precision's."""
    return float(np.mean([np.log1p(changes[result.cell].relative.value) for result in members.values()]))


def _recommendation(
    budget: float,
    key: Cell,
    members: dict[str, CellResult],
    changes: dict[Cell, Change],
    front: dict[Cell, CellResult | None],
    smaller: Recommendation | None,
) -> Recommendation:
    """A recipe with its numbers."""
    own = {model: changes[result.cell] for model, result in members.items()}
    gain = None
    if smaller is not None:
        gain = mean_change([(change.result, smaller.changes[model].result) for model, change in own.items()])
    beaten = tuple(model for model, result in members.items() if front[result.cell] is not None)
    several = [(change.result, change.baseline) for change in own.values()]
    loss = mean_change(several) if len(several) > 1 else next(iter(own.values())).relative
    return Recommendation(budget, key, recipe(key), _bits(members), own, loss, gain, beaten)


@dataclass(frozen=True)
class RankCost:
    """What LoRC of one rank adds to the size of one model.

    Attributes:
        model, rank: of the cells.
        bits: per weight.
        width: of the model, None if only the checkpoint knows it.
    """

    model: str
    rank: int
    bits: float
    width: int | None


def rank_costs(results: list[CellResult]) -> list[RankCost]:
    """What each rank costs on each model, from a cell and the same one without LoRC; of several settings the smallest."""
    sizes = {result.cell: result.bits_per_weight for result in results if result.status == "ok" and result.bits_per_weight}
    costs: dict[tuple[str, int], float] = {}
    for cell, bits in sizes.items():
        without = cell.uncorrected
        if cell.rank and without in sizes:
            key = (cell.model, cell.rank)
            costs[key] = min(bits - sizes[without], costs.get(key, math.inf))
    known = set(compose.names("model"))
    width = {model: compose.load("model", model).hidden if model in known else None for model, _ in costs}
    return [RankCost(model, rank, bits, width[model]) for (model, rank), bits in costs.items()]

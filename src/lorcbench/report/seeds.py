"""How far results move with seeds: what a confidence interval does not see, since it covers the choice of test text alone.

Cells that differ in the calibration's seed only are one group, of which the standard deviation is taken; so are cells whose
models are stand-ins that differ in their training seed only, each with the mean of its calibration seeds.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, replace

from lorcbench.config import compose
from lorcbench.config.schema import ModelConfig
from lorcbench.report.comparison import Change
from lorcbench.report.results import CellResult
from lorcbench.report.spelling import number
from lorcbench.study.cells import RECIPE, Cell

CALIBRATION, TRAINING = "calibration", "training"
COLUMNS = (
    *RECIPE,
    *("seeds_of", "seeds", "delta_ppl", "delta_ppl_half_width", "delta_ppl_sd"),
)


@dataclass(frozen=True)
class Spread:
    """The rise of the mean perplexity over full precision, of one recipe under several seeds.

    Attributes:
        cell: one of the group; what differs in the group is named in `seeds`.
        seeds_of: ``calibration`` or ``training``.
        seeds: all of them.
        rise: mean over the seeds.
        half_width: of the 95 % interval of one cell, mean over the cells.
        sd: standard deviation over the seeds, of a single seed, with n - 1.
    """

    cell: Cell
    seeds_of: str
    seeds: tuple[int, ...]
    rise: float
    half_width: float
    sd: float

    def row(self) -> dict:
        """Its row of seeds.csv."""
        cell = {name: value for name, value in vars(self.cell).items() if name in COLUMNS}
        numbers = {"delta_ppl": self.rise, "delta_ppl_half_width": self.half_width, "delta_ppl_sd": self.sd}
        return cell | {"seeds_of": self.seeds_of, "seeds": " ".join(map(str, self.seeds)), **numbers}

    @property
    def recipe(self) -> str:
        """The cell without what differs in the group."""
        rank = f" r{self.cell.rank}" if self.cell.rank else ""
        return f"{self.cell.method} {self.cell.weight} {self.cell.activation}{rank}"


def spreads(results: list[CellResult], changes: dict[Cell, Change]) -> list[Spread]:
    """One per recipe that was measured under more than one seed; calibration seeds first.

    Args:
        results: the measured cells.
        changes: what these cells lost to full precision.
    """
    by_recipe: dict[Cell, dict[int, Cell]] = defaultdict(dict)  # calibration seed → cell
    by_kind: dict[tuple[str, Cell], dict[int, list[Cell]]] = defaultdict(lambda: defaultdict(list))  # training seed → cells
    for result in results:
        cell = result.cell
        if cell not in changes or cell.is_full_precision:
            continue
        recipe = replace(cell, calibration=_without_seed(cell.calibration))
        by_recipe[recipe][compose.load("calibration", cell.calibration).seed] = cell
        if result.standin:
            model = compose.load("model", cell.model)
            by_kind[_kind(model), replace(recipe, model="")][model.standin.seed].append(cell)
    found = [
        _spread(recipe, CALIBRATION, {seed: [cell] for seed, cell in cells.items()}, changes)
        for recipe, cells in by_recipe.items()
        if len(cells) > 1
    ]
    for (_, recipe), cells in by_kind.items():
        if len(cells) > 1:
            first = cells[min(cells)][0].model
            found.append(_spread(replace(recipe, model=first), TRAINING, cells, changes))
    return found


def summary(found: list[Spread]) -> list[str]:
    """A line for each, for the terminal."""
    return [
        f"  {spread.cell.model} {spread.recipe}: {number(spread.rise, '+')} PPL, interval ±{number(spread.half_width)}, "
        f"sd {number(spread.sd)} over {len(spread.seeds)} {spread.seeds_of} seeds"
        for spread in found
    ]


def _kind(model: ModelConfig) -> str:
    """What stand-ins have in common that differ in their training seed only."""
    return repr(replace(model, name="any", standin=replace(model.standin, seed=0)))


def _without_seed(calibration: str) -> str:
    """The name of a calibration, whatever its seed."""
    return "+".join(part for part in calibration.split("+") if not part.startswith("seed="))


def _spread(recipe: Cell, seeds_of: str, cells: dict[int, list[Cell]], changes: dict[Cell, Change]) -> Spread:
    """The spread over the seeds, each of which has one cell or several, whose mean counts."""
    intervals = {seed: [changes[cell].mean for cell in cells[seed]] for seed in sorted(cells)}
    rises = [statistics.fmean(interval.value for interval in of_seed) for of_seed in intervals.values()]
    half_widths = [(interval.high - interval.low) / 2 for of_seed in intervals.values() for interval in of_seed]
    spread = statistics.stdev(rises)
    return Spread(recipe, seeds_of, tuple(intervals), statistics.fmean(rises), statistics.fmean(half_widths), spread)

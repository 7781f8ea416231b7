"""What to take within a budget if all models of a study are to have one recipe: `recommended-shared.csv`.

A *shared recipe* was measured on every model of one kind, and no other such recipe is at least as good in both its size and its
mean loss. `lorcbench.report.choices` computes them, once per report. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from lorcbench.report import rows
from lorcbench.report.spelling import percents

TABLE = "recommended-shared.csv"


@dataclass(frozen=True)
class Shared:
    """A recipe for all models of one kind: a row of the table.

    Attributes:
        kind: of the models: ``stand-ins`` and so on.
        models, activation: what it is for.
        recipe: in words.
        cells: their keys, one per model.
        least_bits, bits_per_weight: the fewest and the most over the models.
        megabytes: of the largest export; None where that is not known of every model.
        rise, rise_low, rise_high: the geometric mean over the models of the rise of the mean perplexity, with its interval.
        usable: whether the mean rise is one with which anybody would use it.
    """

    kind: str
    models: tuple[str, ...]
    activation: str
    recipe: str
    cells: tuple[str, ...]
    least_bits: float
    bits_per_weight: float
    megabytes: float | None
    rise: float
    rise_low: float
    rise_high: float
    usable: bool

    def line(self) -> str:
        """For the terminal."""
        run = "" if self.activation == "a16" else f", run with {self.activation}"
        low, high = f"{self.least_bits:.2f}", f"{self.bits_per_weight:.2f}"
        bits = low if low == high else f"{low} to {high}"
        rise, least, most = percents(self.rise, self.rise_low, self.rise_high)
        usable = "" if self.usable else " (not usable: it more than doubles the perplexity)"
        who = f"best of one recipe for all {len(self.models)} {self.kind}{run}"
        return f"{who}: {self.recipe}: {bits} bits per weight, {rise} % [{least}, {most}] on average{usable}"


COLUMNS = tuple(field.name for field in fields(Shared))
_SEVERAL = ("models", "cells")  # no name and no key has a blank in it


def as_csv(recipes: Iterable[Shared]) -> str:
    """The table as text."""
    return rows.as_csv(COLUMNS, (_row(recipe) for recipe in recipes))


def _row(recipe: Shared) -> dict[str, str]:
    row = {name: "" if value is None else str(value) for name, value in vars(recipe).items()}
    return row | {name: " ".join(getattr(recipe, name)) for name in _SEVERAL}


def read(folder: Path) -> list[Shared]:
    """The shared recipes of the study whose page is in `folder`; none where its page is of a version that had no such table.

    Raises:
        ConfigError: the table is one of another version.
    """
    path = folder / TABLE
    return rows.read(path, _of_row) if path.is_file() else []


def _of_row(row: dict[str, str]) -> Shared:
    values: dict = {name: row[name] for name in COLUMNS}
    for field in fields(Shared):
        if field.type.startswith("float"):
            values[field.name] = float(row[field.name]) if row[field.name] else None
    values |= {name: tuple(row[name].split()) for name in _SEVERAL}
    return Shared(**values | {"usable": row["usable"] == "True"})


def lines(recipes: Iterable[Shared], quantity: str, most: float, is_size: bool) -> list[str]:
    """For the terminal: of each kind of models the best recipe that keeps a budget.

    A budget of size holds for every model, one of loss for their mean. A loss in perplexity has no mean over models.

    Args:
        quantity, most, is_size: of the budget (`lorcbench.report.budget.Budget`).
    """
    groups: dict[tuple[str, str], list[Shared]] = {}
    for recipe in recipes:
        value = getattr(recipe, quantity, None)
        if value is not None and value <= most:
            groups.setdefault((recipe.kind, recipe.activation), []).append(recipe)
    by = (lambda one: one.rise) if is_size else (lambda one: one.bits_per_weight)
    return [min(fitting, key=by).line() for fitting in groups.values()]

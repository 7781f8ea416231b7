"""What to take within a budget of size or of loss: choices of a finished study, and which of them a budget lets through.

A *choice* is a cell on the Pareto front of its model (`lorcbench.report.choices` computes them all, once per report). The
terminal, the page and `recommended.csv` show the same choices, and a budget only filters them. Nothing heavy is imported here:
``lorcbench recommend NAME 4.25`` reads the table that the report left.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.spelling import counted
from lorcbench.config import foreign
from lorcbench.config.checks import ConfigError
from lorcbench.config.variants import Variant
from lorcbench.report import rows, shared
from lorcbench.report.spelling import number, percents
from lorcbench.study import exports, started
from lorcbench.study.cells import activation_format, weight_format

TABLE = "recommended.csv"
EXPECTED = "bits per weight such as 4.25, megabytes such as 80MB, or the loss that you accept, such as 0.5ppl or 2%"
# Unit → the quantity of a choice that it limits, and the size of one unit. The page has the same table in JavaScript.
UNITS = {
    "": ("bits_per_weight", 1.0),
    "bits": ("bits_per_weight", 1.0),
    "mb": ("megabytes", 1.0),
    "mib": ("megabytes", 2**20 / 1e6),
    "gb": ("megabytes", 1e3),
    "gib": ("megabytes", 2**30 / 1e6),
    "ppl": ("delta_ppl", 1.0),
    "%": ("rise", 0.01),
}
SIZES = ("bits_per_weight", "megabytes")
_SPELLED = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z%]*)")


@dataclass(frozen=True)
class Budget:
    """The most of one quantity that is accepted.

    Attributes:
        text: as the user spelled it.
        quantity: the attribute of a choice that is limited.
        most: its largest value: bits per weight, megabytes of 10⁶ bytes, perplexity, or a share of full precision's perplexity.
    """

    text: str
    quantity: str
    most: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """A budget in words.

        Raises:
            ConfigError: it is no number with a unit that is known.
        """
        match = _SPELLED.fullmatch(text.strip().lower())
        if not match or match[2] not in UNITS:
            raise ConfigError(f"budget {text}: expected {EXPECTED}")
        quantity, unit = UNITS[match[2]]
        return cls(text, quantity, float(match[1]) * unit)

    @property
    def is_size(self) -> bool:
        """Whether it limits the size, so that the least loss is best; else it limits the loss, and the smallest is best."""
        return self.quantity in SIZES

    def allows(self, choice: Choice) -> bool:
        """Whether a choice keeps it; one whose size in megabytes is not known keeps no budget of megabytes."""
        value = getattr(choice, self.quantity)
        return value is not None and value <= self.most


@dataclass(frozen=True)
class Choice:
    """A cell on the front of its model: a row of `recommended.csv`.

    Attributes:
        study: that measured it.
        model, method, calibration, weight, activation, lorc, rank: the cell.
        cell: its key.
        recipe: the cell in words.
        kind: of the model: ``stand-ins`` and so on.
        bits_per_weight: all that is stored for the linears of the blocks.
        megabytes: of the tensors that `export` writes in the format that it takes by itself: `lorcbench.report.exported`. None
            where the files of the model are not here.
        format: that format, "" of a checkpoint already.
        megabytes_fp, dtype_fp: of the tensors of the model in full precision, and their type; None and "" like `megabytes`.
        ppl, ppl_fp: the mean perplexity of the corpora, and full precision's.
        delta_ppl, delta_ppl_low, delta_ppl_high: their difference, with its interval.
        rise, rise_low, rise_high: the same as a share of full precision's perplexity.
        usable: whether the rise is one with which anybody would use it.
        alike: keys of the smaller choices that the interval does not tell apart from it, the smallest first.
        export: the command that makes a checkpoint of it.
    """

    study: str
    model: str
    method: str
    calibration: str
    weight: str
    activation: str
    lorc: str
    rank: int
    cell: str
    recipe: str
    kind: str
    bits_per_weight: float
    megabytes: float | None
    format: str
    megabytes_fp: float | None
    dtype_fp: str
    ppl: float
    ppl_fp: float
    delta_ppl: float
    delta_ppl_low: float
    delta_ppl_high: float
    rise: float
    rise_low: float
    rise_high: float
    usable: bool
    alike: tuple[str, ...]
    export: str

    @property
    def is_foreign(self) -> bool:
        """Whether it was quantized elsewhere, and is a checkpoint already."""
        return Variant.parse(self.method).stem == foreign.METHOD

    def row(self) -> dict[str, str]:
        """As text, by column."""
        spelled = {name: "" if value is None else str(value) for name, value in vars(self).items()}
        return spelled | {"alike": " ".join(self.alike)}

    @classmethod
    def of_row(cls, row: dict[str, str]) -> Choice:
        """What `row` gave.

        Raises:
            KeyError, ValueError: the row is another table's.
        """
        values: dict = {field.name: row[field.name] for field in fields(cls)}
        for field in fields(cls):
            if field.type.startswith("float"):
                values[field.name] = float(row[field.name]) if row[field.name] else None
        values |= {"rank": int(row["rank"]), "usable": row["usable"] == "True", "alike": tuple(row["alike"].split())}
        return cls(**values)


COLUMNS = tuple(field.name for field in fields(Choice))


def as_csv(choices: Iterable[Choice]) -> str:
    """The table as text."""
    return rows.as_csv(COLUMNS, (choice.row() for choice in choices))


def read(folder: Path, command: str) -> list[Choice]:
    """The choices of the study whose page is in `folder`.

    Args:
        command: that runs the study, for the message.

    Raises:
        ConfigError: it has no table, or one of another version.
    """
    path = folder / TABLE
    try:
        return rows.read(path, Choice.of_row)
    except FileNotFoundError:
        others = ", ".join(started.runs_of(folder.name))
        instead = f"; runs of {folder.name} are {others}: name one of them, or" if others else ";"
        raise ConfigError(f"{path} is missing{instead} run the study first: {command}") from None


def fronts(choices: Iterable[Choice]) -> dict[tuple[str, str], list[Choice]]:
    """The choices of each model and activation format, the largest first."""
    groups: dict[tuple[str, str], list[Choice]] = {}
    for choice in sorted(choices, key=lambda choice: -choice.bits_per_weight):
        groups.setdefault((choice.model, choice.activation), []).append(choice)
    return dict(sorted(groups.items()))


def within(choices: Iterable[Choice], budget: Budget) -> list[Choice]:
    """The choices of one front that keep a budget, the best first: of least loss, or of a budget of loss the smallest."""
    fitting = [choice for choice in choices if budget.allows(choice)]
    return sorted(fitting, key=lambda one: one.ppl if budget.is_size else one.bits_per_weight)


def lines(choices: list[Choice], budget: Budget, everything: bool = False) -> list[str]:
    """For the terminal: per front the best choice that keeps a budget, with the command that exports it.

    Args:
        everything: all choices that keep the budget, the best first.
    """
    told, others = [], 0
    for (model, activation), front in fronts(choices).items():
        fitting = within(front, budget)
        name = model if activation == "a16" else f"{model}, run with {activation}"
        others += len(fitting[1:])
        if not fitting:
            told.append(f"{name}: none: {nearest(front, budget)}")
        elif everything:
            told.append(f"{name}: {len(fitting)} of {len(front)} cells on the front are within {budget.text}, the best first")
            told += [line for choice in fitting for line in _told(choice, budget, "  ")]
        else:
            told += _told(fitting[0], budget, f"best for {name}: ")
    told += [f"{model} in full precision: {size}" for model, size in full_precision(choices).items()]
    if others and not everything:
        told.append(f"{counted(others, 'more cell')} on the fronts within {budget.text}: --all prints them too")
    return told


def _told(choice: Choice, budget: Budget, start: str) -> list[str]:
    """A choice in three lines at most."""
    numbers = f"{start}{choice.recipe}: {size(choice)}, {loss(choice)}"
    if remark := "; ".join(remarks(choice, budget)):
        numbers += f" ({remark})"
    alike = [f"    not told apart from the smaller {', '.join(choice.alike)}"] if choice.alike else []
    return [numbers, *alike, f"    {choice.export}"]


def nearest(front: list[Choice], budget: Budget) -> str:
    """What the choice that comes nearest to a budget has instead."""
    known = [choice for choice in front if getattr(choice, budget.quantity) is not None]
    if not known:
        return "the files of the model are not here, so nothing is known of its megabytes"
    best = min(known, key=lambda one: getattr(one, budget.quantity))
    return (
        f"the smallest, {best.recipe}, has {size(best)}" if budget.is_size else f"the best, {best.recipe}, loses {loss(best)}"
    )


def size(choice: Choice) -> str:
    """Bits per weight and megabytes in words."""
    bits = f"{choice.bits_per_weight:.2f} bits per weight"
    unpacked = f" ({note})" if (note := not_packed(choice)) else ""
    return bits if choice.megabytes is None else f"{bits}, {number(choice.megabytes)} MB{unpacked}"


def not_packed(choice: Choice) -> str:
    """Why the megabytes are those of a checkpoint whose codes are not packed; "" if they are packed."""
    if choice.format == "merged":
        return "merged: not packed"
    if choice.format != "compressed-tensors" or (fmt := weight_format(choice.weight)).is_mixed:
        return ""  # mixed formats that it holds are symmetric, and packed
    packed = exports.is_packed([fmt], activation_format(choice.activation))
    return "" if packed or fmt.symmetric else "a byte per code: not packed"  # symmetric ones that are not have 8 bits


def full_precision(choices: Iterable[Choice]) -> dict[str, str]:
    """What each model takes in full precision, and in which type, in words; a model whose files are not here is left out."""
    known = {choice.model: choice for choice in choices if choice.megabytes_fp is not None}
    return {model: f"{number(one.megabytes_fp)} MB ({one.dtype_fp})" for model, one in sorted(known.items())}


def loss(choice: Choice) -> str:
    """What it loses, in perplexity and as a share, with intervals."""
    ppl, low, high = (number(value, "+") for value in (choice.delta_ppl, choice.delta_ppl_low, choice.delta_ppl_high))
    share, least, most = percents(choice.rise, choice.rise_low, choice.rise_high)
    return f"PPL {ppl} [{low}, {high}], {share} % [{least}, {most}]"


def remarks(choice: Choice, budget: Budget) -> list[str]:
    """What the numbers do not show by themselves."""
    said = [] if choice.usable else ["not usable: it more than doubles the perplexity"]
    highest = {"delta_ppl": choice.delta_ppl_high, "rise": choice.rise_high}.get(budget.quantity)
    if highest is not None and highest > budget.most:
        said.append("its interval reaches beyond the budget")
    return said


def recommend(settings: list[str], everything: bool = False, folder: str | None = None) -> None:
    """Print what to take of a finished study within a budget.

    Args:
        settings: ``study=NAME`` and what else the workflow was started with, and the budget, which is the one without ``=``.
        everything: print all cells that keep the budget, not the best alone.
        folder: of the study under results/, if it was named by that.

    Raises:
        ConfigError: the budget or the study makes no sense, or the study has no page yet, or no cell on it.
        SystemExit: with code 1, no cell keeps the budget.
    """
    budgets = [text for text in settings if "=" not in text]
    if len(budgets) != 1:
        raise ConfigError(f"{len(budgets)} budgets; expected one beside the study: {EXPECTED}")
    budget = Budget.parse(budgets[0])
    arguments = [text for text in settings if "=" in text]
    place = Path(paths.STUDY.format(study=folder or _study_name(arguments)))
    choices = read(place, started.command(arguments))
    if not choices:
        again = shlex.join(["lorcbench", "run", place.name])
        raise ConfigError(f"{place.name}: none of its quantized cells is measured yet; go on with: {again}")
    of_all = shared.lines(shared.read(place), budget.quantity, budget.most, budget.is_size)
    print("\n".join([*of_all, *lines(choices, budget, everything)]))
    if not any(map(budget.allows, choices)):
        sys.exit(1)


def _study_name(arguments: list[str]) -> str:
    """What a study is called: as its folder is, or what the workflow was started with says, which takes a second."""
    name = arguments[0].removeprefix("study=") if len(arguments) == 1 else ""
    if name and "/" not in name and (Path(paths.STUDY.format(study=name)) / TABLE).is_file():
        return name
    from lorcbench.study.expansion import study_from_arguments

    return study_from_arguments(arguments).name

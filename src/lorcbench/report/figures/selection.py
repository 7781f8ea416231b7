"""Which models a figure draws: at most six, and the others six by six in further files."""

from __future__ import annotations

from lorcbench.report.figures.style import unique
from lorcbench.report.results import CellResult

MOST = 6  # models in one figure; with more its panels are walls


def parts(results: list[CellResult]) -> list[list[str]]:
    """The models of each file of a figure, those that the page shows first; one part if there are six models or fewer.

    Of each family the page shows the smallest, the largest, and then what lies in the middle, in turn, until there are six.
    Each part keeps the order of the study.
    """
    models = unique(result.cell.model for result in results)
    if len(models) <= MOST:
        return [models]
    turns = [_by_interest(members) for members in _families(results).values()]
    picked: list[str] = []
    for place in range(max(map(len, turns))):
        picked += [members[place] for members in turns if place < len(members)]
    first = set(picked[:MOST])
    rest = [model for model in models if model not in first]
    return [
        [model for model in models if model in first],
        *(rest[start : start + MOST] for start in range(0, len(rest), MOST)),
    ]


def _families(results: list[CellResult]) -> dict[str, list[str]]:
    """The models of each family by size; where no size is known, in the order of the study."""
    sizes: dict[str, int] = {}
    families: dict[str, str] = {}
    for result in results:
        model = result.cell.model
        sizes[model] = max(sizes.get(model, 0), result.parameters or result.weights or 0)
        families[model] = result.family
    members: dict[str, list[str]] = {}
    for model, family in families.items():
        members.setdefault(family, []).append(model)
    return {family: sorted(names, key=lambda name: sizes[name]) for family, names in members.items()}


def _by_interest(members: list[str]) -> list[str]:
    """Models of a family, by size: the smallest, the largest, the one in the middle, and then the others."""
    places = dict.fromkeys([0, len(members) - 1, len(members) // 2, *range(len(members))])
    return [members[place] for place in places]

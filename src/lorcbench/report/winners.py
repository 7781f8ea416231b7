"""Which cells a user means who wants to take a model away: by their key, or the best within a budget of size or of loss."""

from __future__ import annotations

from difflib import get_close_matches

from lorcbench.config.checks import ConfigError
from lorcbench.report import budget
from lorcbench.report.budget import EXPECTED, Budget, Choice
from lorcbench.report.choices import choices
from lorcbench.report.comparison import changes
from lorcbench.report.results import NOT_RUN, collect
from lorcbench.study import started
from lorcbench.study.cells import Cell, Study

_BEST = "best@"


def cells(study: Study, wanted: str) -> list[Cell]:
    """The cells that `wanted` names, each once.

    Args:
        wanted: keys of cells with commas between them, such as ``opt-125m/rtn/none/w4-asym-g32/a16/r0``; or ``best@4.25``, the
            cell of each model that loses least with at most 4.25 bits per weight; or ``opt-125m/best@4.25`` of one model.
            Every budget of `lorcbench.report.budget` will do: ``best@80MB``, ``best@0.5ppl``, ``best@2%``.

    Raises:
        ConfigError: there is no such cell, or the study is not measured yet.
    """
    found: list[Cell] = []
    for part in filter(None, (part.strip() for part in wanted.split(","))):
        found += _best(study, part) if _BEST in part else [_by_key(study, part)]
    if not found:
        raise ConfigError(f"export={wanted}: expected the key of a cell, or best@BUDGET such as best@4.25")
    return list(dict.fromkeys(found))


def _by_key(study: Study, key: str) -> Cell:
    """The cell of a study that is called so."""
    known = {cell.key: cell for cell in study.cells}
    if key not in known:
        nearest = get_close_matches(key, known, 1, 0)
        hint = f"such as {nearest[0]}" if nearest else "MODEL/METHOD/CALIBRATION/WEIGHT/ACTIVATION/RANK"
        raise ConfigError(f"export={key}: no cell of study {study.name}; expected one of its {len(known)} cells, {hint}")
    return known[key]


def _best(study: Study, wanted: str) -> list[Cell]:
    """The best cell of each model within a budget, or of the one that is named."""
    model, _, spelled = wanted.rpartition(_BEST)
    model = model.rstrip("/")
    try:
        most = Budget.parse(spelled)
    except ConfigError:
        raise ConfigError(f"export={wanted}: expected a budget behind best@: {EXPECTED}") from None
    if model and model not in study.models:
        raise ConfigError(f"export={wanted}: no model of study {study.name}; expected one of {', '.join(study.models)}")
    results = collect(study)
    missing = sum(result.status == NOT_RUN for result in results)
    if missing:
        others = ", ".join(started.runs_of(study.name)) if missing == len(results) else ""
        named = f"name one of its runs, {others}, or " if others else ""
        raise ConfigError(
            f"export={wanted}: {missing} of {len(results)} cells of study {study.name} are not measured yet; "
            f"{named}run the study without export=… first, or name a cell"
        )
    offered = budget.fronts(choices(study.name, results, changes(results), ""))
    cells = {cell.key: cell for cell in study.cells}
    models = [model] if model else study.models
    return [cells[_of_model(offered, name, most, wanted).cell] for name in models]


def _of_model(offered: dict[tuple[str, str], list[Choice]], model: str, most: Budget, wanted: str) -> Choice:
    """The best choice within the budget; of activation formats a16 if the model has cells with it, else the first."""
    own = {activation: front for (name, activation), front in offered.items() if name == model}
    if not own:
        raise ConfigError(f"export={wanted}: no quantized cell of {model} was measured; expected a study that measures some")
    front = own.get("a16") or next(iter(own.values()))
    fitting = [choice for choice in budget.within(front, most) if not choice.is_foreign]
    if not fitting:
        raise ConfigError(f"export={wanted}: no cell of {model} is within it; {budget.nearest(front, most)}")
    return fitting[0]

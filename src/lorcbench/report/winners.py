"""Which cells a user means who wants to take a model away: by their key, or the best within a budget of bits."""

from __future__ import annotations

from difflib import get_close_matches

from lorcbench.config.checks import ConfigError
from lorcbench.report.comparison import changes
from lorcbench.report.recommend import recommend
from lorcbench.report.results import NOT_RUN, CellResult, collect
from lorcbench.study.cells import Cell, Study

_BEST = "best@"


def cells(study: Study, wanted: str) -> list[Cell]:
    """The cells that `wanted` names, each once.

    Args:
        wanted: keys of cells with commas between them, such as ``opt-125m/rtn/none/w4-asym-g32/a16/r0``; or ``best@4.25``, the
            cell of each model that loses least with at most 4.25 bits per weight; or ``opt-125m/best@4.25`` of one model.

    Raises:
        ConfigError: there is no such cell, or the study is not measured yet.
    """
    found: list[Cell] = []
    for part in filter(None, (part.strip() for part in wanted.split(","))):
        found += _best(study, part) if _BEST in part else [_by_key(study, part)]
    if not found:
        raise ConfigError(f"export={wanted}: expected the key of a cell, or best@BITS such as best@4.25")
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
    """The recommended cell of each model, or of the one that is named."""
    model, _, bits = wanted.rpartition(_BEST)
    model = model.rstrip("/")
    try:
        budget = float(bits)
    except ValueError:
        raise ConfigError(f"export={wanted}: expected bits per weight behind best@, such as best@4.25") from None
    if model and model not in study.models:
        raise ConfigError(f"export={wanted}: no model of study {study.name}; expected one of {', '.join(study.models)}")
    results = collect(study)
    missing = sum(result.status == NOT_RUN for result in results)
    if missing:
        raise ConfigError(
            f"export={wanted}: {missing} of {len(results)} cells of study {study.name} are not measured yet; "
            "run the study without export=… first, or name a cell"
        )
    return [_of_model(results, name, budget, wanted) for name in ([model] if model else study.models)]


def _of_model(results: list[CellResult], model: str, budget: float, wanted: str) -> Cell:
    """The cell of least loss within the budget, by the computation that the page's recommendations come from."""
    own = [result for result in results if result.cell.model == model]
    formats = [result.cell.activation for result in own if result.cell.method != "none"]
    activation = "a16" if "a16" in formats else max(dict.fromkeys(formats), key=formats.count, default="a16")
    lost = changes(own)
    if best := recommend(own, lost, [budget], activation):
        return next(change.result.cell for change in best[0].changes.values())
    sizes = [
        result.bits_per_weight
        for result in own
        if result.bits_per_weight and result.cell in lost and result.cell.method != "none"
    ]
    smallest = f"its smallest has {min(sizes):.3f}" if sizes else "none of its cells was measured"
    raise ConfigError(f"export={wanted}: no cell of {model} has so few bits per weight; {smallest}")

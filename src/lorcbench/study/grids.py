"""The grids of a study, on its models → its cells: every combination of the axes, without what does not fit together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lorcbench.config import compose, foreign, mixed, places
from lorcbench.config.checks import MOST, ConfigError
from lorcbench.config.protocols import TextConfig
from lorcbench.config.schema import AXES, AXIS_DEFAULTS, GridConfig, StudyConfig
from lorcbench.study import groups
from lorcbench.study.cells import FIELDS, Cell, activation_format, model_config, needs_calibration, weight_format
from lorcbench.study.ranks import of_width


@dataclass(frozen=True)
class Request:
    """What is asked for, before its cells are known.

    Attributes:
        name: of the study.
        config: the composed study.
        folders: checkpoints given on the command line, by model name.
        texts: a text given by its file on the command line, by its name.
        replaced: the axes that the command line gave; they hold for every grid.
        published_ranks: of a rehearsal, as `Study` has it.
        foreign: folders with checkpoints that were quantized elsewhere, by the name of their method.
    """

    name: str
    config: StudyConfig
    folders: dict[str, str]
    texts: dict[str, TextConfig]
    replaced: tuple[str, ...]
    published_ranks: dict[int, list[int]]
    foreign: dict[str, Path]

    @property
    def stem(self) -> str:
        """The name of the study's file."""
        return self.name.partition("+")[0]


def expand(request: Request) -> tuple[list[Cell], list[tuple[str, str]], list[str]]:
    """The cells; the (model, format) pairs that were left out because groups do not divide; the models that are too large."""
    cells: dict[Cell, None] = {}
    indivisible: dict[tuple[str, str], None] = {}
    too_large: dict[str, None] = {}
    widths: dict[str, tuple[int, ...]] = {}
    limit = None if "models" in request.replaced else request.config.max_params
    for cell in _combinations(request):
        if limit is not None and (model_config(cell.model, request.folders).block_weights or 0) > limit:
            too_large[cell.model] = None
            continue
        if cell.model not in widths:
            widths[cell.model] = places.widths(model_config(cell.model, request.folders))
        _check_rank(cell, widths[cell.model])
        if bad := _indivisible(request, cell, widths[cell.model]):
            indivisible[cell.model, bad] = None
        else:
            cells[Cell.full_precision(cell.model)] = None
            cells[cell] = None
            cells |= dict.fromkeys(_candidates(cell))
    if not cells and too_large:
        smallest = min(model_config(model, request.folders).block_weights for model in too_large)
        raise ConfigError(f"study.max_params={limit:g}: the smallest model of {request.name} has {smallest:.3g}")
    if not cells and indivisible:
        raise ConfigError(f"study {request.name}: no cells; {groups.no_cells(indivisible, widths)}")
    if not cells:
        raise ConfigError(f"study {request.name}: no cells; expected at least one grid with models, methods and weights")
    cells |= dict.fromkeys(_foreign_cells(request, {cell.model for cell in cells}))
    return list(cells), list(indivisible), list(too_large)


def _candidates(cell: Cell) -> list[Cell]:
    """Beside a cell of mixed formats those that have one of its formats everywhere; none of another cell."""
    method = compose.load("method", cell.method)
    if method.kind != mixed.METHOD:
        return []
    uniform = [replace(cell, method=method.base, weight=str(fmt)) for fmt in method.candidates]
    return [one.uncorrected for one in uniform]


def _foreign_cells(request: Request, models: set[str]) -> list[Cell]:
    """A cell per checkpoint that was quantized elsewhere."""
    found = []
    for method, folder in request.foreign.items():
        if len(models) > 1:
            expected = "expected the one that it was made from, by model_path=FOLDER or overrides='study.models=[NAME]'"
            raise ConfigError(f"{foreign.KEY}={folder}: study {request.name} has {len(models)} models; {expected}")
        layout = foreign.layout(folder)
        (model,) = models
        found.append(Cell(model, method, "none", str(layout.weight), "a16", str(layout.activation), "none", 0))
    return found


def _combinations(request: Request) -> Iterator[Cell]:
    """Yields the cells of all grids, grid after grid, without the excluded; a cell may come more than once."""
    excluded = [spelled(request, grid) for grid in request.config.exclude]
    grids = [_axes(request, grid) for grid in request.config.grids or [GridConfig()]]
    count = sum(math.prod(len(values or [None]) for values in axes.values()) for axes in grids)
    if count > (most := request.config.max_cells):
        raise ConfigError(f"study {request.name}: {count:,} cells; expected at most study.max_cells={most}")
    for grid in grids:
        axes = [values_of(request, axis, values) for axis, values in grid.items()]
        for combination in itertools.product(*axes):
            named = dict(zip(FIELDS.values(), combination, strict=True))
            cell = _cell(**named | {"rank": _rank(request, named["model"], named["rank"])})
            if cell is not None and not any(matches(cell, chosen) for chosen in excluded):
                yield cell


def spelled(request: Request, grid: GridConfig) -> GridConfig:
    """The grid with every name in its one spelling, axes that it does not name left open."""
    named = {axis: values for axis in AXES if (values := getattr(grid, axis)) is not None}
    return GridConfig(**{axis: values_of(request, axis, values) for axis, values in named.items()})


def _axes(request: Request, grid: GridConfig) -> dict[str, list | None]:
    """The values of every axis of a grid, as they are written."""
    own = {axis: None if axis in request.replaced else getattr(grid, axis) for axis in AXES}
    return {axis: getattr(request.config, axis) if values is None else values for axis, values in own.items()}


def values_of(request: Request, axis: str, values: list | None) -> list:
    """The values of one axis, each known and in its one spelling."""
    values = AXIS_DEFAULTS.get(axis) if values is None else values
    if not values:
        raise ConfigError(f"study.{axis}={values}: expected a list with at least one entry")
    if not all(isinstance(value, int if axis == "ranks" else str) for value in values):
        raise ConfigError(f"study.{axis}={values}: expected a list of {'whole numbers' if axis == 'ranks' else 'names'}")
    if axis == "ranks":
        if not all(0 <= rank < MOST for rank in values):
            raise ConfigError(f"study.ranks={values}: a rank is 0 or more, and below {MOST:,}")
        return list(values)
    if axis in ("weights", "activations"):
        parse = weight_format if axis == "weights" else activation_format
        try:
            return [str(parse(value)) for value in values]
        except ValueError as error:
            wrong = next((value for value in values if repr(value) in str(error)), "")
            raise ConfigError(f"{error}{compose.nearest(wrong, groups.usual(axis))}") from None
    return [value if value in request.folders else compose.canonical(FIELDS[axis], value) for value in values]


def _cell(model: str, method: str, calibration: str, weight: str, activation: str, lorc: str, rank: int) -> Cell | None:
    """The cell of one combination, or None for a combination that another one stands for."""
    config = compose.load("method", method)
    full_precision = weight == "w16"
    if config.kind == foreign.METHOD:
        raise ConfigError(f"method {method}: is of no study's file; expected --config {foreign.KEY}=FOLDER")
    if (config.kind == "none") != full_precision or (config.kind == mixed.METHOD) != (weight == mixed.METHOD):
        return None
    if config.kind == mixed.METHOD and not config.is_named:
        raise ConfigError(f"method {method}: expected a budget and candidates in its name, such as {mixed.EXAMPLE}")
    if config.kind == mixed.METHOD and config.choice_of_ranks:
        lorc, rank = config.correction, config.choice_of_ranks[-1]
    rank = 0 if full_precision else rank
    lorc = lorc if rank else "none"
    factors = compose.load("lorc", lorc)
    if rank and factors.kind == "none":
        raise ConfigError(f"study.lorc={lorc} with rank {rank}: expected a LoRC setting such as plain-int8")
    _check_paired(method, config.rank, lorc, factors.kind, rank)
    calibration = calibration if needs_calibration(method, lorc) else "none"
    data = compose.load("calibration", calibration)
    compose.check_calibration(f"method {method}", config, calibration, "study.calibrations")
    compose.check_calibration(f"lorc {lorc}", factors, calibration, "study.calibrations")
    if config.trains_in_float32 and data.dtype != "float32":
        raise ConfigError(f"method {method}: trains in float32; calibration {calibration} has dtype {data.dtype}")
    trained = activation if config.sees_activations else "a16"
    return Cell(model, method, calibration, weight, trained, activation, lorc, rank)


def _check_paired(method: str, made: int | None, lorc: str, kind: str, rank: int) -> None:
    """Refuse factors that a method does not make, and a cell of another rank than that of the factors that it makes.

    Args:
        made: the rank of the factors that the method makes with its codes; None if it makes none.
        kind: of `lorc`.
    """
    if made is None and kind == "paired":
        raise ConfigError(f"study.lorc={lorc}: method {method} makes no factors; expected a LoRC setting such as exact-int8")
    if made == 0:
        raise ConfigError(f"method {method}: makes codes for one rank; expected it in the name, such as {method}+rank=8")
    if made is not None and rank != made:
        expected = f"expected study.ranks=[{made}], with study.lorc=[paired-int8] for its own factors"
        raise ConfigError(f"method {method}: makes codes for rank {made}, and its cell has rank {rank}; {expected}")


def _rank(request: Request, model: str, rank: int) -> int:
    """A rank of the study's file on one model: the same share of its width, if the study says of which width its ranks are."""
    full = request.config.ranks_of_width
    if not rank or full is None or "ranks" in request.replaced:
        return rank
    width = places.width(model_config(model, request.folders))
    if not width:
        expected = "expected the ranks themselves, such as study.ranks=[0,8]"
        raise ConfigError(f"study.ranks_of_width={full}: the width of {model} is not known; {expected}")
    return of_width(rank, width, full)


def _indivisible(request: Request, cell: Cell, widths: tuple[int, ...]) -> str | None:
    """A format of the cell whose groups do not divide a width of its model, or None; refused unless the study skips it."""
    method = compose.load("method", cell.method)
    candidates = method.candidates if method.kind == mixed.METHOD else (cell.weight_format,)
    for fmt in (*candidates, cell.activation_format):
        for width in widths:
            if fmt.group and width % fmt.group:
                if request.config.indivisible == "refuse":
                    wrong = f"groups of {fmt.group} do not divide its width {width}"
                    raise ConfigError(f"{fmt} on {cell.model}: {wrong}; expected {groups.that_divide(widths)}")
                return str(fmt)
    return None


def _check_rank(cell: Cell, widths: tuple[int, ...]) -> None:
    """Refuse a rank that no matrix of so few inputs has."""
    if widths and cell.rank > min(widths):
        expected = f"expected at most {min(widths)}, the least width of its linears"
        raise ConfigError(f"study.ranks: rank {cell.rank} on {cell.model}: {expected}")


def matches(cell: Cell, chosen: GridConfig) -> bool:
    """Whether the cell agrees with every axis that `chosen` names."""
    named = ((FIELDS[axis], values) for axis in AXES if (values := getattr(chosen, axis)) is not None)
    return all(getattr(cell, field) in values for field, values in named)

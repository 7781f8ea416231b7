"""A study of published models → the same questions on stand-ins: ``study=NAME+standins=true``.

Stand-ins are trained by the pipeline, so a rehearsal needs no download and ends in minutes. Every axis is translated by one
rule, below, unless the study's file writes it out under ``rehearsal``: that file stays the only place that says what is asked.
"""

from __future__ import annotations

from dataclasses import replace

from lorcbench.config import compose
from lorcbench.config.schema import AXES, GridConfig, StudyConfig
from lorcbench.core.formats import ActivationFormat, WeightFormat

# The wider stand-ins have 128 inputs, the paper's narrower ones 1,024: groups of 128 become groups of 16, rank 8 rank 1.
SCALE = 8
RANKS = {8: 1, 32: 4, 128: 16}  # published → the stand-ins'
ITERATIONS = 128  # of distillation, a quarter of the default: stand-ins have a sixteenth of the tokens
_SMALL = 1.5e9  # published models below it become the small stand-in of their family
_PROTOCOL = "stdlib"  # of stand-ins, and the name of their calibration


def rehearse(study: StudyConfig, kept: list[str], protocol: bool) -> StudyConfig:
    """The study on stand-ins.

    Args:
        kept: axes that the command line gave, which stay as they are.
        protocol: whether the perplexity protocol is replaced too.
    """
    written = vars(study.rehearsal) if study.rehearsal else {}
    own = {axis: values for axis, values in written.items() if values is not None and axis not in kept}
    if study.ranks_of_width:  # shares of a width are shares of a stand-in's too
        kept = [*kept, "ranks"]
    changed = (
        _axes(study, kept)
        | own
        | {name: [GridConfig(**_axes(grid, kept)) for grid in getattr(study, name)] for name in ("grids", "harness")}
    )
    # What is left out for published models by name says nothing of stand-ins.
    changed["exclude"] = [GridConfig(**_axes(grid, kept)) for grid in study.exclude if not grid.models]
    changed |= {"title": f"{study.title}, on stand-ins", "indivisible": "skip"}
    return replace(study, **changed, **({"eval": _PROTOCOL} if protocol else {}))


def rank(published: int) -> int:
    """The rank of stand-ins for a published one: that of the next of `RANKS`, the last one's beyond; no rank stays none."""
    if published <= 0:  # below 0 the study is refused
        return published
    return RANKS[next((known for known in RANKS if published <= known), max(RANKS))]


def ranks_asked(study: StudyConfig, kept: list[str]) -> dict[int, list[int]]:
    """Stand-ins' rank → the published ranks of the study that become it.

    Empty if the command line gave the ranks, the study's file wrote them out for stand-ins, or they are shares of the width.
    """
    asked: dict[int, list[int]] = {}
    if "ranks" not in kept and not study.ranks_of_width and not (study.rehearsal and study.rehearsal.ranks):
        lists = [grid.ranks for grid in (study, *study.grids) if grid.ranks]
        for published in sorted({number for numbers in lists for number in numbers if number}):
            asked.setdefault(rank(published), []).append(published)
    return asked


def _axes(grid: StudyConfig | GridConfig, kept: list[str]) -> dict[str, list | None]:
    return {axis: _values(axis, getattr(grid, axis), kept) for axis in AXES}


def _values(axis: str, values: list | None, kept: list[str]) -> list | None:
    """The values of one axis for stand-ins, each once; None stays None."""
    translate = {
        "models": _model,
        "methods": _method,
        "calibrations": _calibration,
        "weights": _weight,
        "activations": _activation,
        "ranks": rank,
    }.get(axis)
    if values is None or translate is None or axis in kept:
        return values
    return list(dict.fromkeys(map(translate, values)))


def _model(name: str) -> str:
    """The stand-in of the model's family, if there is one."""
    model = compose.load("model", name)
    if model.source == "standin" or not (model.family and model.block_weights):
        return name
    standin = f"{model.family}-standin-{'s' if model.block_weights < _SMALL else 'm'}"
    return standin if standin in compose.names("model") else name


def _method(name: str) -> str:
    """Distillation in fewer steps, unless the name says how many."""
    trains = "iterations" in vars(compose.load("method", name)) and "+iterations=" not in name
    return f"{name}+iterations={ITERATIONS}" if trains else name


def _calibration(name: str) -> str:
    """The stand-ins' calibration text, with the seed of the published one."""
    if name == "none":
        return name
    seed = compose.load("calibration", name).seed
    return f"{_PROTOCOL}+seed={seed}" if seed else _PROTOCOL


def _weight(text: str) -> str:
    fmt = WeightFormat.parse(text)
    return str(replace(fmt, group=fmt.group // SCALE if fmt.group else None))


def _activation(text: str) -> str:
    fmt = ActivationFormat.parse(text)
    return str(replace(fmt, group=fmt.group // SCALE if fmt.group else None))

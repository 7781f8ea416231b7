"""What a study is, in the few lines with which a run begins. Not in `lorcbench.study.cells`: words recompute nothing."""

from __future__ import annotations

from collections import Counter

from lorcbench.common.spelling import counted
from lorcbench.config import compose
from lorcbench.config.schema import AXES
from lorcbench.study.cells import FIELDS, SHORT_WINDOW, Study

_SHOWN = 3  # values of an axis that a line has room for


def lines(study: Study) -> list[str]:
    """What a study is, for the terminal: one line with its cells by axis, and what needs a line of its own.

    That is what the command line gave, what is left out, and a warning where the command line replaced an axis of several
    grids that keep others.
    """
    axes = []
    for axis, attribute in FIELDS.items():
        counts = Counter(str(getattr(cell, attribute)) for cell in study.cells)
        if axis not in ("calibrations", "lorc") or len(counts.keys() - {"none"}) > 1:  # else the method and rank say it
            axes.append((axis, counts))
    shown = [_values(counts, axis in study.replaced) for axis, counts in axes]
    # The first number says what it counts, the others are of the same kind.
    first = next((index for index, text in enumerate(shown) if "(" in text), None)
    if first is not None:
        counts = axes[first][1]
        number = next(iter(counts.values()))
        shown[first] = shown[first].replace(f"({number})", f"({counted(number, 'cell')})", 1)
    told = [f"{axis}: {text}" for (axis, _), text in zip(axes, shown, strict=True)]
    return [
        f"study {study.name}: {counted(len(study.cells), 'cell')}; {'; '.join(told)}",
        *given_lines(study),
        *left_out(study),
        *_replaced(study),
    ]


def given_lines(study: Study) -> list[str]:
    """A line for a model and a text that the command line gave, and what a reader must know of the text of such a model."""
    told = [f"model {name} is {place}" for name, place in study.folders.items()]
    told += [f"text {name} is {text.path}" for name, text in study.texts_given.items()]
    told += [f"method {name} is {folder}" for name, folder in study.foreign.items()]
    protocol = compose.load("eval", study.eval)
    if study.folders and "stdlib" in protocol.texts():
        told.append("the text is what Python carries about itself, since there is no text_path=FILE of your own")
    if study.folders and not protocol.fit and protocol.window < SHORT_WINDOW:
        told.append(f"its windows have {protocol.window} tokens, few for a language model: study=own takes longer ones")
    return told


def left_out(study: Study) -> list[str]:
    """A line for the formats whose groups do not divide a width; none if there are no such formats."""
    pairs = ", ".join(f"{fmt} on {model}" for model, fmt in study.not_applicable)
    return [f"left out, because groups do not divide the width: {pairs}"] if pairs else []


def _replaced(study: Study) -> list[str]:
    """That an axis of the command line holds for grids that still differ in others; none where they are all alike now."""
    everywhere = [axis for axis in study.replaced if axis != "models"]
    grids = study.config.grids
    kept = [axis for axis in AXES if axis not in study.replaced and any(getattr(grid, axis) is not None for grid in grids)]
    if len(grids) < 2 or not everywhere or not kept:
        return []
    where = f"each of the {len(grids)} grids, which keep their own {', '.join(kept)}"
    return [f"{', '.join(everywhere)} replaced in {where}; study.exactly=true takes only what you name"]


def _values(counts: Counter[str], all_of_them: bool) -> str:
    """The values of one axis, each with the number of cells that have it; only how many there are, if they are many."""
    if len(counts) == 1:
        return next(iter(counts))
    if len(counts) > _SHOWN and not all_of_them:
        return str(len(counts))
    return ", ".join(f"{value} ({count})" for value, count in counts.items())

"""What a study is, for the terminal: one line with its cells by axis, and what needs a line of its own.

It is not in `lorcbench.study.cells`, so that better words make nothing run again.
"""

from __future__ import annotations

import re
from collections import Counter

from lorcbench.common.spelling import counted
from lorcbench.config.schema import AXES
from lorcbench.config.variants import Variant
from lorcbench.study import given
from lorcbench.study.cells import FIELDS, Study

_SHOWN = 3  # values of an axis that a line has room for
_NAMED = 4  # models that a line has room for


def outline(study: Study) -> list[str]:
    """The line, what the command line gave, and a warning where that replaced an axis of several grids."""
    quantized = [cell for cell in study.cells if not cell.is_full_precision]
    whole = len(study.cells) - len(quantized)
    axes = [f"models: {models_line(study)}"]
    for axis, attribute in FIELDS.items():
        if axis == "models":
            continue
        counts = Counter(str(getattr(cell, attribute)) for cell in quantized or study.cells)
        if axis == "methods" and len(counts) > 1:
            del counts["none"]  # cells whose activations alone are rounded
        if axis not in ("calibrations", "lorc") or len(counts.keys() - {"none"}) > 1:  # else the method and rank say it
            axes.append(f"{axis}: {_counted(counts, axis in study.replaced)}")
    rounded = sum(cell.method == "none" for cell in quantized)
    others = f", and {rounded} whose activations alone are rounded" if rounded else ""
    axes.append(f"full precision: {counted(whole, 'cell')}{others}")
    told = re.sub(r"\((\d+)\)", _with_unit, "; ".join(axes), count=1)
    lines = [
        f"study {study.name}: {counted(len(study.cells), 'cell')}; {told}",
        *study.given_lines(),
        *own_lines(study),
        *left_out(study),
    ]
    grids = len(study.config.grids)
    everywhere = [axis for axis in study.replaced if axis != "models"]
    stated = {axis for grid in study.config.grids for axis in AXES if getattr(grid, axis) is not None}
    kept = stated - set(study.replaced)
    if grids > 1 and everywhere and kept:  # else all grids are alike now
        lines.append(
            f"{', '.join(everywhere)} replaced in each of the {grids} grids of the study's file, whose other axes stay; "
            "exactly=true takes only what you name"
        )
    return lines


def models_line(study: Study) -> str:
    """The models of a study, by name unless they are many, and whether the pipeline trains them itself."""
    names = study.models
    told = ", ".join(names) if len(names) <= _NAMED or "models" in study.replaced else counted(len(names), "model")
    if any(study.model(name).source != "standin" for name in names):
        return told
    own = Variant.parse(study.eval).stem == given.OWN
    hint = "; your own model: model_path=FOLDER" if own else ""
    return f"{told} ({'a stand-in' if len(names) == 1 else 'stand-ins'}{hint})"


def own_lines(study: Study) -> list[str]:
    """A line for each model and text that is a file of the user's by a conf file of theirs, as for those that are typed."""
    models = [name for name in study.models if name not in study.folders and study.model(name).path]
    texts = [name for name in study.texts if name not in study.texts_given and study.entry("text", name).path]
    lines = [f"model {name} is {study.model(name).path}" for name in models]
    return [*lines, *(f"text {name} is {study.entry('text', name).path}" for name in texts)]


def left_out(study: Study) -> list[str]:
    """A line for the formats whose groups do not divide a width; none if there are no such formats."""
    pairs = ", ".join(f"{fmt} on {model}" for model, fmt in study.not_applicable)
    return [f"left out, because groups do not divide the width: {pairs}"] if pairs else []


def _with_unit(number: re.Match) -> str:
    """A number in brackets with what it counts; the first of a line says it for all."""
    return f"({counted(int(number[1]), 'cell')})"


def _counted(counts: Counter[str], all_of_them: bool) -> str:
    """The values of one axis, each with the number of cells that have it; only how many there are, if they are many."""
    if len(counts) == 1:
        return next(iter(counts))
    if len(counts) > _SHOWN and not all_of_them:
        return str(len(counts))
    return ", ".join(f"{value} ({count})" for value, count in counts.items())

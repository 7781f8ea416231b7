"""What is said of formats that are misspelt, or whose groups do not divide the widths of a model: what would be right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

_SMALLEST, _SHOWN = 8, 12  # of the groups that a line proposes: the least size, and how many


def usual(axis: str) -> list[str]:
    """The formats that are typed most, of the axis ``weights`` or ``activations``."""
    sizes = ["token" if axis == "activations" else "row", *(f"g{2**power}" for power in range(4, 11))]
    return [f"{axis[0]}{bits}-{sign}-{size}" for bits in range(2, 9) for sign in ("sym", "asym") for size in sizes]


def no_cells(indivisible: Iterable[tuple[str, str]], widths: Mapping[str, Iterable[int]]) -> str:
    """That no format of a study fits its models, and which groups would.

    Args:
        indivisible: pairs of a model and a format.
        widths: of the linears, by model.
    """
    models, formats = (list(dict.fromkeys(names)) for names in zip(*indivisible, strict=True))
    there = sorted({width for model in models for width in widths[model]})
    where = models[0] if len(models) == 1 else f"{len(models)} models"
    numbers = ", ".join(map(str, there))
    return f"the groups of {', '.join(formats)} do not divide the widths of {where}, {numbers}; expected {that_divide(there)}"


def that_divide(widths: Iterable[int]) -> str:
    """Sizes of groups that divide all of some widths, in words."""
    common = math.gcd(*widths)
    sizes = [str(size) for size in range(_SMALLEST, common + 1) if common % size == 0]
    return f"a row, or groups of {', '.join(sizes[:_SHOWN])}" if sizes else "a row, as no other groups divide all widths"

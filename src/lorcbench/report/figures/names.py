"""Names beside points of a figure: where they cover no point, no line and no other name, with a thin line to their point."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from lorcbench.report.figures.style import EDGE

_LETTER, _LINE = 0.62, 1.2  # a letter's width and a line's height, as shares of the font size
_MARK = 5.0  # points from its centre that a mark takes
_NEAR = 14.0  # points from its mark within which a name needs no line
_DISTANCES = (9, 13, 18, 24, 31, 39, 48)
ALL_AROUND = (135, 45, 90, 180, 0, 225, 315, 270)  # degrees, the preferred first
BELOW_LEFT = (225, 240, 210, 255, 195, 270, 180)

Place = tuple[float, float]


class Names:
    """The names of one panel.

    Args:
        ax: the panel, whose limits and scales stay as they are.
        points: places of data that no name may cover.
        corners: of a line that no name may cover.
    """

    def __init__(self, ax: Axes, points: Iterable[Place], corners: Iterable[Place] = ()) -> None:
        self._ax = ax
        self._low, self._high = ax.transAxes.transform([(0, 0), (1, 1)]) * self._unit
        taken = [self._on_page(place) for place in points]
        ends = [self._on_page(place) for place in corners]
        for start, end in pairwise(ends):
            steps = max(2, int(np.hypot(*(end - start)) / 3))
            taken += list(np.linspace(start, end, steps))
        self._taken = np.array(taken).reshape(-1, 2)
        self._boxes: list[np.ndarray] = []

    @property
    def _unit(self) -> float:
        return 72 / self._ax.get_figure().dpi

    def _on_page(self, place: Place) -> np.ndarray:
        """A place of data in points of the page."""
        return self._ax.transData.transform(place) * self._unit

    def put(self, text: str, place: Place, angles: Iterable[int], size: float, colour: str, is_needed: bool = False) -> None:
        """Write a name as near to its place as it covers nothing; where there is no room beside it, not at all.

        Args:
            angles: of the directions in which it may stand, the preferred first.
            size: of its letters, in points.
            is_needed: write it where it covers least, however far, with a line to its place.
        """
        half = np.array([_LETTER * size * len(text), _LINE * size]) / 2
        own = self._on_page(place)
        best = None
        for distance in _DISTANCES if is_needed else _DISTANCES[:2]:
            for angle in angles:
                towards = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
                offset = distance * towards + half * np.sign(np.round(towards, 6))
                covered = self._covered(own + offset, half)
                if best is None or covered < best[0]:
                    best = covered, offset, distance
            if best and not best[0]:
                break
        covered, offset, distance = best
        if covered and not is_needed:
            return
        self._boxes.append(np.array([own + offset - half, own + offset + half]))
        line = {"arrowstyle": "-", "color": EDGE, "lw": 0.7, "shrinkA": 0, "shrinkB": 3}
        style = {"ha": "center", "va": "center", "fontsize": size, "color": colour, "zorder": 6}
        arrow = line if distance > _NEAR else None
        self._ax.annotate(text, place, offset, textcoords="offset points", arrowprops=arrow, **style)

    def _covered(self, centre: np.ndarray, half: np.ndarray) -> int:
        """How much a name would cover: points, and ten for each other name and for leaving the panel."""
        low, high = centre - half, centre + half
        points = ((self._taken > low - _MARK) & (self._taken < high + _MARK)).all(axis=1).sum()
        names = sum(bool((box[0] < high + 1).all() and (box[1] > low - 1).all()) for box in self._boxes)
        outside = bool((low < self._low).any() or (high > self._high).any())
        return int(points) + 10 * (names + outside)

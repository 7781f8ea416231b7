"""Names beside points of a figure cover nothing."""

import numpy as np
import pytest
from matplotlib import figure as mpl_figure
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lorcbench.report.figures.names import ALL_AROUND, Names


@pytest.mark.parametrize("seed", range(4))
def test_names_cover_no_point_and_no_other_name_and_stay_in_the_panel(seed):
    draw = np.random.default_rng(seed)
    ax = mpl_figure.Figure(figsize=(9, 5)).subplots()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    places = [tuple(place) for place in draw.uniform(0.1, 0.9, (40, 2))]
    names = Names(ax, places, [(0.2, 0.8), (0.2, 0.3), (0.9, 0.3)])
    for number, place in enumerate(places[:8]):
        names.put(f"model-{number}", place, ALL_AROUND, 9, "#222222", is_needed=number < 4)
    assert len(ax.texts) >= 6
    renderer = FigureCanvasAgg(ax.get_figure()).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in ax.texts]
    marks = ax.transData.transform(places)
    for index, box in enumerate(boxes):
        assert not any(box.contains(*mark) for mark in marks)
        assert not any(box.overlaps(other) for other in boxes[:index])
        assert ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 + 1


def test_a_name_without_room_is_left_out_unless_it_is_needed():
    ax = mpl_figure.Figure(figsize=(2, 1)).subplots()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    grid = [(x, y) for x in np.linspace(0, 1, 30) for y in np.linspace(0, 1, 30)]
    names = Names(ax, grid)
    names.put("too-long-a-name-for-this", (0.5, 0.5), ALL_AROUND, 9, "#222222")
    assert len(ax.texts) == 0
    names.put("needed", (0.5, 0.5), ALL_AROUND, 9, "#222222", is_needed=True)
    assert len(ax.texts) == 1

import itertools
import struct

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import optimize

from experiments import figures
from experiments.method_runs import Curve, MethodRun
from jaxpg.labels import spread

NAMES = ("PPO", "A2C", "REINFORCE + baseline", "GRPO", "RLOO", "SPO")


def runs(num_seeds=5, label="return"):
    generator = np.random.default_rng(0)
    x = np.linspace(1e4, 5e5, 12)
    found = {}
    for name in NAMES:
        y = np.sqrt(x)[:, None] + generator.normal(0, 20, (12, num_seeds))
        found[name] = MethodRun(y[-1], {label: Curve(x, y)})
    return found


def draw(found, **settings):
    given = {"title": "t", "metric": "return", "x_label": "environment steps"} | settings
    return figures.draw(found, **given)


def test_a_picture_has_the_size_of_a_readme(tmp_path):
    figures.save(draw(runs(), threshold=600.0), tmp_path / "curves.png")
    header = (tmp_path / "curves.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == (960, 540)
    assert matplotlib.image.imread(tmp_path / "curves.png")[..., :3].std() > 0.01


def test_every_curve_has_its_label_and_no_two_overlap():
    figure = draw(runs(), threshold=700.0)
    FigureCanvasAgg(figure).draw()
    texts = [t for t in figure.axes[0].texts if t.get_text() in (*NAMES, "700")]
    assert len(texts) == len(NAMES) + 1
    # Of the text alone: the annotation's own extent holds the line to its curve too.
    boxes = [super(type(t), t).get_window_extent() for t in texts]
    boxes = sorted(boxes, key=lambda box: box.y0)
    assert all(one.y1 <= other.y0 + 1 for one, other in itertools.pairwise(boxes))
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_the_axes_say_what_they_show():
    axes = draw(runs(label="success rate")).axes
    assert [(a.get_xlabel(), a.get_ylabel()) for a in axes] == [
        ("environment steps", "success rate")
    ]


def test_labels_of_curves_share_panels():
    x = [0.0, 1.0]
    found = {
        "new": MethodRun([1.0], {"a": Curve(x, [[1], [2]]), "b": Curve(x, [[1], [2]])}),
        "old": MethodRun([1.0], {"a": Curve(x, [[1], [2]])}),
    }
    assert [axes.get_ylabel() for axes in draw(found).axes] == ["a", "b"]


def test_without_curves_the_final_values_are_drawn():
    found = {"new": MethodRun([1.0, 2.0]), "old": MethodRun([0.0, np.nan])}
    figure = draw(found, threshold=1.5)
    FigureCanvasAgg(figure).draw()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["new", "old"]
    assert figure.axes[0].get_xlabel() == "return"


def test_a_band_of_few_seeds_spans_them_and_of_many_is_narrower():
    values = np.random.default_rng(3).normal(size=(4, 10))
    np.testing.assert_array_equal(
        figures.band(values[:, :3]), (values[:, :3].min(axis=1), values[:, :3].max(axis=1))
    )
    low, high = figures.band(values)
    assert (values.min(axis=1) < low).all() and (high < values.max(axis=1)).all()
    assert (low < values.mean(axis=1)).all() and (values.mean(axis=1) < high).all()


def test_labels_move_as_little_as_least_squares_allows():
    heights, gap = np.array([0.2, 0.5, 0.9, 0.52, 0.49, 0.21]), 0.08
    order = np.argsort(heights)
    offsets = gap * np.arange(6)
    expected = optimize.isotonic_regression(heights[order] - offsets).x + offsets
    np.testing.assert_allclose(spread(heights, gap)[order], expected, atol=1e-12)


@pytest.mark.parametrize("heights", [[1.0, 1.0, 1.0], [0.0, 0.0], [0.5], [0.3, 0.9, 0.1]])
def test_labels_stay_inside(heights):
    moved = spread(heights, 0.2)
    assert ((moved >= 0) & (moved <= 1)).all()
    assert (np.diff(np.sort(moved)) >= 0.2 - 1e-9).all()


def test_a_curve_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="num_seeds"):
        Curve([0.0, 1.0], [1.0, 2.0])

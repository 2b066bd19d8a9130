"""The report says the same in every form, and can be read."""

import dataclasses
import json

import pytest
from matplotlib.text import Text

from jaxpg import estimators
from jaxpg.diagnostics import audit, token_tree


def boxes_of(figure):
    """Of the labels alone: an annotation counts its line as well."""
    return [Text.get_window_extent(label) for label in figure.axes[0].texts]


@pytest.fixture(scope="module")
def report():
    return audit(
        [estimators.rloo(), estimators.grpo(), estimators.srft_offline()],
        token_tree(2, 2),
        num_batches=200,
        staleness=0.1,
    )


def test_text_fits_a_terminal_and_names_everything(report):
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 120
    assert all(any(row["name"] in line for line in lines) for row in report.rows)
    assert not any("…" in line for line in lines)
    assert "staleness 0.1" in str(report)
    assert "srft_offline: 0 in every batch: all decisions are masked." in lines


def test_json_holds_the_rows_and_nothing_that_is_no_json(report):
    plain = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert [each["name"] for each in plain["estimators"]] == ["rloo", "grpo", "srft_offline"]
    assert plain["estimators"][0]["bias"] == report["rloo"]["bias"]
    assert plain["estimators"][2]["cosine"] is None
    assert plain["staleness"] == 0.1
    assert isinstance(plain["estimators"][0]["unbiased"], bool)


def test_unknown_name_is_answered_with_the_known_ones(report):
    with pytest.raises(KeyError, match="no estimator 'ppo'; the report has"):
        report["ppo"]


def test_picture_is_saved_and_its_labels_do_not_overlap(report, tmp_path):
    path = tmp_path / "audit.png"
    figure = report.plot(path)
    assert path.stat().st_size > 10_000
    boxes = boxes_of(figure)
    assert len(boxes) == 2
    assert not boxes[0].overlaps(boxes[1])


def test_labels_of_many_equal_points_do_not_overlap(report):
    same = [dataclasses.replace(report.results[0], name=f"estimator {n}") for n in range(30)]
    figure = dataclasses.replace(report, results=tuple(same)).plot()
    figure.draw_without_rendering()
    boxes = boxes_of(figure)
    assert len(boxes) == 30
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])

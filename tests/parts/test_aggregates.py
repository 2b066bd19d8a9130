import functools

import jax
import numpy as np
import pytest

from jaxpg import parallel
from jaxpg.parts import aggregates

MASK = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]], np.float32)
WEIGHT = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0.5], [0, 0, 0, 0]], np.float32)
VALUES = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)

AGGREGATES = {
    "decision_mean": aggregates.decision_mean,
    "sequence_mean": aggregates.sequence_mean,
    "row_sum_mean": aggregates.row_sum_mean,
    "fixed_length_mean": aggregates.fixed_length_mean(8),
    "fixed_length_sum": aggregates.fixed_length_sum(8),
    "padded_length_mean": aggregates.padded_length_mean,
    "padded_length_sum": aggregates.padded_length_sum,
    "selected_mean": aggregates.selected_mean,
}
NATIVE = {
    "decision_mean": lambda values, real, chosen: values[real].mean(),
    "sequence_mean": lambda values, real, chosen: np.mean(
        [row[keep].mean() for row, keep in zip(values, real, strict=True) if keep.any()]
    ),
    "row_sum_mean": lambda values, real, chosen: values[real].sum() / real.any(-1).sum(),
    "fixed_length_mean": lambda values, real, chosen: values[real].sum() / real.any(-1).sum() / 8,
    "fixed_length_sum": lambda values, real, chosen: values[real].sum() / 8,
    "padded_length_mean": lambda values, real, chosen: values[real].sum() / real.any(-1).sum() / 4,
    "padded_length_sum": lambda values, real, chosen: values[real].sum() / 4,
    "selected_mean": lambda values, real, chosen: values[chosen].mean(),
}
every = pytest.mark.parametrize("name", AGGREGATES)


@functools.cache
def value_and_gradient(name):
    return jax.jit(jax.value_and_grad(AGGREGATES[name]))


def native(name, values, mask, weight=WEIGHT):
    real = mask > 0
    return NATIVE[name](values, real, real & (weight != 0))


@every
def test_an_aggregate_is_its_definition(name):
    value, _ = value_and_gradient(name)(VALUES, MASK, WEIGHT)
    np.testing.assert_allclose(value, native(name, VALUES, MASK), rtol=1e-5)


@every
def test_padding_reaches_neither_value_nor_gradient(name):
    poisoned = np.where(MASK > 0, VALUES, np.array([np.nan, np.inf, -np.inf, 1e30], np.float32))
    clean = value_and_gradient(name)(np.where(MASK > 0, VALUES, 0), MASK, WEIGHT)
    for one, other in zip(value_and_gradient(name)(poisoned, MASK, WEIGHT), clean, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.asarray(clean[1])[MASK == 0].any()


@every
def test_an_empty_mask_gives_zero(name):
    value, gradient = value_and_gradient(name)(VALUES * np.nan, 0 * MASK, WEIGHT)
    assert value == 0.0
    assert not np.asarray(gradient).any()


@every
def test_masking_a_row_equals_deleting_it(name):
    mask = MASK.copy()
    mask[1] = 0.0
    kept = [0, 2, 3]
    value, gradient = value_and_gradient(name)(VALUES, mask, WEIGHT)
    without, short = value_and_gradient(name)(VALUES[kept], MASK[kept], WEIGHT[kept])
    np.testing.assert_allclose(value, without, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(gradient)[kept], short, rtol=1e-6)


@every
def test_the_order_of_rows_changes_nothing(name):
    order = np.array([2, 0, 3, 1])
    value, _ = value_and_gradient(name)(VALUES, MASK, WEIGHT)
    permuted, _ = value_and_gradient(name)(VALUES[order], MASK[order], WEIGHT[order])
    np.testing.assert_allclose(permuted, value, rtol=1e-5)


@functools.cache
def weights_of(name):
    return jax.jit(functools.partial(aggregates.weights_of, AGGREGATES[name]))


@every
def test_weights_of_an_aggregate_reproduce_it_in_micro_batches_of_any_size(name):
    weights = np.asarray(weights_of(name)(MASK, WEIGHT))
    expected = native(name, VALUES, MASK)
    for size in (1, 2, 4):
        pieces = [np.sum(VALUES[i : i + size] * weights[i : i + size]) for i in range(0, 4, size)]
        np.testing.assert_allclose(np.sum(pieces), expected, rtol=1e-5)


@every
def test_the_average_over_devices_is_the_aggregate_of_the_whole_batch(name):
    # Four devices with 4, 1, 0 and 2 real decisions.
    mask = np.array([[[1, 1], [1, 1]], [[0, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [0, 0]]])
    mask = mask.astype(np.float32)
    values = np.random.default_rng(1).normal(size=(4, 2, 2)).astype(np.float32)
    weight = np.random.default_rng(2).integers(0, 2, (4, 2, 2)).astype(np.float32)
    weight[1] = 1.0

    def on_device(values, mask, weight):
        value, gradient = jax.value_and_grad(AGGREGATES[name])(values, mask, weight)
        return parallel.mean(value), gradient, aggregates.weights_of(AGGREGATES[name], mask, weight)

    averaged, gradient, weights = jax.pmap(on_device, axis_name=parallel.AXIS)(values, mask, weight)
    rows = lambda x: x.reshape(8, 2)
    if name == "padded_length_mean":
        expected = values[mask > 0].sum() / (rows(mask).any(-1).sum() * 2)
    elif name == "padded_length_sum":
        expected = values[mask > 0].sum() / 2
    else:
        expected = native(name, rows(values), rows(mask), rows(weight))
    np.testing.assert_allclose(averaged, np.full(4, expected), rtol=1e-5)
    np.testing.assert_allclose(np.sum(values * np.asarray(weights)) / 4, expected, rtol=1e-5)
    np.testing.assert_array_equal(gradient, weights)


# Token mean, sequence mean and a constant length are three different objectives.


@pytest.mark.parametrize(
    ("name", "expected"),
    [("decision_mean", 0.5), ("sequence_mean", 0.0), ("padded_length_mean", 0.25)],
)
def test_rows_of_length_one_and_three_with_advantages_of_either_sign(name, expected):
    mask = np.array([[1, 0, 0, 0], [1, 1, 1, 0]], np.float32)
    advantage = np.array([[1.0], [-1.0]], np.float32) * np.ones((2, 4), np.float32)
    value, gradient = value_and_gradient(name)(-advantage, mask, mask)
    np.testing.assert_allclose(value, expected, atol=1e-7)
    weights = np.asarray(weights_of(name)(mask, mask))
    np.testing.assert_allclose(gradient, weights)
    np.testing.assert_allclose(
        np.sum(-advantage[:1] * weights[:1]) + np.sum(-advantage[1:] * weights[1:]),
        expected,
        atol=1e-7,
    )


def test_token_means_of_micro_batches_are_weighted_by_their_tokens():
    values = np.concatenate([np.full((1, 900), 0.5), np.full((1, 900), 2.0)]).astype(np.float32)
    mask = np.ones((2, 900), np.float32)
    mask[1, 100:] = 0.0
    value, _ = value_and_gradient("decision_mean")(values, mask, mask)
    np.testing.assert_allclose(value, 0.65, rtol=1e-5)


def test_an_empty_row_beside_three_tokens_leaves_the_denominator_at_three():
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], np.float32)
    value, _ = value_and_gradient("decision_mean")(np.ones((2, 4), np.float32), mask, mask)
    assert value == 1.0
    weights = weights_of("decision_mean")(mask, mask)
    np.testing.assert_allclose(weights, mask / 3, rtol=1e-6)


def test_a_mean_over_nothing_selected_is_zero():
    value, gradient = value_and_gradient("selected_mean")(VALUES, MASK, 0 * WEIGHT)
    assert value == 0.0
    assert not np.asarray(gradient).any()


def test_values_and_mask_of_different_shapes_are_refused():
    with pytest.raises(AssertionError, match=r"\(4, 4\).*\(1, 4\)"):
        aggregates.decision_mean(VALUES, MASK[:1])


SELECTED = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]], np.float32)


@every
def test_what_is_not_selected_has_no_value_and_is_not_counted_but_its_row_is(name):
    real = (MASK > 0) & (SELECTED > 0)
    assert not real[2].any() and (MASK[2] > 0).any()
    lengths = np.maximum(real.sum(-1), 1)
    expected = {
        "decision_mean": VALUES[real].mean(),
        "sequence_mean": np.mean((VALUES * real).sum(-1) / lengths),
        "selected_mean": VALUES[real & (WEIGHT > 0)].mean(),
    }.get(name)
    if expected is None:
        # Sums over rows: what is not selected might as well be 0.
        expected = value_and_gradient(name)(VALUES * real, MASK, WEIGHT)[0]
    values = np.where(real, VALUES, np.nan).astype(np.float32)
    loss = lambda values: AGGREGATES[name](values, MASK, WEIGHT, SELECTED)
    result, gradient = jax.value_and_grad(loss)(values)
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert not np.asarray(gradient)[~real].any() and np.asarray(gradient)[real].any()


@every
def test_selecting_everything_selects_nothing_out(name):
    aggregate = AGGREGATES[name]
    all_of_it = aggregate(VALUES, MASK, WEIGHT, np.ones_like(MASK))
    np.testing.assert_array_equal(all_of_it, aggregate(VALUES, MASK, WEIGHT))

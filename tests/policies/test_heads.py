"""Heads: feasible by construction, and the same as a few lines of loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.policies import heads
from jaxpg.policies.policy import on_hand, orders

CONNECTED = np.array([[1, 0], [1, 1], [0, 1], [1, 1]])


def shipped_by_hand(wants, available, kept, keeps_stock):
    """The rule of one supplier with the customers that it has."""
    total = sum(wants) + kept
    if keeps_stock:
        return [want * min(1.0, available / (total + 1e-10)) for want in wants]
    if not total:
        return [available / len(wants) for _ in wants]
    return [want * available / total for want in wants]


@pytest.mark.parametrize("keeps_stock", [True, False])
def test_the_proportional_rule_is_the_loop_in_every_case(keeps_stock):
    keeping = (0.0, 3.0) if keeps_stock else (0.0,)
    cases = list(itertools.product((0.0, 1.0, 4.0), (0.0, 2.0), (0.0, 2.0, 100.0), keeping))
    wants = np.array([case[:2] for case in cases], np.float32)[:, :, None]
    available = np.array([case[2:3] for case in cases], np.float32)
    kept = np.array([case[3:] for case in cases], np.float32)
    both = np.ones((2, 1))
    run = jax.jit(
        lambda *x: heads.proportional(x[0], x[1], both, kept=x[2], keeps_stock=keeps_stock)
    )
    found = run(wants, available, kept)[:, :, 0]
    expected = [shipped_by_hand(case[:2], *case[2:], keeps_stock) for case in cases]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.fixture(scope="module")
def random_rows():
    draw = np.random.default_rng(0)
    numbers = 5 * draw.normal(size=(200, 4, 2)).astype(np.float32)
    available = (10 * draw.uniform(size=(200, 2))).astype(np.float32)
    available[:20] = 0.0
    return numbers, available


@pytest.mark.parametrize("keeps_stock", [True, False])
@pytest.mark.parametrize("head", ["softmax_allocation", "proportional"])
def test_no_more_is_shipped_than_is_there_and_without_storage_all_of_it(
    head, keeps_stock, random_rows
):
    numbers, available = random_rows
    run = jax.jit(lambda x, y: getattr(heads, head)(x, y, CONNECTED, keeps_stock=keeps_stock))
    shipped = np.asarray(
        run(np.maximum(numbers, 0) if head == "proportional" else numbers, available)
    )
    assert (shipped >= 0).all() and not shipped[:, CONNECTED == 0].any()
    sums = shipped.sum(axis=1)
    assert (sums <= available * (1 + 1e-6)).all()
    if keeps_stock:
        assert (sums < 0.999 * available).any()
    else:
        np.testing.assert_allclose(sums, available, rtol=1e-6)


def test_scarcity_scales_proportionally(random_rows):
    numbers, available = random_rows
    wants = np.abs(numbers) + 5.0
    shipped = heads.proportional(wants, available, CONNECTED)
    scarce = (wants * CONNECTED).sum(axis=1) > available
    assert scarce.all()
    shares = wants * CONNECTED / (wants * CONNECTED).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shipped, shares * available[:, None], rtol=1e-5)


def test_the_softmax_splits_over_customers_and_what_is_kept(random_rows):
    logits, available = (x[:8] for x in random_rows)
    shipped = heads.softmax_allocation(logits, available, CONNECTED)
    for row, warehouse in itertools.product(range(8), range(2)):
        stores = np.flatnonzero(CONNECTED[:, warehouse])
        weights = np.exp(np.append(logits[row, stores, warehouse], 1.0))
        expected = available[row, warehouse] * weights[:-1] / weights.sum()
        np.testing.assert_allclose(shipped[row, stores, warehouse], expected, rtol=1e-5)


def test_gradients_are_finite_where_nothing_is_there_or_wanted():
    def total(wants, available, keeps_stock):
        shipped = heads.proportional(wants, available, CONNECTED, keeps_stock=keeps_stock)
        return jnp.sum(shipped * jnp.arange(8.0).reshape(4, 2))

    run = jax.jit(jax.grad(total, argnums=(0, 1)), static_argnums=2)
    for keeps_stock, wants, available in itertools.product((True, False), (0.0, 1.0), (0.0, 3.0)):
        gradients = run(jnp.full((4, 2), wants), jnp.full(2, available), keeps_stock)
        assert all(np.isfinite(x).all() for x in gradients)


def test_rounding_below_zero_is_an_empty_stock_that_may_grow():
    slots = jnp.array([[-1e-7, 2.0], [0.0, 2.0], [3.0, 2.0]])
    assert on_hand(slots).tolist() == [0.0, 0.0, 3.0]
    assert jax.grad(lambda x: on_hand(x).sum())(slots)[1:, 0].tolist() == [1.0, 1.0]


def test_every_supplier_of_a_network_rations(supply, observe):
    network = supply(CONNECTED, num_echelons=2)
    seen = observe(network, rows=50)
    draw = np.random.default_rng(1)
    wants = orders(*(10 * draw.uniform(size=(50, *n)) for n in ((4, 2), (2,), (2,))))
    kept = 3 * draw.uniform(size=(50, 2)), 3 * draw.uniform(size=(50, 2))
    found = jax.jit(lambda *x: heads.ration(network, *x))(seen, wants, kept)
    for row in range(50):
        for w in range(2):
            stores = np.flatnonzero(CONNECTED[:, w])
            expected = shipped_by_hand(
                wants["stores"][row, stores, w],
                seen["warehouses"][row, w, 0],
                kept[0][row, w],
                True,
            )
            np.testing.assert_allclose(found["stores"][row, stores, w], expected, rtol=1e-5)
        first, last = (seen["echelons"][row, j, 0] for j in range(2))
        expected = shipped_by_hand(wants["warehouses"][row], last, kept[1][row, 1], True)
        np.testing.assert_allclose(found["warehouses"][row], expected, rtol=1e-5)
        (expected,) = shipped_by_hand(wants["echelons"][row, 1:], first, kept[1][row, 0], True)
        np.testing.assert_allclose(
            found["echelons"][row], [wants["echelons"][row, 0], expected], rtol=1e-5
        )

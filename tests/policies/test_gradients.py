"""Gradients of policies equal central differences, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import policies
from jaxpg.policies.forecaster import Forecaster
from jaxpg.policies.perceptron import perceptron


def forecaster(weights):
    params = weights(perceptron(5, (8,), 19))
    params["params"]["Dense_0"]["bias"] = np.linspace(2.0, 9.0, 19)
    return Forecaster(params, np.float64(2.0), (2,), 4, (8,))


PARTIAL = [[1, 0], [1, 1], [0, 1]]
CASES = {
    "capped": ({}, lambda network, weights: policies.capped_base_stock()),
    "echelon": (
        {"adjacency": [[1]], "num_echelons": 2},
        lambda network, weights: policies.echelon_stock(network),
    ),
    "heuristic": (
        {"adjacency": PARTIAL, "num_echelons": 1},
        lambda network, weights: policies.network_base_stock(network),
    ),
    "serial": (
        {"adjacency": [[1]], "num_echelons": 1},
        lambda network, weights: policies.vanilla_serial(network),
    ),
    "warehouse": (
        {"adjacency": PARTIAL},
        lambda network, weights: policies.vanilla_warehouse(network, hidden=(8, 8)),
    ),
    "data-driven": (
        {"adjacency": PARTIAL},
        lambda network, weights: policies.data_driven(network, 4, hidden=(8,)),
    ),
    "graph": (
        {"adjacency": [[1, 0], [1, 1]], "keeps_stock": False},
        lambda network, weights: policies.gnn(network, width=4),
    ),
    "quantile": (
        {"num_stores": 2},
        lambda network, weights: policies.transformed_newsvendor(forecaster(weights), 2, (8,)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_gradient_is_the_central_difference(case, supply, observe, weights):
    fields, build = CASES[case]
    network = supply(**fields)
    policy = build(network, weights)
    seen = observe(network, rows=5, history=4)
    seen["lead_time"][:] = 2.0
    draw = np.random.default_rng(2)
    with jax.enable_x64(True):
        start = weights(policy) + np.array([14.0, 5.0]) if case == "capped" else weights(policy)
        seen, params = jax.tree.map(lambda x: jnp.asarray(x, float), (seen, start))
        direction = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape)), params)

        def cost(step):
            moved = jax.tree.map(lambda x, y: x + step * y, params, direction)
            orders = jax.tree.leaves(policy.apply(moved, seen))
            # Curved, and different at every location.
            return sum(
                jnp.sum(jnp.sin(x.reshape(5, -1)) @ jnp.arange(1, 1 + x[0].size)) for x in orders
            )

        step = 1e-6
        slope, (after, before) = jax.jit(
            lambda: (jax.grad(cost)(0.0), jax.lax.map(cost, jnp.array([step, -step])))
        )()
        assert slope.dtype == jnp.float64 and abs(slope) > 1e-3
        np.testing.assert_allclose(slope, (after - before) / (2 * step), rtol=1e-6)

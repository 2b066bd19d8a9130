"""Supply chains and observations, made by hand: policies ask for names, not for a type."""

import dataclasses

import jax
import numpy as np
import pytest


@dataclasses.dataclass(frozen=True)
class Supply:
    """What policies read of a network."""

    supplies: tuple
    num_warehouses: int
    num_echelons: int = 0
    store_slots: int = 3
    warehouse_slots: int = 4
    echelon_slots: int = 2
    keeps_stock: bool = True

    @property
    def num_stores(self):
        return len(self.supplies)

    @property
    def num_suppliers(self):
        return max(self.num_warehouses, 1)

    @property
    def adjacency(self):
        return np.array(self.supplies, bool)


def build_supply(adjacency=None, num_stores=1, **fields):
    if adjacency is None:
        return Supply(((True,),) * num_stores, 0, **fields)
    rows = tuple(tuple(bool(x) for x in row) for row in adjacency)
    return Supply(rows, len(rows[0]), **fields)


def build_observation(network, rows=4, history=0, seed=0, **fields):
    draw = np.random.default_rng(seed)
    stores, warehouses, echelons = (
        network.num_stores,
        network.num_warehouses,
        network.num_echelons,
    )
    sizes = {
        "stores": (0, 6, stores, network.store_slots),
        "warehouses": (0, 9, warehouses, network.warehouse_slots),
        "echelons": (0, 9, echelons, network.echelon_slots),
        "past_demand": (0, 9, history, stores),
        "days_from_christmas": (-182, 182),
        "holding_cost": (0.7, 1.3, stores),
        "underage_cost": (6.3, 11.7, stores),
        "warehouse_holding_cost": (0.2, 0.4, warehouses),
        "warehouse_order_cost": (0.0, 1.5, warehouses),
        "echelon_holding_cost": (0.1, 0.2, echelons),
        "mean_demand": (2.5, 7.5, stores),
        "demand_std": (1.0, 2.5, stores),
    }
    values = {
        name: draw.uniform(low, high, (rows, *shape)) for name, (low, high, *shape) in sizes.items()
    }
    # Different in every scenario and on every edge.
    values["lead_time"] = draw.integers(1, 7, (rows, stores, network.num_suppliers))
    values["warehouse_lead_time"] = draw.integers(1, 5, (rows, warehouses))
    values["echelon_lead_time"] = draw.integers(1, 3, (rows, echelons))
    values |= fields
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def random_weights(policy, seed=0):
    """As large as `init` draws them, without its many small programs."""
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    draw = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: draw.uniform(-1, 1, x.shape).astype(np.float32) * max(x.shape[0], 1) ** -0.5,
        shapes,
    )


def jitted_apply(policy, params, observation):
    orders = jax.jit(policy.apply)(params, observation)
    return {name: np.asarray(value) for name, value in orders.items()}


@pytest.fixture(scope="session")
def supply():
    return build_supply


@pytest.fixture(scope="session")
def observe():
    return build_observation


@pytest.fixture(scope="session")
def weights():
    return random_weights


@pytest.fixture(scope="session")
def decide():
    return jitted_apply

"""Do parameters describe an inventory network? On the host, one sentence for the first fault."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxpg_envs.inventory.demand import TraceDemand
from jaxpg_envs.inventory.network import Network
from jaxpg_envs.inventory.params import InventoryParams, shapes

_COSTS = (
    "holding_cost",
    "underage_cost",
    "warehouse_holding_cost",
    "warehouse_order_cost",
    "echelon_holding_cost",
)


def check_shapes(network: Network, params: InventoryParams, leading: tuple[int, ...] = ()) -> None:
    """Check the shapes of parameters, also of traced ones.

    Args:
      network: static.
      params: one scenario or a batch.
      leading: `(N,)` for a batch of N scenarios.

    Raises:
      ValueError: an array of another shape.
    """
    for name, shape in shapes(network).items():
        value = getattr(params, name)
        if name == "initial_stock" and value is None:
            continue
        if np.shape(value) != (*leading, *shape):
            raise ValueError(
                f"{name} has shape {np.shape(value)}, but this network needs {(*leading, *shape)}"
            )


def check_params(network: Network, params: InventoryParams, *, history: int = 0) -> None:
    """Check all values of one scenario or of a batch, on the host.

    Args:
      network: static.
      params: of one scenario, or of N with a leading axis on every leaf.
      history: periods before the first one that the environment shows.

    Raises:
      ValueError: shapes that do not fit the network, costs, demand statistics or stock that are
        negative or no numbers, a lead time of 0 or beyond the slots, an episode without periods,
        or stored demand that is shorter than history and episode.

    >>> import jaxpg_envs
    >>> env, params = jaxpg_envs.make("inventory/one-store-lost", lead_time=2)
    >>> check_params(env.network, params.replace(lead_time=np.array([[3]])))
    Traceback (most recent call last):
    ValueError: lead_time[0, 0] is 3, but store_slots=2 allows 1 to 2: give the network more slots
    """
    leading = np.shape(params.mean_demand)[:-1]
    check_shapes(network, params, leading)
    for name in (*_COSTS, "mean_demand", "demand_std", "initial_stock_scale"):
        _check_least(name, getattr(params, name), 0)
    _check_least("max_steps_in_episode", params.max_steps_in_episode, 1)
    if params.initial_stock is not None:
        stock = np.asarray(params.initial_stock)
        _refuse_first("initial_stock", stock, ~np.isfinite(stock), "it has to be finite")
    edges = np.broadcast_to(network.adjacency, np.shape(params.lead_time))
    _check_lead_time("lead_time", params.lead_time, "store_slots", network.store_slots, edges)
    _check_lead_time(
        "warehouse_lead_time",
        params.warehouse_lead_time,
        "warehouse_slots",
        network.warehouse_slots,
    )
    _check_lead_time(
        "echelon_lead_time", params.echelon_lead_time, "echelon_slots", network.echelon_slots
    )
    _check_demand(network, params, leading, history)


def _check_least(name: str, value: ArrayLike, least: int) -> None:
    value = np.asarray(value)
    # Written so that NaN is refused.
    _refuse_first(name, value, ~((value >= least) & np.isfinite(value)), f"at least {least}")


def _refuse_first(name: str, value: np.ndarray, wrong: np.ndarray, valid: str) -> None:
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f"{name}[{', '.join(map(str, index))}]" if index else name
        raise ValueError(f"{where} is {value[index]}, but {valid} is needed")


def _check_lead_time(
    name: str,
    value: ArrayLike,
    slots_name: str,
    slots: int,
    edges: np.ndarray | None = None,
) -> None:
    value = np.asarray(value)
    if value.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {value.dtype}, but whole numbers (int32) are needed")
    wrong = (value < 1) | (value > slots)
    wrong = wrong if edges is None else wrong & edges
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        hint = ": give the network more slots" if value[index] > slots else ""
        raise ValueError(
            f"{name}[{', '.join(map(str, index))}] is {value[index]}, but {slots_name}={slots} "
            f"allows 1 to {slots}{hint}"
        )


def _check_demand(
    network: Network, params: InventoryParams, leading: tuple[int, ...], history: int
) -> None:
    demand = params.demand
    if not isinstance(demand, TraceDemand):
        return
    shape = np.shape(demand.values)
    if len(shape) != len(leading) + 2 or shape[-1] != network.num_stores:
        raise ValueError(
            f"demand.values has shape {shape}, but "
            f"{(*leading, 'num_periods', network.num_stores)} is needed"
        )
    first, steps = np.asarray(demand.first), np.asarray(params.max_steps_in_episode)
    if (first < history).any():
        raise ValueError(
            f"demand.first is {first.min()}, but history={history} periods before it are needed"
        )
    if (first + steps > shape[-2]).any():
        raise ValueError(
            f"max_steps_in_episode is {steps.max()}, but the stored demand has only "
            f"{(shape[-2] - first).min()} periods from demand.first on"
        )


def check_traces(values: ArrayLike, num_stores: int) -> np.ndarray:
    """Check a user's demand.

    Args:
      values: `[N, T, S]`, product, period and store; or `[N, T]` where there is one store.
      num_stores: S.

    Returns:
      `[N, T, S]` float64.

    Raises:
      ValueError: another rank or number of stores, or demand that is negative or no number.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"values has dtype {values.dtype}, but numbers are needed")
    values = values.astype(np.float64)
    if values.ndim == 2 and num_stores == 1:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] != num_stores or not values.size:
        raise ValueError(
            f"values has shape {values.shape}, but [num_scenarios, num_periods, {num_stores}] is "
            f"needed"
        )
    wrong = ~((values >= 0) & np.isfinite(values))
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"values[{', '.join(map(str, index))}] is {values[index]}, but demand is at least 0"
        )
    return values

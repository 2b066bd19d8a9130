"""Inventory networks as an environment: orders in, costs out, differentiable from end to end."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from jaxpg_envs.inventory.checks import check_params, check_shapes
from jaxpg_envs.inventory.demand import TraceDemand
from jaxpg_envs.inventory.network import Network
from jaxpg_envs.inventory.params import InventoryParams
from jaxpg_envs.inventory.rationing import feasible
from jaxpg_envs.inventory.simulator import Orders, Stock, period

Array = jax.Array

MOST_ORDERED = 4.0
"""Upper bound of the action space, in mean demands of a period."""


@struct.dataclass
class EnvState(environment.EnvState):
    """State of an episode.

    Attributes:
      time: int32 scalar, periods passed.
      stock: what is where and when.
      past_demand: `[H, S]` float, of the last H periods, oldest first.
    """

    stock: Stock
    past_demand: Array


class Inventory(environment.Environment[EnvState, InventoryParams]):
    """Stores that face demand, warehouses and echelons that supply them.

    The observation is a dict of float arrays, empty where a network has no such place, with S
    stores, W warehouses, E echelons and H = `history`: `stores [S, P]`, `warehouses [W, P_w]` and
    `echelons [E, P_e]` are the slots (see `simulator.Stock`); `past_demand [H, S]`, oldest first;
    `days_from_christmas []`; `holding_cost [S]`, `underage_cost [S]`, `warehouse_holding_cost [W]`,
    `warehouse_order_cost [W]`, `echelon_holding_cost [E]`; `lead_time [S, max(W, 1)]` (0 where
    there is no edge), `warehouse_lead_time [W]`, `echelon_lead_time [E]`; `mean_demand [S]` and
    `demand_std [S]`; and only with `foresight` F: `future_demand [F, S]`, whose row 0 is the demand
    of this very period.

    The action is a dict of float orders: `stores [S, max(W, 1)]`, `warehouses [W]` and
    `echelons [E]`. They are taken as they are, also those that a supplier cannot ship, unless
    `rationing` is set. The reward is minus the cost of the period over all places, per store.
    Episodes never terminate; they are truncated.

    Attributes:
      network: static.
      history: H.
      foresight: F.
      rationing: whether orders are made feasible here, see `rationing.feasible`.
    """

    _supports_transition_gradients = True

    def __init__(
        self,
        network: Network,
        params: InventoryParams,
        history: int = 0,
        foresight: int = 0,
        *,
        rationing: bool = False,
    ):
        """Build the environment of a network.

        Args:
          network: static.
          params: becomes `default_params`; others of the same shapes can be given to `reset` and
            `step`, and `checks.check_params` looks at them.
          history: past demands that are observed, at least 0.
          foresight: future demands that are observed, at least 0, for an oracle; they need stored
            demand, see `demand.TraceDemand`.
          rationing: make orders feasible.

        Raises:
          ValueError: a size out of range, or what `checks.check_params` refuses.
        """
        for name, value in (("history", history), ("foresight", foresight)):
            if value < 0:
                raise ValueError(f"{name} is {value!r}, but it has to be at least 0")
        check_params(network, params, history=history)
        self.network = network
        self.history = history
        self.foresight = foresight
        self.rationing = rationing
        self._default_params = params

    @property
    def default_params(self) -> InventoryParams:
        """The parameters given to the constructor."""
        return self._default_params

    @property
    def num_actions(self) -> int:
        """Number of orders in a period."""
        network = self.network
        return (
            network.num_stores * network.num_suppliers
            + network.num_warehouses
            + network.num_echelons
        )

    def reset_env(
        self, key: jax.Array, params: InventoryParams
    ) -> tuple[dict[str, Array], EnvState]:
        """First stock at the stores, none anywhere else."""
        check_shapes(self.network, params)
        network = self.network
        stores = params.initial_stock
        if stores is None:
            drawn = jax.random.uniform(key, (network.num_stores, network.store_slots))
            stores = drawn * params.initial_stock_scale * params.mean_demand[:, None]
        stock = Stock(
            stores=jnp.asarray(stores, float),
            warehouses=jnp.zeros((network.num_warehouses, network.warehouse_slots)),
            echelons=jnp.zeros((network.num_echelons, network.echelon_slots)),
        )
        past = jnp.asarray(params.demand.history(self.history), float)
        state = EnvState(time=jnp.zeros((), jnp.int32), stock=stock, past_demand=past)
        return self.get_obs(state, params), state

    def step_env(
        self, key: jax.Array, state: EnvState, action: dict[str, Array], params: InventoryParams
    ) -> tuple[dict[str, Array], EnvState, Array, Array, dict[str, Any]]:
        """One period; `info` holds its `cost` over all places and its `demand [S]`."""
        demand = params.demand.sample(key, state.time)
        orders = Orders(action["stores"], action["warehouses"], action["echelons"])
        if self.rationing:
            orders = feasible(self.network, state.stock, orders)
        stock, costs = period(self.network, params, state.stock, orders, demand)
        past = state.past_demand
        if self.history:
            past = jnp.concatenate([past[1:], demand[None]])
        state = EnvState(time=state.time + 1, stock=stock, past_demand=past)
        observation, state = self._apply_transition_gradient_policy(
            self.get_obs(state, params), state
        )
        cost = costs.total
        info = {"cost": cost, "demand": demand}
        terminated = self.is_terminated(state, params)
        return observation, state, -cost / self.network.num_stores, terminated, info

    def get_obs(
        self,
        state: EnvState,
        params: InventoryParams | None = None,
        key: jax.Array | None = None,
    ) -> dict[str, Array]:
        """What is seen before the orders of a period, see the class."""
        del key
        params = self._default_params if params is None else params
        lead_time = jnp.where(self.network.adjacency, params.lead_time, 0)
        observation = {
            "stores": state.stock.stores,
            "warehouses": state.stock.warehouses,
            "echelons": state.stock.echelons,
            "past_demand": state.past_demand,
            "days_from_christmas": params.demand.days_from_christmas(state.time),
            "holding_cost": params.holding_cost,
            "underage_cost": params.underage_cost,
            "warehouse_holding_cost": params.warehouse_holding_cost,
            "warehouse_order_cost": params.warehouse_order_cost,
            "echelon_holding_cost": params.echelon_holding_cost,
            "lead_time": lead_time,
            "warehouse_lead_time": params.warehouse_lead_time,
            "echelon_lead_time": params.echelon_lead_time,
            "mean_demand": params.mean_demand,
            "demand_std": params.demand_std,
        }
        if self.foresight:
            observation["future_demand"] = self._future(state, params)
        return {name: jnp.asarray(value, float) for name, value in observation.items()}

    def _future(self, state: EnvState, params: InventoryParams) -> Array:
        if not isinstance(params.demand, TraceDemand):
            raise ValueError(
                f"foresight is {self.foresight}, but demand is {type(params.demand).__name__}, "
                f"which is drawn as time passes: store it with inventory.scenarios"
            )
        return params.demand.future(state.time, self.foresight)

    def is_terminated(self, state: EnvState, params: InventoryParams) -> Array:
        """Never: there is always another period."""
        return jnp.zeros((), bool)

    def action_space(self, params: InventoryParams | None = None) -> spaces.Dict:
        """Boxes from 0 to 4 mean demands: of the store, or of all stores further upstream."""
        params = self._default_params if params is None else params
        network = self.network
        of_store = MOST_ORDERED * jnp.asarray(params.mean_demand, float)
        of_all = jnp.sum(of_store)
        shape = (network.num_stores, network.num_suppliers)
        return spaces.Dict(
            {
                "stores": spaces.Box(0.0, jnp.broadcast_to(of_store[:, None], shape), shape),
                "warehouses": spaces.Box(0.0, of_all, (network.num_warehouses,)),
                "echelons": spaces.Box(0.0, of_all, (network.num_echelons,)),
            }
        )

    def observation_space(self, params: InventoryParams | None = None) -> spaces.Dict:
        """Boxes without bounds for stock and demand, from 0 for costs and lead times."""
        params = self._default_params if params is None else params
        observation = jax.eval_shape(lambda key: self.reset_env(key, params)[0], jax.random.key(0))
        unbounded = {"stores", "warehouses", "echelons", "past_demand", "future_demand"}
        low = {name: -jnp.inf for name in unbounded} | {"days_from_christmas": -183.0}
        high = {"days_from_christmas": 183.0}
        return spaces.Dict(
            {
                name: spaces.Box(low.get(name, 0.0), high.get(name, jnp.inf), leaf.shape)
                for name, leaf in observation.items()
            }
        )

"""Inventory networks: orders in, costs out, differentiable from end to end.

    env, params = jaxpg_envs.make("inventory/one-store-lost", lead_time=4, underage_cost=9)
    train = inventory.scenarios(env, params, key, num_scenarios=1024)  # demand drawn once
    test = inventory.copies(params, 1024)  # demand drawn as time passes

A scenario is one value of the parameters, a batch the same pytree with a leading axis. A network of
one's own is an `Inventory(network(...), inventory_params(...))`; demand of one's own comes in with
`from_traces` or, from a file, with `read_demand_table`.
"""

from jaxpg_envs.inventory.checks import check_params
from jaxpg_envs.inventory.demand import (
    NormalDemand,
    PoissonDemand,
    TraceDemand,
    days_from_christmas,
    normal_demand,
    trace_demand,
)
from jaxpg_envs.inventory.demand_table import DemandTable, demand_table, read_demand_table
from jaxpg_envs.inventory.environment import EnvState, Inventory
from jaxpg_envs.inventory.network import Network, network
from jaxpg_envs.inventory.params import InventoryParams, inventory_params
from jaxpg_envs.inventory.published_stores import StoreParameters, store_parameters
from jaxpg_envs.inventory.rationing import feasible, proportional
from jaxpg_envs.inventory.retail import RetailScenarios, products, retail_scenarios
from jaxpg_envs.inventory.retail_sales import RetailSeries, retail_series
from jaxpg_envs.inventory.scenarios import copies, from_traces, scenarios
from jaxpg_envs.inventory.simulator import Costs, Orders, Stock, period

__all__ = [
    "Costs",
    "DemandTable",
    "EnvState",
    "Inventory",
    "InventoryParams",
    "Network",
    "NormalDemand",
    "Orders",
    "PoissonDemand",
    "RetailScenarios",
    "RetailSeries",
    "Stock",
    "StoreParameters",
    "TraceDemand",
    "check_params",
    "copies",
    "days_from_christmas",
    "demand_table",
    "feasible",
    "from_traces",
    "inventory_params",
    "network",
    "normal_demand",
    "period",
    "products",
    "proportional",
    "read_demand_table",
    "retail_scenarios",
    "retail_series",
    "scenarios",
    "store_parameters",
    "trace_demand",
]

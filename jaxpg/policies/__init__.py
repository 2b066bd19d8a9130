"""Deterministic policies for inventory networks, made to be differentiated through a simulator."""

from jaxpg.policies import chain, heads, perceptron
from jaxpg.policies.base_stock import (
    base_stock,
    capped_base_stock,
    echelon_levels,
    echelon_stock,
    network_base_stock,
)
from jaxpg.policies.data_driven import data_driven
from jaxpg.policies.forecaster import Forecaster, fit_forecaster, pinball_loss, quantile_at
from jaxpg.policies.graph_policy import gnn
from jaxpg.policies.just_in_time import just_in_time
from jaxpg.policies.newsvendor import (
    fixed_quantile,
    quantile_newsvendor,
    returns_newsvendor,
    transformed_newsvendor,
)
from jaxpg.policies.policy import DeterministicPolicy, rounded
from jaxpg.policies.topology import Topology, topology
from jaxpg.policies.vanilla import vanilla_one_store, vanilla_serial, vanilla_warehouse

__all__ = [
    "DeterministicPolicy",
    "Forecaster",
    "Topology",
    "base_stock",
    "capped_base_stock",
    "chain",
    "data_driven",
    "echelon_levels",
    "echelon_stock",
    "fit_forecaster",
    "fixed_quantile",
    "gnn",
    "heads",
    "just_in_time",
    "network_base_stock",
    "perceptron",
    "pinball_loss",
    "quantile_at",
    "quantile_newsvendor",
    "returns_newsvendor",
    "rounded",
    "topology",
    "transformed_newsvendor",
    "vanilla_one_store",
    "vanilla_serial",
    "vanilla_warehouse",
]

"""Costs that are known exactly: what a learned policy is measured against."""

from jaxpg_envs.inventory.references.backlogged import (
    BaseStock,
    backlogged_base_stock,
    base_stock_from_pmf,
    base_stock_from_samples,
    normal_newsvendor,
    poisson_base_stock,
)
from jaxpg_envs.inventory.references.lost_sales import LostSalesOptimum, lost_sales_optimum
from jaxpg_envs.inventory.references.lost_sales_levels import (
    LostSalesLevel,
    best_base_stock,
    best_capped_base_stock,
    rule_cost,
)
from jaxpg_envs.inventory.references.serial import EchelonLevels, clark_scarf
from jaxpg_envs.inventory.references.transshipment import transshipment_bound

__all__ = [
    "BaseStock",
    "EchelonLevels",
    "LostSalesLevel",
    "LostSalesOptimum",
    "backlogged_base_stock",
    "base_stock_from_pmf",
    "base_stock_from_samples",
    "best_base_stock",
    "best_capped_base_stock",
    "clark_scarf",
    "lost_sales_optimum",
    "normal_newsvendor",
    "poisson_base_stock",
    "rule_cost",
    "transshipment_bound",
]

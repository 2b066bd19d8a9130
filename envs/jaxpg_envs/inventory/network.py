"""Who supplies whom: the part of a supply chain that is static."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Network:
    """Stores, the warehouses that supply them, and a serial chain of echelons above these.

    Echelon 0 and, without echelons, every warehouse, and, without warehouses, every store order
    from outside, where supply is unlimited. It is hashable, a static argument.

    Attributes:
      supplies: `[S][max(W, 1)]`, whether a warehouse supplies a store; one column of True where the
        stores order from outside.
      num_warehouses: W, may be 0.
      num_echelons: E, may be 0 and is 0 without warehouses.
      store_slots: P of a store: stock on hand and what arrives in each of the next P - 1 periods.
      warehouse_slots: of a warehouse.
      echelon_slots: of an echelon.
      keeps_stock: False where warehouses ship everything they have (a transshipment centre).
    """

    supplies: tuple[tuple[bool, ...], ...]
    num_warehouses: int
    num_echelons: int = 0
    store_slots: int = 2
    warehouse_slots: int = 2
    echelon_slots: int = 2
    keeps_stock: bool = True

    @property
    def num_stores(self) -> int:
        """S."""
        return len(self.supplies)

    @property
    def num_suppliers(self) -> int:
        """Columns of the stores' orders: W, or 1 where they order from outside."""
        return max(self.num_warehouses, 1)

    @property
    def adjacency(self) -> np.ndarray:
        """`[S, max(W, 1)]` bool."""
        return np.array(self.supplies, bool)


def network(
    adjacency: ArrayLike | None = None,
    *,
    num_stores: int | None = None,
    num_echelons: int = 0,
    store_slots: int = 2,
    warehouse_slots: int = 2,
    echelon_slots: int = 2,
    keeps_stock: bool = True,
) -> Network:
    """Describes a supply chain.

    Args:
      adjacency: `[S, W]`, 1 where warehouse w supplies store s. None: stores order from outside.
      num_stores: S, without `adjacency`.
      num_echelons: E, of the serial chain above the warehouses.
      store_slots: P of a store, at least its longest lead time and at least 2.
      warehouse_slots: of a warehouse, likewise.
      echelon_slots: of an echelon, likewise.
      keeps_stock: see `Network`.

    Returns:
      A `Network`.

    Raises:
      ValueError: a store without a supplier, an adjacency that is no table of 0 and 1, echelons
        without warehouses, or fewer than 2 slots.

    >>> network([[1, 0], [1, 1]]).num_warehouses
    2
    >>> network([[1, 0], [0, 0]])
    Traceback (most recent call last):
    ValueError: adjacency has no supplier for store 1: every row needs a 1
    """
    for name, slots in (
        ("store_slots", store_slots),
        ("warehouse_slots", warehouse_slots),
        ("echelon_slots", echelon_slots),
    ):
        if slots < 2:
            raise ValueError(f"{name} is {slots!r}, but at least 2 are needed")
    if num_echelons < 0:
        raise ValueError(f"num_echelons is {num_echelons!r}, but it has to be at least 0")
    if (adjacency is None) == (num_stores is None):
        raise ValueError(
            f"adjacency is {adjacency!r} and num_stores is {num_stores!r}, but exactly one of them "
            f"has to be given"
        )
    if adjacency is None:
        if num_stores < 1:
            raise ValueError(f"num_stores is {num_stores!r}, but it has to be at least 1")
        if num_echelons:
            raise ValueError(
                f"num_echelons is {num_echelons}, but there is no warehouse for them to supply: "
                f"give adjacency"
            )
        supplies, num_warehouses = ((True,),) * num_stores, 0
    else:
        table = _table(adjacency)
        supplies, num_warehouses = tuple(map(tuple, table.tolist())), table.shape[1]
    return Network(
        supplies,
        num_warehouses,
        num_echelons,
        store_slots,
        warehouse_slots,
        echelon_slots,
        keeps_stock,
    )


def _table(adjacency: ArrayLike | Sequence) -> np.ndarray:
    table = np.asarray(adjacency)
    if table.ndim != 2 or not table.size:
        raise ValueError(
            f"adjacency has shape {table.shape}, but [num_stores, num_warehouses] is needed"
        )
    if not np.isin(table, (0, 1)).all():
        raise ValueError(
            f"adjacency holds {table[~np.isin(table, (0, 1))][0]!r}, but its entries are 0 or 1"
        )
    table = table.astype(bool)
    alone = np.flatnonzero(~table.any(axis=1))
    if alone.size:
        raise ValueError(f"adjacency has no supplier for store {alone[0]}: every row needs a 1")
    idle = np.flatnonzero(~table.any(axis=0))
    if idle.size:
        raise ValueError(f"adjacency has no store for warehouse {idle[0]}: every column needs a 1")
    return table

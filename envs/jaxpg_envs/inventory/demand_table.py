"""A table of sales in long form, read into traces; nothing is guessed or filled silently."""

from __future__ import annotations

import csv
import datetime
import itertools
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpg_envs.choices import refusal
from jaxpg_envs.inventory.demand import days_from_christmas

COLUMNS = ("product", "store", "date", "quantity")


class DemandTable(NamedTuple):
    """Demand of N products in S stores over T days or weeks.

    Attributes:
      values: `[N, T, S]` float64, at least 0.
      products: N names, sorted.
      stores: S names, sorted.
      dates: T dates, evenly spaced, sorted.
      days_from_christmas: `[T]` float64, see `demand.days_from_christmas`.
      step_days: days between two dates: 1, 7 or whatever the table has.
      num_filled: entries of `values` that the table does not have.
    """

    values: np.ndarray
    products: tuple[str, ...]
    stores: tuple[str, ...]
    dates: tuple[datetime.date, ...]
    days_from_christmas: np.ndarray
    step_days: int
    num_filled: int


class _Row(NamedTuple):
    number: int
    product: str
    store: str
    date: datetime.date
    quantity: float


def read_demand_table(
    path: str | os.PathLike, *, fill: float | None = None, **columns: str
) -> DemandTable:
    """Reads a CSV file with one row for each product, store and date.

    Args:
      path: of a file in UTF-8 with a header; dates as 2016-12-31.
      fill: what stands for a product, store and date without a row; None refuses gaps. How many
        there were is `num_filled`.
      **columns: names of the columns "product", "store", "date" and "quantity" in the file, where
        they are others: `quantity="units_sold"`.

    Returns:
      A `DemandTable`; `from_traces` and `retail_scenarios` take its `values`.

    Raises:
      OSError: the file cannot be read.
      TypeError: a keyword that is none of the four.
      ValueError: a missing column or value, a bad date, a quantity that is negative or no number,
        two rows of one product, store and date, dates that are not evenly spaced, or gaps; the
        sentence names the rows, the header being row 1.
    """
    for name in columns:
        if name not in COLUMNS:
            raise TypeError(refusal("columns: keyword", name, COLUMNS))
    names = {name: columns.get(name, name) for name in COLUMNS}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        for name, column in names.items():
            if column not in header:
                raise ValueError(f"{path}: {refusal(f'column of {name}', column, header)}")
        rows = [(reader.line_num, *(record[names[name]] for name in COLUMNS)) for record in reader]
    return _table(rows, fill)


def demand_table(
    product: Sequence[Any],
    store: Sequence[Any],
    date: Sequence[Any],
    quantity: Sequence[Any],
    *,
    fill: float | None = None,
) -> DemandTable:
    """Makes traces of columns, one entry for each product, store and date.

    Args:
      product: names or numbers.
      store: names or numbers, as many.
      date: `datetime.date`, `numpy.datetime64` or text such as 2016-12-31.
      quantity: numbers, at least 0.
      fill: see `read_demand_table`.

    Returns:
      A `DemandTable`.

    Raises:
      ValueError: columns of different lengths, or what `read_demand_table` refuses; rows are
        counted from 0.

    >>> days = ["2016-12-24", "2016-12-25", "2016-12-24", "2016-12-25"]
    >>> table = demand_table(["tea"] * 4, ["A", "A", "B", "B"], days, [3, 0, 5, 1])
    >>> table.values.tolist(), table.stores, table.step_days
    ([[[3.0, 5.0], [0.0, 1.0]]], ('A', 'B'), 1)
    """
    given = (product, store, date, quantity)
    lengths = {name: len(column) for name, column in zip(COLUMNS, given, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns have the lengths {lengths}, but one length is needed")
    return _table(list(zip(range(len(product)), *given, strict=True)), fill)


def _table(rows: Sequence[tuple], fill: float | None) -> DemandTable:
    if not rows:
        raise ValueError("the table has no rows")
    if fill is not None and not (fill >= 0 and math.isfinite(fill)):
        raise ValueError(f"fill is {fill!r}, but demand is at least 0")
    entries = [_entry(*row) for row in rows]
    _refuse_duplicates(entries)
    products = tuple(sorted({entry.product for entry in entries}))
    stores = tuple(sorted({entry.store for entry in entries}))
    dates, step = _evenly_spaced(entries, fill)
    values = np.full((len(products), len(dates), len(stores)), np.nan)
    place = {date: i for i, date in enumerate(dates)}
    product_place = {name: i for i, name in enumerate(products)}
    store_place = {name: i for i, name in enumerate(stores)}
    for entry in entries:
        index = product_place[entry.product], place[entry.date], store_place[entry.store]
        values[index] = entry.quantity
    missing = np.isnan(values)
    if missing.any() and fill is None:
        _refuse_gaps(entries, missing, products, dates, stores)
    values[missing] = 0.0 if fill is None else fill
    return DemandTable(
        values, products, stores, dates, days_from_christmas(dates), step, int(missing.sum())
    )


def _entry(number: int, product: Any, store: Any, date: Any, quantity: Any) -> _Row:
    for name, value in (("product", product), ("store", store)):
        if value is None or str(value).strip() == "":
            raise ValueError(f"row {number} has no {name}")
    try:
        amount = float(quantity)
    except (TypeError, ValueError):
        amount = math.nan
    if not (amount >= 0 and math.isfinite(amount)):
        raise ValueError(
            f"row {number} has quantity {quantity!r}, but a number from 0 on is needed"
        )
    return _Row(number, str(product).strip(), str(store).strip(), _date(number, date), amount)


def _date(number: int, date: Any) -> datetime.date:
    if isinstance(date, datetime.datetime):
        return date.date()
    if isinstance(date, datetime.date):
        return date
    try:
        return datetime.datetime.fromisoformat(str(date).strip()).date()
    except ValueError:
        raise ValueError(
            f"row {number} has date {date!r}, but one such as '2016-12-31' is needed"
        ) from None


def _refuse_duplicates(entries: Sequence[_Row]) -> None:
    seen: dict[tuple, int] = {}
    for entry in entries:
        key = (entry.product, entry.store, entry.date)
        if key in seen:
            raise ValueError(
                f"rows {seen[key]} and {entry.number} are both of product {entry.product!r}, store "
                f"{entry.store!r} and date {entry.date}: add them up, or drop one"
            )
        seen[key] = entry.number


def _evenly_spaced(
    entries: Sequence[_Row], fill: float | None
) -> tuple[tuple[datetime.date, ...], int]:
    """All dates from the first to the last, and the days between two."""
    first_row = {}
    for entry in entries:
        first_row.setdefault(entry.date, entry.number)
    found = sorted(first_row)
    if len(found) == 1:
        return tuple(found), 1
    gaps = [(after - before).days for before, after in itertools.pairwise(found)]
    step = min(gaps)
    for (before, after), days in zip(itertools.pairwise(found), gaps, strict=True):
        rows = f"rows {first_row[before]} and {first_row[after]}"
        if days % step:
            raise ValueError(
                f"{rows} are {days} days apart ({before} and {after}), which is no multiple of the "
                f"shortest distance of two dates, {step} days"
            )
        if days > step and fill is None:
            raise ValueError(
                f"between {rows} ({before} and {after}) {days // step - 1} dates are missing, "
                f"where others follow each other after {step} days: add them, or give fill=0.0"
            )
    count = (found[-1] - found[0]).days // step + 1
    return tuple(found[0] + datetime.timedelta(step * i) for i in range(count)), step


def _refuse_gaps(
    entries: Sequence[_Row],
    missing: np.ndarray,
    products: Sequence[str],
    dates: Sequence[datetime.date],
    stores: Sequence[str],
) -> None:
    product, time, store = (int(i) for i in np.argwhere(missing)[0])
    numbers = [
        entry.number
        for entry in sorted(entries, key=lambda entry: entry.date)
        if (entry.product, entry.store) == (products[product], stores[store])
        and entry.date < dates[time]
    ]
    where = f"after row {numbers[-1]}" if numbers else "nor of an earlier date"
    raise ValueError(
        f"product {products[product]!r} in store {stores[store]!r} has no row of {dates[time]} "
        f"({where}), and {int(missing.sum())} such rows are missing in all: add them, or give "
        f"fill=0.0"
    )

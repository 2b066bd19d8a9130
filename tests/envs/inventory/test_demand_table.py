"""Sales in long form, and what is wrong with them."""

import datetime

import numpy as np
import pytest

from jaxpg_envs.inventory import demand_table, read_demand_table

ROWS = [
    ("tea", "north", "2016-12-20", "3"),
    ("tea", "north", "2016-12-27", "0"),
    ("tea", "south", "2016-12-20", "5.5"),
    ("tea", "south", "2016-12-27", "1"),
    ("ham", "south", "2016-12-27", "8"),
    ("ham", "south", "2016-12-20", "7"),
    ("ham", "north", "2016-12-20", "2"),
    ("ham", "north", "2016-12-27", "4"),
]


def written(path, rows, header="product,store,date,quantity"):
    path.write_text("\n".join([header, *map(",".join, rows)]) + "\n")
    return path


def changed(place, **fields):
    names = ("product", "store", "date", "quantity")
    rows = list(ROWS)
    rows[place] = tuple(fields.get(name, rows[place][i]) for i, name in enumerate(names))
    return rows


def test_a_file_becomes_products_weeks_and_stores(tmp_path):
    table = read_demand_table(written(tmp_path / "sales.csv", ROWS))
    assert (table.products, table.stores) == (("ham", "tea"), ("north", "south"))
    assert table.dates == (datetime.date(2016, 12, 20), datetime.date(2016, 12, 27))
    assert (table.step_days, table.num_filled) == (7, 0)
    assert table.days_from_christmas.tolist() == [-5, 2]
    assert table.values.tolist() == [[[2, 7], [4, 8]], [[3, 5.5], [0, 1]]]


def test_columns_may_have_other_names(tmp_path):
    path = written(tmp_path / "sales.csv", ROWS, header="item,store,date,sold")
    table = read_demand_table(path, product="item", quantity="sold")
    assert table.values.sum() == 30.5
    with pytest.raises(ValueError, match="column of product='product' is not one of 'date'"):
        read_demand_table(path)
    with pytest.raises(TypeError, match="did you mean 'product'"):
        read_demand_table(path, produkt="item")


def test_arrays_are_read_as_files_are(tmp_path):
    product, store, date, quantity = map(list, zip(*ROWS, strict=True))
    expected = read_demand_table(written(tmp_path / "sales.csv", ROWS))
    for dates in (np.array(date, "datetime64[ns]"), [datetime.date.fromisoformat(d) for d in date]):
        table = demand_table(product, store, dates, np.array(quantity, float))
        np.testing.assert_array_equal(table.values, expected.values)
        assert table.dates == expected.dates


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (changed(1, quantity="-1"), "row 3 has quantity '-1'"),
        (changed(1, quantity="many"), "row 3 has quantity 'many'"),
        (changed(1, quantity="nan"), "row 3 has quantity 'nan'"),
        (changed(2, date="2016-13-20"), "row 4 has date '2016-13-20'"),
        (changed(2, store=" "), "row 4 has no store"),
        ([*ROWS, ROWS[3]], "rows 5 and 10 are both of product 'tea', store 'south'"),
        (ROWS[:-1], "'ham' in store 'north' has no row of 2016-12-27 .after row 8., and 1 such"),
        (
            ROWS[:5],
            "'ham' in store 'north' has no row of 2016-12-20 .nor of an earlier date., and 3",
        ),
        ([], "no rows"),
    ],
)
def test_the_row_that_is_wrong_is_named(tmp_path, rows, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        read_demand_table(written(tmp_path / "sales.csv", rows))
    assert "\n" not in str(error.value)


def weekly(dates):
    return demand_table(["tea"] * len(dates), ["north"] * len(dates), dates, np.ones(len(dates)))


def test_dates_have_one_step():
    assert weekly(["2016-01-01", "2016-01-02", "2016-01-03"]).step_days == 1
    with pytest.raises(ValueError, match="rows 1 and 2 are 9 days apart"):
        weekly(["2016-01-01", "2016-01-08", "2016-01-17"])
    with pytest.raises(ValueError, match="between rows 1 and 2 .* 2 dates are missing"):
        weekly(["2016-01-01", "2016-01-08", "2016-01-29"])


def test_gaps_are_filled_only_when_told_to_and_counted():
    days = ["2016-01-01", "2016-01-08", "2016-01-29", "2016-01-01"]
    columns = (["tea", "tea", "tea", "ham"], ["north"] * 4, days, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="give fill=0.0"):
        demand_table(*columns)
    table = demand_table(*columns, fill=0.0)
    assert table.values[..., 0].tolist() == [[4, 0, 0, 0, 0], [1, 2, 0, 0, 3]]
    assert table.num_filled == 6
    with pytest.raises(ValueError, match="fill is -1.0"):
        demand_table(*columns, fill=-1.0)


def test_columns_have_one_length():
    with pytest.raises(ValueError, match="'quantity': 2.*but one length"):
        demand_table(["tea"], ["north"], ["2016-01-01"], [1, 2])

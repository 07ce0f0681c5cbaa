"""One spelling for each value, whoever wrote it, and no two values of text with one spelling."""

from __future__ import annotations

import io
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given

from mmtab.data.spelling import meaning, places_in, respelt, spelling, type_named, typed

VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.int64(): st.integers(-(2**53), 2**53),  # beyond, pandas rounds those with gaps
    pa.uint8(): st.integers(0, 255),
    pa.float64(): st.floats(allow_nan=False, allow_infinity=False),
    pa.float32(): st.floats(width=32, allow_nan=False, allow_infinity=False),
    pa.decimal128(12, 3): st.decimals(-(10**8), 10**8, allow_nan=False, places=3),
    pa.date32(): st.dates(date(1000, 1, 1)),
    pa.timestamp("us"): st.datetimes(datetime(1000, 1, 1), datetime(9999, 1, 1)),
    pa.duration("us"): st.timedeltas(timedelta(-(10**5)), timedelta(10**5)),
    pa.duration("ms"): st.integers(-(2**41), 2**41),
    pa.time64("us"): st.times(),
    pa.timestamp("ms", "Europe/Berlin"): st.integers(0, 2**41).map(lambda ms: ms),
}
ARRAYS = st.sampled_from(list(VALUES)).flatmap(
    lambda kind: st.lists(st.none() | VALUES[kind], min_size=1).map(lambda cells: pa.array(cells, kind))
)


@given(ARRAYS)
def test_values_come_back_from_their_spelling(values: pa.Array) -> None:
    back = typed(spelling(values), type_named(str(values.type), "toys", "x"))
    assert back.type == values.type and spelling(back).equals(spelling(values))
    zero = pa.types.is_floating(values.type)  # -0.0 is 0
    assert back.to_pylist() == values.to_pylist() if zero else back.equals(values)


@given(ARRAYS)
def test_text_of_arrow_and_of_pandas_means_what_was_written(values: pa.Array) -> None:
    """Of a column that is known to hold such values, however they were written to csv."""
    expected = spelling(values)
    by_arrow, by_pandas = io.BytesIO(), io.StringIO()
    pyarrow.csv.write_csv(pa.table({"x": values, "y": pa.array([1] * len(values))}), by_arrow)
    values.to_pandas().to_frame("x").assign(y=1).to_csv(by_pandas, index=False)
    for written in (by_arrow.getvalue(), by_pandas.getvalue().encode()):
        cells = pd.read_csv(io.BytesIO(written), dtype=str, keep_default_na=False)["x"]
        text = pa.array([cell or None for cell in cells], pa.large_string())
        assert respelt(text, values.type).equals(expected)


@pytest.mark.parametrize(
    ("values", "spelt"),
    [
        (pa.array([3.0, 4.006e12, -0.0, 0.5, 1e300, float("nan")]), ["3", "4006000000000", "0", "0.5", "1e+300", None]),
        (pa.array(np.array([2, 0.5], np.float16)), ["2", "0.5"]),
        (pa.array([float(2**53 - 1), float(2**60)]), [str(2**53 - 1), str(2**60)]),
        (pa.array([Decimal("3.00"), Decimal("1.50")]), ["3", "1.5"]),
        (pa.array([datetime(2024, 5, 18), datetime(2024, 5, 18, 10)]), ["2024-05-18", "2024-05-18 10:00:00"]),
        (pa.array([datetime(2024, 5, 18, 10, 0, 0, 500)], pa.timestamp("ns")), ["2024-05-18 10:00:00.0005"]),
        (pa.array([datetime(2024, 5, 18)], pa.timestamp("ns", "Asia/Tokyo")), ["2024-05-18"]),
        (pa.array([True, None]), ["true", None]),
        (pa.array([3_600_000], pa.duration("ms")), ["0 days 01:00:00"]),
        (pa.array(["3.0", "True", " x"]), ["3.0", "True", " x"]),
    ],
)
def test_a_value_has_one_spelling(values: pa.Array, spelt: list[str | None]) -> None:
    assert spelling(values).to_pylist() == spelt


@pytest.mark.parametrize(
    ("known", "text", "place"),
    [
        (["3", "7"], ["3.0", "7.00", "3", "03", "3.10", None, ""], [0, 1, 0, None, None, None, None]),
        (["3.0", "7.0"], ["3", "7", "9"], [0, 1, None]),
        (["7", "007", "07"], ["7", "007", "07", "7.0", "0007"], [0, 1, 2, 0, None]),
        (["1e5", "3.10"], ["100000", "3.1", "1e+05"], [None, None, None]),
        (["100000", "4006000000000"], ["1e+05", "4.006e+12", "1e5"], [0, 1, None]),
        (["false", "true"], ["True", "TRUE", "0", "1.0", "yes"], [1, 1, 0, 1, None]),
        (["True", "False"], ["true", "false", "1"], [0, 1, 0]),
        (["1", "0"], ["True", "false", "1.0", "2"], [0, 1, 0, None]),
        (["true", "false", "unknown"], ["True", "1"], [0, None]),
        (["2024-05-18"], ["2024-05-18 00:00:00", "2024-05-18T00:00:00", "2024-05-19"], [0, 0, None]),
        (["2001-09-09 01:46:40.000000001"], ["2001-09-09T01:46:40.000000001", "2001-09-09 01:46:40"], [0, None]),
        (["05:30:00.250000", "06:30:00"], ["05:30:00.25", "06:30:00.000", "05:30:00"], [0, 1, None]),
        (["True", "TRUE"], ["TRUE", "True"], [1, 0]),
        (["1.50", "3.00"], ["1.5", "3", "3.0", "2"], [0, 1, 1, None]),
        (["3.8", "3.10"], ["3.1", "3.80"], [None, None]),
        (["Caf\u00e9", "red", "red "], ["Cafe\u0301", " red", "red ", "Red"], [0, 1, 2, None]),
        (["001", "010", "100"], ["1", "10", "100", "10.0", "1000", "x"], [0, 1, 2, 1, None, None]),
        (["007", "7", "070"], ["70", "7.0"], [None, 1]),
        ([], ["x"], [None]),
    ],
)
def test_text_is_found_as_it_is_and_else_as_what_it_means(
    known: list[str], text: list[str | None], place: list[int | None]
) -> None:
    assert places_in(pa.array(text, pa.large_string()), known).to_pylist() == place


@given(st.lists(st.text("0123456789.-+eE ", min_size=1, max_size=6), unique=True, min_size=1))
def test_text_that_is_known_is_never_taken_for_other_text(known: list[str]) -> None:
    assert places_in(pa.array(known, pa.large_string()), known).to_pylist() == list(range(len(known)))


@given(st.integers(-(10**30), 10**30), st.text("0", max_size=3))
def test_long_numbers_lose_no_digit(number: int, zeros: str) -> None:
    text = pa.array([f"{number}.0{zeros}"], pa.large_string())
    assert meaning(text).to_pylist() == respelt(text, pa.int64()).to_pylist() == [str(number)]

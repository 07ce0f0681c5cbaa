"""What is fitted on train: scales, vocabularies, classes. It sees the given rows only and survives JSON."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from toy_data import write_kway, write_table

from mmtab.config.types import CategoryRules
from mmtab.data.pairs import read_records
from mmtab.data.schema import Column, ColumnType, Schema, TaskKind
from mmtab.data.table import Table, read_split, read_table
from mmtab.features.preprocess import (
    MISSING,
    N_SPECIAL_IDS,
    UNSEEN,
    CategoryCoder,
    LabelCoder,
    Preprocessor,
    QuantileScaler,
    numeric_columns,
)
from mmtab.utils.errors import DataError

HARD = np.array(
    [
        0.0,
        1.0,
        -1.0,
        3.0,
        5e-324,
        -5e-324,
        1e-310,
        2.3e-308,
        1e16,
        1e16 + 2,
        1e308,
        -1e308,
        1.7976931348623157e308,
        -1.7976931348623157e308,
        math.inf,
        -math.inf,
    ]
)
RULES = CategoryRules()


def scaled(train: list[float], values: list[float]) -> list[float]:
    return QuantileScaler.fit(np.array(train)).transform(np.array(values)).tolist()


def strings(*values: str | None) -> pa.Array:
    return pa.array(values, pa.large_string())


def table_of(labels: list[str | None] | None = None, **columns: list) -> Table:
    n = len(next(iter(columns.values()))) if columns else len(labels or [])
    arrays = {}
    for name, cells in columns.items():
        numeric = all(cell is None or isinstance(cell, float) for cell in cells)
        arrays[name] = pa.array(cells, pa.float64() if numeric else pa.large_string())
    ids = pa.array([f"i{row}" for row in range(n)])
    return Table("toys", "train", Path("toys"), ids, arrays, None if labels is None else strings(*labels))


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_ranks_of_plain_numbers() -> None:
    assert scaled([10, 20, 30, 40, 50], [10, 20, 25, 50, 49]) == pytest.approx([-1, -0.5, -0.25, 1, 0.95])
    assert scaled([10, 20, 30], [-5, 99, math.inf, -math.inf]) == [-1, 1, 1, -1]


def test_missing_stays_missing() -> None:
    assert math.isnan(scaled([1, 2, math.nan, 3], [math.nan])[0])
    assert math.isnan(scaled([5, 5], [math.nan])[0]) and math.isnan(scaled([math.nan], [math.nan])[0])
    assert scaled([1, math.nan, 3, math.nan], [1, 2, 3]) == pytest.approx([-1, 0, 1])  # missing cells take no rank


def test_constant_and_all_missing_columns() -> None:
    assert scaled([5, 5, 5], [5, 6, 4, math.inf, -math.inf]) == [0, 1, -1, 1, -1]
    assert scaled([1.7e308], [-1.7e308, 1.7e308]) == [-1, 0]
    assert scaled([math.nan, math.nan], [3, -math.inf]) == [0, 0]
    assert scaled([math.inf, -math.inf], [3, math.inf]) == [0, 0]
    assert scaled([], [1.0]) == [0]


def test_ties_land_in_the_middle_of_their_ranks() -> None:
    assert scaled([1, 2, 2, 2, 3], [2]) == [0]
    assert scaled([0, 0, 0, 1, 2], [0])[0] == pytest.approx(-0.5)
    many = scaled([0.0] * 50 + [1.0] * 50, [0.0, 0.5, 1.0])
    assert -1 < many[0] < many[1] < many[2] < 1 and many[1] == pytest.approx(0, abs=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(60))
def test_monotone_and_in_range_whatever_the_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(10):
        n = int(rng.integers(1, 40))
        train = np.where(
            rng.random(n) < 0.6, rng.choice(HARD, n), rng.normal(size=n) * 10.0 ** rng.integers(-300, 300, n)
        )
        scaler = QuantileScaler.fit(train)
        values = np.sort(np.concatenate([train, HARD, rng.normal(size=30)]))
        result = scaler.transform(values)
        assert result.dtype == np.float32 and np.isfinite(result).all()
        assert result.min() >= -1 and result.max() <= 1
        assert (np.diff(result) >= 0).all()


def test_small_differences_between_large_numbers_count() -> None:
    low, middle, high = scaled([1e308, 1.1e308, 1.2e308], [1e308, 1.1e308, 1.2e308])
    assert (low, middle, high) == (-1, 0, 1)
    assert scaled([0.0, 5e-324, 1e-323], [0.0, 5e-324, 1e-323]) == [-1, 0, 1]
    assert scaled([-1.7e308, 1.7e308], [0.0]) == [0]


def test_many_values_are_spread_evenly() -> None:
    values = np.random.default_rng(0).lognormal(sigma=3, size=20_000)
    scaler = QuantileScaler.fit(values)
    assert len(scaler.quantiles_) == 1_000
    counts, _ = np.histogram(scaler.transform(values), 10, (-1, 1))
    assert abs(counts - 2000).max() < 60


# --- categories ------------------------------------------------------------------------------------------------------


def test_ids_of_categories() -> None:
    coder = CategoryCoder.fit(strings("b", "a", "b", "a", "b", None, "rare"), RULES)
    assert coder.vocabulary_ == ["b", "a"] and coder.n_ids == 4  # commonest first; "rare" was seen once
    assert coder.transform(strings("b", "a", None, "rare", "never")).tolist() == [2, 3, MISSING, UNSEEN, UNSEEN]
    assert CategoryCoder.fit(strings("b", "a"), CategoryRules(min_count=1)).vocabulary_ == ["a", "b"]


def test_an_all_missing_column() -> None:
    for values in (strings(None, None), pa.nulls(2, pa.large_string())):
        coder = CategoryCoder.fit(values, RULES)
        assert coder.n_ids == N_SPECIAL_IDS
        assert coder.transform(strings(None, "x")).tolist() == [MISSING, UNSEEN]


def test_beyond_max_values_the_rest_share_hashed_ids() -> None:
    values = strings(*[f"é{i // 2}" for i in range(200)], "top", "top", "top")
    rules = CategoryRules(max_values=10, n_hash=7)
    coder = CategoryCoder.fit(values, rules)
    assert len(coder.vocabulary_) == 10 and coder.vocabulary_[0] == "top" and coder.n_ids == 2 + 10 + 7
    ids = coder.transform(strings(*[f"é{i}" for i in range(100)], "never seen", None, "top"))
    assert ids[-3] >= 12 and ids[-2:].tolist() == [MISSING, 2]
    hashed = ids[:100][ids[:100] >= 12]
    assert len(hashed) == 91 and set(hashed.tolist()) == set(range(12, 19)) and UNSEEN not in ids
    # stable: the same in another process, another order, another year
    assert coder.transform(strings("é99", "never seen", "日本")).tolist() == [14, 13, 18]
    shuffled = CategoryCoder.fit(values.take(pa.array(np.random.default_rng(0).permutation(len(values)))), rules)
    assert shuffled == coder


# --- moments ---------------------------------------------------------------------------------------------------------


def test_calendar_features() -> None:
    moments = [datetime(2024, 1, 1, 0), datetime(2024, 1, 1, 6), datetime(2024, 1, 4, 12)]  # a Monday
    seconds = [m.replace(tzinfo=UTC).timestamp() for m in moments]
    schema = Schema.from_dict({"name": "t", "task": "matching", "columns": {"made": "datetime"}})
    columns = numeric_columns(table_of(made=[*seconds, None]), schema)
    assert list(columns) == ["made:time"] + [f"made:{p}_{f}" for p in ("year", "week", "day") for f in ("sin", "cos")]
    for values in columns.values():
        assert math.isnan(values[3]) and not np.isnan(values[:3]).any()
    assert columns["made:time"][:3].tolist() == seconds
    assert columns["made:week_cos"][0] == pytest.approx(1) and columns["made:week_cos"][2] == pytest.approx(
        -1, abs=1e-6
    )
    assert columns["made:day_sin"][1] == pytest.approx(1) and columns["made:day_cos"][2] == pytest.approx(-1)
    assert columns["made:year_cos"][0] > 0.999
    assert all((np.abs(v[:3]) <= 1).all() for name, v in columns.items() if name != "made:time")


def test_a_column_called_like_a_calendar_feature(tmp_path: Path) -> None:
    schema = Schema(
        "toys", TaskKind.KWAY, (Column("when", ColumnType.DATETIME), Column("when:time", ColumnType.NUMERIC)), label="y"
    )
    write_table(tmp_path / "train.csv", {"id": ["a"], "when": ["2024-01-01"], "when:time": ["7"], "y": ["x"]})
    with pytest.raises(DataError, match=r"column when:time: .*made of the moments of when.* Fix: rename"):
        numeric_columns(read_table(tmp_path / "train.csv", schema), schema)


def test_moments_that_cannot_be_read_become_missing(tmp_path: Path) -> None:
    folder = write_kway(tmp_path / "toys", columns={"title": "datetime"}, images=False)
    schema = Schema.read(folder)
    with pytest.raises(DataError, match=r"column title: .* are not datetime"):
        read_split(folder, schema, "train")
    table = read_split(folder, schema, "train", "missing")
    assert table.n_bad_cells > 20
    numbers = Preprocessor.fit(table, schema, RULES).numeric(table, schema)
    missing = np.asarray(table.columns["title"].is_null())
    assert np.isnan(numbers[missing]).all() and np.isfinite(numbers[~missing]).all()


# --- labels ----------------------------------------------------------------------------------------------------------


def test_classes_are_sorted_and_coded() -> None:
    train = table_of(["b", "a", "c", "a"])
    coder = LabelCoder.fit(train, "kind")
    assert coder.classes_ == ["a", "b", "c"] and coder.transform(train, "kind").tolist() == [1, 0, 2, 0]
    assert coder.transform(table_of(None, x=[1.0, 2.0]), "kind").tolist() == [-1, -1]


def test_a_label_that_train_never_had(tmp_path: Path) -> None:
    train, valid = table_of(["a", "b"]), table_of(["a", "b", "new"])
    with pytest.raises(DataError) as error:
        LabelCoder.fit(train, "kind").transform(valid, "kind")
    for part in (
        "dataset toys, table train, row 3 (id i2), column kind: a label that train never had",
        "found new",
        "expected one of the 2 training classes",
        "Fix: move a row of this class to train",
    ):
        assert part in str(error.value)


def test_one_class_no_labels_or_a_row_without() -> None:
    with pytest.raises(
        DataError, match=r"table train, column kind: only one class .* at least two; found \['a'\]\. Fix:"
    ):
        LabelCoder.fit(table_of(["a", "a"]), "kind")
    with pytest.raises(DataError, match=r"table train, row 2 \(id i1\), column kind: a row without a label\. Fix:"):
        LabelCoder.fit(table_of(["a", None, "b"]), "kind")
    with pytest.raises(DataError, match=r"table train, column kind: no labels\. Fix:"):
        LabelCoder.fit(table_of(None, x=[1.0]), "kind")


# --- all together ----------------------------------------------------------------------------------------------------


def test_toys(tmp_path: Path) -> None:
    folder = write_kway(tmp_path / "toys")
    schema = Schema.read(folder)
    train, test = (read_split(folder, schema, split) for split in ("train", "test"))
    fitted = Preprocessor.fit(train, schema, RULES)
    for table in (train, test):
        numbers, categories = fitted.numeric(table, schema), fitted.categorical(table)
        assert numbers.shape == (len(table), 8) and numbers.dtype == np.float32  # a number, and seven of the moment
        assert np.nanmin(numbers) >= -1 and np.nanmax(numbers) <= 1
        assert (np.isnan(numbers[:, 0]) == np.asarray(table.columns["size"].is_null())).all()
        assert categories.shape == (len(table), 1) and categories.dtype == np.int64
        assert ((categories[:, 0] == MISSING) == np.asarray(table.columns["colour"].is_null())).all()
        again = Preprocessor.from_dict(json.loads(json.dumps(fitted.to_dict())))
        assert again == fitted
        assert np.array_equal(again.numeric(table, schema), numbers, equal_nan=True)
        assert np.array_equal(again.categorical(table), categories)
    assert fitted.labels_ is not None and fitted.labels_.classes_ == ["kind 0", "kind 1", "kind 2"]


def test_fitted_state_sees_only_the_rows_it_is_given() -> None:
    schema = Schema.from_dict(
        {"name": "t", "task": "matching", "columns": {"x": "numeric", "c": "categorical", "d": "datetime"}}
    )
    rows = np.array([0, 1, 2, 3])
    seen = {"x": [1.0, 2.0, None, 4.0], "c": ["a", "a", "b", "b"], "d": [0.0, 1e9, 2e9, None]}
    unseen = [
        {"x": [99.0, -99.0], "c": ["z", "z"], "d": [-1e10, 1e10]},
        {"x": [None, None], "c": ["a", None], "d": [None, None]},
    ]
    fits = [
        Preprocessor.fit(table_of(None, **{k: v + more[k] for k, v in seen.items()}), schema, RULES, rows)
        for more in unseen
    ]
    assert fits[0] == fits[1] == Preprocessor.fit(table_of(None, **seen), schema, RULES)
    assert fits[0].coders_["c"].vocabulary_ == ["a", "b"] and max(fits[0].scalers_["x"].quantiles_) == 4.0
    assert fits[0].labels_ is None
    everything = Preprocessor.fit(table_of(None, **{k: v + unseen[0][k] for k, v in seen.items()}), schema, RULES)
    assert everything != fits[0]


def test_a_schema_of_text_alone() -> None:
    schema = Schema.from_dict({"name": "t", "task": "matching", "columns": {"t": "text"}})
    table = table_of(None, t=["a", "b"])
    fitted = Preprocessor.fit(table, schema, RULES)
    assert fitted.numeric(table, schema).shape == (2, 0) and fitted.categorical(table).shape == (2, 0)
    assert Preprocessor.from_dict(fitted.to_dict()) == fitted


def test_real_datasets_in_range(real_dataset: Path) -> None:
    schema = Schema.read(real_dataset)
    if schema.of_rows:
        train, test = (read_split(real_dataset, schema, split) for split in ("train", "test"))
    else:
        train = test = read_records(real_dataset, schema).table
    fitted = Preprocessor.fit(train, schema, RULES)
    numbers = fitted.numeric(test, schema)
    known = numbers[~np.isnan(numbers)]
    assert np.abs(known).max(initial=0) <= 1 and len(known) >= 0.01 * numbers.size
    for coder, ids in zip(fitted.coders_.values(), fitted.categorical(test).T, strict=True):
        assert ids.min() >= 0 and ids.max() < coder.n_ids
    if schema.label is not None and fitted.labels_ is not None:
        assert fitted.labels_.transform(test, schema.label).min() >= 0

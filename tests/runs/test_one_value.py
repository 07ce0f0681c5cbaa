"""One value has one form: the digits of a float, the zone of a time, whoever stores it; what cannot be told is said."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import yaml

import mmtab
from mmtab.data import files, objects
from mmtab.data.cells import canonical
from mmtab.data.pairs import read_pairs_file, read_records
from mmtab.data.schema import ColumnType
from mmtab.data.spelling import typed
from mmtab.features.preprocess import QuantileScaler
from mmtab.utils.errors import DataError

QUICK: dict[str, Any] = {"recipe": "frozen", "trainer": {"max_epochs": 1, "progress": False}}
N = 120


def rows() -> pd.DataFrame:
    """Thirds, of which each comes often, so that a value beside one of train has quite another rank."""
    rng, y = np.random.default_rng(0), np.arange(N) % 2
    thirds = (rng.integers(1, 8, (N, 2)) + 3 * y[:, None]) / 3
    when = pd.Timestamp("2024-01-01 09:00") + pd.to_timedelta(rng.integers(0, 2000, N) + 3000 * y, "h")
    return pd.DataFrame({"a": thirds[:, 0], "b": thirds[:, 1], "when": when, "kind": np.where(y, "cup", "hat")})


def fitted(folder: Path, table: Any, **options: Any) -> mmtab.Run:
    return mmtab.fit(table, label="kind", output=folder / "run", **QUICK, **options)


# --- digits ----------------------------------------------------------------------------------------------------------

NARROW = {"a": "float32", "b": "float32"}


def same_numbers(run: mmtab.Run, one: Any, other: Any) -> None:
    expected, found = (np.asarray(run.predict_proba(table)) for table in (one, other))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("train", ["float64", "float32", "float32 as float64"])
def test_a_float_is_the_same_in_32_and_64_bits(tmp_path: Path, train: str) -> None:
    wide = rows().drop(columns="when")
    narrow = wide.astype(NARROW)
    exact = narrow.astype(dict.fromkeys(NARROW, "float64"))
    run = fitted(tmp_path, {"float64": wide, "float32": narrow, "float32 as float64": exact}[train])
    assert run.schema.storage.get("a") == ("float" if train == "float32" else None)
    same_numbers(run, exact if train == "float32 as float64" else wide, narrow)
    same_numbers(run, narrow, pl.from_pandas(narrow))
    if train == "float32":
        narrow.to_csv(tmp_path / "narrow.csv", index=False)
        for other in (wide, exact, pa.Table.from_pandas(wide), tmp_path / "narrow.csv"):
            same_numbers(run, narrow, other)


def test_numbers_of_64_bits_are_scaled_as_ever_and_of_fewer_as_near_as_they_can_be() -> None:
    values = np.random.default_rng(0).normal(size=200)
    scaler = QuantileScaler.fit(values)
    narrow = values.astype(np.float32).astype(np.float64)
    assert np.abs(scaler.transform(narrow) - scaler.transform(values)).max() > 0
    for kind in (pa.float32(), pa.float16()):
        lies = np.array([*values, np.nan, np.inf, -np.inf, 1e300])
        found = scaler.transform(lies, kind)
        expected = scaler.transform(np.array([*values, np.nan, 1e300, -1e300, 1e300]))
        np.testing.assert_allclose(found, expected, atol=1e-6 if kind == pa.float32() else 0.05)
    assert canonical(pa.array([0.1, 1 / 3]), ColumnType.NUMERIC)[0].to_pylist() == [0.1, 1 / 3]


def test_equal_numbers_of_a_pair_are_equal_in_32_and_64_bits(tmp_path: Path) -> None:
    left = rows().drop(columns=["when", "kind"]).assign(id=[f"l{i}" for i in range(N)])
    right = left.assign(id=[f"r{i}" for i in range(N)])
    ids = {"left_id": [*left.id, *left.id], "right_id": [*right.id, *np.roll(right.id, 1)]}
    pairs = pd.DataFrame(ids | {"label": [1] * N + [0] * N})
    run = mmtab.fit(pairs, left=left, right=right, output=tmp_path / "run", **QUICK)
    asked, narrow = pairs.drop(columns="label").head(N), right.astype(NARROW)
    expected = run.predict_proba(asked, left=left, right=right)
    np.testing.assert_allclose(run.predict_proba(asked, left=left, right=narrow), expected, atol=1e-6)


# --- time zones ------------------------------------------------------------------------------------------------------

ZONED = {
    "naive": lambda when: when,
    "of Berlin": lambda when: when.dt.tz_localize("Europe/Berlin"),
    "of UTC": lambda when: when.dt.tz_localize("UTC"),
}


@pytest.fixture(scope="module", params=["naive", "of Berlin", "naive, in csv", "of Berlin, in csv"])
def dated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[mmtab.Run, bool]:
    folder, (zone, _, form) = tmp_path_factory.mktemp("dated"), request.param.partition(", ")
    table: Any = rows().assign(when=ZONED[zone](rows().when))
    if form:
        table.to_csv(folder / "rows.csv", index=False)
        table = folder / "rows.csv"
    return fitted(folder, table, types={"when": "datetime"}), zone != "naive"


@pytest.mark.parametrize("zone", ZONED)
@pytest.mark.parametrize("form", ["pandas", "csv", "text", "days"])
def test_a_time_is_never_taken_for_one_of_another_zone(
    dated: tuple[mmtab.Run, bool], zone: str, form: str, tmp_path: Path
) -> None:
    run, trained_with_zone = dated
    when = ZONED[zone](rows().when.dt.normalize() if form == "days" else rows().when)
    table: Any = rows().assign(when=when.map(lambda t: t.isoformat()) if form == "text" else when)
    if form == "days" and zone == "naive":
        table["when"] = table.when.dt.date
    if form == "csv":
        table.to_csv(tmp_path / "rows.csv", index=False)
        table = tmp_path / "rows.csv"
    if trained_with_zone == (zone != "naive"):
        assert len(run.predict(table)) == N
        return
    words = r"with a time zone as train has.*tz_localize" if trained_with_zone else r"without a time zone as train has"
    for use in (run.predict, run.evaluate):
        with pytest.raises(DataError, match=rf"row 1 .*column when: 120 cell\(s\) are not datetime; .*{words}"):
            use(table)


def test_the_same_moment_is_the_same_in_every_zone(tmp_path: Path) -> None:
    berlin = rows().assign(when=ZONED["of Berlin"](rows().when))
    run = fitted(tmp_path, berlin)
    for zone in ("UTC", "Asia/Tokyo"):
        same_numbers(run, berlin, berlin.assign(when=berlin.when.dt.tz_convert(zone)))
    assert yaml.safe_load((run.folder / "schema.yaml").read_text())["storage"]["when"].endswith("tz=Europe/Berlin]")


@pytest.mark.parametrize("as_label", [False, True])
def test_classes_and_categories_that_are_times_keep_their_zone(tmp_path: Path, as_label: bool) -> None:
    times = pd.Series(pd.to_datetime(["2024-01-01 09:00", "2024-01-01 10:00"] * (N // 2)))
    column, types = ("kind", None) if as_label else ("slot", {"slot": "categorical"})
    table = rows().drop(columns="when").assign(**{column: times.dt.tz_localize("Europe/Berlin")})
    run = fitted(tmp_path, table, types=types)
    for naive in (times, times.astype(str), times.dt.date):
        with pytest.raises(DataError, match=rf"row 1.*column {column}: .*with a time zone as train has"):
            run.evaluate(table.assign(**{column: naive}))
    for same in (times.dt.tz_localize("Europe/Berlin").dt.tz_convert("UTC"), table[column].astype(str)):
        assert run.evaluate(table.assign(**{column: same})) == pytest.approx(run.evaluate(table))


@pytest.mark.parametrize("text", ["18 May 2024 10:00 EST", "2024-05-18 10:00 CET", "10:00 PDT, 18 May 2024"])
def test_a_zone_that_stands_for_several_is_no_time(text: str) -> None:
    assert canonical(pa.array([text]), ColumnType.DATETIME)[1] == [0]
    known = ["18 May 2024 10:00 UTC", "18 May 2024 12:00 +0200", "2024-05-18 10:00Z", "May 18 2024 10:00"]
    assert len(set(canonical(pa.array(known), ColumnType.DATETIME)[0].to_pylist())) == 1


# --- names and codes -------------------------------------------------------------------------------------------------

ALIKE = [("a", " a"), ("a", "a "), ("caf\u00e9", "cafe\u0301"), ("a", "\u00a0a\t")]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_columns_that_look_alike_are_told_apart_or_refused(tmp_path: Path, one: str, other: str) -> None:
    table = rows()[["a", "kind"]].rename(columns={"a": one})
    both = table.assign(**{other: 1.0})
    both.to_csv(tmp_path / "both.csv", index=False)
    for source in (both, both.to_dict("list"), pa.Table.from_pandas(both), tmp_path / "both.csv"):
        with pytest.raises(DataError, match=r"differ only in spaces .* composed; found '.*', '.*'\. Fix: rename"):
            mmtab.Dataset.from_frame(source, label="kind")
    run = fitted(tmp_path, table)
    renamed = table.rename(columns={one: other})
    renamed.to_csv(tmp_path / "renamed.csv", index=False)
    for source in (renamed, tmp_path / "renamed.csv"):
        with pytest.raises(DataError, match=r"lacks this column; .*Fix: rename '.*', which only looks like '"):
            run.predict(source)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_codes_with_zeros_before_stay_apart(tmp_path: Path, suffix: str) -> None:
    codes = ["7", "007", "07", "7.0"]
    table = pd.DataFrame({"code": codes * 30, "a": range(120)})
    table["kind"] = table.code.map(dict(zip(codes, ["x", "y", "z", "x"], strict=True)))
    left = pd.DataFrame({"id": codes, "a": [1.0, 2.0, 3.0, 4.0]})
    pairs = pd.DataFrame({"left_id": codes, "right_id": codes, "label": [1, 0, 1, 0]})
    for name, each in {"rows": table, "left": left, "right": left, "pairs": pairs}.items():
        path = tmp_path / f"{name}{suffix}"
        each.to_csv(path, index=False) if suffix == ".csv" else each.to_parquet(path)
    rows_path = tmp_path / f"rows{suffix}"
    for dataset in (
        mmtab.Dataset.from_frame(rows_path, label="kind", types={"code": "categorical"}),
        mmtab.Dataset.from_frame(rows_path, label="code"),
    ):
        cells = [row["code"] for split in ("train", "valid", "test") for row in dataset[split]]
        assert sorted(cells) == sorted(table.code)
    sides = {name: str(tmp_path / f"{name}{suffix}") for name in ("left", "right")}
    made = mmtab.Dataset.from_frames(sides | {"pairs": str(tmp_path / f"pairs{suffix}")}, fractions=(1, 0, 0))
    records = read_records(made.folder, made.schema)
    found = read_pairs_file(made.folder / f"pairs_train{suffix}", made.schema, records)
    assert [records.table.ids[row].as_py() for row in found.left] == found.left_ids.to_pylist()


def test_a_number_is_the_same_as_decimal_text_and_float_and_bytes_are_none() -> None:
    values = [*(np.random.default_rng(0).integers(1, 99, 50) / 7), 1e-7, 123456.0]
    decimals = pa.array([Decimal(repr(float(value))) for value in values])
    for column in (decimals, pa.array(map(repr, map(float, values)))):
        assert canonical(column, ColumnType.NUMERIC) == (pa.array(values, pa.float64()), [])
    assert canonical(pa.array([b"1", None]), ColumnType.NUMERIC)[1] == [0]


FINE: dict[str, Any] = {
    "durations": pd.Series([pd.Timedelta(1, "ns"), pd.Timedelta(2, "ns")]),
    "durations as objects": [pd.Timedelta(1, "ns"), pd.Timedelta(1001, "ns")],
    "moments as objects": [pd.Timestamp(1, unit="ns"), pd.Timestamp(2, unit="ns")],
    "integers": [2**70, 2**70 + 1],
    "long durations": pa.array([2**62, 1], pa.duration("s")),
    "truths of an extension": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8())),
    "runs": pa.array(["a", "b"]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", FINE)
def test_no_digit_that_tells_values_apart_is_lost(kind: str) -> None:
    held = files.read(files.InMemory("rows", objects.as_table({"x": FINE[kind]}, "toys", "rows")), "toys")["x"]
    spelt, bad = canonical(held.chunk(0), ColumnType.CATEGORICAL)
    assert not bad and spelt.to_pylist()[0] != spelt.to_pylist()[1]
    if kind != "long durations":  # of which Python has no value
        assert typed(spelt, held.type).to_pylist() == held.to_pylist()
    if kind in ("durations", "durations as objects", "moments as objects", "integers"):
        assert held.to_pylist() == list(FINE[kind])

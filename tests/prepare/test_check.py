"""Each alarm is raised by a dataset made to deserve it, and by none that does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_data
import yaml

from mmtab.prepare.check import Alarm, Severity, check, reader
from mmtab.prepare.check.near import NearIndex

Rows = list[dict[str, Any]]
ERROR, SEVERE, WARNING, NOTE = Severity
N = 120


def edit(path: Path, change: Callable[[Rows], Rows | None]) -> None:
    """Rewrite a table with its rows changed, in place or by what ``change`` returns."""
    rows = toy_data.read_rows(path)
    rows = change(rows) or rows
    toy_data.write_table(path, {name: [row[name] for row in rows] for name in rows[0]})


def one(folder: Path, kind: str, **where: object) -> Alarm:
    """The only alarm of this kind (and place)."""
    alarms = check(folder)
    found = [a for a in alarms if a.kind == kind and all(getattr(a, key) == value for key, value in where.items())]
    assert len(found) == 1, [(a.kind, a.table, a.column, a.message) for a in alarms]
    return found[0]


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    return toy_data.write_kway(tmp_path / "toys", n=N, images=False)


@pytest.fixture
def things(tmp_path: Path) -> Path:
    """Pairs whose splits share no record and no entity."""
    return toy_data.write_pairs(tmp_path / "things", n=N, images=False)


def plain(folder: Path, n_rows: int = 200, /, **columns: Callable[[int, int, np.random.Generator], object]) -> Path:
    """A k-way dataset of two classes with columns of one's own: ``f(row, label, rng)``. The first letter of a column's
    name says its type: t(ext), n(umeric), c(ategorical), d(atetime)."""
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        labels = rng.permutation(np.arange(n_rows) % 2)
        rows = [{c: f(i, int(y), rng) for c, f in columns.items()} for i, y in enumerate(labels)]
        cells = {c: [row[c] for row in rows] for c in columns}
        toy_data.write_table(
            folder / f"{split}.parquet",
            {"id": [f"{split}-{i}" for i in range(n_rows)], **cells, "label": ["cat" if y else "dog" for y in labels]},
        )
    types = {"t": "text", "n": "numeric", "c": "categorical", "d": "datetime"}
    entries = {"name": folder.name, "task": "kway", "label": "label", "columns": {c: types[c[0]] for c in columns}}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    return folder


def noise(i: int, y: int, rng: np.random.Generator) -> float:
    return float(rng.normal())


def words(i: int, y: int, rng: np.random.Generator) -> str:
    return " ".join(f"w{v}" for v in rng.integers(0, 10_000, 12))


# --- clean data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [toy_data.write_kway, toy_data.write_pairs])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_clean_dataset_has_nothing_bad(tmp_path: Path, write: Callable[..., Path], suffix: str) -> None:
    alarms = check(write(tmp_path / "clean", n=60, suffix=suffix))
    assert not [a for a in alarms if a.severity in (ERROR, SEVERE)], alarms


def test_real_datasets_are_in_the_standard(real_dataset: Path) -> None:
    assert not [a for a in check(real_dataset, images=False) if a.severity is ERROR]


# --- the standard ----------------------------------------------------------------------------------------------------


def test_all_faults_are_listed_worst_first(toys: Path) -> None:
    toy_data.change_cell(toys / "train.parquet", 3, "size", "huge")
    toy_data.change_cell(toys / "valid.parquet", 2, "made", "one day")
    toy_data.change_cell(toys / "test.parquet", 1, "id", "test-0")
    edit(toys / "test.parquet", lambda rows: [row | {"title": "same"} for row in rows])
    edit(toys / "train.parquet", lambda rows: [row | {"title": "same"} for row in rows])
    edit(toys / "valid.parquet", lambda rows: [row | {"title": "same"} for row in rows])
    alarms = check(toys)
    errors = {(a.table, a.column, a.rows) for a in alarms if a.severity is ERROR}
    assert errors == {
        ("train", "size", ("train row 4 (id train-3)",)),
        ("valid", "made", ("valid row 3 (id valid-2)",)),
        ("test", "id", ("test row 2 (id test-0)",)),
    }
    assert "constant_column" in {a.kind for a in alarms}
    order = [list(Severity).index(a.severity) for a in alarms]
    assert order == sorted(order)


def test_yaml_and_files_that_cannot_be_read(tmp_path: Path, toys: Path, things: Path) -> None:
    assert [a.severity for a in check(tmp_path)] == [ERROR]  # no dataset.yaml
    (toys / "valid.parquet").write_bytes(b"PAR1 no more")
    (toys / "test.parquet").unlink()
    assert one(toys, "standard").table == "valid"
    assert one(toys, "missing_table").table == "test"
    (things / "left.parquet").write_bytes(b"PAR1 no more")
    assert {a.table for a in check(things) if a.severity is ERROR} == {"left"}
    (toys / "dataset.yaml").write_text("name: [")
    assert "YAML" in one(toys, "standard").message


def test_a_column_that_a_table_lacks(toys: Path) -> None:
    edit(toys / "test.parquet", lambda rows: [{k: v for k, v in row.items() if k != "size"} for row in rows])
    alarm = one(toys, "standard")
    assert (alarm.severity, alarm.table, alarm.column) == (ERROR, "test", "size")


def test_rows_not_split_yet(toys: Path, things: Path) -> None:
    for folder, old, new in [(toys, "{}", "rows"), (things, "pairs_{}", "pairs")]:
        (folder / f"{old.format('train')}.parquet").rename(folder / f"{new}.parquet")
        for split in ("valid", "test"):
            (folder / f"{old.format(split)}.parquet").unlink()
        assert "mmtab prepare split" in one(folder, "not_split").message


@pytest.mark.parametrize("task", ["kway", "matching"])
def test_pictures_are_opened(tmp_path: Path, task: str) -> None:
    write, table = (toy_data.write_kway, "train") if task == "kway" else (toy_data.write_pairs, "right")
    folder = write(tmp_path / "pictures", n=60)
    rows = toy_data.read_rows(folder / f"{table}.parquet")
    there = [i for i, row in enumerate(rows) if row["photo"]]
    (folder / rows[there[0]]["photo"].split(";")[0]).unlink()
    (folder / rows[there[1]]["photo"].split(";")[0]).write_bytes(b"no picture")
    (tmp_path / "outside.png").write_bytes(b"")
    toy_data.change_cell(folder / f"{table}.parquet", there[2], "photo", "../outside.png")
    alarm = one(folder, "picture")
    assert (alarm.severity, alarm.table, alarm.column, alarm.count) == (ERROR, table, "photo", 3)
    assert alarm.rows == tuple(f"{table} row {i + 1} (id {rows[i]['id']})" for i in there[:3])
    assert not [a for a in check(folder, images=False) if a.kind == "picture"]


def test_missing_labels(toys: Path) -> None:
    edit(toys / "test.parquet", lambda rows: [row | {"label": None} for row in rows])
    assert not [a for a in check(toys) if a.severity is ERROR]  # a test table may leave them all out
    toy_data.change_cell(toys / "train.parquet", 4, "label", None)
    alarm = one(toys, "missing_labels")
    assert (alarm.severity, alarm.count, alarm.rows) == (ERROR, 1, ("train row 5",))


# --- k-way -----------------------------------------------------------------------------------------------------------


def copy_rows(folder: Path, n: int, **changes: Any) -> None:
    """The first rows of train also as the first of test, with other ids."""
    train = toy_data.read_rows(folder / "train.parquet")
    edit(
        folder / "test.parquet",
        lambda rows: [t | {"id": r["id"]} | changes for r, t in zip(rows, train[:n], strict=False)] + rows[n:],
    )


def test_duplicates_across_splits(toys: Path) -> None:
    copy_rows(toys, 2)
    shout = (toy_data.read_rows(toys / "test.parquet")[0]["title"] or "").upper().replace(" ", "   ")
    toy_data.change_cell(toys / "test.parquet", 0, "title", shout or None)
    alarm = one(toys, "duplicate_across_splits")
    assert (alarm.severity, alarm.table, alarm.count) == (SEVERE, "test", 2)
    assert alarm.share == pytest.approx(2 / 24)
    assert "100 % of them have the same label" in alarm.message
    assert (
        alarm.rows[1].startswith("test row 2 (id test-1), label kind ")
        and "= train row 2 (id train-1)" in alarm.rows[1]
    )


def test_equal_pictures_are_equal_cells_whatever_their_name(tmp_path: Path) -> None:
    folder = toy_data.write_kway(tmp_path / "pictures", n=60)
    copy_rows(folder, 1)
    photo = toy_data.read_rows(folder / "test.parquet")[0]["photo"].split(";")
    for i, name in enumerate(photo):
        (folder / f"images/copy{i}.png").write_bytes((folder / name).read_bytes())
    toy_data.change_cell(
        folder / "test.parquet", 0, "photo", ";".join(f"images/copy{i}.png" for i in range(len(photo)))
    )
    assert one(folder, "duplicate_across_splits").count == 1


def test_rows_of_few_categories_may_be_equal(tmp_path: Path) -> None:
    folder = plain(tmp_path / "few", c1=lambda i, y, rng: f"v{rng.integers(3)}")
    alarm = one(folder, "duplicate_across_splits", table="test")
    assert alarm.severity is WARNING and "by chance" in alarm.message


def test_near_duplicates_across_splits(tmp_path: Path) -> None:
    folder = plain(tmp_path / "near", t=words, n=noise)
    train = toy_data.read_rows(folder / "train.parquet")
    longer = {i: " ".join(f"x{i}y{j}" for j in range(30)) for i in range(2)}
    for i, text in longer.items():
        toy_data.change_cell(folder / "train.parquet", i, "t", text)
        toy_data.change_cell(folder / "test.parquet", i + 5, "t", text + " added")
        toy_data.change_cell(folder / "test.parquet", i + 5, "n", train[i]["n"])
    alarm = one(folder, "near_duplicate_across_splits")
    assert (alarm.severity, alarm.table, alarm.count, alarm.share) == (WARNING, "test", 2, 0.01)
    assert "test row 6 (id test-5)" in alarm.rows[0] and "train row 1 (id train-0)" in alarm.rows[0]


def test_near_index_finds_what_comparing_all_finds() -> None:
    rng = np.random.default_rng(0)
    base = [set(rng.integers(0, 300, int(rng.integers(10, 60))).tolist()) for _ in range(60)]
    asked = [{*row} ^ set(rng.integers(0, 300, int(rng.integers(0, 4))).tolist()) for row in base for _ in range(4)]
    index = NearIndex()
    for i, row in enumerate(base):
        index.add(("test", i), i, row)
    for i, row in enumerate(asked):
        index.ask(("train", i), -1, row)
    near = {
        i
        for i, a in enumerate(base)
        if len(a) >= 10 and any(len(b) >= 10 and 10 * len(a & b) >= 9 * len(a | b) for b in asked)
    }
    assert set(index.found) == near and 10 < len(near) < 60


def test_big_tables_are_sampled_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plain(tmp_path / "big", t=words, n=noise, c=lambda i, y, rng: f"v{y}")
    copy = [f"{' '.join(f'x{i}y{j}' for j in range(30))}" for i in range(200)]
    edit(folder / "train.parquet", lambda rows: [r | {"t": t} for r, t in zip(rows, copy, strict=True)])
    edit(folder / "test.parquet", lambda rows: [r | {"t": t + " z"} for r, t in zip(rows, copy, strict=True)])
    monkeypatch.setattr(reader, "NEAR_HELD_OUT", 50)
    monkeypatch.setattr(reader, "SAMPLE_ROWS", 40)
    assert "an estimate from 50 rows" in one(folder, "near_duplicate_across_splits").message
    assert one(folder, "label_given_away").column == "c"
    assert check(folder) == check(folder)


def test_ids_in_two_splits(toys: Path) -> None:
    toy_data.change_cell(toys / "test.parquet", 3, "id", "train-7")
    alarm = one(toys, "id_in_two_splits")
    assert (alarm.severity, alarm.rows) == (SEVERE, ("test row 4 (id train-7) = train row 8 (id train-7)",))


def test_duplicates_within_a_split_and_label_noise(toys: Path) -> None:
    edit(toys / "train.parquet", lambda rows: [*rows[:5], rows[0] | {"id": "again", "label": "kind 9"}, *rows[6:]])
    alarm = one(toys, "duplicate_within_split")
    assert (alarm.severity, alarm.table, alarm.count) == (WARNING, "train", 1)
    assert alarm.rows[0].startswith("train row 6 (id again), label kind 9 = train row 1 (id train-0), label kind ")
    alarm = one(toys, "label_noise")
    assert (alarm.severity, alarm.count) == (WARNING, 2)
    assert alarm.rows[0].startswith("train row 6 (id again), label kind 9 = train row 1 (id train-0), label kind ")


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("c", lambda i, y, rng: f"code {y}{i % 7}"),
        ("n", lambda i, y, rng: (i * 2 + y) * 0.0 + (1 + y) * float(rng.uniform(1, 1.4))),
        ("d", lambda i, y, rng: f"20{10 + y}-01-{1 + i % 28:02d}"),
        ("t", lambda i, y, rng: f"Said {y}{i % 3}"),
    ],
)
def test_a_column_that_gives_the_label_away(tmp_path: Path, column: str, cell: Callable[..., object]) -> None:
    folder = plain(tmp_path / "leak", n0=noise, **{column: cell})
    alarm = one(folder, "label_given_away")
    assert (alarm.severity, alarm.column) == (SEVERE, column) and alarm.share >= 0.98
    assert "Look at it" in alarm.message and alarm.rows


def test_a_strong_column_is_looked_at_only_when_it_stands_alone(tmp_path: Path) -> None:
    def mostly(i: int, y: int, rng: np.random.Generator) -> str:
        return f"v{y if rng.random() < 0.94 else 1 - y}"

    alarm = one(plain(tmp_path / "alone", n=noise, c=mostly), "label_given_away")
    assert (alarm.severity, alarm.column) == (WARNING, "c")
    assert not [a for a in check(plain(tmp_path / "both", c=mostly, c1=mostly)) if a.kind == "label_given_away"]


def test_a_text_that_says_the_label(tmp_path: Path) -> None:
    def text(i: int, y: int, rng: np.random.Generator) -> str:
        return f"{words(i, y, rng)} {'Cat' if y else 'dog'}, {words(i, y, rng)}"

    alarm = one(plain(tmp_path / "said", t=text), "label_named_in_text")
    assert (alarm.severity, alarm.column, alarm.share) == (SEVERE, "t", 1.0)
    assert alarm.rows[0].startswith("train row 1 (id train-0), label ")


def test_columns_that_say_nothing(tmp_path: Path) -> None:
    folder = plain(
        tmp_path / "empty",
        n=noise,
        c1=lambda i, y, rng: "same",
        c2=lambda i, y, rng: f"u{rng.integers(1 << 60)}",
        t=lambda i, y, rng: None,
        n2=lambda i, y, rng: float(i),
    )
    edit(folder / "test.parquet", lambda rows: [row | {"n2": None if i < 100 else 1.0} for i, row in enumerate(rows)])
    assert one(folder, "constant_column").column == "c1"
    assert one(folder, "all_missing_column").column == "t"
    assert one(folder, "id_like_column").column == "c2"
    alarm = one(folder, "missing_differs")
    assert (alarm.severity, alarm.column, alarm.share) == (WARNING, "n2", 0.5)


def test_labels_that_train_lacks_small_and_large_classes(toys: Path) -> None:
    toy_data.change_cell(toys / "valid.parquet", 1, "label", "kind new")
    alarm = one(toys, "label_not_in_train")
    assert (alarm.severity, alarm.table, alarm.rows) == (ERROR, "valid", ("valid row 2 (id valid-1), label kind new",))
    edit(
        toys / "train.parquet",
        lambda rows: [r | {"label": "kind 1" if i > 2 else "kind new"} for i, r in enumerate(rows)],
    )
    assert one(toys, "small_class").severity is NOTE
    assert one(toys, "imbalance").severity is NOTE
    edit(toys / "train.parquet", lambda rows: [r | {"label": "kind 1"} for r in rows])
    assert one(toys, "one_class").severity is ERROR


@pytest.mark.parametrize("other", ["Kind 1", "kind  1", "kind 1\u200b", "kind\u00a01", "\u202akind 1", "kind \uff11"])
def test_labels_that_seem_the_same(toys: Path, other: str) -> None:
    assert "labels_alike" not in {alarm.kind for alarm in check(toys)}
    edit(toys / "train.parquet", lambda rows: [r | {"label": other} if i == 0 else r for i, r in enumerate(rows)])
    alarm = one(toys, "labels_alike")
    assert alarm.severity is WARNING and ascii(other) in alarm.message and "'kind 1'" in alarm.message


def test_groups_and_times_are_as_the_yaml_says(tmp_path: Path) -> None:
    folder = plain(tmp_path / "grouped", n=noise, c=lambda i, y, rng: f"g{i % 100}", d=lambda i, y, rng: "2020-01-01")
    raw = yaml.safe_load((folder / "dataset.yaml").read_text())

    def declare(**split: str) -> None:
        (folder / "dataset.yaml").write_text(yaml.safe_dump(raw | {"split": split}))

    declare(method="grouped", by="c")
    alarm = one(folder, "group_spans_splits", table="valid")
    assert (alarm.severity, alarm.column, alarm.count, alarm.rows[0]) == (SEVERE, "c", 100, "valid row 1: c = g0")
    declare(method="time", by="d")
    edit(folder / "valid.parquet", lambda rows: [row | {"d": "2021-01-01"} for row in rows])
    alarm = one(folder, "time_overlap")
    assert (alarm.severity, alarm.table, alarm.count) == (SEVERE, "test", 200)
    for split, year in {"train": "2000", "valid": "2010", "test": "2020"}.items():

        def apart(rows: list[Any], split: str = split, year: str = year) -> list[Any]:
            return [row | {"c": f"{split}{row['c']}", "d": year} for row in rows]

        edit(folder / f"{split}.parquet", apart)
    assert not {"group_spans_splits", "time_overlap"} & {a.kind for a in check(folder)}


@pytest.mark.parametrize("write", [toy_data.write_kway, toy_data.write_pairs])
def test_csv_and_parquet_give_the_same_alarms(tmp_path: Path, write: Callable[..., Path]) -> None:
    folders = [write(tmp_path / suffix / "same", n=60, suffix=f".{suffix}") for suffix in ("csv", "parquet")]
    for folder in folders:
        suffix = folder.parent.name
        if (folder / f"train.{suffix}").exists():
            edit(folder / f"train.{suffix}", lambda rows: [*rows[:9], rows[0] | {"id": "again", "label": "kind 7"}])
            edit(folder / f"test.{suffix}", lambda rows: [rows[0] | {"id": "train-3"}, *rows[1:]])
        else:
            edit(folder / f"pairs_train.{suffix}", lambda rows: [*rows, rows[0]])
    first, second = (check(folder) for folder in folders)
    assert first == second and len(first) > 1


# --- matching --------------------------------------------------------------------------------------------------------


def test_faults_of_all_tables_of_a_matching_dataset(things: Path) -> None:
    toy_data.change_cell(things / "left.parquet", 3, "size", "huge")
    toy_data.change_cell(things / "pairs_valid.parquet", 2, "left_id", "nobody")
    toy_data.change_cell(things / "pairs_test.parquet", 1, "label", "perhaps")
    errors = [a for a in check(things) if a.severity is ERROR]
    assert {(a.table, a.column) for a in errors} == {
        ("left", "size"),
        ("pairs_valid", "left_id"),
        ("pairs_test", "label"),
    }


def test_pairs_in_two_splits_and_repeated(things: Path) -> None:
    train = toy_data.read_rows(things / "pairs_train.parquet")
    edit(things / "pairs_test.parquet", lambda rows: [*rows, train[4]])
    edit(things / "pairs_valid.parquet", lambda rows: [*rows, rows[1] | {"label": 1 - rows[1]["label"]}])
    alarm = one(things, "pair_in_two_splits")
    assert (alarm.severity, alarm.table, alarm.count) == (SEVERE, "pairs_test", 1)
    assert alarm.rows[0].startswith("pairs_test row 25 (l4, ") and "= pairs_train row 5 (l4, " in alarm.rows[0]
    assert one(things, "pair_repeated").table == "pairs_valid"
    alarm = one(things, "pair_label_contradiction")
    assert (
        alarm.severity is WARNING and "pairs_valid row 2 " in alarm.rows[0] and "pairs_valid row 25 " in alarm.rows[0]
    )


def records(folder: Path, pairs: dict[str, list[tuple[int, int, int]]], texts: list[str]) -> Path:
    """A dataset of one table of records."""
    toy_data.write_table(folder / "records.parquet", {"id": [f"r{i}" for i in range(len(texts))], "t": texts})
    for split, rows in pairs.items():
        ids = [[f"r{row[side]}" for row in rows] for side in (0, 1)]
        table = {"left_id": ids[0], "right_id": ids[1], "label": [row[2] for row in rows]}
        toy_data.write_table(folder / f"pairs_{split}.parquet", table)
    entries = {"name": folder.name, "task": "matching", "columns": {"t": "text"}}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(entries))
    return folder


def test_swapped_pairs_chains_and_equal_records(tmp_path: Path) -> None:
    folder = records(
        tmp_path / "chains",
        {
            "train": [(0, 1, 1), (1, 2, 1), (3, 3, 1), (4, 5, 0)],
            "valid": [(2, 0, 0), (6, 7, 1)],
            "test": [(1, 0, 1), (8, 9, 0)],
        },
        ["a b", "a c", "a d", "e", "Same", " same", "f", "g", "h", "i", "h"],
    )
    assert one(folder, "pair_in_two_splits").rows == (
        "pairs_test row 1 (r1, r0), label 1 = pairs_train row 1 (r0, r1), label 1",
    )
    alarm = one(folder, "transitivity")
    assert alarm.severity is SEVERE  # one of the three non-matches
    chain = "records row 3 (id r2) = records row 2 (id r1) = records row 1 (id r0)"
    assert alarm.rows == (f"pairs_valid row 1 (r2, r0), label 0, but {chain}",)
    assert one(folder, "pair_with_itself").rows == ("pairs_train row 3 (r3, r3), label 1",)
    assert one(folder, "identical_non_match").rows == ("pairs_train row 4 (r4, r5), label 0",)
    alarm = one(folder, "duplicate_record")
    assert alarm.count == 2 and "records row 6 (id r5) = records row 5 (id r4)" in alarm.rows
    assert one(folder, "unused_record").rows == ("records row 11 (id r10)",)
    alarm = one(folder, "entity_spans_splits", table="pairs_test")
    assert (alarm.severity, alarm.count, alarm.share) == (WARNING, 1, 0.5)
    assert one(folder, "record_seen_in_train", table="pairs_test").severity is WARNING
    raw = yaml.safe_load((folder / "dataset.yaml").read_text())
    (folder / "dataset.yaml").write_text(yaml.safe_dump(raw | {"split": {"method": "component"}}))
    assert one(folder, "entity_spans_splits", table="pairs_test").severity is SEVERE


@pytest.mark.parametrize("kind", ["categorical", "numeric"])
def test_a_column_whose_equality_gives_the_pair_label(tmp_path: Path, kind: str) -> None:
    things = toy_data.write_pairs(tmp_path / "things", n=300, images=False)
    for side in ("left", "right"):
        shift = 0.001 if side == "left" else 0

        def coded(rows: list[Any], shift: float = shift) -> list[Any]:
            return [row | {"code": float(i) + shift if kind == "numeric" else f"c{i}"} for i, row in enumerate(rows)]

        edit(things / f"{side}.parquet", coded)
    raw = yaml.safe_load((things / "dataset.yaml").read_text())
    raw["columns"]["code"] = kind
    (things / "dataset.yaml").write_text(yaml.safe_dump(raw))
    alarm = one(things, "label_given_away", column="code")
    assert (alarm.severity, alarm.table, alarm.share) == (SEVERE, "pairs_valid", 1.0)
    assert alarm.rows[0].endswith("label 1")


def test_ids_that_tell_the_matches(things: Path) -> None:
    edit(things / "right.parquet", lambda rows: [row | {"id": row["id"].replace("r", "l")} for row in rows])
    for split in ("train", "valid", "test"):
        edit(
            things / f"pairs_{split}.parquet",
            lambda rows: [row | {"right_id": row["right_id"].replace("r", "l")} for row in rows],
        )
    alarm = one(things, "ids_tell_the_label", table="pairs_test")
    assert alarm.severity == WARNING and alarm.share == 1.0 and "label 1" in alarm.rows[0]


def test_shares_of_matches(things: Path) -> None:
    edit(things / "pairs_test.parquet", lambda rows: [row | {"label": 0} for row in rows])
    assert one(things, "one_class").severity is WARNING
    assert one(things, "matches_differ").severity is WARNING
    edit(things / "pairs_train.parquet", lambda rows: [{k: v for k, v in row.items() if k != "label"} for row in rows])
    assert one(things, "missing_labels").severity is ERROR

"""From raw tables to a dataset folder: proposed, divided, refused by name; by functions and by the command line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import toy_data
from commands import script
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtab.cli import main
from mmtab.data import files
from mmtab.data.pairs import read_pairs, read_records
from mmtab.data.schema import Column, ColumnType, Schema
from mmtab.data.table import read_split
from mmtab.prepare.check import check
from mmtab.prepare.propose import propose
from mmtab.prepare.split import split
from mmtab.utils.errors import ConfigError, DataError, MmtabError


def rows_of(folder: Path) -> Path:
    """The toy rows of all splits as one raw csv, its pictures beside it."""
    toys = toy_data.write_kway(folder / "raw", n=100)
    whole = pa.concat_tables([files.read(toys / f"{name}.parquet", "toys") for name in ("train", "valid", "test")])
    files.write_table(toys / "products.csv", whole)
    return toys / "products.csv"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs the command in this process; its exit status and what it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: Any) -> tuple[int, str]:
        status = 0
        try:
            main.run("prepare", [str(argument) for argument in arguments])
        except SystemExit as exit:
            status = int(exit.code or 0)
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def test_one_command_makes_a_dataset_of_a_raw_csv(tmp_path: Path) -> None:
    done = script("prepare_data", "all", rows_of(tmp_path), "-o", tmp_path / "toys", "--label", "label", "--seed", 3)
    assert done.returncode == 0, done.stderr
    schema = Schema.read(tmp_path / "toys")
    assert {c.name: str(c.type) for c in schema.columns} == toy_data.COLUMNS
    assert schema.split == {"method": "stratified", "fractions": [0.7, 0.1, 0.2], "seed": 3}
    sizes = {name: len(read_split(tmp_path / "toys", schema, name)) for name in ("train", "valid", "test")}
    assert sizes == {"train": 70, "valid": 10, "test": 20}
    assert (tmp_path / "toys" / "card.md").is_file() and (tmp_path / "toys" / "card.html").is_file()
    assert not [alarm for alarm in check(tmp_path / "toys") if alarm.severity == "error"]
    assert "photo" in done.stdout and "image" in done.stdout  # a reason for each column


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["infer", "none.csv", "-o", "x"], "no file none.csv"),
        (["split", "none"], "no dataset.yaml in none"),
        (["check", "none"], "no dataset.yaml"),
        (["convert", "none", "-o", "x"], "no dataset.yaml"),
        (["import", "nothing", "-o", "x"], "no recipe 'nothing'"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(
    arguments: list[str], says: str, run: Callable[..., tuple[int, str]]
) -> None:
    status, printed = run(*arguments)
    assert status == 1 and "Traceback" not in printed
    assert says in re.sub(r"\s+", " ", printed)


def test_check_fails_on_a_broken_standard(tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    folder = toy_data.write_kway(tmp_path / "toys")
    assert run("check", folder)[0] == 0
    toy_data.change_cell(folder / "train.parquet", 2, "size", "huge")
    status, printed = run("check", folder)
    assert status == 1 and "error" in printed and "row 3" in printed


def test_rows_without_an_id_are_numbered_and_a_csv_is_rewritten_in_the_standard(tmp_path: Path) -> None:
    text = "naïve;kind\n" + "".join(f'"thing {i}; nice";{"ab"[i % 2]}\n' for i in range(40))
    (tmp_path / "raw.csv").write_bytes(text.encode("cp1252"))
    propose([tmp_path / "raw.csv"], tmp_path / "out", label="kind")
    schema = Schema.read(tmp_path / "out")
    table = files.read(tmp_path / "out" / "rows.csv", "out")
    assert schema.id == "id" and table["id"].to_pylist() == [str(i) for i in range(1, 41)]
    assert table["naïve"][1].as_py() == "thing 1; nice"


def test_an_output_that_exists_is_left_alone(tmp_path: Path) -> None:
    raw = rows_of(tmp_path)
    with pytest.raises(ConfigError, match="exists"):
        propose([raw], raw.parent)


def raw_dataset(folder: Path, **columns: list[Any]) -> Path:
    n = len(next(iter(columns.values())))
    kinds = {name: "numeric" if isinstance(cells[0], int) else "categorical" for name, cells in columns.items()}
    raw = {"name": "raw", "task": "kway", "label": "label", "columns": {n: k for n, k in kinds.items() if n != "label"}}
    Schema.from_dict(raw).write(folder)
    files.write_table(folder / "rows.parquet", pa.table({"id": [str(i) for i in range(n)]} | columns))
    return folder


def test_grouped_and_timed_splits_hold_and_are_recorded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, list[Any]] = {
        "brand": [f"b{i}" for i in rng.integers(0, 60, 600)],
        "year": rng.integers(1990, 2020, 600).tolist(),
        "label": [f"k{i}" for i in rng.integers(0, 4, 600)],
    }
    with pytest.warns(UserWarning, match="column brand groups the splits, so it is left out of the features"):
        grouped = split(raw_dataset(tmp_path / "g", **columns), method="grouped", by="brand", seed=5)
    assert [column.name for column in grouped.columns] == ["year"] and Schema.read(tmp_path / "g") == grouped
    assert grouped.split == {"method": "grouped", "by": "brand", "fractions": [0.7, 0.1, 0.2], "seed": 5}
    parts = [
        set(files.read(tmp_path / "g" / f"{s}.parquet", "g")["brand"].to_pylist()) for s in ("train", "valid", "test")
    ]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    replace(grouped, columns=(*grouped.columns, Column("brand", ColumnType.CATEGORICAL))).write(tmp_path / "g")
    timed = split(raw_dataset(tmp_path / "t", **columns), method="time", by="year")
    unseen = [[a.column for a in check(tmp_path / name) if a.kind == "unseen_values"] for name in ("g", "t")]
    assert unseen == [["brand"], []]
    years = [np.asarray(read_split(tmp_path / "t", timed, s).columns["year"]) for s in ("train", "valid", "test")]
    assert years[0].max() < years[1].min() and years[1].max() < years[2].min()
    with pytest.raises(ConfigError, match="divided already"):
        split(tmp_path / "g")


@pytest.mark.parametrize(
    "options, says",
    [
        ({"method": "grouped"}, "needs column"),
        ({"method": "component"}, "expected one of random"),
        ({"method": "grouped", "by": "none"}, "column none: the file lacks"),
        ({"method": "random", "fractions": (0.9, 0.2, 0.1)}, "do not sum to 1"),
        ({"method": "time", "by": "brand"}, "row 1, column brand: the cell is not datetime"),
    ],
)
def test_splits_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    folder = raw_dataset(tmp_path / "raw", brand=["x", "y"] * 10, label=["a", "b"] * 10)
    with pytest.raises(MmtabError, match=says):
        split(folder, **options)
    assert sorted(p.name for p in folder.iterdir()) == ["dataset.yaml", "rows.parquet"]


def test_a_row_without_its_label_cannot_be_placed(tmp_path: Path) -> None:
    folder = raw_dataset(tmp_path / "raw", brand=["x"] * 10, label=["a", "b"] * 4 + ["a", None])
    with pytest.raises(DataError, match=r"table rows, row 10, column label: a row without"):
        split(folder)


@pytest.mark.parametrize("tangled", [False, True])
def test_no_entity_spans_splits_of_pairs(tmp_path: Path, tangled: bool) -> None:
    folder = toy_data.write_pairs(tmp_path / "toys", n=120, images=False)
    for name in ("train", "valid", "test"):
        (folder / f"pairs_{name}.parquet").unlink()
    rng = np.random.default_rng(0)
    left, right, labels = list(range(120)), list(range(120)), [1] * 120
    far = rng.integers(0, 120, 300) if tangled else np.arange(300) % 120 // 4 * 4  # non-matches near by, or anywhere
    left, right, labels = left + (np.arange(300) % 120).tolist(), right + far.tolist(), labels + [0] * 300
    pairs = {"left_id": [f"l{i}" for i in left], "right_id": [f"r{i}" for i in right], "label": labels}
    files.write_table(folder / "pairs.parquet", pa.table(pairs))
    schema = split(folder, seed=1)
    records = read_records(folder, schema)
    seen: dict[int, int] = {}
    total = 0
    for number, name in enumerate(("train", "valid", "test")):
        found = read_pairs(folder, schema, name, records)
        total += len(found)
        for row in [*found.left, *(found.right - 120)]:
            assert seen.setdefault(int(row), number) == number
        assert 0 < float(np.mean(np.asarray(found.labels))) < 1
    assert total + schema.split.get("left_out", 0) == 420 and ("left_out" in schema.split) == tangled


def pairs_dataset(folder: Path, n: int, pairs: list[tuple[int, int, int]]) -> Path:
    """``n`` records on either side, and pairs of them with labels."""
    Schema.from_dict({"name": "p", "task": "matching", "columns": {"x": "numeric"}}).write(folder)
    for side in ("left", "right"):
        ids = [f"{side[0]}{i}" for i in range(n)]
        files.write_table(folder / f"{side}.parquet", pa.table({"id": ids, "x": [i / 7 for i in range(n)]}))
    left, right, labels = zip(*pairs, strict=True)
    columns = {"left_id": [f"l{i}" for i in left], "right_id": [f"r{i}" for i in right], "label": list(labels)}
    files.write_table(folder / "pairs.parquet", pa.table(columns))
    return folder


def divided(folder: Path, **options: Any) -> tuple[Schema, dict[str, list[tuple[str, str, int]]], str]:
    """The schema, the pairs of each split, and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        schema = split(folder, **options)
    tables = {name: files.read(folder / f"pairs_{name}.parquet", "p") for name in ("train", "valid", "test")}
    pairs = {name: list(zip(*(column.to_pylist() for column in t.columns), strict=True)) for name, t in tables.items()}
    return schema, pairs, " ".join(str(warning.message) for warning in said)


FRACTIONS = {"train": 0.7, "valid": 0.1, "test": 0.2}
OTHERS = [(i, (k * i + 3) % 300, 0) for k in (1, 7, 11, 13, 17, 19, 23, 29) for i in range(300)]
PAIRS = {  # what joins records, and how they are divided then
    "matches of two": ([(i, i, 1) for i in range(300)], "component", ""),
    "others join all": ([(i, i, 1) for i in range(300)] + [(0, i, 0) for i in range(1, 300)], "component", "left out"),
    "small entities": ([(i, j, 1) for i in range(300) for j in {i, i // 5 * 5}], "component", ""),
    "one entity": ([(0, i, 1) for i in range(200)], "random", "too large"),
    "five matches": ([(i, i, 1) for i in range(5)], "component", ""),
    "two matches": ([(i, i, 1) for i in range(2)], "random", "valid has no match|test has no match"),
    "none": ([], "random", "train, valid, test has no match"),
}


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_split_of_pairs_has_its_share_of_the_matches(tmp_path: Path, case: str, seed: int) -> None:
    matches, method, words = PAIRS[case]
    matched = {(a, b) for a, b, _ in matches}
    folder = pairs_dataset(tmp_path / "p", 300, matches + [p for p in OTHERS if p[:2] not in matched])
    schema, splits, said = divided(folder, seed=seed)
    assert schema.split["method"] == method and (re.search(words, said) if words else "random" not in said)
    counts = {name: sum(label for *_, label in pairs) for name, pairs in splits.items()}
    n = sum(label for *_, label in matches)
    assert sum(counts.values()) == n, "no match is left out"
    if n > 2:
        assert all(counts[name] >= max(1, FRACTIONS[name] * n // 2) for name in counts)
    if n > 100 and case != "small entities":
        assert counts == {name: pytest.approx(fraction * n, abs=2) for name, fraction in FRACTIONS.items()}
    n_pairs = sum(map(len, splits.values()))
    assert n_pairs + schema.split.get("left_out", 0) == files.count(folder / "pairs.parquet", "p")
    if method == "component":
        seen = [{record for *pair, _ in pairs for record in pair} for pairs in splits.values()]
        assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    assert all(any(label == 0 for *_, label in pairs) for pairs in splits.values())


CELLS = st.none() | st.text(st.characters(codec="utf-8"), max_size=6) | st.floats().map(str) | st.integers().map(str)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_table_becomes_a_readable_dataset_or_an_error_by_name(data: st.DataObject) -> None:
    names = data.draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    n = data.draw(st.integers(1, 12))
    columns = {name: data.draw(st.lists(CELLS, min_size=n, max_size=n)) for name in names}
    try:
        table = pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()})
    except pa.ArrowException:
        return
    with TemporaryDirectory() as scratch:
        raw, out = Path(scratch) / f"raw{data.draw(st.sampled_from(files.FORMATS))}", Path(scratch) / "out"
        try:
            files.write_table(raw, table)
            schema = propose([raw], out, label=names[0]).schema
            read = read_split(out, schema, "rows")
        except MmtabError as error:
            assert str(error)
        else:
            # Whatever its type, a cell is there or missing as it was.
            for column in schema.columns:
                missing = [cell is None or cell == "" for cell in columns[column.name]]
                if column.type in ("text", "categorical"):
                    assert [cell is None for cell in read.columns[column.name].to_pylist()] == missing
                    assert [c or None for c in columns[column.name]] == read.columns[column.name].to_pylist()
            check(out)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200))
def test_check_reports_any_bytes_instead_of_raising(data: bytes) -> None:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        Schema.from_dict({"name": "any", "task": "kway", "label": "b", "columns": {"a": "text"}}).write(folder)
        for name in ("train.csv", "valid.csv", "test.csv"):
            (folder / name).write_bytes(b"id,a,b\n" + data)
        alarms = check(folder)
        assert any(alarm.severity == "error" for alarm in alarms) or read_split(folder, Schema.read(folder), "train")


@pytest.mark.parametrize(
    "names, stems",
    [
        (["train.csv", "val.csv", "test.csv"], {"train", "valid", "test"}),
        (["train.csv"], {"rows"}),
        (["part-0.csv", "part-1.csv"], {"rows"}),
    ],
)
def test_a_folder_is_taken_as_its_tables_or_as_shards(tmp_path: Path, names: list[str], stems: set[str]) -> None:
    for name in names:
        cells = {"colour": ["red", "blue"] * 20, "kind": ["a", "b"] * 20}
        toy_data.write_table(tmp_path / "raw" / name, cells)
    propose([tmp_path / "raw"], tmp_path / "out", label="kind")
    found = {path.stem for path in (tmp_path / "out").iterdir() if path.suffix == ".csv"}
    assert found == stems
    total = sum(files.count(files.find(tmp_path / "out", "out", stem), "out") for stem in stems)
    assert total == 40 * len(names)

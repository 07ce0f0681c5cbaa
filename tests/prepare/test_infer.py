"""Inference looks at values: each rule on a table made for it, and the declared types of real datasets."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import toy_data

from mmtab.data import files
from mmtab.data.csv_files import STANDARD
from mmtab.data.files import table_stems
from mmtab.data.schema import Schema, TaskKind
from mmtab.data.table import read_table
from mmtab.prepare import facts
from mmtab.prepare.convert import convert
from mmtab.prepare.infer import Proposal, infer
from mmtab.utils.errors import DataError

N = 300
RNG = np.random.default_rng(0)
WORDS = [
    f"{a}{b}" for a in ("bright", "old", "soft", "tall", "warm") for b in ("lamp", "chair", "scarf", "drum", "tent")
]


def sentence(n: int) -> str:
    return " ".join(RNG.choice(WORDS, n))


CELLS: dict[str, tuple[str, list[Any]]] = {
    "price as text": ("numeric", [f"{x:.2f}" for x in RNG.lognormal(3, 1, N)]),
    "count of things": ("numeric", [str(x) for x in RNG.integers(0, 9, N)]),
    "latitude": ("numeric", [f"{x:.6f}" for x in RNG.uniform(40, 41, N)]),
    "tiny and huge": ("numeric", [f"{x:e}" for x in 10 ** RNG.uniform(-300, 300, N)]),
    "zip": ("categorical", [f"{x:05d}" for x in RNG.integers(10000, 99999, N)]),
    "short code": ("categorical", [f"{x:04d}" for x in RNG.integers(0, 3000, N)]),
    "in stock": ("categorical", [["true", "false"][x] for x in RNG.integers(0, 2, N)]),
    "has box": ("categorical", [["yes", "no"][x] for x in RNG.integers(0, 2, N)]),
    "flag": ("categorical", [str(x) for x in RNG.integers(0, 2, N)]),
    "fit": ("categorical", [["S", "M", "L", "XL"][x] for x in RNG.integers(0, 4, N)]),
    "brand": ("categorical", [f"Maker {x}" for x in RNG.zipf(1.5, N) % 40]),
    "description": ("text", [sentence(20) for _ in range(N)]),
    "title": ("text", [sentence(5) for _ in range(N)]),
    "with currency": ("text", [f"${x:,.2f}" for x in RNG.lognormal(8, 1, N)]),  # does not read as a number
    "made on": ("datetime", [f"20{x:02d}-05-18" for x in RNG.integers(0, 24, N)]),
    "released": ("datetime", [f"18-May-{x:02d}" for x in RNG.integers(0, 24, N)]),
    "at": ("datetime", [f"2024-05-{x:02d}T10:{x:02d}:00Z" for x in RNG.integers(1, 28, N)]),
    "nothing": ("ignore", [None] * N),
    "always": ("categorical", ["x"] * N),
    "phone": ("text", [str(5550000000 + x) for x in RNG.permutation(N)]),  # no two alike: the digits may tell
    "isbn": ("text", [str(9780000000000 + x) for x in RNG.permutation(N)]),
    "article": ("text", [str(4006381000000 + 7 * x) for x in RNG.permutation(N)]),  # of 13 digits each
    "twenty digits": ("categorical", [str(10**19 + x) for x in RNG.integers(0, 9, N).tolist()]),  # a float64 holds 15
    "owner_id": ("categorical", [str(x) for x in RNG.integers(0, 40, N)]),
    "store_id": ("categorical", [str(x) for x in RNG.integers(1500, 1560, N)]),  # no years
    "order_id": ("ignore", [str(x) for x in RNG.permutation(N)]),
    "year": ("numeric", [str(x) for x in RNG.integers(1990, 2020, N)]),
    "vintage": ("numeric", [str(x) for x in RNG.choice([1999, 2003, 2004], N)]),  # few and with gaps, yet in order
    "stars": ("numeric", [str(x) for x in RNG.integers(1, 6, N)]),
    "signature": ("categorical", [str(x) for x in RNG.choice([3, 4, 8], N, p=[0.2, 0.7, 0.1])]),  # 5 to 7 never come
    "weight with unit": ("categorical", [f"{x} kg" for x in RNG.integers(1, 30, N)]),
    "thousands": ("text", [f"{x:,}" for x in RNG.integers(1000, 90000, N)]),
    "half empty": ("text", ["NA" if i % 5 == 0 else str(i * 0.5) for i in range(N)]),
    "model": ("text", ["12A" if i in (3, 9) else str(1000 + 3 * i) for i in range(N)]),  # not numbers with slips
    "compact": ("datetime", [f"202003{x:02d}" for x in RNG.integers(1, 29, N)]),
    "on": ("datetime", ["2008" if i % 9 == 0 else f"August {i % 28 + 1} , 2011" for i in range(N)]),
    "not a day": ("categorical", ["2020-02-31" if i == 7 else f"2020-03-{i % 28 + 1:02d}" for i in range(N)]),
    "weekday": ("categorical", [["Mon", "Tue"][x] for x in RNG.integers(0, 2, N)]),
    "playing": ("text", [f"{x // 60}:{x % 60:02d}" for x in RNG.integers(100, 400, N)]),
    "address": ("text", [f"10.0.{x}.7" for x in RNG.permutation(N)]),
}


def propose(folder: Path, suffix: str = ".csv", **options: Any) -> Proposal:
    columns = {"id": [f"r{i}" for i in range(N)]} | {name: cells for name, (_, cells) in CELLS.items()}
    columns["kind"] = ["abc"[i % 3] for i in range(N)]
    table = pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()})
    path = toy_data.write_table(folder / f"rows{suffix}", table)
    return infer({"rows": path}, name="toys", **options)


@pytest.mark.parametrize("suffix", files.FORMATS)
def test_each_kind_of_values_is_recognised_and_can_be_read(tmp_path: Path, suffix: str) -> None:
    proposal = propose(tmp_path, suffix)
    roles = {guess.name: guess.role for guess in proposal.guesses}
    assert roles == {name: role for name, (role, _) in CELLS.items()} | {"id": "id", "kind": "label"}
    assert all(guess.why and 0 < guess.confidence <= 1 for guess in proposal.guesses)
    why = {guess.name: guess.why for guess in proposal.guesses}
    assert "'NA' would have to be emptied" in why["half empty"] and "unit and commas" in why["weight with unit"]
    assert "the same in all 300" in why["always"] and "leading zeros" in why["short code"]
    table = read_table(tmp_path / f"rows{suffix}", proposal.schema)
    assert len(table) == N and table.n_bad_cells == 0
    proposal.schema.write(tmp_path)
    assert Schema.read(tmp_path) == proposal.schema


def test_what_the_user_says_wins(tmp_path: Path) -> None:
    proposal = propose(tmp_path, label="fit", id="id", types={"flag": "numeric", "brand": "text", "title": "ignore"})
    kinds = {column.name: str(column.type) for column in proposal.schema.columns}
    assert proposal.schema.label == "fit" and kinds["flag"] == "numeric" and kinds["brand"] == "text"
    assert "title" not in kinds and kinds["kind"] == "categorical"
    proposal = propose(tmp_path, types={"with currency": "numeric", "in stock": "numeric"})
    assert [note.split(":")[0] for note in proposal.notes if "bad_cells=missing" in note] == ["with currency"]


@pytest.mark.parametrize(
    "options, says",
    [
        (
            {"label": "none"},
            r"dataset toys, table rows, column none: no table has this column; found columns \['id', .*Fix: ",
        ),
        ({"id": "none"}, "column none: no table has this column"),
        ({"types": {"none": "text"}}, "column none: no table has this column"),
        ({"types": {"flag": "number"}}, "column flag: unknown column type"),
        ({"task": "regression"}, "expected kway or matching"),
        ({"label": "id", "id": "id"}, "the id cannot be the label"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        propose(tmp_path, **options)


def test_no_label_is_asked_for(tmp_path: Path) -> None:
    path = toy_data.write_table(tmp_path / "rows.csv", {"x": [f"{i}.5" for i in range(50)]})
    with pytest.raises(DataError, match="say label=COLUMN"):
        infer({"rows": path}, name="toys")


def test_markers_of_missing_numbers_are_told(tmp_path: Path) -> None:
    cells = [str(i * 1.5) for i in range(200)]
    cells[7] = cells[9] = "N/A"
    path = toy_data.write_table(tmp_path / "rows.csv", {"x": cells, "label": ["a", "b"] * 100})
    proposal = infer({"rows": path}, name="toys")
    assert str(proposal.schema.columns[0].type) == "numeric" and any(
        "2 cells such as 'N/A'" in n for n in proposal.notes
    )
    numbered = pa.table({"id": [str(i) for i in range(200)], "x": cells, "label": ["a", "b"] * 100})
    table = read_table(toy_data.write_table(tmp_path / "again.csv", numbered), proposal.schema, bad_cells="missing")
    assert table.n_bad_cells == 2 and table.columns["x"].null_count == 2


def test_pictures_are_those_that_exist(tmp_path: Path) -> None:
    for i in range(30):
        toy_data.draw_picture(tmp_path / "pictures" / f"{i}.png", i)
    cells = {
        "photo": [f"pictures/{i}.png" for i in range(30)],
        "gone": [f"none/{i}.png" for i in range(30)],
        "kind": ["a", "b", "c"] * 10,
    }
    path = toy_data.write_table(tmp_path / "rows.csv", cells)
    kinds = {c.name: str(c.type) for c in infer({"rows": path}, name="toys").schema.columns}
    assert kinds["photo"] == "image" and kinds["gone"] != "image"
    data = [(tmp_path / cell).read_bytes() for cell in cells["photo"]]
    path = toy_data.write_table(
        tmp_path / "rows.parquet", cells | {"photo": [{"bytes": d, "path": None} for d in data], "raw": data}
    )
    kinds = {c.name: str(c.type) for c in infer({"rows": path}, name="toys").schema.columns}
    assert kinds["photo"] == kinds["raw"] == "image"


def test_rows_are_numbered_where_nothing_names_them(tmp_path: Path) -> None:
    path = toy_data.write_table(tmp_path / "rows.csv", {"colour": ["red", "blue"] * 50, "kind": ["a", "b"] * 50})
    proposal = infer({"rows": path}, name="toys")
    assert proposal.schema.id == "id" and any("numbers them" in note for note in proposal.notes)


def roles_of(folder: Path, table: dict[str, Any], **options: Any) -> dict[str, str]:
    path = toy_data.write_table(folder / "rows.parquet", table)
    return {guess.name: guess.role for guess in infer({"rows": path}, name="toys", **options).guesses}


def test_the_types_of_parquet_are_evidence(tmp_path: Path) -> None:
    day = datetime(2024, 5, 18)
    roles = roles_of(
        tmp_path,
        {
            "stored": pa.array(["a", "b"] * 50).dictionary_encode(),
            "at": [day] * 100,
            "date": [day.date()] * 100,
            "yes": [True, False] * 50,
            "real": [1.5, 2.0] * 50,
            "list": [[1.0]] * 100,
            "lapse": [timedelta(1)] * 100,
            "bytes": [b"abc"] * 100,
            "null": pa.nulls(100),
            "zip": [10115.0, None] * 50,
            "label": [0, 1] * 50,
        },
    )
    assert roles == {
        "stored": "categorical",
        "at": "datetime",
        "date": "datetime",
        "yes": "categorical",
        "real": "numeric",
        "list": "ignore",
        "lapse": "ignore",
        "bytes": "ignore",
        "null": "ignore",
        "zip": "categorical",
        "label": "label",
    }
    proposal = infer({"rows": tmp_path / "rows.parquet"}, name="toys")
    numbered = files.read(tmp_path / "rows.parquet", "toys").append_column("id", pa.array(map(str, range(100))))
    assert read_table(toy_data.write_table(tmp_path / "again.parquet", numbered), proposal.schema).n_bad_cells == 0


def test_days_written_first_are_warned_of(tmp_path: Path) -> None:
    cells = [f"{i % 28 + 1:02d}/03/2020" for i in range(100)]
    path = toy_data.write_table(tmp_path / "rows.csv", {"on": cells, "label": ["a", "b"] * 50})
    proposal = infer({"rows": path}, name="toys")
    assert proposal.guesses[0].confidence <= 0.5 and any("read as March 4" in note for note in proposal.notes)


def test_an_id_is_unique_in_all_rows_and_by_name_first(tmp_path: Path) -> None:
    table: dict[str, Any] = {
        "a": [f"w{i}" for i in range(99)],
        "sku": [f"s{i}" for i in range(99)],
        "label": list("abc") * 33,
    }
    assert roles_of(tmp_path, table)["sku"] == "id"
    assert roles_of(tmp_path, table | {"sku": ["s1", *table["sku"][1:]]})["a"] == "id"
    assert roles_of(tmp_path, table | {"sku": [None, *table["sku"][1:]]}, id="a")["a"] == "id"
    titled = {"title": [f"{i} {i}" for i in range(99)], "label": list("abc") * 33}
    assert roles_of(tmp_path, titled)["title"] == "text"
    repeated = {"id": ["1"] * 99, "x": [f"{i}.5" for i in range(99)], "label": list("abc") * 33}
    path = toy_data.write_table(tmp_path / "rows.csv", repeated)
    assert infer({"rows": path}, name="toys").schema.id == "row_id"
    assert any("lacks it or repeats it" in note for note in infer({"rows": path}, name="toys", id="id").notes)


def test_a_label_without_a_name_is_the_last_and_unsure(tmp_path: Path) -> None:
    cells = {"id": [f"r{i}" for i in range(99)], "colour": list("rgb") * 33, "shape": list("ox.") * 33}
    path = toy_data.write_table(tmp_path / "rows.csv", cells)
    proposal = infer({"rows": path}, name="toys")
    assert proposal.schema.label == "shape" and proposal.guesses[2].confidence < 0.5
    assert any("the label is a guess: 'shape'" in note for note in proposal.notes)


def test_splits_are_judged_together_and_a_test_may_lack_the_label(tmp_path: Path) -> None:
    cells = {"id": [f"r{i}" for i in range(60)], "x": [str(i) for i in range(60)]}
    tables = {"train": toy_data.write_table(tmp_path / "train.csv", cells | {"genre": ["a", "b"] * 30})}
    tables["test"] = toy_data.write_table(tmp_path / "test.csv", cells | {"x": [f"{i} or so" for i in range(60)]})
    roles = {guess.name: guess.role for guess in infer(tables, name="toys").guesses}
    assert roles == {"id": "id", "x": "text", "genre": "label"}


def test_sides_that_differ_are_told(tmp_path: Path) -> None:
    cells = {
        "id": [f"r{i}" for i in range(60)],
        "price": [f"{i}.5" for i in range(60)],
        "title": [sentence(5) for _ in range(60)],
    }
    left = toy_data.write_table(tmp_path / "left.csv", cells)
    right = toy_data.write_table(tmp_path / "right.csv", {"id": cells["id"], "price": [f"${i}.5" for i in range(60)]})
    proposal = infer({"left": left, "right": right}, name="toys")
    guesses = {guess.name: guess for guess in proposal.guesses}
    assert guesses["price"].role == "text" and "left alone numeric, right alone text" in guesses["price"].why
    assert "only in left" in guesses["title"].why and proposal.schema.label is None
    with pytest.raises(DataError, match="the answers of a matching dataset are in its pairs"):
        infer({"left": left, "right": right}, name="toys", label="price")


def test_what_is_kept_of_a_table_does_not_grow_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many batches, more distinct values than are kept: estimates are near, and the id is still exactly unique."""
    monkeypatch.setattr(facts, "MAX_HASHES", 1000)
    monkeypatch.setattr(facts, "MAX_VALUES", 50)
    n, n_batches = 2000, 10
    kept: list[int] = []
    batches = [
        pa.record_batch(
            {
                "id": [f"r{i}" for i in range(k * n, (k + 1) * n)],
                "almost": [f"r{max(i, 1)}" for i in range(k * n, (k + 1) * n)],  # one cell repeats another
                "price": [f"{i}.25" for i in range(k * n, (k + 1) * n)],
                "label": ["a", "b"] * (n // 2),
            }
        )
        for k in range(n_batches)
    ]
    files.write_table(tmp_path / "rows.parquet", batches)
    add = facts.Facts.add

    def watched(column: Any, cells: Any, root: Path) -> None:
        for start in range(0, len(cells), n):
            add(column, cells.slice(start, n), root)
            kept.append(len(column.values) + len(column.smallest))

    monkeypatch.setattr(facts.Facts, "add", watched)
    proposal = infer({"rows": tmp_path / "rows.parquet"}, name="toys")
    assert len(kept) == 4 * n_batches and max(kept) <= 1050
    assert proposal.schema.id == "id" and {g.name: g.role for g in proposal.guesses}["price"] == "numeric"
    columns = facts.facts_of(tmp_path / "rows.parquet", "toys", STANDARD, tmp_path)
    assert columns["id"].n_distinct == pytest.approx(n * n_batches, rel=0.15)
    assert not facts.is_unique(columns["almost"], tmp_path / "rows.parquet", "toys", STANDARD)


def test_pairs_make_it_matching_and_sides_agree(tmp_path: Path) -> None:
    folder = toy_data.write_pairs(tmp_path / "toys", suffix=".csv")
    tables = {stem: files.find(folder, "toys", stem) for stem in table_stems(folder)}
    proposal = infer(tables, name="toys")
    assert str(proposal.schema.task) == "matching" and proposal.schema.id == "id" and proposal.schema.label is None
    assert {c.name: str(c.type) for c in proposal.schema.columns} == toy_data.COLUMNS


@pytest.mark.slow
def test_the_declared_types_of_the_public_datasets_are_proposed(data_root: Path, tmp_path: Path) -> None:
    """At most one column in ten wrong over all, from raw csv."""
    wrong, total = [], 0
    for folder in sorted(path.parent for task in TaskKind for path in data_root.glob(f"{task}/*/dataset.yaml")):
        schema = Schema.read(folder)
        raw = convert(folder, tmp_path / folder.name, "csv")
        tables = {stem: files.find(raw, schema.name, stem) for stem in table_stems(raw)}
        wanted = {c.name: str(c.type) for c in schema.columns} | {schema.id: "id"}
        wanted |= {schema.label: "label"} if schema.label else {}
        roles = {guess.name: guess.role for guess in infer(tables, name=schema.name).guesses}
        total += len(wanted)
        wrong += [(schema.name, name, role, roles[name]) for name, role in wanted.items() if roles[name] != role]
    assert len(wrong) <= 0.1 * total, wrong

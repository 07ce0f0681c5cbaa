"""Inference looks at values: each rule on a table made for it, and the declared types of real datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmtab import files, testing
from mmtab.convert import convert, table_stems
from mmtab.errors import DataError
from mmtab.infer import Proposal, infer
from mmtab.schema import Schema
from mmtab.table import read_table

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
}


def propose(folder: Path, suffix: str = ".csv", **options: Any) -> Proposal:
    columns = {"id": [f"r{i}" for i in range(N)]} | {name: cells for name, (_, cells) in CELLS.items()}
    columns["kind"] = ["abc"[i % 3] for i in range(N)]
    table = pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()})
    path = testing.write_table(folder / f"rows{suffix}", table)
    return infer({"rows": path}, name="toys", **options)


@pytest.mark.parametrize("suffix", files.FORMATS)
def test_each_kind_of_values_is_recognised_and_can_be_read(tmp_path: Path, suffix: str) -> None:
    proposal = propose(tmp_path, suffix)
    roles = {guess.name: guess.role for guess in proposal.guesses}
    assert roles == {name: role for name, (role, _) in CELLS.items()} | {"id": "id", "kind": "label"}
    assert all(guess.why and 0 < guess.confidence <= 1 for guess in proposal.guesses)
    table = read_table(tmp_path / f"rows{suffix}", proposal.schema)
    assert len(table) == N and table.n_bad_cells == 0
    proposal.schema.write(tmp_path)
    assert Schema.read(tmp_path) == proposal.schema


def test_what_the_user_says_wins(tmp_path: Path) -> None:
    proposal = propose(tmp_path, label="fit", id="id", types={"flag": "numeric", "brand": "text", "title": "ignore"})
    kinds = {column.name: str(column.type) for column in proposal.schema.columns}
    assert proposal.schema.label == "fit" and kinds["flag"] == "numeric" and kinds["brand"] == "text"
    assert "title" not in kinds and kinds["kind"] == "categorical"


@pytest.mark.parametrize("options, says", [
    ({"label": "none"}, "column none: no table has this column"),
    ({"types": {"flag": "number"}}, "column flag: unknown column type"),
    ({"task": "regression"}, "expected kway or matching"),
    ({"label": "id", "id": "id"}, "the id cannot be the label"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        propose(tmp_path, **options)


def test_no_label_is_asked_for(tmp_path: Path) -> None:
    path = testing.write_table(tmp_path / "rows.csv", {"x": [f"{i}.5" for i in range(50)]})
    with pytest.raises(DataError, match="say label=COLUMN"):
        infer({"rows": path}, name="toys")


def test_markers_of_missing_numbers_are_told(tmp_path: Path) -> None:
    cells = [str(i * 1.5) for i in range(200)]
    cells[7] = cells[9] = "N/A"
    path = testing.write_table(tmp_path / "rows.csv", {"x": cells, "label": ["a", "b"] * 100})
    proposal = infer({"rows": path}, name="toys")
    assert str(proposal.schema.columns[0].type) == "numeric" and any(
        "2 cells such as 'N/A'" in n for n in proposal.notes
    )
    numbered = pa.table({"id": [str(i) for i in range(200)], "x": cells, "label": ["a", "b"] * 100})
    table = read_table(testing.write_table(tmp_path / "again.csv", numbered), proposal.schema, bad_cells="missing")
    assert table.n_bad_cells == 2 and table.columns["x"].null_count == 2


def test_pictures_are_those_that_exist(tmp_path: Path) -> None:
    for i in range(30):
        testing.draw_picture(tmp_path / "pictures" / f"{i}.png", i)
    cells = {
        "photo": [f"pictures/{i}.png" for i in range(30)],
        "gone": [f"none/{i}.png" for i in range(30)],
        "kind": ["a", "b", "c"] * 10,
    }
    path = testing.write_table(tmp_path / "rows.csv", cells)
    kinds = {c.name: str(c.type) for c in infer({"rows": path}, name="toys").schema.columns}
    assert kinds["photo"] == "image" and kinds["gone"] != "image"
    data = [(tmp_path / cell).read_bytes() for cell in cells["photo"]]
    path = testing.write_table(
        tmp_path / "rows.parquet", cells | {"photo": [{"bytes": d, "path": None} for d in data], "raw": data}
    )
    kinds = {c.name: str(c.type) for c in infer({"rows": path}, name="toys").schema.columns}
    assert kinds["photo"] == kinds["raw"] == "image"


def test_rows_are_numbered_where_nothing_names_them(tmp_path: Path) -> None:
    path = testing.write_table(tmp_path / "rows.csv", {"colour": ["red", "blue"] * 50, "kind": ["a", "b"] * 50})
    proposal = infer({"rows": path}, name="toys")
    assert proposal.schema.id == "id" and any("numbers them" in note for note in proposal.notes)


def test_pairs_make_it_matching_and_sides_agree(tmp_path: Path) -> None:
    folder = testing.write_pairs(tmp_path / "toys", suffix=".csv")
    tables = {stem: files.find(folder, "toys", stem) for stem in table_stems(folder)}
    proposal = infer(tables, name="toys")
    assert str(proposal.schema.task) == "matching" and proposal.schema.id == "id" and proposal.schema.label is None
    assert {c.name: str(c.type) for c in proposal.schema.columns} == testing.COLUMNS


def test_the_declared_types_of_the_public_datasets_are_proposed(data_root: Path, tmp_path: Path) -> None:
    """At most one column in ten wrong over all, from raw csv."""
    wrong, total = [], 0
    for folder in sorted(path.parent for path in data_root.glob("*/*/dataset.yaml")):
        schema = Schema.read(folder)
        raw = convert(folder, tmp_path / folder.name, "csv")
        tables = {stem: files.find(raw, schema.name, stem) for stem in table_stems(raw)}
        wanted = {c.name: str(c.type) for c in schema.columns} | {schema.id: "id"}
        wanted |= {schema.label: "label"} if schema.label else {}
        roles = {guess.name: guess.role for guess in infer(tables, name=schema.name).guesses}
        total += len(wanted)
        wrong += [(schema.name, name, role, roles[name]) for name, role in wanted.items() if roles[name] != role]
    assert len(wrong) <= 0.1 * total, wrong

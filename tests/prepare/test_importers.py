"""Recipes are well-formed; raw files as their sources publish them become datasets of the standard."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from PIL import Image
from toy_data import draw_picture

from mmtab.data.pairs import read_pairs, read_records
from mmtab.data.schema import METRICS, ColumnType, Schema, TaskKind
from mmtab.data.table import Table, read_split
from mmtab.prepare import importers
from mmtab.prepare.importers import DownloadError, import_dataset, recipes
from mmtab.prepare.importers.download import ALGORITHMS
from mmtab.prepare.importers.forms import FORMS
from mmtab.prepare.importers.recipes import RECIPES, read_recipe
from mmtab.prepare.importers.recipes import recipes as read_recipes
from mmtab.utils.errors import ConfigError, DataError

Rows = list[dict[str, Any]]
SPLITS = ("train", "valid", "test")


# --- raw files -------------------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: Rows, index: bool = False) -> None:
    """``index``: with the row numbers that pandas writes into a column without a name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(([""] if index else []) + list(rows[0]))
        for i, row in enumerate(rows):
            writer.writerow(([i] if index else []) + list(row.values()))


def write_parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)


def write_json_gz(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def packed(folder: Path, kind: str = "zip") -> Path:
    """The folder's content in an archive beside it, under one more folder, as sources like to do."""
    path = folder.with_name(f"{folder.name}.{kind}")
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, f"top/{file.relative_to(folder)}")
            archive.writestr("__MACOSX/top/._junk", b"junk")
    else:
        with tarfile.open(path, "w:gz") as archive:
            for file in files:
                archive.add(file, f"package/{file.relative_to(folder)}")
    return path


def rows_of(table: Table) -> dict[str, dict[str, Any]]:
    """Rows by id; the label is called label."""
    columns = {name: values.to_pylist() for name, values in table.columns.items()}
    columns["label"] = table.labels.to_pylist() if table.labels is not None else [None] * len(table)
    return {i: {name: values[at] for name, values in columns.items()} for at, i in enumerate(table.ids.to_pylist())}


def read_rows(folder: Path) -> tuple[Schema, dict[str, dict[str, dict[str, Any]]]]:
    schema = Schema.read(folder)
    return schema, {split: rows_of(read_split(folder, schema, split)) for split in SPLITS}


def read_matching(folder: Path) -> tuple[Schema, dict[str, dict[str, Any]], dict[str, list[tuple[str, str, int]]]]:
    schema = Schema.read(folder)
    records = read_records(folder, schema)
    pairs = {}
    for split in SPLITS:
        read = read_pairs(folder, schema, split, records)
        assert read.labels is not None
        pairs[split] = list(
            zip(read.left_ids.to_pylist(), read.right_ids.to_pylist(), read.labels.to_pylist(), strict=True)
        )
    return schema, rows_of(records.table), pairs


# Every form is imported from a folder and from an archive of it
@pytest.fixture(params=["folder", "zip", "tgz"])
def imported(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    def run(name: str, raw: Path, **more: Any) -> Path:
        source = raw if request.param == "folder" else packed(raw, request.param)
        before = sorted(p for p in tmp_path.rglob("*") if p.is_file())
        folder = import_dataset(name, tmp_path / "out" / name, source=source, **more)
        after = sorted(p for p in tmp_path.rglob("*") if p.is_file() and folder not in p.parents)
        assert before == after, "the source is left as it was, and no scraps remain"
        return folder

    return run


# --- the recipes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_well_formed(path: Path) -> None:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    mine = [recipe for name, recipe in recipes().items() if name == raw["name"] or "variants" in raw]
    if "variants" in raw:
        mine = [recipe for recipe in mine if recipe.name.startswith(f"{path.stem}_")]
    assert mine, "the name is the file's"
    for recipe in mine:
        assert "variants" in raw or recipe.name == path.stem
        assert recipe.form in FORMS and recipe.metric in METRICS[recipe.task]
        assert recipe.title and recipe.licence and "http" in recipe.source
        assert "{" not in repr(recipe.files) + recipe.title + "".join(recipe.tables.values()), "a variant left unfilled"
        assert recipe.columns and len({c.name for c in recipe.columns}) == len(recipe.columns)
        assert recipe.label not in {c.name for c in recipe.columns} | {"id"}
        assert "id" not in {c.name for c in recipe.columns}
        for file in recipe.files:
            assert urlsplit(file.url).scheme in ("http", "https") and urlsplit(file.url).hostname
            assert "/" not in file.name
            if file.checksum:
                assert len(file.checksum.digest) == ALGORITHMS[file.checksum.algorithm]
        if recipe.task is not TaskKind.MATCHING:
            made = {*recipe.tables, *(recipe.split.fractions if recipe.split else ())} - {"all"}
            assert made == {*SPLITS}, "all three splits come from somewhere"


def test_the_suites_are_complete() -> None:
    known = recipes().values()
    sources = [recipe.source for recipe in known]
    assert sum("Shi et al." in source for source in sources) == 18
    assert sum(recipe.form == "deepmatcher" for recipe in known) == 13
    assert sum(recipe.form == "wdc_pairs" for recipe in known) == 27
    assert sum("wdc_products_multi" in recipe.name for recipe in known) == 9
    assert sum("MuG" in source for source in sources) == 8


GOOD: dict[str, Any] = {
    "name": "toys",
    "title": "Toys",
    "task": "kway",
    "metric": "accuracy",
    "licence": "CC0",
    "source": "http://a.org",
    "form": "table",
    "files": {"a.csv": {"url": "http://a.org/a.csv", "sha256": None}},
    "label": "kind",
    "columns": {"size": "numeric"},
    "tables": {"all": "a.csv"},
    "split": {"of": "all", "fractions": {"train": 0.6, "valid": 0.2, "test": 0.2}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown entries ['colour']"),
        ({"title": None}, "title: missing"),
        ({"licence": ""}, "licence: expected str"),
        ({"name": "My Toys"}, "name: expected small letters"),
        ({"task": "ranking"}, "task: expected kway or regression or matching, found 'ranking'"),
        ({"metric": "f1"}, "metric: expected one of"),
        ({"label": None}, "label: a k-way or regression task has one"),
        ({"task": "matching", "metric": "f1"}, "a matching task none"),
        ({"label": "size"}, "label: also among the columns"),
        ({"columns": {"size": "number"}}, "columns: size: type: expected one of"),
        ({"columns": {"size": {"type": "numeric", "form": "x"}}}, "columns: size: unknown entries ['form']"),
        ({"columns": {"size": {"type": "numeric", "clean": "wash"}}}, "clean: expected one of"),
        ({"tables": {"dev": "a.csv"}}, "tables: expected some of"),
        ({"split": {"of": "all", "fractions": {"train": 0.6}}}, "fractions: expected shares"),
        ({"files": {}}, "files: expected an address, or obtain"),
        ({"files": {"a": {"url": "ftp://a.org/a", "sha256": None}}}, "url: expected http"),
        ({"files": {"a": {"url": "http://a.org/a"}}}, "checksum: expected one of"),
        ({"files": {"a": {"url": "http://a.org/a", "sha256": "beef"}}}, "sha256: expected 64 digits"),
        ({"settings": "five"}, "settings: expected dict"),
        ({"variants": ["small"]}, "variants: expected a mapping"),
    ],
)
def test_a_recipe_at_fault_is_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    assert read_recipe(GOOD, "toys.yaml").columns[0].type is ColumnType.NUMERIC
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(ConfigError) as caught:
        read_recipes(tmp_path)
    assert str(caught.value).startswith("toys.yaml: ") and message in str(caught.value)


def test_a_name_has_one_recipe(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        (tmp_path / f"{stem}.yaml").write_text(yaml.safe_dump(GOOD))
    with pytest.raises(ConfigError, match=r"b.yaml: name toys: another recipe has it"):
        read_recipes(tmp_path)


def test_variants_fill_every_place(tmp_path: Path) -> None:
    raw = GOOD | {"name": "toys_{size}", "variants": {"size": ["small", "large"]}, "tables": {"all": "{size}.csv"}}
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(raw))
    found = read_recipes(tmp_path)
    assert {name: recipe.tables["all"] for name, recipe in found.items()} == {
        "toys_small": "small.csv",
        "toys_large": "large.csv",
    }


# --- k-way forms -----------------------------------------------------------------------------------------------------


def reviews(n: int, start: int = 0) -> Rows:
    return [
        {"Product_Description": f'so "good", {i}', "Product_Type": i % 3, "Sentiment": i % 2, "Text_ID": i}
        for i in range(start, start + n)
    ]


def test_csv_with_published_splits(imported: Callable[..., Path], tmp_path: Path) -> None:
    write_csv(tmp_path / "raw" / "train.csv", reviews(40))
    write_csv(tmp_path / "raw" / "dev.csv", reviews(10, 100))
    schema, tables = read_rows(imported("product_sentiment", tmp_path / "raw", seed=3))
    assert {split: len(rows) for split, rows in tables.items()} == {"train": 34, "valid": 6, "test": 10}
    assert tables["test"]["test-1"] == {"Product_Description": 'so "good", 101', "Product_Type": "2", "label": "1"}
    assert not set(tables["train"]) & set(tables["valid"])
    labels = [row["label"] for row in tables["valid"].values()]
    assert labels.count("0") == 3, "valid has the balance of train"
    assert schema.split == {
        "method": "stratified",
        "of": "train",
        "seed": 3,
        "fractions": {"train": 0.85, "valid": 0.15},
    }
    assert "imported from local files" in schema.source and schema.licence.startswith("CC BY-NC-SA")


def test_the_same_seed_gives_the_same_split(tmp_path: Path) -> None:
    write_csv(tmp_path / "raw" / "train.csv", reviews(40))
    write_csv(tmp_path / "raw" / "dev.csv", reviews(10, 100))
    made = []
    for i, seed in enumerate((0, 0, 1)):
        folder = import_dataset("product_sentiment", tmp_path / str(i), source=tmp_path / "raw", seed=seed)
        made.append(set(read_rows(folder)[1]["valid"]))
    assert made[0] == made[1] != made[2]


def test_parquet_with_a_numeric_target(imported: Callable[..., Path], tmp_path: Path) -> None:
    def rows(n: int) -> Rows:
        return [
            {
                "name": f"thing {i}",
                "category_name": "a/b",
                "item_description": None,
                "item_condition_id": 1 + i % 2,
                "brand_name": None,
                "shipping": 0,
                "cat1": "a",
                "cat2": "b",
                "cat3": None,
                "log_price": i / 10 if i != 13 else None,
                "train_id": i,
            }
            for i in range(n)
        ]

    write_parquet(tmp_path / "raw" / "train.pq", rows(201))
    write_parquet(tmp_path / "raw" / "test.pq", rows(50))
    schema, tables = read_rows(imported("mercari_price", tmp_path / "raw"))
    assert (schema.task, schema.metric, schema.label) == (TaskKind.REGRESSION, "r2", "log_price")
    labels = {split: [row["label"] for row in rows.values()] for split, rows in tables.items()}
    assert sorted(labels["train"] + labels["valid"]) == [i / 10 for i in range(201) if i != 13]
    lowest = [label for label in labels["valid"] if label <= 2]
    assert schema.split["method"] == "stratified" and len(lowest) == 3, "valid has its share of each tenth"
    assert labels["test"][:3] == [0.0, 0.1, 0.2] and len(labels["test"]) == 49
    assert tables["test"]["test-1"] == {
        "name": "thing 1",
        "category_name": "a/b",
        "item_description": None,
        "item_condition_id": "2",
        "brand_name": None,
        "shipping": "0",
        "cat1": "a",
        "cat2": "b",
        "cat3": None,
        "label": 0.1,
    }


def test_csv_with_a_numeric_target(tmp_path: Path) -> None:
    books = [
        {"Title": f"t {i}", "Edition": "e", "Synopsis": "s", "Author": "a", "Genre": "g", "BookCategory": "c"}
        | {"Reviews": "4.0 out of 5 stars", "Ratings": "1,204 customer reviews", "Price": f"{100 + i}.5" if i else ""}
        for i in range(40)
    ]
    for split in ("train", "test"):
        write_csv(tmp_path / "raw" / f"{split}.csv", books)
    _, tables = read_rows(import_dataset("book_price", tmp_path / "out", source=tmp_path / "raw"))
    assert [row["label"] for row in tables["test"].values()] == [100.5 + i for i in range(1, 40)]
    assert {row["Ratings"] for row in tables["test"].values()} == {1204.0}
    write_csv(tmp_path / "raw" / "test.csv", [books[1] | {"Price": "on request"}])
    with pytest.raises(DataError, match=r"book_price, table test, column Price: not all are numbers .*on request"):
        import_dataset("book_price", tmp_path / "again", source=tmp_path / "raw")
    assert not (tmp_path / "again").exists()


def test_the_published_regressions_are_regressions() -> None:
    known = [recipe for recipe in recipes().values() if recipe.task is TaskKind.REGRESSION]
    assert len(known) == 9 and all("Shi et al." in recipe.source for recipe in known)


def test_names_with_spaces_rows_without_labels_and_row_numbers(tmp_path: Path) -> None:
    numbers = [column.raw for column in recipes()["news_channel"].columns if column.type is ColumnType.NUMERIC]
    assert all(name.startswith(" ") for name in numbers)
    rows = [
        {"article_title": f"news {i}", "channel": ["World", "Tech", ""][i % 3]} | dict.fromkeys(numbers, i)
        for i in range(30)
    ]
    for split in ("train", "test"):
        write_csv(tmp_path / "raw" / f"{split}.csv", rows, index=True)
    _, tables = read_rows(import_dataset("news_channel", tmp_path / "out", source=tmp_path / "raw"))
    assert len(tables["test"]) == 20 and len(tables["train"]) + len(tables["valid"]) == 20
    assert tables["test"]["test-3"]["article_title"] == "news 4" and tables["test"]["test-3"]["num_imgs"] == 4.0


def mug(folder: Path, absent: str | None = None) -> Path:
    """As on figshare: csv files, and the pictures of each split in an archive."""
    for s, split in enumerate(("train", "dev", "test")):
        rows = []
        with zipfile.ZipFile(io.BytesIO(), "w") as archive:
            buffer = archive.fp
            for i in range(8):
                name = f"{split}_images/{s}{i}.jpg"
                picture = draw_picture(folder.parent / "pictures" / f"{s}{i}.jpg", i % 2)
                if name != absent:
                    archive.write(picture, name)
                rows.append(
                    {
                        "id": i,
                        "SkinName": f"skin {i}",
                        "Price": "$ 1,350.50" if i else "free",
                        "Concept": " High Noon",
                        "Model": "new",
                        "Particles": "new",
                        "Animations": None,
                        "Sounds": "new",
                        "Release date": "04/05/2019",
                        "Sold ingame?": "Yes",
                        "Image Path": name,
                        "Category": ["Epic Skin ", "Mythic Skin"][i % 2],
                    }
                )
        write_csv(folder / f"{split}.csv", rows)
        assert isinstance(buffer, io.BytesIO)
        (folder / f"{split}_images.zip").write_bytes(buffer.getvalue())
    (folder / "info.json").write_text("{}")
    return folder


def test_mug_with_archives_inside(imported: Callable[..., Path], tmp_path: Path) -> None:
    folder = imported("mug_lol_skin", mug(tmp_path / "LeagueOfLegends-Skin-category"))
    schema, tables = read_rows(folder)
    assert {split: len(rows) for split, rows in tables.items()} == dict.fromkeys(SPLITS, 8)
    row = tables["valid"]["valid-1"]
    assert row["Price"] == 1350.5 and tables["valid"]["valid-0"]["Price"] is None and row["label"] == "Mythic Skin"
    assert row["image"] == "images/dev_images/11.jpg" and Image.open(folder / row["image"]).size == (20, 20)
    assert schema.split == {"method": "as published"} and schema.of_type(ColumnType.IMAGE) == ["image"]


def test_pictures_of_one_name_in_the_folder_do_not_share_a_file(tmp_path: Path) -> None:
    source = mug(tmp_path / "raw")
    text = (source / "train.csv").read_text()
    for row, name in enumerate(("dup.jpg", "images/dup.jpg")):
        draw_picture(source / name, row)
        text = text.replace(f"train_images/0{row}.jpg", name)
    (source / "train.csv").write_text(text)
    folder = import_dataset("mug_lol_skin", tmp_path / "out", source=source)
    rows = read_rows(folder)[1]["train"]
    stored = [(folder / rows[f"train-{i}"]["image"]).read_bytes() for i in range(2)]
    assert stored == [(source / name).read_bytes() for name in ("dup.jpg", "images/dup.jpg")]


def test_an_absent_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = mug(tmp_path / "raw", absent="train_images/03.jpg")
    _, tables = read_rows(import_dataset("mug_lol_skin", tmp_path / "out", source=source))
    assert tables["train"]["train-3"]["image"] is None and tables["train"]["train-4"]["image"]
    assert "1 pictures are named but not there" in capsys.readouterr().err


def test_optional_columns(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        rows = [{"name": f"p{i}", "species": "mouse", "hp": i, "type_1": "water", "Image Path": ""} for i in range(4)]
        write_csv(tmp_path / "raw" / f"{split}.csv", rows)
    schema, _ = read_rows(import_dataset("mug_pokemon_primary", tmp_path / "out", source=tmp_path / "raw"))
    assert [column.name for column in schema.columns] == ["name", "species", "hp", "image"]


PETS = ["Type", "Breed1", "Breed2", "Gender", "Color1", "Color2", "Color3", "MaturitySize", "FurLength", "Vaccinated"]
PETS += ["Dewormed", "Sterilized", "Health", "State"]


def pets(n: int, **more: Any) -> Rows:
    numbers = {"Age": 3, "Quantity": 1, "Fee": 0, "VideoAmt": 0}
    return [
        {
            "PetID": f"p{i}",
            "Name": None,
            "Description": f"a pet,\nno. {i}",
            "AdoptionSpeed": i % 5,
            "RescuerID": f"r{i // 3}",
        }
        | dict.fromkeys(PETS, i % 2)
        | numbers
        | {"PhotoAmt": float(i % 3)}
        | {k: v(i) for k, v in more.items()}
        for i in range(n)
    ]


def test_petfinder_of_autogluon(imported: Callable[..., Path], tmp_path: Path) -> None:
    raw = tmp_path / "petfinder_processed"
    for i in range(60):
        draw_picture(raw / "train_images" / f"p{i}-1.jpg", i % 2)
    cells = {"Images": lambda i: f"train_images/p{i}-1.jpg;train_images/p{i}-2.jpg" if i % 4 else ""}
    write_csv(tmp_path / "raw" / "petfinder_processed" / "train.csv", pets(60, **cells), index=True)
    write_csv(tmp_path / "raw" / "petfinder_processed" / "dev.csv", pets(20, **cells), index=True)
    (raw / "train_images").rename(tmp_path / "raw" / "petfinder_processed" / "train_images")
    raw.rmdir()
    folder = imported("petfinder", tmp_path / "raw")
    _, tables = read_rows(folder)
    assert len(tables["test"]) == 20 and len(tables["train"]) == 51
    assert (
        tables["test"]["test-1"]["image"] == "images/train_images/p1-1.jpg"
        and tables["test"]["test-0"]["image"] is None
    )


def test_petfinder_of_kaggle(imported: Callable[..., Path], tmp_path: Path) -> None:
    write_csv(tmp_path / "raw" / "train" / "train.csv", pets(90))
    write_csv(tmp_path / "raw" / "test" / "test.csv", [{"PetID": "hidden"}])
    for i in range(0, 90, 2):
        for number in (10, 2, 1):
            draw_picture(tmp_path / "raw" / "train_images" / f"p{i}-{number}.jpg", i % 2)
    draw_picture(tmp_path / "raw" / "test_images" / "p0-3.jpg", 0)
    folder = imported("petfinder_kaggle", tmp_path / "raw")
    schema, tables = read_rows(folder)
    rescuers = [{int(pet[1:]) // 3 for pet in rows} for rows in tables.values()]
    assert not rescuers[0] & rescuers[1] and not (rescuers[0] | rescuers[1]) & rescuers[2]
    assert sum(map(len, tables.values())) == 90 and schema.split["group"] == "RescuerID"
    every = tables["train"] | tables["valid"] | tables["test"]
    assert every["p4"]["image"] == ";".join(f"images/train_images/p4-{k}.jpg" for k in (1, 2, 10))
    assert every["p5"]["image"] is None and "RescuerID" not in every["p5"]


def openmoji(folder: Path) -> Path:
    emoji = [
        {
            "emoji": "x",
            "hexcode": f"1F{600 + i}",
            "group": ["food-drink", "objects", "flags"][i % 3],
            "subgroups": "s",
            "annotation": f"thing {i}",
            "tags": "a, b",
            "openmoji_tags": "",
            "openmoji_author": "Ann",
            "openmoji_date": "2018-04-18",
            "skintone": "" if i % 10 else 1,
            "unicode": ["", "?", 0.6, 13][i % 4],
            "order": i,
        }
        for i in range(60)
    ]
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "openmoji.json").write_text(json.dumps(emoji), encoding="utf-8")
    for kind in ("color", "black"):
        (folder / kind / "svg").mkdir(parents=True)
        for one in emoji:
            shapes = '<circle r="9" fill="#FCEA2B"/><path fill="#000"/>'
            drawing = f'<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg">{shapes}</svg>'
            (folder / kind / "svg" / f"{one['hexcode']}.svg").write_text(drawing + "\n" * len(kind), encoding="utf-8")
    return folder


def test_openmoji(imported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def svg_to_bytes(svg_string: str, width: int, height: int) -> bytes:
        assert svg_string.startswith("<svg ")
        Image.new("RGBA", (width, height), "red").save(buffer := io.BytesIO(), "png")
        return buffer.getvalue()

    monkeypatch.setitem(sys.modules, "resvg_py", types.SimpleNamespace(svg_to_bytes=svg_to_bytes))
    raw = openmoji(tmp_path / "package")
    folder = imported("openmoji", raw)
    schema, tables = read_rows(folder)
    every = tables["train"] | tables["valid"] | tables["test"]
    assert len(every) == 36 and {row["label"] for row in every.values()} == {"food-drink", "objects"}
    row = every["1F603"]
    assert row["annotation"] == "thing 3" and row["author"] == "Ann" and row["unicode_version"] == 13.0
    assert every["1F601"]["unicode_version"] is None and row["date"] == 1524009600.0
    drawing = raw / "color" / "svg" / "1F603.svg"
    assert (row["n_codepoints"], row["svg_bytes"], row["n_shapes"], row["n_colors"]) == (
        1,
        drawing.stat().st_size,
        2,
        2,
    )
    assert Image.open(folder / row["image"]).size == (72, 72)
    assert schema.split["method"] == "stratified"


def test_openmoji_without_the_drawing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ConfigError, match="pip install resvg-py"):
        import_dataset("openmoji", tmp_path / "out", source=openmoji(tmp_path / "raw"))


# --- matching forms --------------------------------------------------------------------------------------------------


def deepmatcher(folder: Path) -> Path:
    for table, shop in (("A", "abt"), ("B", "buy")):
        rows = [
            {"id": i, "name": f"{shop} {i}", "description": None, "price": f"${i},000.50" if i else None}
            for i in range(9)
        ]
        write_csv(folder / f"table{table}.csv", rows)
    for s, split in enumerate(SPLITS):
        pairs = [{"ltable_id": i, "rtable_id": (i + i % 2) % 9, "label": 1 - i % 2} for i in range(3 * s, 3 * s + 3)]
        write_csv(folder / f"{split}.csv", pairs)
    return folder


def test_deepmatcher(imported: Callable[..., Path], tmp_path: Path) -> None:
    folder = imported("abt_buy", deepmatcher(tmp_path / "exp_data"))
    schema, _, pairs = read_matching(folder)
    records = read_records(folder, schema)
    assert records.n_left == 9 and records.table.columns["name"].to_pylist()[::9] == ["abt 0", "buy 0"]
    assert records.table.columns["price"].to_pylist()[:3] == [None, 1000.5, 2000.5]
    assert pairs == {
        "train": [("0", "0", 1), ("1", "2", 0), ("2", "2", 1)],
        "valid": [("3", "4", 0), ("4", "4", 1), ("5", "6", 0)],
        "test": [("6", "6", 1), ("7", "8", 0), ("8", "8", 1)],
    }
    assert schema.task is TaskKind.MATCHING and schema.metric == "f1" and schema.split == {"method": "as published"}


def test_a_column_that_gives_the_answer_away_stays_out(tmp_path: Path) -> None:
    for table in ("tableA.csv", "tableB.csv"):
        row = {"id": 0, "name": "art's", "addr": "1 road", "city": "la", "phone": "310", "type": "deli", "class": 0}
        write_csv(tmp_path / "raw" / table, [row])
    for split in SPLITS:
        write_csv(tmp_path / "raw" / f"{split}.csv", [{"ltable_id": 0, "rtable_id": 0, "label": 1}])
    schema, _, _ = read_matching(import_dataset("fodors_zagats", tmp_path / "out", source=tmp_path / "raw"))
    assert [column.name for column in schema.columns] == ["name", "addr", "city", "phone", "type"]


def ditto_lines(n: int) -> str:
    lines = []
    for i in range(n):
        left = f"COL name VAL tv {i} COL description VAL the COL of VAL  COL price VAL {i}.5"
        right = f"COL name VAL set {i // 2} COL description VAL  COL price VAL "
        lines.append(f"{left}\t{right}\t{i % 2}\n")
    return "".join(lines)


def test_ditto_stands_in_for_deepmatcher(imported: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for split in SPLITS:
        (tmp_path / "raw" / f"{split}.txt").write_text(ditto_lines(4))
    folder = imported("abt_buy", tmp_path / "raw")
    schema, rows, pairs = read_matching(folder)
    records = read_records(folder, schema)
    assert records.n_left == 4 and len(records.table) == 6, "equal text is one record"
    assert rows["l1"] == {"name": "tv 1", "description": "the COL of VAL", "price": 1.5, "label": None}
    assert rows["r0"] == {"name": "set 0", "description": None, "price": None, "label": None}
    assert pairs["train"] == pairs["test"] == [("l0", "r0", 0), ("l1", "r0", 1), ("l2", "r1", 0), ("l3", "r1", 1)]


def test_ditto(imported: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("train.txt.small", "valid.txt.small", "test.txt", "train.txt.large"):
        (tmp_path / "raw" / name).write_text(
            f"COL title VAL  {name}\tCOL title VAL b\t1\nCOL title VAL a\tCOL title VAL c\t0\n"
        )
    _, rows, pairs = read_matching(imported("ditto_wdc_cameras_small", tmp_path / "raw"))
    assert rows["l0"]["title"] == "train.txt.small" and pairs["valid"] == [("l2", "r0", 1), ("l1", "r1", 0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("COL title VAL a\tCOL title VAL b", r"row 2: not a line of Ditto's form"),
        ("COL title VAL a\tCOL title VAL b\tyes", r"expected LEFT, tab, RIGHT, tab, 0 or 1"),
        ("title a\tCOL title VAL b\t1", r"the left record has none of the columns; expected COL title VAL"),
    ],
)
def test_a_bad_line_of_ditto(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.txt.small").write_text(f"COL title VAL a\tCOL title VAL b\t1\n{line}\n")
    with pytest.raises(DataError, match=message):
        import_dataset("ditto_wdc_shoes_small", tmp_path / "out", source=tmp_path / "raw")


def offer(i: int) -> dict[str, Any]:
    return {
        "id": i,
        "brand": None,
        "title": f"offer {i}",
        "description": "d",
        "price": "1,299.00" if i % 2 else None,
        "priceCurrency": "EUR",
        "specTableContent": None,
        "cluster_id": i // 2,
    }


def test_wdc_products_as_pairs(imported: Callable[..., Path], tmp_path: Path) -> None:
    def pairs(numbers: list[tuple[int, int]]) -> Rows:
        return [
            {f"{k}_left": v for k, v in offer(a).items()}
            | {f"{k}_right": v for k, v in offer(b).items()}
            | {"label": int(a // 2 == b // 2), "pair_id": f"{a}#{b}", "is_hard_negative": False}
            for a, b in numbers
        ]

    raw, stem = tmp_path / "raw", "wdcproducts80cc20rnd"
    write_json_gz(raw / f"{stem}000un_train_small.json.gz", pairs([(0, 1), (1, 2)]))
    write_json_gz(raw / f"{stem}000un_valid_small.json.gz", pairs([(4, 5), (5, 0)]))
    write_json_gz(raw / f"{stem}100un_gs.json.gz", pairs([(8, 9), (9, 6)]))
    write_json_gz(raw / f"{stem}000un_gs.json.gz", pairs([(0, 3)]))
    _, rows, made = read_matching(imported("wdc_products_80_100_small", raw))
    assert made == {
        "train": [("0", "1", 1), ("1", "2", 0)],
        "valid": [("4", "5", 1), ("5", "0", 0)],
        "test": [("8", "9", 1), ("9", "6", 0)],
    }
    assert set(rows) == {"0", "1", "2", "4", "5", "6", "8", "9"}, "an offer of several pairs is one record"
    assert rows["9"] == {
        "title": "offer 9",
        "description": "d",
        "brand": None,
        "priceCurrency": "EUR",
        "price": 1299.0,
        "label": None,
    }


def test_wdc_products_as_classes(imported: Callable[..., Path], tmp_path: Path) -> None:
    stem = "wdcproductsmulti50cc50rnd000un"
    for at, name in enumerate(("train_medium", "valid_medium", "gs")):
        write_json_gz(
            tmp_path / "raw" / f"{stem}_{name}.json.gz", [offer(i) | {"label": i} for i in range(10 * at, 10 * at + 6)]
        )
    _, tables = read_rows(imported("wdc_products_multi_50_medium", tmp_path / "raw"))
    assert tables["test"]["21"] == {
        "title": "offer 21",
        "description": "d",
        "brand": None,
        "priceCurrency": "EUR",
        "price": 1299.0,
        "label": "10",
    }


# --- Amazon Berkeley Objects -----------------------------------------------------------------------------------------


def said(value: str, language: str = "en_US") -> list[dict[str, str]]:
    return [{"language_tag": "de_DE", "value": "etwas"}, {"language_tag": language, "value": value}]


def abo(folder: Path, n_families: int = 60) -> Path:
    """Families of three colours; those of brand x are alike in name."""
    listings: Rows = [{"item_id": "foreign", "item_name": said("Stuhl", "de_AT"), "product_type": [{"value": "CHAIR"}]}]
    images = []
    for family in range(n_families):
        for colour in ("Deep Blue", "Red", "Green"):
            item = f"i{family}-{colour[0]}"
            image = {
                "image_id": f"{item}+",
                "height": 9,
                "width": 9,
                "path": f"{family:02x}/{family:02x}{colour[0]}.jpg",
            }
            draw_picture(folder / "images" / "small" / image["path"], family % 3)  # type: ignore[operator]
            images.append(image)
            listings.append(
                {
                    "item_id": item,
                    "domain_name": "amazon.com",
                    "brand": said("x"),
                    "bullet_point": said("one") + said("two"),
                    "color": said(colour),
                    "item_name": said(f"{colour} thing no. {family}"),
                    "main_image_id": image["image_id"],
                    "product_type": [{"value": ["CHAIR", "SOFA"][family % 2]}],
                    "country": "US",
                    "item_weight": [
                        {"normalized_value": {"unit": "pounds", "value": 1.5}, "unit": "grams", "value": 680}
                    ],
                    "item_dimensions": {
                        "height": {"normalized_value": {"unit": "inches", "value": 9}, "unit": "cm", "value": 23}
                    },
                }
            )
    listings.append(
        {"item_id": "rare", "item_name": said("One of a kind"), "product_type": "VASE", "main_image_id": "gone"}
    )
    listings += [dict(listings[1], domain_name="amazon.co.uk")]  # the same item in another shop
    for part in range(2):
        write_json_gz(folder / "listings" / "metadata" / f"listings_{part}.json.gz", listings[part::2])
    write_csv(folder / "images" / "metadata" / "images.csv", images)
    plain = folder / "images" / "metadata" / "images.csv"
    plain.with_name("images.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return folder


def test_abo_product_type(imported: Callable[..., Path], tmp_path: Path) -> None:
    folder = imported("abo_product_type", abo(tmp_path / "raw"))
    schema, tables = read_rows(folder)
    every = tables["train"] | tables["valid"] | tables["test"]
    assert len(every) == 180 and {row["label"] for row in every.values()} == {"CHAIR", "SOFA"}, "VASE has too few rows"
    assert every["i7-D"] == {
        "name": "Deep Blue thing no. 7",
        "bullets": "one\ntwo",
        "brand": "x",
        "color": "Deep Blue",
        "material": None,
        "style": None,
        "pattern": None,
        "fabric_type": None,
        "finish_type": None,
        "country": "US",
        "weight": 1.5,
        "height": 9.0,
        "width": None,
        "length": None,
        "image": "images/small/07/07D.jpg",
        "label": "SOFA",
    }
    families = [{i.split("-")[0] for i in rows} for rows in tables.values()]
    assert not families[0] & families[1] and not (families[0] | families[1]) & families[2]
    assert (folder / "images/small/07/07D.jpg").is_file() and schema.split["group"] == "family"


def test_abo_variants(imported: Callable[..., Path], tmp_path: Path) -> None:
    schema, rows, pairs = read_matching(imported("abo_variants", abo(tmp_path / "raw")))
    seen: list[set[str]] = []
    for made in pairs.values():
        for left, right, label in made:
            assert (left.split("-")[0] == right.split("-")[0]) == bool(label)
            assert rows[left]["brand"] == rows[right]["brand"]
            assert (int(left[1:].split("-")[0]) - int(right[1:].split("-")[0])) % 2 == 0, "of one product type"
            if label:
                assert rows[left]["color"] != rows[right]["color"]
        assert {label for *_, label in made} == {0, 1}
        seen.append({i.split("-")[0] for pair in made for i in pair[:2]})
    assert not seen[0] & seen[1] and not (seen[0] | seen[1]) & seen[2], "a family stays in one split"
    assert sum(label for made in pairs.values() for *_, label in made) == 120
    assert schema.split["fractions"] == {"train": 0.6, "valid": 0.2, "test": 0.2}


def test_archives_as_they_were_fetched(tmp_path: Path) -> None:
    raw = abo(tmp_path / "raw")
    (tmp_path / "mine").mkdir()
    for top in ("listings", "images"):
        name = {"listings": "abo-listings.tar", "images": "abo-images-small.tar"}[top]
        with tarfile.open(tmp_path / "mine" / name, "w") as archive:
            archive.add(raw / top, top)
    _, tables = read_rows(import_dataset("abo_product_type", tmp_path / "out", source=tmp_path / "mine"))
    assert sum(map(len, tables.values())) == 180


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'wine_review': expected one of wine_reviews"):
        import_dataset("wine_review", tmp_path / "out")


def test_an_output_that_exists(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"output .* exists. Fix: remove it, or name another folder"):
        import_dataset("wine_reviews", tmp_path)


def test_a_source_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source=.*nowhere: no such file or folder"):
        import_dataset("wine_reviews", tmp_path / "out", source=tmp_path / "nowhere")


def test_no_address_for_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Fix: log in and fetch https://www.kaggle.com.* and give source=PATH"):
        import_dataset("petfinder_kaggle", tmp_path / "out")


def test_a_file_is_missing(tmp_path: Path) -> None:
    write_csv(tmp_path / "raw" / "train.csv", reviews(40))
    with pytest.raises(
        DataError,
        match=r"dataset product_sentiment: the raw files lack dev.csv.*found 1 names, such as \['train.csv'\]",
    ):
        import_dataset("product_sentiment", tmp_path / "out", source=tmp_path / "raw")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"], "nothing is left behind"


def test_a_file_is_there_twice(tmp_path: Path) -> None:
    for folder in ("Beer", "Music"):
        deepmatcher(tmp_path / "raw" / folder)
    with pytest.raises(DataError, match=r"tableA.csv is there 2 times.*give the folder of this dataset alone"):
        import_dataset("abt_buy", tmp_path / "out", source=tmp_path / "raw")


@pytest.mark.parametrize("gone", ["Product_Type", "Sentiment"])
def test_a_column_is_missing(tmp_path: Path, gone: str) -> None:
    for name in ("train.csv", "dev.csv"):
        write_csv(tmp_path / "raw" / name, [{k: v for k, v in row.items() if k != gone} for row in reviews(40)])
    with pytest.raises(
        DataError,
        match=rf"dataset product_sentiment, table train.csv, column {gone}: the raw file lacks.*found columns",
    ):
        import_dataset("product_sentiment", tmp_path / "out", source=tmp_path / "raw")


def test_a_column_of_pairs_is_missing(tmp_path: Path) -> None:
    deepmatcher(tmp_path / "raw")
    write_csv(tmp_path / "raw" / "valid.csv", [{"left": 0, "rtable_id": 0, "label": 1}])
    with pytest.raises(DataError, match=r"table valid.csv, column ltable_id: the raw file lacks"):
        import_dataset("abt_buy", tmp_path / "out", source=tmp_path / "raw")


def test_a_pair_of_an_unknown_record(tmp_path: Path) -> None:
    deepmatcher(tmp_path / "raw")
    write_csv(tmp_path / "raw" / "test.csv", [{"ltable_id": 99, "rtable_id": 0, "label": 1}])
    with pytest.raises(DataError, match=r"a pair names an unknown id"):
        import_dataset("abt_buy", tmp_path / "out", source=tmp_path / "raw")
    assert not (tmp_path / "out").exists()


def test_a_picture_is_missing(tmp_path: Path) -> None:
    raw = abo(tmp_path / "raw")
    (raw / "images" / "small" / "07" / "07D.jpg").unlink()
    with pytest.raises(DataError, match=r"the raw files lack small/07/07D.jpg"):
        import_dataset("abo_product_type", tmp_path / "out", source=raw)


def test_a_picture_outside(tmp_path: Path) -> None:
    source = mug(tmp_path / "raw")
    path = source / "train.csv"
    path.write_text(path.read_text().replace("train_images/00.jpg", "../../secret.jpg"))
    with pytest.raises(DataError, match="the picture's path leaves the folder"):
        import_dataset("mug_lol_skin", tmp_path / "out", source=source)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train.pq", b"no parquet", "train.pq is not a readable parquet file"),
        ("dev.pq", b"PAR1", "dev.pq is not a readable parquet file"),
    ],
)
def test_a_damaged_file(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    row = {
        "question_title": "t",
        "question_body": "b",
        "answer": "a",
        "category": "c",
        "answer_type_reason_explanation": 1.0,
    }
    for file in ("train.pq", "dev.pq"):
        write_parquet(tmp_path / "raw" / file, [row] * 9)
    (tmp_path / "raw" / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        import_dataset("google_qa_answer", tmp_path / "out", source=tmp_path / "raw")


def test_lines_that_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "raw" / "wdcproductsmulti80cc20rnd000un_train_small.json.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b'{"id": 1}\n{"id": \n'))
    with pytest.raises(DataError, match=r"train_small.json.gz is not lines of JSON"):
        import_dataset("wdc_products_multi_80_small", tmp_path / "out", source=tmp_path / "raw")


# --- fetching --------------------------------------------------------------------------------------------------------


def test_what_the_recipe_names_is_fetched_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = packed(deepmatcher(tmp_path / "exp_data"))
    asked: list[tuple[str, object]] = []

    def stand_in(url: str, path: Path, *, checksum: object, **_: object) -> str:
        asked.append((url, checksum))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zip":
            path.write_bytes(archive.read_bytes())
        else:
            path.write_text("COL title VAL a\tCOL title VAL b\t1\n")
        return "f" * 64

    monkeypatch.setattr(importers, "download", stand_in)
    folder = import_dataset("abt_buy", tmp_path / "out", cache=tmp_path / "cache")
    (file,) = recipes()["abt_buy"].files
    assert asked == [(file.url, file.checksum)] and file.checksum is not None
    assert f"imported from {file.url} (sha256 {'f' * 64})" in Schema.read(folder).source
    said = capsys.readouterr().err
    assert said == "abt_buy: licence: none stated by the source; research use\n"
    import_dataset("ditto_wdc_shoes_small", tmp_path / "out2", cache=tmp_path / "cache")
    assert [checksum for _, checksum in asked[1:]] == [None] * 3
    said = capsys.readouterr().err
    assert f"no checksum is published for test.txt; what came has sha256 {'f' * 64}, which is kept" in said


def test_offline_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(url: str, *_: object, **__: object) -> str:
        raise DownloadError(f"{url} could not be fetched (no network). Fix: give source=PATH")

    monkeypatch.setattr(importers, "download", nobody)
    with pytest.raises(
        DownloadError, match=r"^wine_reviews: https://automl-mm-bench.*train.csv could not be fetched.*source=PATH$"
    ):
        import_dataset("wine_reviews", tmp_path / "out", cache=tmp_path / "cache")
    assert not (tmp_path / "out").exists()

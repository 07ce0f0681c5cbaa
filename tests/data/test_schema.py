"""dataset.yaml: what it may say, and that every slip in it is told by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmtab.data.schema import Column, ColumnType, Schema, TaskKind
from mmtab.utils.errors import DataError

GOOD: dict[str, Any] = {
    "name": "toys",
    "task": "kway",
    "label": "kind",
    "columns": {"title": "text", "size": "numeric", "photo": "image"},
}


def read(folder: Path, **changes: Any) -> Schema:
    entries = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
    return Schema.read(folder)


def test_a_good_file(tmp_path: Path) -> None:
    schema = read(tmp_path, title="Spielzeug ☂", licence="CC0", ceilings={"image+text": 1})
    assert schema.name == "toys" and schema.task is TaskKind.KWAY and schema.label == "kind" and schema.id == "id"
    assert schema.columns[1] == Column("size", ColumnType.NUMERIC)
    assert schema.title == "Spielzeug ☂" and schema.ceilings == {"image+text": 1.0}
    assert schema.of_type(ColumnType.IMAGE, ColumnType.TEXT) == ["title", "photo"]


@pytest.mark.parametrize("changes", [{}, {"name": 2024, "id": 5, "label": 7}, {"title": None, "id": ""}])
def test_to_dict_round_trip(tmp_path: Path, changes: dict[str, Any]) -> None:
    schema = read(tmp_path, **changes)
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_names_that_yaml_takes_for_something_else_are_text(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text(
        "name: 2024-01-01\ntask: kway\nlabel: 7\ncolumns: {5: text, true: numeric}\n"
    )
    schema = Schema.read(tmp_path)
    assert (schema.name, schema.label) == ("2024-01-01", "7")
    assert [c.name for c in schema.columns] == ["5", "True"]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"name": ...}, ["no 'name'", "Fix: add a line 'name: …'"]),
        ({"task": ...}, ["dataset toys", "no 'task'"]),
        ({"columns": ...}, ["dataset toys", "no 'columns'"]),
        ({"columns": {}}, ["no 'columns'"]),
        ({"columns": ["title"]}, ["columns", "expected a mapping of name: type", "found ['title']"]),
        ({"columns": {"size": "number"}}, ["column size", "expected one of ['text',", "found number"]),
        ({"columns": {"size": None}}, ["column size", "unknown column type"]),
        ({"columns": {"size": ["text"]}}, ["column size", "found ['text']"]),
        ({"columns": {5: "text", "5": "text"}}, ["columns", "expected each name once"]),
        ({"task": "ranking"}, ["dataset toys", "task", "expected kway or regression or matching", "found ranking"]),
        ({"task": ["kway"]}, ["task", "found ['kway']"]),
        ({"label": ...}, ["names its label", "Fix: add a line 'label: COLUMN'"]),
        ({"lable": "x"}, ["unknown entries ['lable']", "expected some of"]),
        ({3: "x"}, ["unknown entries ['3']"]),
        ({"id": "title"}, ["column title", "the id is also listed as a feature", "Fix: take it out of columns"]),
        ({"label": "size"}, ["column size", "the label is also listed as a feature"]),
        ({"id": ["a", "b"]}, ["id", "expected one value", "found ['a', 'b']"]),
        ({"label": {"a": 1}}, ["label", "expected one value"]),
        ({"name": ["a"]}, ["name", "expected one value"]),
        ({"ceilings": 3}, ["ceilings", "expected a mapping"]),
        ({"ceilings": {"text": "high"}}, ["ceilings.text: expected a finite number from 0 to 1, found high"]),
        ({"ceilings": {"text": 5.0}}, ["ceilings.text", "from 0 to 1, found 5.0"]),
        ({"ceilings": {"text": float("nan")}}, ["ceilings.text", "found nan"]),
        ({"storage": {"size": 5}}, ["storage.size: expected text, found 5"]),
        ({"formats": {"size": 7}}, ["formats.size: expected text, found 7"]),
        ({"absent": {"left": "size"}}, ["absent.left: expected a list of texts, found size"]),
        ({"classes": ["a", "b", "a"]}, ["classes: expected texts that differ"]),
    ],
)
def test_slips(tmp_path: Path, changes: dict[Any, Any], parts: list[str]) -> None:
    entries = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    with pytest.raises(DataError) as error:
        Schema.read(tmp_path)
    for part in ["dataset ", *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"name: {a: b\n", "not valid YAML"),
        (b"name: \tx\n", "not valid YAML"),
        (b"\xff\xfe\xe9", "not valid YAML"),
        (b"!!python/object:os.system x", "not valid YAML"),
        (b"", "expected a mapping"),
        (b"- 1\n- 2\n", "expected a mapping; found [1, 2]"),
        (b"name: &a [*a]\ntask: kway\nlabel: l\ncolumns: {x: text}\n", "expected one value"),
    ],
)
def test_not_yaml_or_not_a_mapping(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "dataset.yaml").write_bytes(content)
    with pytest.raises(DataError, match="dataset ") as error:
        Schema.read(tmp_path)
    assert part in str(error.value) and "\n" not in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset\.yaml in .* Fix: check the path"):
        Schema.read(tmp_path)


def test_columns_left_out(tmp_path: Path) -> None:
    schema = read(tmp_path)
    assert [c.name for c in schema.without(["image"]).columns] == ["title", "size"]
    assert [c.name for c in schema.without(["size", "text"]).columns] == ["photo"]
    assert schema.without([]) == schema
    with pytest.raises(DataError, match=r"dataset toys: cannot drop 'colour'; expected .*\['title', 'size', 'photo'\]"):
        schema.without(["colour"])
    with pytest.raises(DataError, match="leaves none"):
        schema.without(["text", "numeric", "image"])


# --- relations -------------------------------------------------------------------------------------------------------

PAIRS = {"task": "matching", "label": ...}


def test_relations_and_what_they_ignore(tmp_path: Path) -> None:
    plain = read(tmp_path, **PAIRS)
    assert plain.relations == {"label": ()} and plain.to_dict()["relations"] == {}
    short = read(tmp_path, **PAIRS, ignore=["size"])
    assert short.relations == {"label": ("size",)}
    two = read(tmp_path, **PAIRS, relations={"duplicate": {}, "variant": {"ignore": ["size", "title"]}})
    assert two.relations == {"duplicate": (), "variant": ("size", "title")}
    for schema in (short, two):
        assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
        schema.write(tmp_path)
        assert Schema.read(tmp_path) == schema


def test_choosing_relations_leaves_out_what_all_of_them_ignore(tmp_path: Path) -> None:
    two = read(tmp_path, **PAIRS, relations={"duplicate": {}, "variant": {"ignore": ["size"]}})
    assert two.choose([], []) == two
    one = two.choose(["variant"], [])
    assert [c.name for c in one.columns] == ["title", "photo"] and one.relations == {"variant": ()}
    assert two.choose(["duplicate"], []).relations == {"duplicate": ()}
    fewer = two.choose([], ["photo"])
    assert [c.name for c in fewer.columns] == ["title", "size"]
    assert fewer.relations == {"duplicate": (), "variant": ("size",)}
    assert two.without(["size"]).relations == {"duplicate": (), "variant": ()}
    plain = read(tmp_path, **PAIRS)
    assert plain.choose([], ["size"]).relations == {"label": ()}
    assert plain.choose([], []) == plain


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"relations": {"variant": {"ignore": ["width"]}}}, ["relation variant", "column width", "expected some of"]),
        ({"relations": {"variant": {"ignore": ["title", "size", "photo"]}}}, ["ignores all columns"]),
        ({"relations": {"variant": {"ignores": ["size"]}}}, ["relations: variant", "found {'ignores': ['size']}"]),
        ({"relations": {"variant": "size"}}, ["relations: variant", "found size"]),
        ({"relations": ["variant"]}, ["dataset.yaml: relations", "found ['variant']"]),
        ({"relations": {"a": {}}, "ignore": ["size"]}, ["ignore stands beside relations"]),
        ({"relations": {"a": {}}, "task": "kway", "label": "kind"}, ["relations", "of a matching dataset"]),
    ],
)
def test_relations_of_another_form_are_named(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, **{**PAIRS, **changes})
    assert all(part in str(error.value) for part in parts), error.value


def test_a_choice_that_cannot_be_is_named(tmp_path: Path) -> None:
    plain = read(tmp_path, **PAIRS)
    for arguments, message in (
        ((["banana"], []), "no such relation.*banana"),
        (([], ["banana"]), "column banana.*dataset.ignore"),
        (([], ["title", "size", "photo"]), "leaves none"),
    ):
        with pytest.raises(DataError, match=message):
            plain.choose(*arguments)
    with pytest.raises(DataError, match="for matching"):
        read(tmp_path).choose([], ["size"])

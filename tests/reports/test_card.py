"""The dataset card: its facts are right, its page stands alone, and no cell can break it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import toy_data
from pages import Seen

from mmtab.data import files
from mmtab.data.schema import Schema
from mmtab.prepare.check import check
from mmtab.reports.card import describe, markdown, page, write_card


@pytest.mark.parametrize("suffix", files.FORMATS)
def test_the_facts_of_rows_are_right(tmp_path: Path, suffix: str) -> None:
    folder = toy_data.write_kway(tmp_path / "toys", n=60, suffix=suffix, licence="CC0", source="made up")
    card = describe(folder)
    assert card.rows == {"train": 36, "valid": 12, "test": 12}
    assert card.labels["train"] == {"kind 0": 12, "kind 1": 12, "kind 2": 12}
    facts = {column.name: column for column in card.columns}
    table = files.read(folder / f"train{suffix}", "toys")
    for name in toy_data.COLUMNS:
        assert facts[name].missing["train"] == table[name].null_count
    paths = [
        cell
        for s in ("train", "valid", "test")
        for cell in files.read(folder / f"{s}{suffix}", "toys")["photo"].to_pylist()
    ]
    assert facts["photo"].n_pictures == sum(len(cell.split(";")) for cell in paths if cell)
    assert set(facts["photo"].sizes) == {f"{toy_data.PICTURE_SIZE} x {toy_data.PICTURE_SIZE}"}
    assert set(facts["colour"].counts) == set(toy_data.COLOURS[:3])
    assert "CC0" in markdown(card) and "made up" in markdown(card)


@pytest.mark.parametrize("write", [toy_data.write_kway, toy_data.write_pairs])
def test_the_page_stands_alone_and_shows_pictures(tmp_path: Path, write: object) -> None:
    folder = write(tmp_path / "toys")  # type: ignore[operator]
    card = describe(folder, alarms=check(folder))
    assert [path.name for path in write_card(card, tmp_path / "out")] == ["card.md", "card.html"]
    text = (tmp_path / "out" / "card.html").read_text(encoding="utf-8")
    assert text == page(describe(folder, alarms=check(folder)))  # the same every time
    seen = Seen(text)
    sources = [attributes["src"] or "" for tag, attributes in seen.tags if tag == "img"]
    assert all(source.startswith("data:image/") for source in sources) and any("jpeg" in s for s in sources)
    charts = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(charts) >= 3 and all("aria-label" in chart for chart in charts)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in seen.tags}
    assert all(attributes.get("alt") for tag, attributes in seen.tags if tag == "img")
    assert ("a match" in seen.text and "no match" in seen.text) or "kind 0" in seen.text


def test_no_cell_breaks_the_page_or_the_tables(tmp_path: Path) -> None:
    folder = toy_data.write_kway(tmp_path / "toys", images=False)
    evil = '<script>alert(1)</script> | `x` \n| a\x00$b$ "q" *c*'
    for row in range(36):
        toy_data.change_cell(folder / "train.parquet", row, "title", evil)
        toy_data.change_cell(folder / "train.parquet", row, "colour", evil)
    table = files.read(folder / "train.parquet", "toys").rename_columns(
        ["id", "title", "size", "colour", "made", "label"]
    )
    odd = "pipe|<b>new\nline"
    for name in ("train", "valid", "test"):
        table = files.read(folder / f"{name}.parquet", "toys")
        files.write_table(
            folder / f"{name}.parquet", table.rename_columns([odd if c == "size" else c for c in table.column_names])
        )
    columns = {odd: "numeric", "title": "text", "colour": "categorical"}
    schema = Schema.from_dict(Schema.read(folder).to_dict() | {"columns": columns, "title": evil})
    card = describe(folder, schema)
    seen = Seen(page(card))
    assert "script" not in {tag for tag, _ in seen.tags} and "<script>alert(1)" in seen.text
    for block in re.findall(r"(?:^\|.*\n)+", markdown(card), re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_a_damaged_picture_is_a_word(tmp_path: Path) -> None:
    folder = toy_data.write_kway(tmp_path / "toys")
    for path in (folder / "images").iterdir():
        path.write_bytes(b"no picture")
    card = describe(folder)
    assert "cannot be opened" in page(card) and "cannot be opened" in markdown(card)


def test_a_test_split_without_labels_is_described(tmp_path: Path) -> None:
    folder = toy_data.write_kway(tmp_path / "toys", images=False)
    table = files.read(folder / "test.parquet", "toys")
    files.write_table(folder / "test.parquet", table.drop_columns(["label"]))
    card = describe(folder)
    assert "test" in card.rows and "test" not in card.labels and "train" in card.labels


def test_charts_have_the_letters_of_every_script(tmp_path: Path) -> None:
    folder = toy_data.write_kway(tmp_path / "toys", images=False)
    for row in range(12):
        toy_data.change_cell(folder / "train.parquet", row, "colour", ("漢字の名前", "العربية", "हिन्दी $5$")[row % 3])
    charts = re.findall(r"<svg.*?</svg>", page(describe(folder, alarms=[])), re.S)
    assert any(all(name in chart for name in ("漢字の名前", "العربية", "हिन्दी $5$")) for chart in charts)

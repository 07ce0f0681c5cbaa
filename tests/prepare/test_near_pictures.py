"""Copies of pictures across splits are found, whatever was done to them; other pictures are not taken for copies."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw
from toy_data import write_table

from mmtab.prepare.check import Alarm, check
from mmtab.prepare.check.alarms import Print
from mmtab.prepare.check.pictures import near_pictures, picture_print

N = 30  # of each split


def photo(seed: int) -> Image.Image:
    """Soft patches of colour, as those of a photograph."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    return patches.resize((240, 180), Image.Resampling.BICUBIC)


def product(seed: int) -> Image.Image:
    """A thing on white: things of a kind have much the same outline."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (180, 240), "white")
    draw, (x, y) = ImageDraw.Draw(picture), rng.integers(20, 50, 2).tolist()
    draw.rectangle((x, y, 180 - x, 240 - y), fill=tuple(rng.integers(0, 200, 3).tolist()))
    for _ in range(6):
        a, b = rng.integers(40, 120, 2).tolist()
        draw.ellipse((a, b, a + 40, b + 60), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return picture


def compressed(picture: Image.Image) -> Image.Image:
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=35)
    return Image.open(sink)


def cut(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((round(0.03 * width), round(0.03 * height), round(0.97 * width), round(0.97 * height)))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "smaller": lambda picture: picture.resize((picture.width // 3, picture.height // 3)),
    "larger": lambda picture: picture.resize((picture.width * 2, picture.height * 2)),
    "compressed": compressed,
    "cut": cut,
    "brighter": lambda picture: picture.point(lambda x: min(255, round(1.05 * x))),
}


def dataset(folder: Path, pictures: dict[str, list[Image.Image]]) -> Path:
    (folder / "images").mkdir(parents=True)
    for split, of_split in pictures.items():
        for i, picture in enumerate(of_split):
            picture.save(folder / "images" / f"{split}{i}.png")
        columns = {
            "id": [f"{split}-{i}" for i in range(len(of_split))],
            "photo": [f"images/{split}{i}.png" for i in range(len(of_split))],
            "label": ["cat" if i % 2 else "dog" for i in range(len(of_split))],
        }
        write_table(folder / f"{split}.parquet", columns)
    described = {"name": "toys", "task": "kway", "metric": "accuracy", "id": "id", "label": "label"}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(described | {"columns": {"photo": "image"}}))
    return folder


def alarms(folder: Path) -> list[Alarm]:
    return [alarm for alarm in check(folder) if alarm.kind == "near_picture_across_splits"]


@pytest.mark.parametrize("draw", [photo, product])
def test_copies_are_found_and_others_are_not(tmp_path: Path, draw: Callable[[int], Image.Image]) -> None:
    train, valid = [draw(i) for i in range(N)], [draw(100 + i) for i in range(N)]
    test = [draw(200 + i) for i in range(N)]
    for i, copy in enumerate(COPIES.values()):
        test[3 * i] = copy(train[i])
    (found,) = alarms(dataset(tmp_path / "toys", {"train": train, "valid": valid, "test": test}))
    assert (found.table, found.column, found.count) == ("test", "photo", len(COPIES)) and found.severity == "severe"
    assert found.rows[1] == "test row 4 (id test-3), images/test3.png = train row 2 (id train-1), images/train1.png"
    assert "column photo" in found.message and "5 pictures of test (16.7 %)" in found.message


def test_flat_pictures_and_one_for_all_rows_are_no_copies(tmp_path: Path) -> None:
    logo = photo(7)
    white = Image.new("RGB", (100, 80), "white")
    nearly = Image.fromarray(np.random.default_rng(0).integers(250, 256, (80, 100, 3), np.uint8))
    splits = {
        name: [white, nearly, *[logo] * 7, *(photo(1000 * k + i) for i in range(5))]
        for k, name in enumerate(("train", "valid", "test"))
    }
    assert not alarms(dataset(tmp_path / "toys", splits))
    assert picture_print(white) is None is picture_print(nearly) and picture_print(logo)


def test_signs_that_look_alike_are_no_copies(tmp_path: Path) -> None:
    def sign(x: int) -> Image.Image:
        picture = Image.new("RGB", (120, 120), "white")
        ImageDraw.Draw(picture).rectangle((20 + x, 30, 80 + x, 90), "darkblue")
        return compressed(picture)

    splits = {name: [sign(3 * i + k) for i in range(8)] for k, name in enumerate(("train", "valid", "test"))}
    assert not alarms(dataset(tmp_path / "toys", splits))


def test_many_pictures_are_compared_with_many() -> None:
    """Each held-out picture is another's copy, but for little; and none is taken for the copy of yet another."""
    looks = [picture_print(photo(i)) for i in range(400)]
    copies = [picture_print(cut(photo(i))) for i in range(400)]
    prints = [
        Print(table, row, f"{row}.png", hash((table, row)), look or b"")
        for table, of_table in (("train", looks), ("test", copies))
        for row, look in enumerate(of_table)
    ]
    (found,) = near_pictures({"photo": prints})
    assert found.alarm.count >= 380
    assert all(test[1] == train[1] for test, train in found.examples)


def test_held_out_records_that_are_nearly_those_of_training_pairs(tmp_path: Path) -> None:
    """By their words, their cells under another id, or their pictures; of one side, for matches are alike."""
    words = [" ".join(f"w{i}x{k}" for k in range(40)) for i in range(12)]
    folder = tmp_path / "offers"
    (folder / "images").mkdir(parents=True)
    shown = {"left": [photo(i) for i in range(12)], "right": [photo(50 + i) for i in range(12)]}
    shown["left"][10] = compressed(shown["left"][1])  # a record of test, and one of train
    shown["left"][11] = shown["right"][0]  # of the other side
    texts = {side: [f"{side}{i} {text}" for i, text in enumerate(words)] for side in shown}
    texts["right"][8] = texts["right"][2].replace("w2x7", "other")
    texts["right"][9] = texts["right"][3]
    for side, pictures in shown.items():
        for i, picture in enumerate(pictures):
            picture.save(folder / "images" / f"{side}{i}.png")
        # The two records of equal cells need one picture too.
        photos = [f"images/{side}{3 if side == 'right' and i == 9 else i}.png" for i in range(12)]
        write_table(folder / f"{side}.parquet", {"id": list(range(12)), "t": texts[side], "photo": photos})
    for split, rows in {"train": range(6), "valid": range(6, 8), "test": range(8, 12)}.items():
        pairs = {"left_id": [*rows], "right_id": [*rows], "label": [i % 2 for i in rows]}
        write_table(folder / f"pairs_{split}.parquet", pairs)
    columns = {"t": "text", "photo": "image"}
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"name": "offers", "task": "matching", "columns": columns}))
    found = [alarm for alarm in check(folder) if alarm.kind.startswith("near")]
    assert {(alarm.kind, alarm.table) for alarm in found} == {
        ("near_record_across_splits", "right"),
        ("near_picture_across_splits", "left"),
        ("near_picture_across_splits", "right"),
    }
    by_table = {(alarm.kind, alarm.table): alarm for alarm in found}
    cells = by_table["near_record_across_splits", "right"]
    assert cells.count == 2 and "2 records of right that pairs_test has" in cells.message
    assert cells.rows == ("right row 9 (id 8) = right row 3 (id 2)", "right row 10 (id 9) = right row 4 (id 3)")
    look = by_table["near_picture_across_splits", "left"]
    assert (look.column, look.count) == ("photo", 1)
    assert look.rows == ("left row 11 (id 10), images/left10.png = left row 2 (id 1), images/left1.png",)


def test_records_of_few_categories_are_alike_by_chance(tmp_path: Path) -> None:
    folder = tmp_path / "offers"
    for side in ("left", "right"):
        write_table(folder / f"{side}.parquet", {"id": list(range(12)), "c": ["a", "b"] * 6, "n": [1.0] * 12})
    for split, rows in {"train": range(6), "valid": range(6, 8), "test": range(8, 12)}.items():
        pairs = {"left_id": [*rows], "right_id": [*rows], "label": [i % 2 for i in rows]}
        write_table(folder / f"pairs_{split}.parquet", pairs)
    columns = {"c": "categorical", "n": "numeric"}
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"name": "offers", "task": "matching", "columns": columns}))
    assert not [alarm for alarm in check(folder) if alarm.kind.startswith("near")]

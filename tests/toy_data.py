"""Toy datasets of the standard for tests: small, offline, all five column types, labels that can be learnt.

>>> folder = write_kway(tmp_path / "toys", n=60, k=3)
>>> change_cell(folder / "train.parquet", 0, "size", "huge")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import yaml
from PIL import Image, ImageDraw

COLUMNS = {"title": "text", "size": "numeric", "colour": "categorical", "photo": "image", "made": "datetime"}
COLOURS = ["red", "green", "blue", "orange", "purple", "black", "teal", "gold"]
NOUNS = ["lamp", "chair", "kettle", "scarf", "drill", "globe", "piano", "tent"]
PICTURE_SIZE = 20


def write_kway(
    folder: Path,
    n: int = 60,
    k: int = 3,
    seed: int = 0,
    suffix: str = ".parquet",
    images: bool = True,
    numbers: bool = False,
    **changes: Any,
) -> Path:
    """``train``, ``valid`` and ``test`` (60, 20 and 20 % of ``n`` rows) with every class in each where they suffice.

    Each column tells the class when it is there. ``suffix``: ``.parquet`` or ``.csv``. ``images=False`` leaves the
    image column out. ``numbers``: the label is a number, which hangs on the kind and on the place of the row, with some
    noise. ``changes`` replace entries of ``dataset.yaml``. Returns the folder.
    """
    rng = np.random.default_rng(seed)
    n_valid = n // 5
    sizes = {"train": n - 2 * n_valid, "valid": n_valid, "test": n_valid}
    for split, size in sizes.items():
        kinds = rng.permutation(np.arange(size) % k)
        rows = [
            {"id": f"{split}-{i}"} | _thing(folder, f"{split}-{i}", kind, kind * 100 + i, i, images, rng)
            for i, kind in enumerate(kinds.tolist())
        ]
        noise = rng.normal(0, 0.2, size) if numbers else np.zeros(size)
        prices = 10 + 3 * kinds + 0.2 * (np.arange(size) % 10) + noise
        labels = pa.array(prices.round(3)) if numbers else pa.array([f"kind {kind}" for kind in kinds])
        write_table(folder / f"{split}{suffix}", _records(rows, images).append_column("label", labels))
    task = "regression" if numbers else "kway"
    _write_yaml(folder, {"name": folder.name, "task": task, "id": "id", "label": "label"}, images, changes)
    return folder


def write_numbers(folder: Path, n: int = 100, **options: Any) -> Path:
    """As ``write_kway``, with a label that is a number."""
    return write_kway(folder, n, numbers=True, **options)


def write_pairs(
    folder: Path, n: int = 40, seed: int = 0, suffix: str = ".parquet", images: bool = True, **changes: Any
) -> Path:
    """``left`` and ``right`` of ``n`` records each, and ``n`` pairs (60, 20 and 20 % train, valid and test).

    Record i of both sides is the same thing, told a little differently; half of the pairs match. Ids are ``l0`` … and
    ``r0`` … . The rest as in ``write_kway``.
    """
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, len(NOUNS), n)
    for side in ("left", "right"):
        rows = []
        for i, kind in enumerate(kinds.tolist()):
            name = f"{side[0]}{i}"
            shift = 0 if side == "left" else 4  # so that the two sides miss different cells
            rows.append({"id": name} | _thing(folder, name, kind, 100 + i, i + shift, images, rng))
        write_table(folder / f"{side}{suffix}", _records(rows, images))
    matches = rng.permutation(np.arange(n) % 2)
    right = [i if match else (i + 1) % n for i, match in enumerate(matches)]
    pairs = pa.table(
        {
            "left_id": [f"l{i}" for i in range(n)],
            "right_id": [f"r{i}" for i in right],
            "label": pa.array(matches, pa.int8()),
        }
    )
    n_valid = n // 5
    start = 0
    for split, size in {"train": n - 2 * n_valid, "valid": n_valid, "test": n_valid}.items():
        write_table(folder / f"pairs_{split}{suffix}", pairs.slice(start, size))
        start += size
    _write_yaml(folder, {"name": folder.name, "task": "matching", "id": "id"}, images, changes)
    return folder


def write_table(path: Path, table: pa.Table | dict[str, Any]) -> Path:
    """Write as the file's suffix says, ``.parquet`` or ``.csv``."""
    if isinstance(table, dict):
        table = pa.table(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    else:
        pa.csv.write_csv(_undictionaried(table), path)
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a parquet or csv file as they stand, those of a csv as text."""
    if path.suffix == ".parquet":
        return pa.parquet.read_table(path).to_pylist()
    with path.open(encoding="utf-8", newline="") as file:
        import csv

        return list(csv.DictReader(file))


def change_cell(path: Path, row: int, column: str, value: object) -> None:
    """Rewrite one cell of a table (``row`` from 0). A value that the column's type cannot hold makes it text."""
    rows = read_rows(path)
    rows[row][column] = value
    cells = {name: [r[name] for r in rows] for name in rows[0]}
    try:
        changed = pa.array(cells[column])
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        changed = pa.array([None if cell is None else str(cell) for cell in cells[column]])
    write_table(path, {name: changed if name == column else pa.array(values) for name, values in cells.items()})


def draw_picture(path: Path, kind: int, seed: int = 0, size: int = PICTURE_SIZE) -> Path:
    """A square of the kind's colour on a light ground, a little different for each seed; the suffix says the format."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(int(v) for v in rng.integers(225, 256, 3)))
    left, top = (int(v) for v in rng.integers(0, size // 4, 2))
    ImageDraw.Draw(image).rectangle((left, top, left + size // 2, top + size // 2), COLOURS[kind % len(COLOURS)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def _thing(
    folder: Path, name: str, kind: int, model: int, place: int, images: bool, rng: np.random.Generator
) -> dict[str, Any]:
    """One row's cells. ``model`` names the thing; ``place`` says which cells are missing (one in nine)."""
    noun = NOUNS[kind % len(NOUNS)]
    sayings = [
        f"{noun} no. {model}",
        f'the "{noun}", model {model}',
        f"café {noun}, {model};\nnew",
        f"{model} {noun} ☂",
    ]
    cells: dict[str, Any] = {
        "title": sayings[int(rng.integers(len(sayings)))],
        "size": round(3.0 * kind + model % 10 / 10 + float(rng.normal(0, 0.02)), 3),
        "colour": COLOURS[kind % len(COLOURS)],
        "made": int(np.datetime64(f"{2000 + kind}-01-01T12:30:00").astype(int)) + 86400 * (model % 100),
    }
    if images:
        names = [f"images/{name}.png"] + ([f"images/{name}-b.jpg"] if place % 5 == 0 else [])
        cells["photo"] = ";".join(names)
    for j, column in enumerate(sorted(cells)):
        if (place + 2 * j) % 9 == 8:
            cells[column] = None
    if cells.get("photo"):
        for path in names:
            draw_picture(folder / path, kind, model)
    return cells


def _records(rows: list[dict[str, Any]], images: bool) -> pa.Table:
    types = {"text": pa.string(), "numeric": pa.float64(), "categorical": pa.string(), "image": pa.string()}
    fields = [(name, types.get(kind, pa.timestamp("s"))) for name, kind in _columns(images).items()]
    return pa.Table.from_pylist(rows, pa.schema([("id", pa.string()), *fields]))


def _columns(images: bool) -> dict[str, str]:
    return {name: kind for name, kind in COLUMNS.items() if images or kind != "image"}


def _write_yaml(folder: Path, entries: dict[str, Any], images: bool, changes: dict[str, Any]) -> None:
    text = yaml.safe_dump(entries | {"columns": _columns(images)} | changes, sort_keys=False)
    (folder / "dataset.yaml").write_text(text, encoding="utf-8")


def _undictionaried(table: pa.Table) -> pa.Table:
    """Arrow's csv writer takes no dictionaries."""
    plain = {
        name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pa.table(plain)


def tiny_text_backbone(folder: Path, words: Sequence[str] = ()) -> Path:
    """A folder with a tiny random BERT. Its vocabulary is ``words`` (with the special tokens), by default letters,
    with which it spells whatever comes, and the words of the toy datasets."""
    from mmtab.features.backbones import pretrained

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.:;,-_/"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    spelt = [*special, *letters, *(f"##{letter}" for letter in letters), *(word.lower() for word in NOUNS + COLOURS)]
    return pretrained.tiny_text_backbone(folder, words or spelt)


def tiny_image_backbone(folder: Path) -> str:
    """A name of image.backbone: a random network of timm, of the family of the default one, with its weights."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet", num_classes=0).state_dict(), folder / "image.safetensors")
    return f"test_efficientnet@{folder / 'image.safetensors'}"

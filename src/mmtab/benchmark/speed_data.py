"""Data of the speed benchmark: longer descriptions, cells that no cache knows, tables of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import yaml

from mmtab.data.schema import Schema

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("", "ra", "lo", "nim", "st")]


def lengthen(folder: Path, n_words: int) -> None:
    """Add words of other descriptions to each."""
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        table = pa.parquet.read_table(folder / f"{split}.parquet")
        texts = table["description"].to_pylist()
        words = np.array(sorted({word for text in texts if text for word in text.split()}))
        longer = [None if text is None else " ".join([text, *rng.choice(words, n_words)]) for text in texts]
        place = table.column_names.index("description")
        pa.parquet.write_table(table.set_column(place, "description", pa.array(longer)), folder / f"{split}.parquet")


def repeated(values: pa.Array, n: int) -> pa.Array:
    return pa.concat_arrays([values] * n)


def distinct(values: pa.Array, n: int) -> pa.Array:
    """Many cells, no two alike, so that none is tokenized for another."""
    many = pc.cast(repeated(values, n), pa.string())
    return pc.cast(
        pc.binary_join_element_wise(many, pc.cast(pa.array(np.arange(len(many))), pa.string()), " "), pa.large_string()
    )


def write_rows(folder: Path, n: int, n_valid: int = 2_000) -> None:
    """A k-way data set of text, numbers and categories of any size, written some rows at a time."""
    if folder.exists():
        return
    words = np.array(WORDS)
    scratch = folder.with_name(f".{folder.name}")
    scratch.mkdir(parents=True, exist_ok=True)
    for split, size in (("train", n), ("valid", n_valid), ("test", n_valid)):
        rng, writer = np.random.default_rng(len(split)), None
        for start in range(0, size, 50_000):
            m = min(50_000, size - start)
            label = rng.integers(0, 20, m)
            text = words[
                (rng.integers(0, len(words), (m, 12)) + np.where(rng.random((m, 12)) < 0.3, label[:, None], 0))
                % len(words)
            ]
            part = pa.table(
                {
                    "id": pa.array(np.char.add(f"{split}-", np.arange(start, start + m).astype(str))),
                    "title": pa.array([" ".join(row) for row in text]),
                    "size": label + rng.normal(0, 4, m),
                    "weight": rng.normal(0, 1, m),
                    "colour": pa.array(words[(label + rng.integers(0, 30, m)) % len(words)]),
                    "shop": pa.array(words[rng.integers(0, 50, m)]),
                    "label": pa.array(np.char.add("kind ", label.astype(str))),
                }
            )
            writer = writer or pa.parquet.ParquetWriter(scratch / f"{split}.parquet", part.schema)
            writer.write_table(part)
        assert writer is not None
        writer.close()
    columns = {"title": "text", "size": "numeric", "weight": "numeric", "colour": "categorical", "shop": "categorical"}
    card = {"name": folder.name, "task": "kway", "metric": "accuracy", "id": "id", "label": "label", "columns": columns}
    (scratch / "dataset.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    Schema.read(scratch)
    scratch.rename(folder)

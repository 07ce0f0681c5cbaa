"""Features of pairs: the same from either side to the last bit, missing where a side is missing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from toy_data import write_pairs

from mmtab.data.pairs import Pairs, Records, read_pairs, read_records
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import Table
from mmtab.features.similarity import (
    EVERYTHING,
    IMAGE_FEATURES,
    MAX_CHARACTERS,
    NUMERIC_FEATURES,
    TEXT_FEATURES,
    SimilarityFeatures,
    shared_columns,
)

ALPHABETS = [
    "abc ABC 123 -/.",
    "äöüßéñ ÀÉÎ çæø",
    "日本語テキスト 中文",
    "αβγ ΔΕΖ кириллица",
    "☂👩‍👩‍👧🏽 e\u0301 \u200b\u00a0\t\n",
    "العربية עברית İıſK",
    "\0\x01\x7f\ufeff\U0010ffff",
]


def unicode_text(rng: np.random.Generator) -> str | None:
    if rng.random() < 0.1:
        return None
    letters = "".join(ALPHABETS[i] for i in rng.choice(len(ALPHABETS), rng.integers(1, 4)))
    words = ["".join(rng.choice(list(letters), rng.integers(1, 9))) for _ in range(rng.integers(1, 12))]
    return " ".join(words) * (40 if rng.random() < 0.05 else 1)


def records_of(**columns: list[Any]) -> tuple[Schema, Table]:
    kinds = {name: "numeric" if name.startswith("n") else "text" for name in columns}
    schema = Schema.from_dict({"name": "toys", "task": "matching", "columns": kinds})
    arrays = {
        name: pa.array(cells, pa.float64() if name.startswith("n") else pa.large_string())
        for name, cells in columns.items()
    }
    n = len(next(iter(columns.values())))
    return schema, Table("toys", "records", Path("toys"), pa.array([str(i) for i in range(n)]), arrays)


def pairs_of(left: Any, right: Any) -> Pairs:
    ids = pa.array([str(i) for i in range(len(left))])
    return Pairs("pairs_train", np.asarray(left), np.asarray(right), ids, ids, {})


def compared(left: list[Any], right: list[Any], name: str = "text") -> dict[str, np.ndarray]:
    """Each feature of column ``name`` for pairs of cells."""
    schema, table = records_of(**{name: [*left, *right]})
    n = len(left)
    pairs = pairs_of(np.arange(n), np.arange(n) + n)
    comparison = SimilarityFeatures.fit(table, np.arange(2 * n), pairs, schema)
    features = comparison(table, pairs.left, pairs.right)
    names = NUMERIC_FEATURES if name.startswith("n") else TEXT_FEATURES
    return {feature: features[:, i] for i, feature in enumerate(names)}


@pytest.fixture
def toys(tmp_path: Path) -> tuple[Schema, Records, Pairs]:
    folder = write_pairs(tmp_path / "toys")
    schema = Schema.read(folder)
    records = read_records(folder, schema)
    return schema, records, read_pairs(folder, schema, "train", records)


@pytest.mark.parametrize("seed", range(5))
def test_exactly_the_same_from_either_side(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 120
    numbers = [None if rng.random() < 0.1 else float(rng.normal() * 10.0 ** rng.integers(-300, 300)) for _ in range(n)]
    numbers[:6] = [math.inf, -math.inf, 0.0, -0.0, 5e-324, 1.7976931348623157e308]
    schema, table = records_of(
        t=[unicode_text(rng) for _ in range(n)], u=[unicode_text(rng) for _ in range(n)], n=numbers
    )
    left, right = rng.integers(0, n, 400), rng.integers(0, n, 400)
    comparison = SimilarityFeatures.fit(table, np.arange(n // 2), pairs_of(left, right), schema)
    forth, back = comparison(table, left, right), comparison(table, right, left)
    assert forth.shape == (400, comparison.n_features) and forth.dtype == np.float64
    assert forth.tobytes() == back.tobytes()
    one_by_one = np.concatenate([comparison(table, right[i : i + 1], left[i : i + 1]) for i in range(50)])
    assert one_by_one.tobytes() == forth[:50].tobytes()  # nor do the other pairs of a batch matter


def test_missing_sides_give_nan(toys: tuple[Schema, Records, Pairs]) -> None:
    schema, records, pairs = toys
    comparison = SimilarityFeatures.fit(records.table, np.unique([pairs.left, pairs.right]), pairs, schema)
    pictures = np.where(np.asarray(records.table.columns["photo"].is_null())[:, None], np.nan, 1.0)
    features = comparison(records.table, pairs.left, pairs.right, {"photo": pictures})
    start = 0
    for name, width in comparison.groups:
        part = features[:, start : start + width]
        start += width
        if name == EVERYTHING:
            continue
        absent = np.asarray(records.table.columns[name].is_null())
        missing = absent[pairs.left] | absent[pairs.right]
        assert missing.any() and not missing.all()
        assert np.isnan(part[missing]).all()
        always = part[~missing] if width == len(NUMERIC_FEATURES) else part[~missing][:, :10]  # the rest: codes
        assert np.isfinite(always).all(), name
    assert start == features.shape[1] == comparison.n_features


def test_groups_of_the_toys(toys: tuple[Schema, Records, Pairs]) -> None:
    schema, records, pairs = toys
    comparison = SimilarityFeatures.fit(records.table, np.arange(80), pairs, schema)
    text, number = len(TEXT_FEATURES), len(NUMERIC_FEATURES)
    assert comparison.groups == [
        ("title", text),
        ("size", number),
        ("colour", text),
        ("photo", len(IMAGE_FEATURES)),
        ("made", number),
        (EVERYTHING, text),
    ]


def test_matches_look_more_alike(toys: tuple[Schema, Records, Pairs]) -> None:
    schema, records, pairs = toys
    comparison = SimilarityFeatures.fit(records.table, np.arange(80), pairs, schema)
    features = comparison(records.table, pairs.left, pairs.right)
    match = np.asarray(pairs.labels) == 1
    same_code = features[:, TEXT_FEATURES.index("code_jaccard")]
    assert np.nanmin(same_code[match]) == 1 and np.nanmax(same_code[~match]) == 0


def test_round_trip_through_json(toys: tuple[Schema, Records, Pairs]) -> None:
    schema, records, pairs = toys
    comparison = SimilarityFeatures.fit(records.table, np.arange(30), pairs, schema)
    again = SimilarityFeatures(schema, **json.loads(json.dumps(comparison.to_dict())))
    before, after = (c(records.table, pairs.left, pairs.right) for c in (comparison, again))
    assert before.tobytes() == after.tobytes() and again.groups == comparison.groups


def test_rarity_sees_only_the_given_rows() -> None:
    schema, table = records_of(t=["red lamp", "blue lamp", "green tent", "odd thing"])
    other = records_of(t=["red lamp", "blue lamp", "lamp lamp", "lamp red"])[1]
    pairs = pairs_of([0, 0], [1, 1])
    fits = [SimilarityFeatures.fit(t, np.array([0, 1]), pairs, schema).to_dict() for t in (table, other)]
    assert fits[0] == fits[1]
    assert set(fits[0]["idf_"]["t"]) == {"", "red", "blue", "lamp"}  # type: ignore[index]


def test_what_the_text_features_say() -> None:
    f = compared(
        ["Red Lamp MX-450/B", "same text", "a b c", "日本 語", "lamp", "", None],
        ["mx450b lamp, RED", "same text", "x y z", "日本 語", "LAMP" + " x" * MAX_CHARACTERS, "a", "a"],
    )
    assert f["code_inside"][0] == 1 and f["code_jaccard"][0] == 1 and f["word_jaccard"][0] < 1
    assert all(f[name][1] == pytest.approx(1) for name in TEXT_FEATURES if not name.startswith("code"))
    assert f["word_jaccard"][2] == 0 and f["word_containment"][2] == 0
    assert f["ratio"][3] == 1 and f["word_containment"][4] == 1 and f["length_ratio"][4] < 0.01
    assert all(np.isnan(values[5:]).all() for values in f.values())
    assert all(np.isnan(f[name][1]) for name in TEXT_FEATURES if name.startswith("code"))  # no codes on either side


def test_what_the_numeric_features_say() -> None:
    f = compared([1.0, 2.0, 0.0, None, 1e308, math.inf], [1.0, 4.0, 0.0, 1.0, -1e308, math.inf], "n")
    assert f["distance"][:3].tolist() == [0, 2, 0] and f["relative_distance"][:3].tolist() == [0, 0.5, 0]
    assert math.isnan(f["distance"][3]) and math.isnan(f["relative_distance"][3])


def test_only_columns_present_on_both_sides_of_some_pair() -> None:
    schema, table = records_of(a=["x", None], b=["x", "y"], n=[None, 1.0])
    pairs = pairs_of([0], [1])
    assert shared_columns(table, pairs, schema) == ["b"]
    assert [name for name, _ in SimilarityFeatures.fit(table, np.arange(2), pairs, schema).groups] == ["b", EVERYTHING]


def test_pictures_are_compared_by_their_features(toys: tuple[Schema, Records, Pairs]) -> None:
    schema, records, pairs = toys
    comparison = SimilarityFeatures.fit(records.table, np.arange(80), pairs, schema)
    place = np.array(comparison.owners) == schema.of_type(ColumnType.IMAGE)[0]
    features = np.random.default_rng(0).normal(size=(len(records.table), 6)).astype(np.float16)
    features[3] = np.nan
    left, right = np.array([0, 1, 3]), np.array([0, 2, 1])
    found = comparison(records.table, left, right, {schema.of_type(ColumnType.IMAGE)[0]: features})[:, place]
    a, b = features[1].astype(float), features[2].astype(float)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(found[:2], [[1, 0], [cosine, np.abs(a - b).mean()]], atol=1e-5)
    assert np.isnan(found[2]).all()
    assert np.isnan(comparison(records.table, left, right)[:, place]).all()
    none = np.zeros(0, np.int64)
    assert comparison(records.table, none, none).shape == (0, comparison.n_features)

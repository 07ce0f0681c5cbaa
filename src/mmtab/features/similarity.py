"""How two rows compare, column by column: what string similarity, differences and equality say without any learning.

Every feature is the same from either side, exactly; NaN where a side is missing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz, process
from rapidfuzz.distance import JaroWinkler

from mmtab.data.cells import rounded
from mmtab.data.pairs import Pairs
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import Table

TEXT_FEATURES = (
    *("ratio", "token_set_ratio", "token_sort_ratio", "partial_ratio", "jaro_winkler"),
    *("word_jaccard", "word_containment", "rarity_jaccard", "rarity_containment", "length_ratio"),
    *("code_containment", "code_jaccard", "code_inside", "code_nearest"),
)
NUMERIC_FEATURES = ("distance", "relative_distance")
IMAGE_FEATURES = ("cosine", "distance")  # of the features that a frozen image backbone makes of the cell's pictures
EVERYTHING = "*"
MAX_CHARACTERS = 400
WORD = re.compile(r"\w+")
CODE = re.compile(r"\w[\w\-/.]*")


class SimilarityFeatures:
    """Features of pairs, in groups (one a column, and one for all text of a row taken together).

    Fitted state: word rarity among the records of the training pairs.
    """

    def __init__(self, schema: Schema, columns: list[str], idf_: dict[str, dict[str, float]]) -> None:
        self.schema, self.columns, self.idf_ = schema, columns, idf_
        self.groups: list[tuple[str, int]] = []
        for name in columns:
            kind = ColumnType.TEXT if name == EVERYTHING else self._type(name)
            numeric, image = kind in (ColumnType.NUMERIC, ColumnType.DATETIME), kind is ColumnType.IMAGE
            features = NUMERIC_FEATURES if numeric else IMAGE_FEATURES if image else TEXT_FEATURES
            self.groups.append((name, len(features)))

    @staticmethod
    def fit(records: Table, rows: np.ndarray, pairs: Pairs, schema: Schema) -> SimilarityFeatures:
        """``rows``: records that training may see."""
        features = SimilarityFeatures(schema, [*shared_columns(records, pairs, schema), EVERYTHING], {})
        for name in (name for name, width in features.groups if width == len(TEXT_FEATURES)):
            features.idf_[name] = _rarity([text for text in features._cells(records, name, rows) if text])
        return features

    @property
    def n_features(self) -> int:
        return sum(width for _, width in self.groups)

    def __call__(
        self, records: Table, left: np.ndarray, right: np.ndarray, pictures: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """[n_pairs, n_features] float64. ``pictures``: by column, [n_records, f] features of its pictures, NaN where
        there is none; a column that it lacks counts as missing."""
        rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
        first, second = places[: len(left)], places[len(left) :]
        parts: list[np.ndarray] = []
        for name, _ in self.groups:
            if name != EVERYTHING and self._type(name) is ColumnType.IMAGE:
                seen = (pictures or {}).get(name)
                parts.append(np.full((len(left), 2), math.nan) if seen is None else _compare_vectors(seen, left, right))
            elif name in self.idf_:
                parts.append(_compare_texts(self._cells(records, name, rows), first, second, self.idf_[name]))
            else:
                cells = records.columns[name].take(rows).fill_null(math.nan)
                values = cells.to_numpy(zero_copy_only=False).astype(float)
                a, b = values[first], values[second]
                with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                    gap = np.abs(a - b)
                    if kind := records.narrow.get(name):  # one of the sides may have fewer digits
                        gap = np.where(rounded(a, kind) == rounded(b, kind), 0.0, gap)
                    size = np.maximum(np.abs(a), np.abs(b))
                    relative = np.where(gap == 0, 0.0, gap / size)
                parts.append(np.stack([gap, relative], 1))
        return np.concatenate(parts, 1) if parts else np.zeros((len(left), 0))

    def to_dict(self) -> dict[str, object]:
        return {"columns": self.columns, "idf_": self.idf_}

    @property
    def owners(self) -> list[str]:
        """The column that each feature is of."""
        return [name for name, width in self.groups for _ in range(width)]

    def _type(self, name: str) -> ColumnType:
        return next(column.type for column in self.schema.columns if column.name == name)

    def _cells(self, records: Table, name: str, rows: np.ndarray) -> list[str]:
        """Lower-cased text; "" for missing. ``*`` is all text and categories of the row that no
        relation ignores."""
        names = self.schema.written if name == EVERYTHING else [name]
        cells = [records.columns[n].take(rows).to_pylist() for n in names]
        joined = [" ".join(part for part in row if part).lower() for row in zip(*cells, strict=True)]
        return joined if cells else [""] * len(rows)


def shared_columns(records: Table, pairs: Pairs, schema: Schema) -> list[str]:
    """Columns that are present on both sides of some pair."""
    names = []
    for column in schema.columns:
        present = np.asarray(records.columns[column.name].is_valid())
        if (present[pairs.left] & present[pairs.right]).any():
            names.append(column.name)
    return names


def _compare_vectors(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[n_pairs, 2]: cosine and mean absolute distance."""
    parts = []
    for start in range(0, len(left), 4096):
        a, b = (vectors[side[start : start + 4096]].astype(np.float32) for side in (left, right))
        size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        parts.append(np.stack([(a * b).sum(1) / np.maximum(size, 1e-9), np.abs(a - b).mean(1)], 1))
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, 2))


def _compare_texts(texts: list[str], first: np.ndarray, second: np.ndarray, idf: dict[str, float]) -> np.ndarray:
    """[n_pairs, len(TEXT_FEATURES)], NaN where a side is missing."""
    # Sides in alphabetical order: some scorers depend on it in the last digit.
    ordered = [(i, j) if texts[i] <= texts[j] else (j, i) for i, j in zip(first, second, strict=True)]
    lefts, rights = [texts[i][:MAX_CHARACTERS] for i, _ in ordered], [texts[j][:MAX_CHARACTERS] for _, j in ordered]

    def score(scorer: Callable[..., float], scale: float) -> np.ndarray:
        return process.cpdist(lefts, rights, scorer=scorer, workers=-1).astype(np.float64) / scale

    fuzzy = [score(f, 100) for f in (fuzz.ratio, fuzz.token_set_ratio, fuzz.token_sort_ratio, fuzz.partial_ratio)]
    described = [_Words.of(text, idf) for text in texts]
    fuzzy.append(score(JaroWinkler.similarity, 1))
    rest = [_overlap(described[i], described[j], idf) for i, j in ordered]
    n_rest = len(TEXT_FEATURES) - len(fuzzy)  # explicit, so that no pairs give an array of the right width
    features = np.concatenate([np.stack(fuzzy, 1), np.reshape(np.array(rest, float), (len(ordered), n_rest))], 1)
    features[[not texts[i] or not texts[j] for i, j in ordered]] = math.nan
    return features


@dataclass(frozen=True)
class _Words:
    words: frozenset[str]
    weight: float  # the summed rarity of the words
    codes: list[str]  # words with digits, such as model numbers, without their punctuation
    glued: str
    length: int

    @staticmethod
    def of(text: str, idf: dict[str, float]) -> _Words:
        words = frozenset(WORD.findall(text))
        codes = {"".join(WORD.findall(code)) for code in CODE.findall(text) if any(c.isdigit() for c in code)}
        return _Words(
            words,
            sum(idf.get(w, idf[""]) for w in sorted(words)),
            sorted(codes),
            "".join(WORD.findall(text)),
            len(text),
        )


def _overlap(a: _Words, b: _Words, idf: dict[str, float]) -> list[float]:
    common = a.words & b.words
    weight = sum(idf.get(w, idf[""]) for w in sorted(common))
    words = [len(common) / max(len(a.words | b.words), 1), len(common) / max(min(len(a.words), len(b.words)), 1)]
    rare = [weight / max(a.weight + b.weight - weight, 1e-9), weight / max(min(a.weight, b.weight), 1e-9)]
    features = [*words, *rare, min(a.length, b.length) / max(a.length, b.length, 1)]
    if not a.codes or not b.codes:
        return [*features, math.nan, math.nan, math.nan, math.nan]
    same = len(set(a.codes) & set(b.codes))
    # "MX-450/B" against "mx450 b": a code of one side anywhere in the other, its punctuation and spaces left out
    inside = max(_share([c for c in x.codes if len(c) >= 4], y.glued) for x, y in ((a, b), (b, a)))
    nearest = max(fuzz.ratio(x, y) for x in a.codes[:8] for y in b.codes[:8]) / 100
    smaller, either = min(len(a.codes), len(b.codes)), len(a.codes) + len(b.codes) - same
    return [*features, same / smaller, same / either, inside, nearest]


def _share(codes: list[str], text: str) -> float:
    return sum(code in text for code in codes) / len(codes) if codes else 0.0


def _rarity(texts: list[str]) -> dict[str, float]:
    """Inverse document frequency of each word; the entry "" is for words never seen."""
    counts = Counter(word for text in texts for word in set(WORD.findall(text)))
    rarity = {word: math.log((1 + len(texts)) / (1 + count)) + 1 for word, count in sorted(counts.items())}
    return rarity | {"": math.log(1 + len(texts)) + 1}

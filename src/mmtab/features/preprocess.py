"""Fitted on train only, saved as plain JSON: numbers, categories, moments and labels become arrays."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.config.types import CategoryRules
from mmtab.data import files
from mmtab.data.cells import first, rounded
from mmtab.data.pairs import Pairs
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.spelling import places_in
from mmtab.data.table import Table
from mmtab.features.lexical import Lexicon
from mmtab.features.similarity import SimilarityFeatures
from mmtab.features.target import Target

MISSING, UNSEEN = 0, 1
N_SPECIAL_IDS = 2
_NO_CLASSES = "nan NaN NAN NA N/A <NA> NaT None null NULL inf -inf Inf -Inf Infinity -Infinity"
NO_CLASSES = _NO_CLASSES.split()
DAY, YEAR = 86400.0, 365.2425 * 86400.0


@dataclass(frozen=True)
class QuantileScaler:
    """Maps a number to [-1, 1] by its rank among the training values (ties to the middle of their ranks).

    Infinities and values beyond the training range saturate at the ends, so no magnitude can hurt the model.
    """

    quantiles_: list[float]

    @staticmethod
    def fit(values: np.ndarray, n_quantiles: int = 1_000) -> QuantileScaler:
        """``values`` [n] float64 with NaN for missing."""
        finite = values[np.isfinite(values)]
        if len(finite) == 0:
            return QuantileScaler([])
        # "lower" keeps every quantile a value that occurs: interpolating between huge values would overflow
        return QuantileScaler(
            np.quantile(finite, np.linspace(0, 1, min(n_quantiles, len(finite))), method="lower").tolist()
        )

    def transform(self, values: np.ndarray, narrow: pa.DataType | None = None) -> np.ndarray:
        """[n] float64 -> [n] float32 in [-1, 1]; NaN stays NaN. ``narrow``: the type of which the values, here or in
        train, have the digits, and in which they are compared."""
        if not self.quantiles_:
            return np.where(np.isnan(values), np.nan, 0.0).astype(np.float32)
        missing, quantiles = np.isnan(values), np.asarray(self.quantiles_)
        if narrow is not None:
            values, quantiles = rounded(values, narrow), rounded(quantiles, narrow)
        if quantiles[0] == quantiles[-1]:  # constant in training
            side = (values > quantiles[0]).astype(np.float32) - (values < quantiles[0])
            return np.where(missing, np.nan, side).astype(np.float32)
        ranks = np.linspace(-1, 1, len(quantiles))
        inside = np.clip(np.where(missing, quantiles[0], values), quantiles[0], quantiles[-1])
        # A value that is a quantile spans the ranks of its ties, any other the gap between its two neighbours.
        left, right = np.searchsorted(quantiles, inside, "left"), np.searchsorted(quantiles, inside, "right") - 1
        low, high = np.minimum(left, right), np.maximum(left, right)
        below, above = quantiles[low], quantiles[high]
        size = np.maximum(np.abs(below), np.abs(above))  # divided by first, or differences overflow or vanish
        size = np.where(below < above, size, 1)
        gap = np.where(below < above, above / size - below / size, 1)
        share = np.where(below < above, (inside / size - below / size) / gap, 0.5)
        scaled = np.minimum(ranks[low] + share * (ranks[high] - ranks[low]), ranks[high])
        return np.where(missing, np.nan, scaled).astype(np.float32)


@dataclass(frozen=True)
class CategoryCoder:
    """Ids of one column: 0 missing, 1 unseen or too seldom seen, then the vocabulary, then hashed ids if any."""

    vocabulary_: list[str]
    n_hash_: int

    @staticmethod
    def fit(values: pa.Array, rules: CategoryRules) -> CategoryCoder:
        return CategoryCoder.from_counts(_count(Counter(), values), rules)

    @staticmethod
    def from_counts(counted: Mapping[str, int], rules: CategoryRules) -> CategoryCoder:
        """How often each value occurs -> its coder."""
        counts = sorted(counted.items(), key=lambda c: (-c[1], c[0]))
        kept = [value for value, count in counts if count >= rules.min_count]
        too_many = len(kept) > rules.max_values
        return CategoryCoder(kept[: rules.max_values], rules.n_hash if too_many else 0)

    @property
    def n_ids(self) -> int:
        return N_SPECIAL_IDS + len(self.vocabulary_) + self.n_hash_

    def transform(self, values: pa.Array) -> np.ndarray:
        """[n] strings -> [n] int64 in [0, n_ids)."""
        found = places_in(values, self.vocabulary_)
        ids = np.asarray(pc.fill_null(found, -1)).astype(np.int64) + N_SPECIAL_IDS
        strange = np.flatnonzero((ids < N_SPECIAL_IDS) & np.asarray(pc.is_valid(values)))
        if self.n_hash_:
            start = N_SPECIAL_IDS + len(self.vocabulary_)
            for row in strange:
                digest = hashlib.blake2b(values[int(row)].as_py().encode(), digest_size=8).digest()
                ids[row] = start + int.from_bytes(digest, "little") % self.n_hash_
        else:
            ids[strange] = UNSEEN
        ids[np.asarray(pc.is_null(values))] = MISSING
        return ids


def in_order(classes: Iterable[str], order: Sequence[str]) -> list[str]:
    """Classes in their order, then, sorted, those that have none."""
    found = set(classes)
    return [*(name for name in order if name in found), *sorted(found - set(order))]


@dataclass(frozen=True)
class LabelCoder:
    """Class names to 0 … k-1, in their order where they have one, else sorted by name."""

    classes_: list[str]

    @staticmethod
    def fit(tables: Table | Iterable[Table], column: str, order: Sequence[str] = ()) -> LabelCoder:
        """From a table, or the batches of one; ``order``: of the classes, those it lacks come last."""
        found: set[str] = set()
        for table in _batches(tables):
            found.update(pc.unique(_known_labels(table, column)).to_pylist())
        if len(found) < 2:
            raise table.error(
                "only one class in the training labels",
                column=column,
                expected="at least two",
                found=sorted(found),
                fix="check the split, or choose another label",
            )
        looks = Counter(files.alike(name) for name in found)
        if odd := sorted(
            name for name in found if looks[files.alike(name)] > 1 or not files.alike(name) or "\0" in name
        ):
            raise table.error(
                "labels that differ only in spaces around them or in how accents are composed, or that cannot be seen",
                column=column,
                expected="names of classes that look different",
                found=", ".join(map(ascii, odd[:4])),
                fix="write each class in one way (pandas: .str.strip().str.normalize('NFC'))",
            )
        return LabelCoder(in_order(found, order))

    def transform(self, table: Table, column: str) -> np.ndarray:
        """[n] int64; -1 where the table has no labels. Raises DataError for a label that train never had."""
        if table.labels is None:
            return np.full(len(table), -1, np.int64)
        labels = _known_labels(table, column)
        found = places_in(labels, self.classes_)
        if found.null_count:
            row = first(pc.is_null(found))
            raise table.error(
                "a label that train never had",
                row=row,
                column=column,
                found=labels[row].as_py(),
                expected=f"one of the {len(self.classes_)} training classes",
                fix="move a row of this class to train, or leave the class out",
            )
        return np.asarray(found).astype(np.int64)


@dataclass(frozen=True)
class Preprocessor:
    """Scalers and vocabularies of every column, in schema order; moments become several numbers each."""

    scalers_: dict[str, QuantileScaler]
    coders_: dict[str, CategoryCoder]
    labels_: LabelCoder | None

    @staticmethod
    def fit(
        tables: Table | Iterable[Table], schema: Schema, rules: CategoryRules, rows: np.ndarray | None = None
    ) -> Preprocessor:
        """``tables``: the training table, or its batches as ``table.read_batches`` gives them: one pass in bounded
        memory, exact up to a million rows (quantiles) and a million values of a column (categories), by a seeded sample
        and without the rarest values beyond. ``rows``: the row numbers that training may see (matching: the records of
        training pairs); default all."""
        sample, counts = _RowSample(), {name: Counter[str]() for name in schema.of_type(ColumnType.CATEGORICAL)}
        labelled, classes = schema.label_type is ColumnType.CATEGORICAL, list[Table]()
        for table in _batches(tables):
            kept = np.arange(len(table)) if rows is None else rows - table.first_row
            kept = kept[(kept >= 0) & (kept < len(table))]
            take = pa.array(kept)
            sample.add({name: values[kept] for name, values in numeric_columns(table, schema).items()}, len(kept))
            for name, counted in counts.items():
                _count(counted, table.columns[name].take(take))
            labelled &= table.labels is not None
            if labelled and table.labels is not None:  # checked row by row, kept as its distinct names
                _check_classes(table, schema.label or "")
                names = pc.unique(_known_labels(table, schema.label or ""))
                classes.append(replace(table, ids=table.ids.slice(0, len(names)), columns={}, labels=names))
        coders = {name: CategoryCoder.from_counts(counted, rules) for name, counted in counts.items()}
        scalers = {name: QuantileScaler.fit(values) for name, values in sample.columns().items()}
        known = schema.label and labelled and classes
        labels = LabelCoder.fit(classes, schema.label or "", schema.classes) if known else None
        return Preprocessor(scalers, coders, labels)

    def numeric(self, table: Table, schema: Schema) -> np.ndarray:
        """[n, c_num] float32 in [-1, 1], NaN for missing."""
        numbers, narrow = numeric_columns(table, schema), table.narrow
        columns = [self.scalers_[name].transform(values, narrow.get(name)) for name, values in numbers.items()]
        return np.stack(columns, 1) if columns else np.zeros((len(table), 0), np.float32)

    def categorical(self, table: Table) -> np.ndarray:
        """[n, c_cat] int64."""
        columns = [coder.transform(table.columns[name]) for name, coder in self.coders_.items()]
        return np.stack(columns, 1) if columns else np.zeros((len(table), 0), np.int64)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Preprocessor:
        return Preprocessor(
            {name: QuantileScaler(**value) for name, value in raw["scalers_"].items()},
            {name: CategoryCoder(**value) for name, value in raw["coders_"].items()},
            LabelCoder(**raw["labels_"]) if raw["labels_"] else None,
        )


@dataclass(frozen=True)
class Fitted:
    """What was fitted on train: scalers, vocabularies and classes, or the scale of a label that is a number, n-grams,
    and for matching similarity features.
    ``unseen``: columns of which nearly all cells of valid are unlike those of train; None: not known. ``one_to_one``:
    relations of two tables in which no record of train has two partners. ``n_matches``: training pairs of which some
    relation holds; 0 also in what was fitted before it was counted."""

    preprocessor: Preprocessor
    similarity: SimilarityFeatures | None = None
    similarity_scalers: tuple[QuantileScaler, ...] = ()
    lexicon: Lexicon | None = None
    unseen: tuple[str, ...] | None = None
    one_to_one: tuple[str, ...] = ()
    target: Target | None = None
    n_matches: int = 0

    @property
    def n_classes(self) -> int | None:
        """None where the label is no class."""
        return None if self.preprocessor.labels_ is None else len(self.preprocessor.labels_.classes_)

    @staticmethod
    def rows(train: Table | Iterable[Table], schema: Schema, rules: CategoryRules) -> Fitted:
        return Fitted(Preprocessor.fit(train, schema, rules))

    @staticmethod
    def matching(records: Table, pairs: Pairs, schema: Schema, rules: CategoryRules) -> Fitted:
        """Sees the records of the training pairs, and no others. ``with_scalers`` is to follow."""
        rows = np.unique(np.concatenate([pairs.left, pairs.right]))
        similarity = SimilarityFeatures.fit(records, rows, pairs, schema)
        n_matches = int(pairs.is_match.sum())
        return Fitted(Preprocessor.fit(records, schema, rules, rows), similarity, n_matches=n_matches)

    def with_scalers(self, features: np.ndarray) -> Fitted:
        """``features`` [n_pairs, n_features]: those of the training pairs."""
        return replace(self, similarity_scalers=tuple(QuantileScaler.fit(column) for column in features.T))

    def scale(self, features: np.ndarray) -> np.ndarray:
        """[n_pairs, n_features] float32, by rank among the training pairs; NaN for missing."""
        columns = [scaler.transform(x) for scaler, x in zip(self.similarity_scalers, features.T, strict=True)]
        return np.stack(columns, 1)

    def to_dict(self) -> dict[str, Any]:
        return {
            "preprocessor": self.preprocessor.to_dict(),
            "comparison": None if self.similarity is None else self.similarity.to_dict(),
            "comparison_scalers": [scaler.quantiles_ for scaler in self.similarity_scalers],
            "lexicon": None if self.lexicon is None else asdict(self.lexicon),
            "unseen": None if self.unseen is None else list(self.unseen),
            "one_to_one": list(self.one_to_one),
            "target": None if self.target is None else asdict(self.target),
            "n_matches": self.n_matches,
        }

    @staticmethod
    def from_dict(raw: dict[str, Any], schema: Schema) -> Fitted:
        """Raises ValueError for what was fitted on other columns, or on these in another order (``order_of``, which the
        first versions did not write)."""
        preprocessor = Preprocessor.from_dict(raw["preprocessor"])
        for part, names in order_of(schema).items():
            if raw.get(part, names) != names:
                raise ValueError(f"{part}: they are not those of schema.yaml, in its order")
        numbers = [
            name
            for column in schema.columns
            if column.type in (ColumnType.NUMERIC, ColumnType.DATETIME)
            for name in ([column.name] if column.type is ColumnType.NUMERIC else _calendar(column.name, np.zeros(0)))
        ]
        wanted = numbers, list(schema.of_type(ColumnType.CATEGORICAL))
        if wanted != ([*preprocessor.scalers_], [*preprocessor.coders_]):
            raise ValueError("preprocessor: its scalers_ and coders_ are not those of schema.yaml, in its order")
        similarity = raw["comparison"] and SimilarityFeatures(schema, **raw["comparison"])
        scalers = tuple(QuantileScaler(quantiles) for quantiles in raw["comparison_scalers"])
        lexicon = Lexicon(**raw["lexicon"]) if raw.get("lexicon") else None
        unseen = None if raw.get("unseen") is None else tuple(raw["unseen"])
        labels = raw["preprocessor"]["labels_"]
        if labels and labels["classes_"] != in_order(labels["classes_"], schema.classes):
            raise ValueError("preprocessor.labels_.classes_: expected sorted texts, or the order of the schema")
        one_to_one = tuple(raw.get("one_to_one", ()))
        if scalers and (similarity is None or len(scalers) != similarity.n_features):
            raise ValueError("comparison_scalers: expected one for each similarity feature")
        target, n_matches = Target(**raw["target"]) if raw.get("target") else None, raw.get("n_matches", 0)
        return Fitted(preprocessor, similarity, scalers, lexicon, unseen, one_to_one, target, n_matches)


def order_of(schema: Schema) -> dict[str, list[str]]:
    """What weights know by its place, and files by its name."""
    return {"columns": [column.name for column in schema.columns], "relations": list(schema.relations)}


MAX_SAMPLE = 1 << 20


class _RowSample:
    """Values of rows chosen at random, seeded: all of them up to MAX_SAMPLE, then half of those, and so on."""

    def __init__(self) -> None:
        self.rng, self.share, self.n = np.random.default_rng(0), 1.0, 0
        self.parts: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []

    def add(self, values: dict[str, np.ndarray], n: int) -> None:
        lots = self.rng.random(n)
        self._keep([(lots, values)])
        while self.n > MAX_SAMPLE:
            self.share /= 2
            before, self.parts, self.n = self.parts, [], 0
            self._keep(before)

    def _keep(self, parts: list[tuple[np.ndarray, dict[str, np.ndarray]]]) -> None:
        for lots, values in parts:
            chosen = lots < self.share
            self.parts.append((lots[chosen], {name: column[chosen] for name, column in values.items()}))
            self.n += int(chosen.sum())

    def columns(self) -> dict[str, np.ndarray]:
        names = self.parts[0][1] if self.parts else {}
        return {name: np.concatenate([values[name] for _, values in self.parts]) for name in names}


def _count(counted: Counter[str], values: pa.Array) -> Counter[str]:
    """Add the values' counts; beyond MAX_SAMPLE kinds those seen once so far are forgotten."""
    for cell in pc.value_counts(values.drop_null()).to_pylist():
        counted[cell["values"]] += cell["counts"]
    if len(counted) > MAX_SAMPLE:
        for value in [value for value, count in counted.items() if count == 1]:
            del counted[value]
    return counted


def _batches(tables: Table | Iterable[Table]) -> Iterable[Table]:
    return [tables] if isinstance(tables, Table) else tables


def numeric_columns(table: Table, schema: Schema) -> dict[str, np.ndarray]:
    """Numbers as they are and moments as calendar features, [n] float64 each with NaN for missing."""
    columns: dict[str, np.ndarray] = {}
    for column in schema.columns:
        if column.type is ColumnType.NUMERIC:
            columns[column.name] = _floats(table.columns[column.name])
        elif column.type is ColumnType.DATETIME:
            calendar = _calendar(column.name, _floats(table.columns[column.name]))
            if taken := sorted(calendar.keys() & {*schema.of_type(ColumnType.NUMERIC)}):
                problem = f"the column is called as what is made of the moments of {column.name}"
                raise table.error(problem, column=taken[0], fix="rename one of the two columns")
            columns |= calendar
    return columns


def _calendar(name: str, seconds: np.ndarray) -> dict[str, np.ndarray]:
    """When on the line of time, and where in the year, the week and the day (sine and cosine, so that ends meet)."""
    features = {f"{name}:time": seconds}
    # 1970-01-01 was a Thursday: three days into a week that begins on Monday.
    for part, period, offset in (("year", YEAR, 0.0), ("week", 7 * DAY, 3 * DAY), ("day", DAY, 0.0)):
        with np.errstate(invalid="ignore"):
            angle = np.mod(seconds + offset, period) * (2 * math.pi / period)
        features |= {f"{name}:{part}_sin": np.sin(angle), f"{name}:{part}_cos": np.cos(angle)}
    return features


def _floats(values: pa.Array) -> np.ndarray:
    if pa.types.is_null(values.type):
        return np.full(len(values), np.nan)
    return np.array(pc.fill_null(values, np.nan).to_numpy(zero_copy_only=False), np.float64)


def _check_classes(table: Table, column: str) -> None:
    """Raise DataError for labels that writers of tables put where there is none."""
    labels = _known_labels(table, column)
    odd = np.flatnonzero(np.asarray(pc.is_in(labels, value_set=pa.array(NO_CLASSES, labels.type))))
    if len(odd):
        raise table.error(
            f"a label that is hardly a class, in {len(odd)} row(s)",
            row=int(odd[0]),
            column=column,
            expected="the name of a class",
            found=labels[int(odd[0])].as_py(),
            fix="leave these rows out, or, should it be a class, rename it, for instance to 'no type'",
        )


def numbers_of(table: Table, column: str) -> np.ndarray:
    """[n] float64 of a label that is a number; NaN where the table has none. Raises DataError where some rows have."""
    return np.full(len(table), np.nan) if table.labels is None else _floats(_known_labels(table, column))


def _known_labels(table: Table, column: str) -> pa.Array:
    if table.labels is None:
        raise table.error("no labels", column=column, fix="training and scoring need the label column filled")
    if table.labels.null_count:
        row = first(pc.is_null(table.labels))
        raise table.error("a row without a label", row=row, column=column, fix="fill it in, or leave the row out")
    return table.labels

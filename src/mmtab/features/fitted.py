"""All that was fitted on train, in one piece that is saved as plain JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmtab.config.types import CategoryRules
from mmtab.data.pairs import Pairs
from mmtab.data.schema import Schema
from mmtab.data.table import Table
from mmtab.features.preprocess import Preprocessor, QuantileScaler
from mmtab.features.similarity import Comparison


@dataclass(frozen=True)
class Fitted:
    """What was fitted on train: scalers, vocabularies and classes, and for matching the comparison of rows."""

    preprocessor: Preprocessor
    comparison: Comparison | None = None
    comparison_scalers: tuple[QuantileScaler, ...] = ()

    @staticmethod
    def kway(train: Table | Iterable[Table], schema: Schema, rules: CategoryRules) -> Fitted:
        return Fitted(Preprocessor.fit(train, schema, rules))

    @staticmethod
    def matching(records: Table, pairs: Pairs, schema: Schema, rules: CategoryRules) -> Fitted:
        """Sees the records of the training pairs, and no others. Comparisons are to be scaled by ``with_scalers``."""
        rows = np.unique(np.concatenate([pairs.left, pairs.right]))
        comparison = Comparison.fit(records, rows, pairs, schema)
        return Fitted(Preprocessor.fit(records, schema, rules, rows), comparison)

    def with_scalers(self, features: np.ndarray) -> Fitted:
        """``features`` [n_pairs, n_features]: the comparison of the training pairs."""
        return replace(self, comparison_scalers=tuple(QuantileScaler.fit(column) for column in features.T))

    def scale(self, features: np.ndarray) -> np.ndarray:
        """[n_pairs, n_features] float32, by rank among the training pairs; NaN for missing."""
        columns = [scaler.transform(x) for scaler, x in zip(self.comparison_scalers, features.T, strict=True)]
        return np.stack(columns, 1)

    def to_dict(self) -> dict[str, Any]:
        return {
            "preprocessor": self.preprocessor.to_dict(),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "comparison_scalers": [scaler.quantiles_ for scaler in self.comparison_scalers],
        }

    @staticmethod
    def from_dict(raw: dict[str, Any], schema: Schema) -> Fitted:
        comparison = raw["comparison"] and Comparison(schema, raw["comparison"]["columns"], raw["comparison"]["idf_"])
        scalers = tuple(QuantileScaler(quantiles) for quantiles in raw["comparison_scalers"])
        return Fitted(Preprocessor.from_dict(raw["preprocessor"]), comparison, scalers)

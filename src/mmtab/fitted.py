"""All that was fitted on train, in one piece that is saved as plain JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtab.comparison import Comparison, shared_columns
from mmtab.preprocess import CategoryRules, Preprocessor, QuantileScaler
from mmtab.schema import Schema
from mmtab.table import Pairs, Table


@dataclass(frozen=True)
class Fitted:
    """What was fitted on train: scalers, vocabularies and classes, and for matching the comparison of rows."""

    preprocessor: Preprocessor
    comparison: Comparison | None = None
    comparison_scalers: tuple[QuantileScaler, ...] = ()
    shared: tuple[str, ...] = ()

    @staticmethod
    def kway(train: Table, schema: Schema, rules: CategoryRules) -> Fitted:
        return Fitted(Preprocessor.fit(train, schema, rules))

    @staticmethod
    def matching(records: Table, pairs: Pairs, schema: Schema, rules: CategoryRules) -> Fitted:
        """Sees the records of the training pairs, and no others."""
        rows = np.unique(np.concatenate([pairs.left, pairs.right]))
        comparison = Comparison.fit(records, rows, pairs, schema)
        features = comparison(records, pairs.left, pairs.right)
        scalers = tuple(QuantileScaler.fit(column) for column in features.T)
        return Fitted(
            Preprocessor.fit(records, schema, rules, rows),
            comparison,
            scalers,
            tuple(shared_columns(records, pairs, schema)),
        )

    def compare(self, records: Table, pairs: Pairs) -> np.ndarray:
        """[n_pairs, n_features] float32, scaled by rank, NaN for missing."""
        assert self.comparison is not None
        features = self.comparison(records, pairs.left, pairs.right)
        return np.stack([scaler.transform(x) for scaler, x in zip(self.comparison_scalers, features.T, strict=True)], 1)

    def to_dict(self) -> dict[str, Any]:
        return {
            "preprocessor": self.preprocessor.to_dict(),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "comparison_scalers": [scaler.quantiles_ for scaler in self.comparison_scalers],
            "shared": list(self.shared),
        }

    @staticmethod
    def from_dict(raw: dict[str, Any], schema: Schema) -> Fitted:
        comparison = raw["comparison"] and Comparison(schema, raw["comparison"]["columns"], raw["comparison"]["idf_"])
        scalers = tuple(QuantileScaler(quantiles) for quantiles in raw["comparison_scalers"])
        return Fitted(Preprocessor.from_dict(raw["preprocessor"]), comparison, scalers, tuple(raw["shared"]))

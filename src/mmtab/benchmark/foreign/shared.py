"""What the rivals' scripts share. They run in environments of their own, so this imports nothing of mmtab either."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd


def read(folder: Path, stem: str, names: list[str]) -> pd.DataFrame:
    """A table of a dataset folder: .parquet, .csv or a folder of shards. ``names``: columns that are text in a csv."""
    if (folder / f"{stem}.parquet").exists():
        return pd.read_parquet(folder / f"{stem}.parquet")
    if (folder / f"{stem}.csv").exists():
        return pd.read_csv(folder / f"{stem}.csv", dtype=dict.fromkeys(names, str))
    parts = sorted((folder / stem).glob("*.parquet"))
    return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)


def in_one_table(folder: Path) -> bool:
    """Whether the records of a matching dataset lie in one table, and not in left and right."""
    return not any((folder / f"left{suffix}").exists() for suffix in (".parquet", ".csv", ""))


def best_threshold(label: np.ndarray, p: np.ndarray) -> float:
    """The probability from which on the F1 of pairs is best."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(label, p)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[int(f1[:-1].argmax())])

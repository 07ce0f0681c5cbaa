"""Splink 5 on one dataset folder of pairs: PYTHON splink_.py labels|em DATA OUTPUT --seed 0 --threads 2.

Fellegi and Sunter's model (1969): how often a column agrees to a level among matches (m) and among chance pairs (u).
``labels`` learns m from the matches of train, ``em`` without labels; the threshold is chosen on valid either way. Text
is compared by shared words and shared codes (words with digits), numbers by their ratio, categories by equality (rare
ones count more) and similarity of names. Pictures and dates are left out, and so are columns of one side. It runs in an
environment of its own and so imports nothing of mmtab."""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import splink.comparison_level_library as levels
import splink.comparison_library as library
import yaml
from shared import best_threshold, in_one_table, read
from splink import Linker, SettingsCreator, block_on
from splink.backends.duckdb import DuckDBAPI
from splink.internals.exceptions import EMTrainingException

SHARES = (0.9, 0.7, 0.5, 0.3, 0.15)  # of the words of the shorter text
MAX_PAIRS = 5e5
RATIOS = (0.99, 0.9, 0.7)  # of the smaller number to the larger one


class Data:
    """The records of both sides, their columns under plain names, and the pairs of each split."""

    def __init__(self, folder: Path) -> None:
        card: dict[str, Any] = yaml.safe_load((folder / "dataset.yaml").read_text())
        relations = card.get("relations") or {"label": {}}
        if card["task"] != "matching" or len(relations) > 1:
            raise SystemExit("error: only datasets of matching with one relation")
        self.label, ignored = next(iter(relations)), (next(iter(relations.values())) or {}).get("ignore", [])
        key, ids = card.get("id", "id"), [card.get("id", "id"), "left_id", "right_id"]
        one = in_one_table(folder)
        sides = {side: read(folder, "records" if one else side, ids) for side in ("left", "right")}
        shared = [name for name in card["columns"] if all(name in side for side in sides.values())]
        kinds = {name: card["columns"][name] for name in shared if name not in ignored}
        self.kinds = {f"c{i}": kind for i, (_, kind) in enumerate(kinds.items()) if kind not in ("image", "datetime")}
        if not self.kinds:
            raise SystemExit("error: no column that both sides have")
        names = dict(zip(kinds, (f"c{i}" for i in range(len(kinds))), strict=True))
        self.sides = {
            side: self._plain(table.set_index(table[key].astype(str)), names) for side, table in sides.items()
        }
        self.pairs = {split: read(folder, f"pairs_{split}", ids) for split in ("train", "valid", "test")}

    def _plain(self, table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
        out: dict[str, Any] = {}
        for name, plain in names.items():
            kind, cells = self.kinds.get(plain), table[name]
            if kind == "numeric":
                out[plain] = pd.to_numeric(cells, errors="coerce").astype(float)
            elif kind is not None:
                text = cells.map(lambda cell: None if pd.isna(cell) else " ".join(str(cell).lower().split()) or None)
                out[plain] = text.astype(object).where(text.notna(), None)
            if kind == "text":
                words = out[plain].map(lambda cell: sorted(set(re.findall(r"\w+", cell))) if cell else None)
                codes = words.map(lambda cell: [w for w in cell if re.search(r"\d", w)] or None if cell else None)
                out[f"{plain}_words"], out[f"{plain}_codes"] = words, codes
        return pd.DataFrame(out, index=table.index)

    def records(self, side: str, pairs: pd.DataFrame | None = None) -> pd.DataFrame:
        """Those of a side, or that of each pair in turn; ``unique_id`` numbers them."""
        table = self.sides[side] if pairs is None else self.sides[side].loc[pairs[f"{side}_id"].astype(str)]
        return table.reset_index(drop=True).assign(unique_id=np.arange(len(table)), source_dataset=side)

    def comparisons(self) -> list[Any]:
        found: list[Any] = []
        for name, kind in self.kinds.items():
            if kind == "text":
                shared = f"len(list_intersect({name}_words_l, {name}_words_r))"
                least = f"least(len({name}_words_l), len({name}_words_r))"
                found.append(_levels(f"{name}_words", [f"{shared} >= {share} * {least}" for share in SHARES]))
                codes = f"len(list_intersect({name}_codes_l, {name}_codes_r))"
                found.append(_levels(f"{name}_codes", [f"{codes} >= 2", f"{codes} >= 1"]))
            elif kind == "numeric":
                ends = [f"{end}(abs({name}_l), abs({name}_r))" for end in ("least", "greatest")]
                found.append(_levels(name, [f"{ends[0]} >= {ratio} * {ends[1]}" for ratio in RATIOS]))
            else:
                comparison = library.JaroWinklerAtThresholds(name, [0.92, 0.8])
                found.append(comparison.configure(term_frequency_adjustments=True))
        return found


def _levels(name: str, rules: list[str]) -> Any:
    below = [levels.CustomLevel(rule) for rule in rules]
    return library.CustomComparison([levels.NullLevel(name), *below, levels.ElseLevel()], output_column_name=name)


def fit(data: Data, api: DuckDBAPI, which: str, seed: int) -> Linker:
    tables = [api.register(data.records(side), dataset_display_name=f"records_{side}") for side in ("left", "right")]
    settings = SettingsCreator("link_only", data.comparisons(), [block_on("unique_id")])
    linker = Linker(tables, settings, log_level=None)
    for name in (name for name, kind in data.kinds.items() if kind == "categorical"):
        linker.table_management.compute_tf_table(name)
    linker.training.estimate_u_using_random_sampling(max_pairs=MAX_PAIRS, seed=seed)
    if which == "labels":
        train = data.pairs["train"]
        matches = train[train[data.label] == 1]
        places = {side: {id: i for i, id in enumerate(table.index)} for side, table in data.sides.items()}
        labels = {}
        for letter, side in (("l", "left"), ("r", "right")):
            labels[f"source_dataset_{letter}"] = side
            labels[f"unique_id_{letter}"] = matches[f"{side}_id"].astype(str).map(places[side]).to_numpy()
        labels = pd.DataFrame(labels, index=range(len(matches)))
        linker.training.estimate_m_from_pairwise_labels(api.register(labels))
    else:
        rules = [f"substr({name}, 1, 6)" if kind == "text" else name for name, kind in data.kinds.items()]
        learned = [_learn(linker, rule) for rule in rules]
        if not any(learned):
            raise SystemExit("error: too few pairs of records begin alike, or are equal in a column, to learn from")
    return linker


def _learn(linker: Linker, rule: str) -> bool:
    """Expectation maximisation on the pairs that agree by a rule, of which there may be none."""
    try:
        linker.training.estimate_parameters_using_expectation_maximisation(block_on(rule), max_pairs=MAX_PAIRS)
    except EMTrainingException:
        return False
    return True


def predict(linker: Linker, data: Data, api: DuckDBAPI, split: str) -> np.ndarray:
    """[n] match probabilities of the pairs."""
    pairs = data.pairs[split]
    sides = [
        api.register(data.records(side, pairs), dataset_display_name=f"{split}_{side}") for side in ("left", "right")
    ]
    rule = [block_on("unique_id")]  # which is the number of the pair here
    found = linker.inference.predict_between(*sides, blocking_rules_to_generate_predictions=rule)
    scores = found.as_pandas_dataframe().set_index("unique_id_l")["match_weight"]
    return 1 / (1 + np.exp2(-scores.reindex(range(len(pairs))).to_numpy()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["labels", "em"])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    data, api = Data(a.data), DuckDBAPI()
    api._con.execute(f"SET threads TO {a.threads}")
    began = time.perf_counter()
    linker = fit(data, api, a.which, a.seed)
    trained = time.perf_counter()
    p = {split: predict(linker, data, api, split) for split in ("valid", "test")}
    rate = sum(map(len, p.values())) / (time.perf_counter() - trained)
    threshold = best_threshold(data.pairs["valid"][data.label].to_numpy(), p["valid"])
    for split, scores in p.items():
        out = data.pairs[split][["left_id", "right_id"]].astype(str)
        out = out.assign(probability=scores, prediction=(scores >= threshold).astype(int))
        out.to_parquet(a.output / f"predictions_{split}.parquet", index=False)
    facts = {"train_seconds": trained - began, "predict_rows_per_second": rate}
    (a.output / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()

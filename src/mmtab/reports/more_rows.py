"""What more rows would bring: the run trained again on parts of its rows, and the trend carried on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmtab.config.types import RunConfig
from mmtab.runs.folder import METRICS, read_facts, read_run_file, read_schema
from mmtab.runs.train import train
from mmtab.utils.progress import say

SHARES = (0.25, 0.5)
PARTS = Path("report") / "parts_of_train"  # of a run; runs that are gone once all are done


def measure(folder: Path, config: RunConfig) -> dict[str, Any]:
    """Scores on valid of the settings of a run after training on parts of its rows, and its own: ``rows`` [n] of train,
    ``scores`` [n]. A call that was killed goes on where it was."""
    metric, whole = read_schema(folder).metric, config.dataset.train_share
    found = []
    for share in SHARES:
        part, settings = folder / PARTS / str(share), replace(config.dataset, train_share=share * whole)
        say(f"training on {share:.0%} of the rows of {folder}")
        alone = replace(config, dataset=settings, output=str(part), ladder=[], logger=["csv"], test=False, report=False)
        found.append((train(alone, part)[metric], read_facts(part)["n_train"]))
    found.append((read_run_file(folder, METRICS)["valid"][metric], read_facts(folder)["n_train"]))
    shutil.rmtree(folder / PARTS)
    scores, rows = zip(*found, strict=True)
    return {"metric": metric, "rows": list(rows), "scores": list(scores)}


def of_twice_as_many(curve: Mapping[str, Any]) -> float:
    """The score to expect of twice the rows, where what is missing to 1 falls as a power of the rows (Hestness et al.
    2017); never less than the present one."""
    missing = 1 - np.array(curve["scores"])
    if (missing <= 0).any():
        return float(curve["scores"][-1])
    slope = np.polyfit(np.log(curve["rows"]), np.log(missing), 1)[0]
    return float(1 - missing[-1] * 2.0 ** min(slope, 0.0))


def in_words(curve: Mapping[str, Any], error: float) -> str:
    """``error``: standard error of a score on valid."""
    points = [f"{score:.3f} with {n:,}" for n, score in zip(curve["rows"], curve["scores"], strict=True)]
    gain = of_twice_as_many(curve) - curve["scores"][-1]
    expected = f"twice as many would bring about {gain:+.3f}"
    noise = f"less than the noise of this valid split ({error:.3f}): look elsewhere first"
    verdict = noise if gain < error else "more than noise: labelling more rows pays"
    return f"{curve['metric']} on valid is {', '.join(points)} rows of train; if it goes on so, {expected}, {verdict}."

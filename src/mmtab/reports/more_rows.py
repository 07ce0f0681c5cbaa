"""What more rows would bring: the run trained again on parts of its rows, and the trend carried on; and what each
modality is worth on each of these parts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmtab.config.types import Hardware, LocalSettings, RunConfig
from mmtab.reports.ablation import contributions
from mmtab.runs.folder import METRICS, read_facts, read_run_file, read_schema
from mmtab.runs.session import open_run
from mmtab.utils.progress import say

SHARES = (0.25, 0.5)
PARTS = Path("report") / "parts_of_train"  # of a run; runs that are gone once all are done


def measure(
    folder: Path,
    config: RunConfig,
    data: Path | None = None,
    hardware: Hardware | None = None,
    local: LocalSettings | None = None,
) -> dict[str, Any]:
    """Scores on valid of the settings of a run after training on parts of its rows, and its own: ``rows`` [n] of train,
    ``scores`` [n], and, where there is ``data``, by ``modalities`` [n] what each contributes to the score (Shapley
    values, as in an ablation). A call that was killed goes on where it was."""
    from mmtab.runs.train import train  # here, for it imports a trainer, which other pages do without

    metric, whole = read_schema(folder).metric, config.dataset.train_share
    runs = []
    for share in SHARES:
        part, settings = folder / PARTS / str(share), replace(config.dataset, train_share=share * whole)
        say(f"training on {share:.0%} of the rows of {folder}")
        alone = replace(config, dataset=settings, output=str(part), ladder=[], logger=["csv"], test=False, report=False)
        train(alone, part)
        runs.append(part)
    runs.append(folder)
    curve: dict[str, Any] = {
        "metric": metric,
        "rows": [read_facts(run)["n_train"] for run in runs],
        "scores": [read_run_file(run, METRICS)["valid"][metric] for run in runs],
    }
    if data is not None:
        worth = [contributions(open_run(run, hardware, local), data) for run in runs]
        curve["modalities"] = {name: [of_run[name] for of_run in worth] for name in worth[0]}
    shutil.rmtree(folder / PARTS)
    return curve


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
    trend = f"{curve['metric']} on valid is {', '.join(points)} rows of train; if it goes on so, {expected}, {verdict}."
    return " ".join([trend, *_of_modalities(curve.get("modalities", {}), error)])


def _of_modalities(modalities: Mapping[str, Sequence[float]], error: float) -> list[str]:
    """Which modalities are worth more, or less, the more rows there are: beyond ``error``."""
    change = {name: worth[-1] - worth[0] for name, worth in modalities.items()}
    grown = [f"{name} ({modalities[name][0]:+.3f} to {modalities[name][-1]:+.3f})" for name in change]
    found = []
    for sign, words in ((1, "With more rows the model makes more of"), (-1, "With more rows the model relies less on")):
        which = [text for text, moved in zip(grown, change.values(), strict=True) if sign * moved > error]
        if which:
            found.append(f"{words} {', '.join(which)}.")
    return found or ["What each modality is worth hardly depends on the rows."] * bool(modalities)

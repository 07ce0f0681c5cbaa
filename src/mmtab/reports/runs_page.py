"""Several runs side by side: settings that differ, scores on the same rows, curves, and what each run uses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from mmtab.config.types import LocalSettings
from mmtab.reports import figures
from mmtab.reports.html import TEMPLATES, render
from mmtab.reports.results import differing
from mmtab.reports.run_page import interval, read_ablation
from mmtab.reports.svg import svg
from mmtab.runs.folder import METRICS, flat, learning_curves, open_config, read_facts, read_run_file
from mmtab.runs.scored import Predictions, Scored, ScoredPredictions, read_runs
from mmtab.training.metrics import bootstrap
from mmtab.utils.atomic import write_text

MAX_NAMED = 20  # rows that the runs disagree on
HIDDEN_SETTINGS = ("output", "data_root", "cache")


def write_comparison(
    folders: Sequence[Path], output: Path, split: str | None = None, local: LocalSettings | None = None
) -> Path:
    """Write one page about runs of the same dataset; ``split``: default the first that all scored, test before valid.

    Differences are of the rows that all runs scored, with the interval of a paired bootstrap. Raises RunError where
    runs are of different datasets, or share no scored split.
    """
    runs, split, predictions = read_runs(folders, split)
    schema = next(iter(predictions.values()))[0].schema
    page = render(
        TEMPLATES / "runs.html.jinja",
        title=f"Runs of {schema.name}",
        heading=f"{len(runs)} runs of {schema.name}",
        split=split,
        scores=_scores(runs, predictions, split, schema.metric),
        settings=_settings(runs, local),
        pictures=_pictures(runs, predictions, schema.metric),
        disagreements=_disagreements(predictions),
    )
    write_text(output, page)
    return output


def _pictures(runs: Mapping[str, Path], predictions: Predictions, metric: str) -> list[tuple[str, Markup]]:
    drawn = {}
    curves = {name: learning_curves(folder) for name, folder in runs.items()}
    if any(curves.values()):
        drawn["valid score by epoch"] = figures.many_learning(curves, metric)
    firsts = {f"{name}: ": relations[0] for name, relations in predictions.items()}
    of_classes = {name: first for name, first in firsts.items() if isinstance(first, ScoredPredictions)}
    if of_classes:
        drawn["share of mistakes by coverage"] = figures.risk_coverage(of_classes)
    ablations = {name: ablation for name, folder in runs.items() if (ablation := read_ablation(folder))}
    if ablations:
        drawn["what each modality contributes"] = figures.many_modalities(ablations)
    return [(about, svg(figure, f"chart{i}", about)) for i, (about, figure) in enumerate(drawn.items())]


def _scores(
    runs: Mapping[str, Path], predictions: Predictions, split: str, metric: str
) -> tuple[list[str], list[list[object]], list[str]]:
    """A table, the best run first by the metric that ranks, and the class of each line."""
    metrics = {name: read_run_file(folder, METRICS) for name, folder in runs.items()}
    order = sorted(runs, key=lambda name: -metrics[name][split][metric])
    intervals, best = _below_best(predictions, order), metrics[order[0]][split][metric]
    body: list[list[object]] = []
    for name in order:
        scores, facts = metrics[name], read_facts(runs[name])
        body.append(
            [
                name,
                scores[split][metric],
                best - scores[split][metric],
                interval(*intervals[name]) if name in intervals and name != order[0] else "",
                *_losses(scores[split], predictions[name]),
                scores.get("valid", {}).get(metric, math.nan),
                float(facts["seconds"]["train"]),
                float(facts["predict_rows_per_second"]),
                int(facts["peak_memory_mib"]),
                int(facts["n_trained_parameters"]),
            ]
        )
    losses = ["RMSE", "MAE"] if metric == "r2" else ["log-loss", "ECE"]
    head = ["run", f"{split} {metric}", "below the best", "95 % interval", *losses, "valid"]
    head += ["training, s", "rows/s", "MiB", "parameters that learn"]
    kinds = ["up" if name != order[0] and intervals.get(name, (1.0,))[0] <= 0 else "" for name in order]
    return head, body, kinds


def _losses(metrics: Mapping[str, float], predictions: Sequence[Scored]) -> list[float]:
    """RMSE and MAE of numbers; else log-loss, and the mean calibration error of the relations."""
    errors = [relation.ece() for relation in predictions if isinstance(relation, ScoredPredictions)]
    if not errors:
        return [metrics["rmse"], metrics["mae"]]
    return [metrics.get("log_loss", math.nan), float(np.mean(errors))]


def _below_best(predictions: Predictions, order: Sequence[str]) -> dict[str, tuple[float, float]]:
    """By run, 95 % bounds of how far its score lies below that of the first, by rows that all scored; of several
    relations their mean. Empty where the runs share no rows, or their classes differ."""
    draws = []
    for relation in zip(*(predictions[name] for name in order), strict=True):
        ids, rows = _shared_rows(relation)
        classes = {tuple(run.classes) for run in relation if isinstance(run, ScoredPredictions)}
        if not ids or len(classes) > 1:
            return {}
        y_pred = np.stack([run.y_pred[i][:, None] for run, i in zip(relation, rows, strict=True)])
        first = relation[0]
        metric = "macro_f1" if first.schema.metric == "macro_f1" else first.score_name.lower()
        drawn = bootstrap(first.y_true[rows[0]][:, None], y_pred, metric, len(next(iter(classes), ())))
        assert drawn is not None
        draws.append(drawn)
    mean = np.mean(draws, 0)
    bounds = np.percentile(mean[:, :1] - mean, (2.5, 97.5), axis=0)
    return {name: (float(low), float(high)) for name, (low, high) in zip(order, bounds.T, strict=True)}


def _shared_rows(runs: Sequence[Scored]) -> tuple[list[str], np.ndarray]:
    """Ids that all runs scored, in the order of the first, and [runs, n] their places."""
    places = [{key: i for i, key in enumerate(run.ids)} for run in runs]
    ids = [key for key in runs[0].ids if all(key in place for place in places)]
    return ids, np.array([[place[key] for key in ids] for place in places], int).reshape(len(runs), -1)


def _settings(runs: Mapping[str, Path], local: LocalSettings | None) -> tuple[list[str], list[list[str]]]:
    """A table of the settings that differ."""
    settings = {name: flat(dataclasses.asdict(open_config(folder, local))) for name, folder in runs.items()}
    names = [name for name in differing(list(settings.values())) if name.split(".")[0] not in HIDDEN_SETTINGS]
    return ["setting", *settings], [[name, *(str(of.get(name, "")) for of in settings.values())] for name in names]


def _disagreements(predictions: Predictions) -> list[dict[str, Any]]:
    """By relation, rows on which some runs are right and others wrong: how many, and a table of the first of them."""
    parts = []
    of_classes = [[run for run in runs if isinstance(run, ScoredPredictions)] for runs in predictions.values()]
    for relation in zip(*of_classes, strict=True):
        ids, rows = _shared_rows(relation)
        correct = np.stack([run.correct[i] for run, i in zip(relation, rows, strict=True)], 1)
        disagree = np.flatnonzero(correct.any(1) & ~correct.all(1))
        first = relation[0]
        labels = [first.classes[label] for label in first.y_true[rows[0]]]
        y_pred = [[run.classes[c] for c in run.y_pred[i]] for run, i in zip(relation, rows, strict=True)]
        parts.append(
            {
                "relation": first.relation,
                "n": len(ids),
                "n_right": int(correct.all(1).sum()),
                "n_wrong": int((~correct.any(1)).sum()),
                "n_disagree": len(disagree),
                "head": ["row", "label", *predictions],
                "body": [[ids[i], labels[i], *(classes[i] for classes in y_pred)] for i in disagree[:MAX_NAMED]],
            }
        )
    return parts

"""A run in words: whether it learnt, what it uses, where it errs, whether its probabilities are right, what to try."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtab.config.types import RunConfig
from mmtab.reports import numbers
from mmtab.reports.ablation import ranking
from mmtab.reports.slices import MIN_ROWS, Z
from mmtab.runs.scored import Scored, ScoredPredictions
from mmtab.runs.scored_numbers import ScoredNumbers

RISEN = 1.1  # valid log-loss over its best, from which it counts as risen
NEAR = 0.01  # of a score
GOOD, WARNING, PLAIN = "good", "warning", "plain"
TRIES = {  # for a modality that is not used
    "image": "image.tuned=true or a greater image.size; or dataset.drop=[image]",
    "text": "text.n_tuned_layers=2, a longer text.max_length; or dataset.drop=[text]",
}


@dataclass(frozen=True)
class Finding:
    """``kind``: good, warning or plain. ``tries``: what to do about it, as settings where there are some."""

    kind: str
    text: str
    tries: str = ""


def findings(
    config: RunConfig,
    predictions: Sequence[Scored],
    metrics: Mapping[str, Mapping[str, float]],
    curves: Sequence[Mapping[str, float]],
    slices: Sequence[Mapping[str, Any]],
    ablation: Mapping[str, Any] | None,
    base: Mapping[str, float] | None = None,
) -> Iterator[Finding]:
    """The most important first. ``predictions``: one per relation. ``base``: metrics on valid of the base."""
    schema = predictions[0].schema
    for relation in predictions:
        yield _learnt(relation, schema.ceiling if len(predictions) == 1 else None)
    if predictions[0].split == "test" and isinstance(predictions[0], ScoredPredictions):
        yield from _splits(metrics, schema.metric, len(predictions[0].y_true))
    if base is not None:
        name, valid = schema.metric, metrics["valid"]
        loss, title = ("log_loss", "log-loss") if "log_loss" in base else ("rmse", "RMSE")
        scores = f"{name} {base[name]:.3f} and {title} {base[loss]:.4g}"
        fused = f"{valid[name]:.3f} and {valid[loss]:.4g}"
        yield Finding(PLAIN, f"On valid the base alone has {scores}; with fusion the model has {fused}.")
    yield from _curves(curves, schema.metric, config)
    if ablation is not None:
        yield from _modalities(ablation)
        yield from _columns(ablation)
    for relation in predictions:
        if isinstance(relation, ScoredNumbers):
            yield from (Finding(PLAIN if good else WARNING, text) for good, text in numbers.sentences(relation))
            continue
        yield _calibration(relation)
        yield from _mistakes(relation)
    for part in slices:
        if part["high"] < 0:
            scores = f"{part['score']:.3f}, and {part['rest']:.3f} on the rest"
            yield Finding(WARNING, f"It is worse on rows with {part['slice']}: {scores} ({part['rows']} rows).")


def _learnt(predictions: Scored, ceiling: float | None) -> Finding:
    checks = "check labels and columns with prepare_data.py check, and look at the learning curve"
    tries = f"{checks}; a higher trainer.lr, or more epochs"
    if isinstance(predictions, ScoredNumbers):
        good, text = numbers.learnt(predictions)
        return Finding(GOOD, f"It learnt: {text}") if good else Finding(WARNING, f"It learnt nothing: {text}", tries)
    y_true = predictions.y_true
    if predictions.threshold is None:
        chance, baseline = float(np.bincount(y_true).max() / len(y_true)), "always predicting the commonest class"
    else:
        share = float((y_true == 1).mean())
        chance, baseline = 2 * share / (1 + share), "calling every pair a match"
    score = predictions.score()
    error = float(np.sqrt(max(chance * (1 - chance), 1e-9) / len(y_true)))
    relation = f" for {predictions.relation}" if predictions.relation else ""
    text = f"{predictions.split} {predictions.score_name}{relation} is {score:.3f}; {baseline} gives {chance:.3f}"
    text += "." if ceiling is None else f", and the best that can be reached is {ceiling:.3f}."
    if score > chance + Z * error:
        return Finding(GOOD, f"It learnt: {text}")
    return Finding(WARNING, f"It learnt nothing: {text}", tries)


def _splits(metrics: Mapping[str, Mapping[str, float]], metric: str, n_test: int) -> Iterator[Finding]:
    valid, test = (metrics.get(split, {}).get(metric) for split in ("valid", "test"))
    if valid is None or test is None or valid - test <= Z * np.sqrt(max(test * (1 - test), 1e-9) * 2 / n_test):
        return
    text = f"test {metric} ({test:.3f}) is below valid ({valid:.3f}) by more than noise"
    why = "the splits differ, or much was chosen on valid"
    yield Finding(WARNING, f"{text}: {why}.", "prepare_data.py check compares the splits")


def _curves(curves: Sequence[Mapping[str, float]], metric: str, config: RunConfig) -> Iterator[Finding]:
    rows = [row for row in curves if f"valid/{metric}" in row]
    if len(rows) < 2:
        return
    loss, title = ("valid/log_loss", "log-loss") if "valid/log_loss" in rows[0] else ("valid/rmse", "RMSE")
    values, losses = ([row.get(name, np.nan) for row in rows] for name in (f"valid/{metric}", loss))
    best, n, lowest = int(np.argmax(values)), len(rows), int(np.nanargmin(losses))
    if best == n - 1 and values[best] - values[-2] > 0.002:
        yield Finding(WARNING, f"valid {metric} still rose in the last epoch ({n}).", f"trainer.max_epochs={2 * n}")
    if losses[-1] > RISEN * losses[lowest]:
        fell = f"valid {title} fell to {losses[lowest]:.3f} in epoch {lowest + 1} and rose to {losses[-1]:.3f}"
        text = f"It overfits: {fell}, while {metric} was best in epoch {best + 1}."
        lr, decay = f"trainer.lr={config.trainer.lr / 2:g}", f"trainer.weight_decay={config.trainer.weight_decay * 3:g}"
        yield Finding(WARNING, text, f"fewer epochs, {lr}, {decay}, or fusion=mean")


def _modalities(ablation: Mapping[str, Any]) -> Iterator[Finding]:
    metric, modalities, order = ablation["metric"], ablation["modalities"], ranking(ablation)
    if len(order) > 1 and any(values["verdict"] != "unused" for values in modalities.values()):
        parts = ", ".join(f"{name} {modalities[name]['shapley']:+.3f}" for name in order)
        score = f"({ablation['score']:.3f}, of which {ablation['nothing']:.3f} without anything)"
        yield Finding(PLAIN, f"What contributes to {ablation['split']} {metric} {score}, most first: {parts}.")
    for name in order:
        values = modalities[name]
        interval = f"(95 % interval {-values['high']:+.3f} to {-values['low']:+.3f})"
        change = f"taking it away changes {metric} by {-values['loss']:+.3f} {interval}"
        change += f" and {values['changed']:.0%} of the predictions"
        if values["verdict"] == "unused":
            describe = f"look at these columns with prepare_data.py describe; or dataset.drop=[{name}]"
            text = f"{name} is not used: {change}. Alone it reaches {values['alone']:.3f}."
            yield Finding(WARNING, text, TRIES.get(name, describe))
        elif values["verdict"] == "replaceable":
            text = f"{name} is used, but the others carry the same information: {change}; alone it reaches"
            yield Finding(PLAIN, f"{text} {values['alone']:.3f}.")


def _columns(ablation: Mapping[str, Any]) -> Iterator[Finding]:
    metric, columns = ablation["metric"], ablation["columns"]
    idle = [n for n, v in columns.items() if v["high"] <= NEAR and v["low"] <= 0 and abs(v["nats"]) < NEAR]
    if idle and len(idle) < len(columns):
        yield Finding(PLAIN, f"Without these columns nothing changes: {', '.join(idle)}.")
    harmful = [name for name, values in columns.items() if values["high"] < 0]
    if harmful:
        text = f"It is better without {', '.join(harmful)}, to which it overfits."
        yield Finding(WARNING, text, f"dataset.drop=[{','.join(harmful)}]")
    gain = ablation["score"] - ablation["nothing"]
    for name, values in columns.items():
        alone = ablation["modalities"][values["modality"]]["alone"]
        if len(columns) > 2 and gain > 0.1 and values["low"] > 0.9 * gain and alone > 0.9 * ablation["score"]:
            text = f"The score depends almost entirely on {name}: without it {metric} is {values['without']:.3f}."
            tries = f"make sure that {name} is not the label in disguise, and is known when you predict"
            yield Finding(WARNING, text, tries)


def _calibration(predictions: ScoredPredictions) -> Finding:
    error, relation = predictions.ece(), f" of {predictions.relation}" if predictions.relation else ""
    text = f"Probabilities{relation} are off by {error:.3f} on average (expected calibration error)"
    if predictions.temperature != 1 and predictions.probability is not None:
        text += f"; it was {predictions.ece(scaled=False):.3f} before calibration ({predictions.scaling})"
    if error < 0.03:
        return Finding(GOOD, f"{text}: they can be trusted.")
    if error < 0.08:
        return Finding(PLAIN, f"{text}.")
    confidence, share, n = predictions.reliability()
    bias = float(((confidence - share) * n).sum() / n.sum())
    if predictions.threshold is None:
        problem = f"the model is {'overconfident' if bias > 0 else 'underconfident'}"
    else:
        problem = f"the probability of a match is too {'high' if bias > 0 else 'low'}"
    text += f": on {predictions.split} {problem} by {abs(bias):.3f}."
    return Finding(WARNING, f"{text} The calibration that was fitted on valid does not correct that.")


def _mistakes(predictions: ScoredPredictions) -> Iterator[Finding]:
    n = int((~predictions.correct).sum())
    if n and predictions.threshold is not None:
        false = int(((predictions.y_pred == 1) & (predictions.y_true == 0)).sum())
        relation = f" of {predictions.relation}" if predictions.relation else ""
        kinds = f"{false:,} are false matches and {n - false:,} missed ones"
        text = f"Of {n:,} mistakes{relation} {kinds}, at the threshold {predictions.threshold:.3g}."
        yield Finding(PLAIN, text, "predict cost=… where the one costs more than the other")
    elif n and len(predictions.classes) > 2:
        classes, confusions = predictions.classes, predictions.confusions()[:3]
        kinds = "; ".join(f"{classes[a]} taken for {classes[b]} ({count})" for a, b, count in confusions)
        share = sum(count for *_, count in confusions) / n
        yield Finding(PLAIN, f"Of {n:,} mistakes {share:.0%} are: {kinds}.")
        bad = [row for row in predictions.by_class() if row["rows"] >= MIN_ROWS and row["recall"] < 0.5]
        worst = sorted(bad, key=lambda row: row["recall"])[:4]
        if worst:
            names = ", ".join(f"{row['class']} ({row['recall']:.2f})" for row in worst)
            text = f"Classes of which less than half of the rows are recognised: {names}."
            yield Finding(WARNING, text, "kway_head.class_weights=true, or more rows of them")

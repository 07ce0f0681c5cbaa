"""A run in words: whether it learnt, what it uses, where it errs, whether its probabilities are right, what to try."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    valid_error: float = 0.0,
) -> Iterator[Finding]:
    """The most important first. ``predictions``: one per relation. ``base``: metrics on valid of the base;
    ``valid_error``: the standard error of the score there."""
    schema = predictions[0].schema
    yield from _learning(predictions, curves, config, valid_error)
    if predictions[0].split == "test" and isinstance(predictions[0], ScoredPredictions):
        yield from _splits(metrics, schema.metric, len(predictions[0].y_true))
    if base is not None:
        name, valid = schema.metric, metrics["valid"]
        loss, title = ("log_loss", "log-loss") if "log_loss" in base else ("rmse", "RMSE")
        scores = f"{name} {base[name]:.3f} and {title} {base[loss]:.4g}"
        fused = f"{valid[name]:.3f} and {valid[loss]:.4g}"
        yield Finding(PLAIN, f"On valid the base alone has {scores}; with fusion the model has {fused}.")
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


def standard_error(predictions: Scored) -> float:
    """Of the score: of accuracy as of a share of the rows, of F1 as of a share of the matches, of R² by rows."""
    if isinstance(predictions, ScoredNumbers):
        return predictions.standard_error(np.ones(len(predictions.y_true), bool))
    n = len(predictions.y_true) if predictions.threshold is None else int((predictions.y_true == 1).sum())
    return _error_of_share(float(np.nan_to_num(predictions.score())), n)


def _error_of_share(share: float, n: int) -> float:
    near = (share * n + 1) / (n + 2)  # which is not 0 where all of few rows are right, or none
    return float(np.sqrt(near * (1 - near) / max(n, 1)))


def _learning(
    predictions: Sequence[Scored], curves: Sequence[Mapping[str, float]], config: RunConfig, valid_error: float
) -> Iterator[Finding]:
    """Whether it learnt, and whether too little, too much or well: one judgement, with one piece of advice."""
    schema = predictions[0].schema
    scores = [_against_chance(one, schema.ceiling if len(predictions) == 1 else None) for one in predictions]
    learnt = any(is_learnt for is_learnt, _ in scores)
    fit, advice = _fit(curves, schema.metric, config, valid_error)
    if not learnt and not advice.startswith("more"):
        checks = "check labels and columns with mmtab prepare check"
        advice = f"{checks}; a higher trainer.lr (={config.trainer.lr:g})"
    for i, (is_learnt, text) in enumerate(scores):
        yield Finding(GOOD if is_learnt else WARNING, text, "" if learnt or i else advice)
    if fit is not None:
        yield replace(fit, tries=advice if learnt else "")


def _against_chance(predictions: Scored, ceiling: float | None) -> tuple[bool, str]:
    """Whether the score is beyond what needs no model by more than noise, and a sentence."""
    n = len(predictions.y_true)
    if isinstance(predictions, ScoredNumbers):
        chance, noise, text = 0.0, Z * standard_error(predictions), numbers.scores(predictions)
    else:
        y_true, relation = predictions.y_true, f" for {predictions.relation}" if predictions.relation else ""
        if predictions.threshold is None:
            chance, baseline = float(np.bincount(y_true).max() / n), "always predicting the commonest class"
        else:
            n, share = int((y_true == 1).sum()), float((y_true == 1).mean())
            chance, baseline = 2 * share / (1 + share), "calling every pair a match"
        noise = Z * _error_of_share(chance, n)
        text = f"{predictions.split} {predictions.score_name}{relation} is {predictions.score():.3f}; {baseline} gives"
        text += f" {chance:.3f}" + ("." if ceiling is None else f", and the best that can be reached is {ceiling:.3f}.")
    if predictions.score() > chance + noise:
        return True, f"It learnt: {text}"
    if predictions.score() > chance:
        what = "rows" if predictions.relation is None and getattr(predictions, "threshold", None) is None else "matches"
        return False, f"It may have learnt little: {text} With {n:,} {what} such a difference may be chance."
    return False, f"It learnt nothing: {text}"


def _splits(metrics: Mapping[str, Mapping[str, float]], metric: str, n_test: int) -> Iterator[Finding]:
    valid, test = (metrics.get(split, {}).get(metric) for split in ("valid", "test"))
    if valid is None or test is None or valid - test <= Z * np.sqrt(max(test * (1 - test), 1e-9) * 2 / n_test):
        return
    text = f"test {metric} ({test:.3f}) is below valid ({valid:.3f}) by more than noise"
    why = "the splits differ, or much was chosen on valid"
    yield Finding(WARNING, f"{text}: {why}.", "mmtab prepare check FOLDER compares the splits")


def _fit(
    curves: Sequence[Mapping[str, float]], metric: str, config: RunConfig, error: float
) -> tuple[Finding | None, str]:
    """What the curves of valid say of the training, and what follows. Changes of the score within its standard error
    count as none."""
    rows = [row for row in curves if f"valid/{metric}" in row]
    if len(rows) < 2:
        return None, ""
    loss, title = ("valid/log_loss", "log-loss") if "valid/log_loss" in rows[0] else ("valid/rmse", "RMSE")
    values, losses = ([row.get(name, np.nan) for row in rows] for name in (f"valid/{metric}", loss))
    best, n, lowest = int(np.nanargmax(values)), len(rows), int(np.nanargmin(losses))
    before = n - 1 - max(1, n // 4)
    rises, falls = values[-1] - values[before] > error, values[best] - values[-1] > error
    more = f"more epochs, trainer.max_epochs={2 * n}"
    if config.trainer.max_minutes is not None:
        more = f"more time, trainer.max_minutes={2 * config.trainer.max_minutes:g}"
    risen = losses[-1] > RISEN * losses[lowest]
    fell = f"valid {title} fell to {losses[lowest]:.3f} in epoch {lowest + 1} and rose to {losses[-1]:.3f}"
    if risen and falls:
        text = f"It overfits: {fell}; {metric} was {values[best]:.3f} in epoch {best + 1} and"
        lr, decay = f"trainer.lr={config.trainer.lr / 2:g}", f"trainer.weight_decay={config.trainer.weight_decay * 3:g}"
        return Finding(WARNING, f"{text} {values[-1]:.3f} at the end."), f"{lr}, {decay}, or fusion=mean"
    if rises:
        text = f"It could learn longer: valid {metric} still rose, from {values[before]:.3f} in epoch {before + 1} to"
        return Finding(WARNING, f"{text} {values[-1]:.3f} in the last, {n}."), more
    text = f"It learnt long enough: valid {metric} was best in epoch {best + 1} of {n} ({values[best]:.3f}), and"
    text += f" changed at the end by less than its standard error ({error:.3f})."
    by = "area under the precision-recall curve" if "valid/pr_auc" in rows[0] else title
    text += f" The epoch that is kept is chosen by valid {by}." if by != "RMSE" else ""
    return Finding(PLAIN if risen else GOOD, text + (f" But {fell}: it grew too sure." if risen else "")), ""


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
            describe = f"look at these columns with mmtab prepare describe FOLDER; or dataset.drop=[{name}]"
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

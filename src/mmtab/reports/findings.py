"""A run in words: whether it learnt, what it uses, where it errs, whether to trust its probabilities, what to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtab.config.types import RunConfig
from mmtab.reports.predictions import LEAST_SLICE, Outcome, Z

RISEN = 1.1  # valid log-loss over its best, from which it counts as risen
NEAR = 0.01  # of a score


@dataclass(frozen=True)
class Finding:
    """``kind``: good, warning or plain. ``tries``: what to do about it, as settings where there are some."""

    kind: str
    text: str
    tries: str = ""


def findings(
    config: RunConfig,
    outcomes: Sequence[Outcome],
    metrics: Mapping[str, Mapping[str, float]],
    curves: Sequence[Mapping[str, float]],
    slices: Sequence[Mapping[str, Any]],
    ablation: Mapping[str, Any] | None,
) -> list[Finding]:
    """The most important first."""
    schema = outcomes[0].schema
    found = [*_learnt(outcomes, metrics, schema.ceiling, schema.metric)]
    found += _curves(curves, schema.metric, config)
    if ablation is not None:
        found += _modalities(ablation, config)
    for outcome in outcomes:
        found += _trust(outcome)
        found += _errors(outcome)
    for each in slices:
        if each["high"] < 0:
            found.append(
                Finding("warning", f"It is worse on rows with {each['slice']}: {each['score']:.3f}, and {each['rest']:.3f} on the rest ({each['rows']} rows).")
            )  # fmt: skip
    return found


def _learnt(
    outcomes: Sequence[Outcome],
    metrics: Mapping[str, Mapping[str, float]],
    ceiling: float | None,
    metric: str,
) -> list[Finding]:
    found = []
    for outcome in outcomes:
        label = outcome.label
        if outcome.threshold is None:
            chance = float(np.bincount(label).max() / len(label))
            what = "always saying the commonest class gives"
        else:
            share = float((label == 1).mean())
            chance, what = 2 * share / (1 + share), "calling every pair a match gives"
        score = outcome.score()
        error = float(np.sqrt(max(chance * (1 - chance), 1e-9) / len(label)))
        of = f" for {outcome.relation}" if outcome.relation else ""
        text = f"{outcome.split} {outcome.score_name}{of} is {score:.3f}; {what} {chance:.3f}"
        good = score > chance + Z * error
        known = ceiling is not None and len(outcomes) == 1
        text += f", and the best that can be reached is {ceiling:.3f}." if known else "."
        tries = (
            ""
            if good
            else "check labels and columns with prepare_data.py check, and look at the learning curve; a higher trainer.lr, or more epochs"
        )
        found.append(
            Finding("good" if good else "warning", f"{'It learnt' if good else 'It learnt nothing'}: {text}", tries)
        )
    valid, test = (metrics.get(split, {}).get(metric) for split in ("valid", "test"))
    if valid is not None and test is not None and outcomes[0].split == "test":
        n = len(outcomes[0].label)
        noise = Z * float(np.sqrt(max(test * (1 - test), 1e-9) * 2 / n))
        if valid - test > noise:
            found.append(
                Finding("warning", f"test {metric} ({test:.3f}) is below valid ({valid:.3f}) by more than noise: the splits differ, or much was chosen on valid.", "prepare_data.py check compares the splits")
            )  # fmt: skip
    return found


def _curves(curves: Sequence[Mapping[str, float]], metric: str, config: RunConfig) -> list[Finding]:
    rows = [row for row in curves if f"valid/{metric}" in row]
    if len(rows) < 2:
        return []
    values, losses = ([row.get(name, np.nan) for row in rows] for name in (f"valid/{metric}", "valid/log_loss"))
    best, n = int(np.argmax(values)), len(rows)
    found = []
    if best == n - 1 and values[best] - values[-2] > 0.002:
        found.append(
            Finding("warning", f"valid {metric} still rose in the last epoch ({n}).", f"trainer.max_epochs={2 * n}")
        )
    lowest = int(np.nanargmin(losses))
    if losses[-1] > RISEN * losses[lowest]:
        found.append(
            Finding("warning", f"It overfits: valid log-loss fell to {losses[lowest]:.3f} in epoch {lowest + 1} and rose to {losses[-1]:.3f}, while {metric} was best in epoch {best + 1}.",
                    f"fewer epochs, trainer.lr={config.trainer.lr / 2:g}, trainer.weight_decay={config.trainer.weight_decay * 3:g}, or fusion=mean")
        )  # fmt: skip
    return found


def _modalities(found: Mapping[str, Any], config: RunConfig) -> list[Finding]:
    said, metric = [], found["metric"]
    order = sorted(found["modalities"], key=lambda name: -found["modalities"][name]["shapley"])
    used = [name for name in order if found["modalities"][name]["verdict"] != "unused"]
    if len(order) > 1 and used:
        parts = [f"{name} {found['modalities'][name]['shapley']:+.3f}" for name in order]
        said.append(
            Finding("plain", f"What contributes to {found['split']} {metric} ({found['score']:.3f}, of which {found['nothing']:.3f} without anything), most first: {', '.join(parts)}.")
        )  # fmt: skip
    for name in order:
        each = found["modalities"][name]
        change = f"taking it away changes {metric} by {-each['loss']:+.3f} (95 % interval {-each['high']:+.3f} to {-each['low']:+.3f}) and {each['changed']:.0%} of the predictions"
        if each["verdict"] == "unused":
            tries = {
                "image": "image.tuned=true or a greater image.size; or dataset.drop=[image]",
                "text": "text.n_tuned_layers=2, a longer text.max_length; or dataset.drop=[text]",
            }.get(name, f"look at these columns with prepare_data.py describe; or dataset.drop=[{name}]")
            said.append(
                Finding("warning", f"{name} is not used: {change}. Alone it reaches {each['alone']:.3f}.", tries)
            )
        elif each["verdict"] == "replaceable":
            said.append(
                Finding("plain", f"{name} is used, but the others know the same: {change}; alone it reaches {each['alone']:.3f}.")
            )  # fmt: skip
    idle = [name for name, each in found["columns"].items() if each["high"] <= NEAR and each["low"] <= 0 and abs(each["nats"]) < NEAR]  # fmt: skip
    if idle and len(idle) < len(found["columns"]):
        said.append(Finding("plain", f"Without these columns nothing changes: {', '.join(idle)}."))
    gains = [name for name, each in found["columns"].items() if each["high"] < 0]
    if gains:
        said.append(Finding("warning", f"It is better without {', '.join(gains)}, which it learnt too much of.", f"dataset.drop=[{','.join(gains)}]"))  # fmt: skip
    above = found["score"] - found["nothing"]
    for name, each in found["columns"].items():
        alone = found["modalities"][each["modality"]]["alone"]
        if len(found["columns"]) > 2 and above > 0.1 and each["low"] > 0.9 * above and alone > 0.9 * found["score"]:
            said.append(
                Finding("warning", f"Nearly all hangs on {name}: without it {metric} is {each['without']:.3f}.", f"make sure that {name} is not the label in disguise, and is known when you predict")
            )  # fmt: skip
    return said


def _trust(outcome: Outcome) -> list[Finding]:
    after, of = outcome.ece(), f" of {outcome.relation}" if outcome.relation else ""
    confidence, right, n = outcome.reliability()
    bias = float(((confidence - right) * n).sum() / n.sum())
    text = f"Probabilities{of} are off by {after:.3f} on average (expected calibration error)"
    if outcome.temperature != 1 and outcome.probability is not None:
        text += f"; it was {outcome.ece(scaled=False):.3f} before calibration ({outcome.scaling})"
    if after < 0.03:
        return [Finding("good", f"{text}: they can be trusted.")]
    if after < 0.08:
        return [Finding("plain", f"{text}.")]
    if outcome.threshold is None:
        said = "the model is too sure of itself" if bias > 0 else "the model is not sure enough"
    else:
        said = f"a match is {'more' if bias > 0 else 'less'} often expected than found,"
    return [
        Finding("warning", f"{text}: on {outcome.split} {said} by {abs(bias):.3f}. What was fitted on valid does not mend that.")
    ]  # fmt: skip


def _errors(outcome: Outcome) -> list[Finding]:
    wrong = int((~outcome.right).sum())
    found = []
    confusions = outcome.confusions()
    if outcome.threshold is None and wrong and len(outcome.classes) > 2:
        said = [f"{outcome.classes[a]} taken for {outcome.classes[b]} ({n})" for a, b, n in confusions[:3]]
        share = sum(n for *_, n in confusions[:3]) / wrong
        found.append(Finding("plain", f"Of {wrong:,} mistakes {share:.0%} are: {'; '.join(said)}."))
        bad = [each for each in outcome.by_class() if each["rows"] >= LEAST_SLICE and each["recall"] < 0.5]
        if bad:
            names = ", ".join(
                f"{each['class']} ({each['recall']:.2f})" for each in sorted(bad, key=lambda e: e["recall"])[:4]
            )
            found.append(
                Finding(
                    "warning",
                    f"Classes of which less than half is found: {names}.",
                    "kway_head.class_weights=true, or more rows of them",
                )
            )
    if outcome.threshold is not None and wrong:
        false = int(((outcome.said == 1) & (outcome.label == 0)).sum())
        of = f" of {outcome.relation}" if outcome.relation else ""
        found.append(
            Finding("plain", f"Of {wrong:,} mistakes{of} {false:,} are false matches and {wrong - false:,} missed ones, at the threshold {outcome.threshold:.3g}.", "predict cost=… where the one costs more than the other")
        )  # fmt: skip
    return found

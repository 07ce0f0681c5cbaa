"""Losses, metrics and thresholds against scikit-learn, torchmetrics and plain definitions; the optimiser's groups."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, MulticlassAccuracy, MulticlassF1Score

from mmtab.training import metrics
from mmtab.training.metrics import best_threshold, unscaled
from mmtab.training.optim import parameter_groups, warmup_cosine
from mmtab.training.predictions import Predictions
from mmtab.training.tasks import KWayTask, PairTask

SEEDS = range(8)


def pair_metrics(probability: np.ndarray, label: np.ndarray, threshold: float) -> dict[str, float]:
    return metrics.pair_metrics(label, probability >= threshold, probability)


def kway_case(seed: int, k: int, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    return rng.normal(0, 1.5, (n, k)) + 1.5 * np.eye(k)[label], label


def pair_case(seed: int, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < rng.uniform(0.1, 0.9)).astype(np.int64)
    label[:2] = 0, 1
    return rng.normal(label * 1.0, 1.0).round(1), label


# --- k-way -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [2, 3, 7])
def test_kway_metrics(seed: int, k: int) -> None:
    logits, label = kway_case(seed, k)
    task = KWayTask(k)
    probabilities = task.probabilities(logits)
    torch.testing.assert_close(torch.tensor(probabilities), torch.tensor(logits).softmax(1))
    found = task.metrics(probabilities, label)
    p, y = torch.tensor(probabilities), torch.tensor(label)
    assert found["accuracy"] == pytest.approx(MulticlassAccuracy(k, average="micro")(p, y).item())
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(label, logits.argmax(1)))
    assert found["macro_f1"] == pytest.approx(MulticlassF1Score(k, average="macro")(p, y).item(), abs=1e-6)
    assert found["log_loss"] == pytest.approx(F.cross_entropy(torch.tensor(logits), y).item())
    assert ("top5" in found) == (k > 5)
    if k > 5:
        five = np.argsort(-probabilities, 1)[:, :5]
        assert found["top5"] == pytest.approx((five == label[:, None]).any(1).mean())
    assert found["ece"] == pytest.approx(calibration_error(probabilities, label), abs=1e-5)
    assert all(type(value) is float for value in found.values())


def calibration_error(probabilities: np.ndarray, label: np.ndarray, n_bins: int = 15) -> float:
    confidence, right = probabilities.max(1), probabilities.argmax(1) == label
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    return sum(
        abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)
    )


def test_perfect_kway_predictions() -> None:
    task, label = KWayTask(7), np.arange(7)
    found = task.metrics(task.probabilities(np.eye(7) * 1e4), label)
    assert found == pytest.approx({"accuracy": 1, "macro_f1": 1, "log_loss": 0, "top5": 1, "ece": 0}, abs=1e-9)


def test_kway_metrics_of_a_split_with_one_class() -> None:
    logits, _ = kway_case(0, 7)
    found = KWayTask(7).metrics(KWayTask(7).probabilities(logits), np.full(len(logits), 3))
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == 3).mean())
    assert all(math.isfinite(value) for value in found.values())


def test_huge_logits_overflow_nowhere() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert KWayTask(2).probabilities(np.array([[1e5, -1e5]])).tolist() == [[1, 0]]
        assert PairTask().probabilities(np.array([-1e5, 0.0, 1e5])).tolist() == [0, 0.5, 1]


def test_label_smoothing_shares_a_part_among_all_classes() -> None:
    logits, label = torch.randn(20, 4), torch.randint(0, 4, (20,))
    target = F.one_hot(label, 4) * 0.8 + 0.2 / 4
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(KWayTask(4, label_smoothing=0.2).loss(logits, label), expected)
    assert not torch.isclose(KWayTask(4).loss(logits, label), expected)


def test_class_weights_are_scikit_learns_balanced_ones() -> None:
    label = np.array([0] * 12 + [1] * 3 + [2])
    weight = compute_class_weight("balanced", classes=np.arange(3), y=label)
    task = KWayTask(3, class_counts=np.bincount(label))
    assert task.weight is not None
    np.testing.assert_allclose(task.weight.numpy(), weight, rtol=1e-6)
    logits = torch.randn(16, 3)
    each = F.cross_entropy(logits, torch.tensor(label), reduction="none")
    w = torch.tensor(weight[label], dtype=torch.float32)
    torch.testing.assert_close(task.loss(logits, torch.tensor(label)), (each * w).sum() / w.sum())
    empty = KWayTask(3, class_counts=np.array([5, 5, 0]))
    assert empty.weight is not None and empty.weight.isfinite().all()


def test_losses_are_computed_in_float32() -> None:
    logits, label = torch.randn(8, 3).bfloat16(), torch.randint(0, 3, (8,))
    assert KWayTask(3).loss(logits, label).dtype == torch.float32
    assert PairTask().loss(logits[:, :1], label.clamp(max=1)[:, None]).dtype == torch.float32


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_pair_metrics(seed: int) -> None:
    logits, label = pair_case(seed)
    probabilities = PairTask().probabilities(logits)
    np.testing.assert_allclose(probabilities, torch.tensor(logits).sigmoid())
    found, predicted = pair_metrics(probabilities, label, 0.6), probabilities >= 0.6
    hits = (predicted & (label == 1)).sum()
    assert found["precision"] == pytest.approx(hits / predicted.sum())
    assert found["recall"] == pytest.approx(hits / label.sum())
    assert found["f1"] == pytest.approx(2 * hits / (predicted.sum() + label.sum()))
    p, y = torch.tensor(probabilities), torch.tensor(label)
    assert found["pr_auc"] == pytest.approx(BinaryAveragePrecision()(p, y).item(), abs=1e-6)
    assert found["roc_auc"] == pytest.approx(BinaryAUROC()(p, y).item(), abs=1e-6)
    assert found["log_loss"] == pytest.approx(
        F.binary_cross_entropy_with_logits(torch.tensor(logits), y.double()).item()
    )
    assert all(type(value) is float for value in found.values())


def best_f1(probabilities: np.ndarray, label: np.ndarray) -> float:
    return max(sk.f1_score(label, probabilities >= t, zero_division=0) for t in np.unique(probabilities))


@pytest.mark.parametrize("seed", range(30))
def test_the_threshold_has_the_best_f1(seed: int) -> None:
    logits, label = pair_case(seed, n=40)
    probabilities = PairTask().probabilities(logits)
    found = pair_metrics(probabilities, label, best_threshold(probabilities, label))
    assert found["f1"] == pytest.approx(best_f1(probabilities, label))


@pytest.mark.parametrize("seed", range(30))
def test_the_threshold_stands_up_to_saturated_scores(seed: int) -> None:
    """Neighbouring floating-point numbers have no half-way point between them."""
    rng = np.random.default_rng(seed)
    levels = 1.0 - np.arange(4) * 2.0**-53  # 1 and the three numbers just below it
    place = rng.permutation(np.arange(30) % 4)
    label = ((place <= seed % 3) ^ (rng.random(30) < 0.1)).astype(np.int64)
    probabilities = levels[place]
    found = pair_metrics(probabilities, label, best_threshold(probabilities, label))
    assert found["f1"] == pytest.approx(best_f1(probabilities, label))


def test_the_threshold_lies_half_way_to_the_next_score() -> None:
    probabilities, label = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])
    assert best_threshold(probabilities, label) == pytest.approx(0.5)
    assert pair_metrics(probabilities, label, 0.5)["f1"] == 1


def test_the_threshold_where_everything_should_match() -> None:
    probabilities, label = np.array([0.3, 0.4, 0.5]), np.array([1, 0, 1])
    threshold = best_threshold(probabilities, label)
    assert threshold == pytest.approx(0.3) and pair_metrics(probabilities, label, threshold)["recall"] == 1


@pytest.mark.parametrize("only", [0, 1])
def test_pairs_of_one_class_have_no_ranking_and_no_threshold(only: int) -> None:
    probabilities, label = np.array([0.2, 0.7]), np.array([only, only])
    assert best_threshold(probabilities, label) == 0.5
    found = pair_metrics(probabilities, label, 0.5)
    assert set(found) == {"f1", "precision", "recall", "log_loss"}
    assert found["f1"] == pytest.approx(2 / 3 if only else 0)
    assert all(math.isfinite(value) for value in found.values())


def test_perfect_pair_predictions() -> None:
    found = pair_metrics(np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1]), 0.5)
    assert found == pytest.approx(
        {"f1": 1, "precision": 1, "recall": 1, "pr_auc": 1, "roc_auc": 1, "log_loss": 0}, abs=1e-9
    )


def test_no_area_under_a_curve_exceeds_one() -> None:
    """scikit-learn's does, by its last digit, for some numbers of perfectly ranked pairs."""
    areas = []
    for n in range(1, 100):
        label = np.repeat([0, 1], [2, n])
        areas.append(pair_metrics(np.linspace(0.01, 0.99, n + 2), label, 0.5)["pr_auc"])
    assert max(areas) == 1 and min(areas) > 1 - 1e-9


def test_each_relation_has_its_own_threshold_and_metrics() -> None:
    logits, label = (np.stack(side, 1) for side in zip(pair_case(0), pair_case(1), strict=True))
    task = PairTask(["duplicate", "variant"])
    probabilities = task.probabilities(logits)
    rows = np.arange(len(label))
    task.fit_threshold(Predictions(rows, label, probabilities))
    found = task.metrics(probabilities, label)
    for r, name in enumerate(task.relations):
        alone = pair_metrics(probabilities[:, r], label[:, r], best_threshold(probabilities[:, r], label[:, r]))
        assert {key: found[f"{name}/{key}"] for key in alone} == alone
    assert found["f1"] == pytest.approx((found["duplicate/f1"] + found["variant/f1"]) / 2)
    single = PairTask()
    single.fit_threshold(Predictions(rows, label[:, :1], probabilities[:, :1]))
    assert set(single.metrics(probabilities[:, :1], label[:, :1])) == set(alone)


def test_pos_weight_counts_matches_more() -> None:
    logits, label = torch.randn(20, 1), torch.randint(0, 2, (20, 1))
    each = F.binary_cross_entropy_with_logits(logits, label.float(), reduction="none")
    torch.testing.assert_close(PairTask().loss(logits, label), each.mean())
    torch.testing.assert_close(PairTask(pos_weight=3.0).loss(logits, label), (each * (1 + 2 * label)).mean())


# --- optimisation ----------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """A pretrained part, an embedding, a norm, a linear layer, and a layer that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"backbone": nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4))})
        self.embedding, self.norm, self.linear = nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)
        self.fixed = nn.Linear(4, 4).requires_grad_(False)


def test_every_trainable_parameter_is_in_its_group() -> None:
    network = Network()
    names = {id(p): name for name, p in network.named_parameters()}
    found: dict[str, tuple[Any, Any]] = {}
    for group in parameter_groups(network, lr=1e-3, backbone_lr=1e-5, weight_decay=0.1):
        for parameter in group["params"]:  # type: ignore[attr-defined]
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    assert found == {
        "encoder.backbone.0.weight": (1e-5, 0.0),
        "encoder.backbone.1.weight": (1e-5, 0.1),
        "encoder.backbone.1.bias": (1e-5, 0.0),
        "embedding.weight": (1e-3, 0.0),
        "norm.weight": (1e-3, 0.0),
        "norm.bias": (1e-3, 0.0),
        "linear.weight": (1e-3, 0.1),
        "linear.bias": (1e-3, 0.0),
    }


@pytest.mark.parametrize(("n_steps", "fraction"), [(100, 0.1), (10, 0.5), (7, 0.0), (1, 0.1), (5, 1.0)])
def test_the_rate_rises_in_a_line_and_falls_in_a_cosine(n_steps: int, fraction: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, lambda: n_steps, fraction)
    rates = []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    n_warmup = max(1, round(n_steps * fraction))
    np.testing.assert_allclose(rates[:n_warmup], 2.0 * np.arange(1, n_warmup + 1) / n_warmup)
    done = np.arange(n_steps - n_warmup) / max(1, n_steps - n_warmup)
    np.testing.assert_allclose(rates[n_warmup:], 1 + np.cos(np.pi * done), atol=1e-12)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0 if n_steps > n_warmup else 2, abs=1e-9)


def test_the_rate_falls_to_nothing_by_an_earlier_end() -> None:
    optimizer, n_steps = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0), 100
    schedule = warmup_cosine(optimizer, lambda: n_steps, 0.1)
    for step in range(60):
        n_steps = 100 if step < 40 else 60
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_temperature_makes_probabilities_true(temperature: float) -> None:
    """Labels are drawn from logits that the model then states too boldly, or too timidly."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(20_000, 4)) * 2
    task, pairs = KWayTask(4), PairTask(("a", "b"))
    label = (task.probabilities(truth).cumsum(1) < rng.random((len(truth), 1))).sum(1)
    said = torch.from_numpy(truth * temperature)
    before = task._summary(said, torch.from_numpy(label), torch.arange(len(label)))
    task.calibrate(before, label)
    assert task.temperatures[0] == pytest.approx(temperature, rel=0.05)
    after = task._summary(task._scaled(said), torch.from_numpy(label), torch.arange(len(label)))
    assert (after.best == before.best).all(), "it changes no ranking"
    found, raw = task.metrics_of(after), KWayTask(4).metrics_of(before)
    assert found["ece"] < 0.02 and found["log_loss"] <= raw["log_loss"] + 1e-9 and found["accuracy"] == raw["accuracy"]
    if temperature != 1.0:
        assert found["ece_unscaled"] == pytest.approx(raw["ece"], abs=1e-5) and raw["ece"] > 0.05
    yes = (rng.random((len(truth), 2)) < pairs.probabilities(truth[:, :2])).astype(np.int64)
    yes[:, 1] = 1
    logits = truth[:, :2] * temperature - 1.5 * (temperature != 1)
    raw = pairs.probabilities(logits)
    pairs.calibrate(Predictions(np.arange(len(yes)), yes, raw), yes)
    assert pairs.temperatures == pytest.approx([temperature, 1.0], rel=0.08), "one kind of label says nothing"
    assert PairTask(("a", "b")).temperatures.tolist() == [1, 1]
    bias = 0 if temperature == 1 else 1.5 / temperature
    assert pairs.biases == pytest.approx([bias, 0], abs=0.08)
    calibrated = pairs.probabilities(logits)[:, 0]
    np.testing.assert_allclose(calibrated, PairTask().probabilities(truth[:, :1])[:, 0], atol=0.03)
    two = np.stack([1 - calibrated, calibrated], 1)
    np.testing.assert_allclose(unscaled(two, pairs.temperatures[0], pairs.biases[0])[:, 1], raw[:, 0], atol=1e-9)


def test_without_labels_or_of_very_many_classes_there_is_no_temperature() -> None:
    task, train = KWayTask(3), np.arange(30) % 3
    task.calibrate(Predictions(np.arange(2), np.array([-1, -1]), np.full((2, 3), 1 / 3, np.float32)), train)
    assert "valid has 0 labelled rows" in task.left_out["temperature"]
    task.calibrate(Predictions(np.arange(2), np.array([0, 1]), None), train)
    assert task.temperatures.tolist() == [1]


def timid(label: np.ndarray, k: int, n_wrong: int) -> Predictions:
    """Of a model that is far too timid, and wrong in the first rows."""
    said = label.copy()
    said[:n_wrong] = (said[:n_wrong] + 1) % k
    p = np.full((len(label), k), 0.4 / (k - 1), np.float32)
    p[np.arange(len(label)), said] = 0.6
    task = KWayTask(k)
    return task._summary(torch.from_numpy(p).log(), torch.from_numpy(label), torch.arange(len(label)))


BALANCED = np.arange(300) % 3
KWAY_EVIDENCE = {  # labels of valid, number of errors, those of train, and what is said
    "one row": (np.array([0]), 0, BALANCED, "valid has 1 labelled rows, fewer than 20"),
    "a handful": (np.arange(19) % 3, 4, BALANCED, "fewer than 20"),
    "one class": (np.zeros(60, int), 4, BALANCED, "all 60 rows of valid have one label"),
    "a class is absent": (np.arange(60) % 2, 4, BALANCED, "valid lacks 1 of 3 classes"),
    "no errors": (np.arange(60) % 3, 0, BALANCED, "the model errs on 0 rows of valid"),
    "few errors": (np.arange(60) % 3, 2, BALANCED, "the model errs on 2 rows of valid"),
    "enough": (np.arange(60) % 3, 3, BALANCED, ""),
    "a rare class is absent": (np.arange(60) % 2, 4, np.append(np.arange(600) % 2, 2), ""),
    "some of many classes are absent": (np.arange(200) % 37, 9, np.arange(4000) % 40, ""),
}


@pytest.mark.parametrize("case", KWAY_EVIDENCE)
def test_a_temperature_needs_evidence(case: str) -> None:
    label, n_wrong, train, why = KWAY_EVIDENCE[case]
    k = int(train.max()) + 1
    task, predictions = KWayTask(k), timid(label, k, n_wrong)
    task.calibrate(predictions, train)
    task.fit_confidence(predictions, train)
    assert why in task.left_out.get("temperature", "") and bool(why) == ("temperature" in task.left_out)
    assert (task.temperatures[0] == 1) == bool(why), "it would be far below 1"
    measured = not why or "errs" in why
    assert ("confidence quantiles" in task.left_out) != measured == (task.least_confidence(0.9) is not None)
    assert KWayTask(k).state_dict().keys() == task.state_dict().keys()


PAIR_EVIDENCE = {  # matches, others, pairs on the wrong side, and whether threshold and probabilities are fitted
    "no match": (0, 60, 0, False, False),
    "few matches": (4, 60, 3, False, False),
    "few others": (60, 4, 3, False, False),
    "few pairs": (9, 10, 4, False, False),
    "all told apart": (30, 60, 0, True, False),
    "few errors": (30, 60, 2, True, False),
    "enough": (80, 160, 8, True, True),
}


@pytest.mark.parametrize("case", PAIR_EVIDENCE)
def test_thresholds_and_probabilities_of_pairs_need_evidence(case: str) -> None:
    """The second relation has enough, whatever the first has; its raw scores are biased."""
    n_matches, n_others, n_wrong, has_threshold, has_temperature = PAIR_EVIDENCE[case]
    n = n_matches + n_others
    rng = np.random.default_rng(0)
    label = np.stack([np.arange(n) < n_matches, rng.random(n) < 0.4], 1).astype(np.int64)
    side = np.where(label, 2.0, -2.0)
    side[:n_wrong, 0] *= -1
    side[rng.random(n) < 0.2, 1] *= -1
    task = PairTask(("a", "b"))
    predictions = Predictions(np.arange(n), label, task.probabilities(side * 0.3 + 1 + rng.random((n, 2)) / 9))
    task.calibrate(predictions, label)
    task.fit_threshold(predictions)
    assert ("threshold of a" not in task.left_out) == has_threshold
    assert ("temperature of a" not in task.left_out) == has_temperature
    assert (task.thresholds[0] != 0.5) == has_threshold and (task.biases[0] != 0) == has_temperature
    if n >= 20:
        assert task.thresholds[1] != 0.5 and not {"threshold of b", "temperature of b"} & set(task.left_out)


@pytest.mark.parametrize("seed", SEEDS)
def test_fewest_errors_of_any_threshold(seed: int) -> None:
    score, label = pair_case(seed)
    cuts = [-np.inf, *np.unique(score), np.inf]
    assert metrics.fewest_errors(score, label) == min(int(((score >= cut) != label).sum()) for cut in cuts)


def test_a_temperature_without_an_end_is_none() -> None:
    """One wrong row that was all but even: the sharper the better, without end."""
    logits = np.tile([0.5, 0.0], (40, 1))
    logits[:3] = [1e-9, 0.0]
    label = np.zeros(40, int)
    label[:3] = 1
    assert metrics.best_temperature(logits, label) == 1.0

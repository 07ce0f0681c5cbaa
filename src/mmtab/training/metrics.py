"""Metrics of plain arrays, their calibration and their confidence intervals: the one owner, imported without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

N_BINS = 15  # of confidence
N_DRAWS = 1000
MIN_ROWS, MIN_MATCHES, MIN_ERRORS = 20, 5, 3  # of valid, before something is fitted on them
LACKS = 0.01  # chance of a class to be absent below which its absence is no accident
_BLOCK = 50  # draws at a time. Fixed, so that draws of one seed are the same whatever is measured on them


def macro_f1(predicted: np.ndarray, label: np.ndarray, n_classes: int) -> float:
    """The mean over the classes that occur, as label or as prediction. scikit-learn's, which would warn of so many."""
    said, there = (np.bincount(x, minlength=n_classes) for x in (predicted, label))
    both = np.bincount(label[predicted == label], minlength=n_classes)
    occurs = said + there > 0
    return float((2 * both[occurs] / (said + there)[occurs]).mean())


def best_threshold(probability: np.ndarray, label: np.ndarray) -> float:
    """The threshold with the best F1; half-way to the next lower score, so that it does not hang on one pair."""
    from sklearn.metrics import precision_recall_curve

    if label.min() == label.max():
        return 0.5
    precision, recall, scores = precision_recall_curve(label, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    below = scores[best - 1] if best > 0 else scores[best]
    half_way = (scores[best] + below) / 2  # neighbouring floats have nothing between them
    return float(half_way if half_way > below else scores[best])


def class_metrics(y_true: np.ndarray, y_pred: np.ndarray, probability: np.ndarray | None = None) -> dict[str, float]:
    """Accuracy, macro-F1 and, of probabilities [n, k], log-loss and, of two classes, the area under the ROC curve;
    classes [n]."""
    from sklearn import metrics

    values = {
        "accuracy": metrics.accuracy_score(y_true, y_pred),
        "macro_f1": metrics.f1_score(y_true, y_pred, average="macro", zero_division=0),
    }
    if probability is not None:
        p = probability / probability.sum(1, keepdims=True)
        values["log_loss"] = metrics.log_loss(y_true, p, labels=range(p.shape[1]))
        if p.shape[1] == 2 and y_true.min() < y_true.max():
            values["roc_auc"] = metrics.roc_auc_score(y_true, p[:, 1])
    return {name: float(value) for name, value in values.items()}


def pair_metrics(y_true: np.ndarray, y_pred: np.ndarray, probability: np.ndarray | None = None) -> dict[str, float]:
    """F1, precision and recall of one relation; of probabilities of a match also log-loss and, where both labels occur,
    the areas under the precision-recall and the ROC curve. All arrays [n]."""
    from sklearn import metrics

    rates = metrics.precision_recall_fscore_support(y_true, y_pred, average="binary", zero_division=0)
    values = {"f1": rates[2], "precision": rates[0], "recall": rates[1]}
    if probability is not None:
        if y_true.min() < y_true.max():
            values["pr_auc"] = average_precision(y_true, probability)
            values["roc_auc"] = metrics.roc_auc_score(y_true, probability)
        values["log_loss"] = metrics.log_loss(y_true, probability, labels=[0, 1])
    return {name: float(value) for name, value in values.items()}


def average_precision(y_true: np.ndarray, probability: np.ndarray) -> float:
    """The area under the precision-recall curve; all arrays [n]. scikit-learn's sum may exceed 1 in its last digit."""
    from sklearn.metrics import average_precision_score

    return min(1.0, float(average_precision_score(y_true, probability)))


def number_metrics(
    y_true: np.ndarray, y_pred: np.ndarray, interval: tuple[np.ndarray, np.ndarray] | None = None
) -> dict[str, float]:
    """R² and, in the unit of the label, root mean squared and mean absolute error; of intervals, lower and upper
    bounds, the share of labels within and the mean width. All arrays [n]. R² of labels that are all equal is 0, or 1
    where they are predicted exactly, as scikit-learn has it."""
    error = y_true - y_pred
    squares, around_mean = np.square(error).sum(), np.square(y_true - y_true.mean()).sum()
    values = {
        "r2": 1 - squares / around_mean if around_mean else float(squares == 0),
        "rmse": np.sqrt(squares / len(error)),
        "mae": np.abs(error).mean(),
    }
    if interval is not None:
        low, high = interval
        values |= {
            "interval_coverage": ((low <= y_true) & (y_true <= high)).mean(),
            "interval_width": (high - low).mean(),
        }
    return {name: float(value) for name, value in values.items()}


def means_over_relations(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric that every relation has."""
    names = [name for name in metrics[0] if all(name in values for values in metrics)]
    return {name: float(np.mean([values[name] for values in metrics])) for name in names}


def calibration_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int = N_BINS) -> float:
    """Expected calibration error (Guo et al. 2017): the mean distance between confidence and accuracy over bins of
    equal width, weighted by their rows. In float32, as torchmetrics' (a confidence of 1 is a bin of its own)."""
    import torch

    x, hits = torch.from_numpy(confidence).float(), torch.from_numpy(correct).float()
    bins = torch.bucketize(x, torch.linspace(0, 1, n_bins + 1), right=True) - 1
    n, sum_x, sum_hits = (
        torch.zeros(n_bins + 1).scatter_add_(0, bins, values) for values in (torch.ones_like(x), x, hits)
    )
    gaps = (torch.nan_to_num(sum_hits / n) - torch.nan_to_num(sum_x / n)).abs()
    return (gaps * (n / n.sum())).sum().item()


def too_few(label: np.ndarray, train: np.ndarray | None = None, of: str = "valid") -> str:
    """Why nothing should be fitted on rows of valid with these labels, or nothing: they are a handful, of one class, or
    lack a class that is so common among the labels of ``train`` that as many rows drawn at random would have it.
    ``of`` names the rows."""
    if len(label) < MIN_ROWS:
        return f"{of} has {len(label)} labelled rows, fewer than {MIN_ROWS}"
    present = np.unique(label)
    if len(present) == 1:
        return f"all {len(label)} rows of {of} have one label"
    classes, counts = np.unique(label if train is None else train[train >= 0], return_counts=True)
    chance = len(classes) * np.exp(-len(label) * counts / counts.sum())  # of any class (Bonferroni)
    n_lacking = int((~np.isin(classes, present) & (chance < LACKS)).sum())
    return f"{of} lacks {n_lacking} of {len(classes)} classes" if n_lacking else ""


def too_few_matches(label: np.ndarray, of: str = "valid") -> str:
    """As ``too_few``, of pairs with labels 0 and 1."""
    n = int(label.sum()), int(len(label) - label.sum())
    few = f"{of} has {n[0]} matches and {n[1]} others, of which one is fewer than {MIN_MATCHES}"
    return too_few(label, of=of) or (few if min(n) < MIN_MATCHES else "")


def too_few_errors(n: int) -> str:
    """Why no probabilities should be fitted: without errors they are the truer the nearer to 0 and 1, without end."""
    return f"the model errs on {n} rows of valid, fewer than {MIN_ERRORS}" if n < MIN_ERRORS else ""


def fewest_errors(score: np.ndarray, label: np.ndarray) -> int:
    """Of labels 0 and 1 [n] with the threshold of scores [n] that has the fewest."""
    _, place = np.unique(score, return_inverse=True)
    below = np.cumsum([np.bincount(place, label), np.bincount(place, 1 - label)], 1)  # matches, others up to a score
    return int(min(label.sum(), len(label) - label.sum(), (below[0] + below[1, -1] - below[1]).min()))


def best_temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """The divisor of logits [n, k] that makes labels [n] likeliest (Guo et al. 2017), from e^-3 to e^3; 1 where it
    lowers their log-loss by less than three standard errors, for then it may be noise, or owed to the epoch, which was
    chosen on these rows, and elsewhere do harm. 1 also where the likeliest has no end within those bounds."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(label))

    def losses(log_temperature: float) -> np.ndarray:
        return -log_softmax(logits / np.exp(log_temperature), 1)[rows, label]

    found = minimize_scalar(lambda t: losses(t).mean(), bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-4})
    inside = abs(found.x) < 2.99
    return float(np.exp(found.x)) if inside and _is_beyond_noise(losses(0.0) - losses(float(found.x))) else 1.0


def best_sigmoid(logit: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Temperature and bias: the sigmoid of logit / temperature + bias makes labels [n], 0 or 1, of logits [n] likeliest
    (Platt 1999). Pairs need the bias, for they are learnt among mined non-matches, of which there are more than
    elsewhere. 1 and 0 where that may be noise, as with ``best_temperature``."""
    from scipy.optimize import minimize

    def losses(log_temperature: float, bias: float) -> np.ndarray:
        z = logit / np.exp(log_temperature) + bias
        return np.logaddexp(0, z) - label * z

    found = minimize(lambda x: losses(*x).mean(), [0.0, 0.0], bounds=[(-3, 3), (-10, 10)], method="L-BFGS-B").x
    inside = abs(found[0]) < 2.99 and abs(found[1]) < 9.99
    if inside and _is_beyond_noise(losses(0, 0) - losses(*found)):
        return float(np.exp(found[0])), float(found[1])
    return 1.0, 0.0


def unscaled(probability: np.ndarray, temperature: float, bias: float = 0.0) -> np.ndarray:
    """[n, k] what the probabilities would be without the temperature, and of a match (k = 2) without the bias."""
    from scipy.special import softmax

    logits = np.log(probability.astype(np.float64).clip(1e-300))
    if bias:
        logits[:, 1] -= bias
    return softmax(logits * temperature, axis=1)


def _is_beyond_noise(gain: np.ndarray) -> bool:
    return bool(gain.mean() > 3 * gain.std() / np.sqrt(len(gain)))


# --- how sure a score is ----------------------------------------------------------------------------------------------


def bootstrap(
    label: np.ndarray, predictions: np.ndarray, metric: str, n_classes: int, n_draws: int = N_DRAWS, seed: int = 0
) -> np.ndarray | None:
    """[n_draws, s]: a metric of s predictions [s, n, r] against label [n, r] on rows drawn with replacement, the same
    rows for all predictions (Efron and Tibshirani 1993, paired); n rows, r relations. None for metrics that take
    probabilities.

    A draw is how often each row came, so a metric is made of products of those weights with what is true of the rows.
    """
    n = len(label)
    if metric not in ("accuracy", "macro_f1", "f1", "r2") or not n:
        return None
    if metric == "r2":
        return _r2(label[:, 0], predictions[:, :, 0], n_draws, seed)
    if metric == "macro_f1":
        parts = [
            _macro_f1(weights, label[:, 0], predictions[:, :, 0], n_classes) for weights in _weights(n, n_draws, seed)
        ]
    elif metric == "accuracy":
        right = (predictions[:, :, 0] == label[:, 0]).T.astype(np.float32)
        parts = [weights @ right / n for weights in _weights(n, n_draws, seed)]
    else:
        said, so = (predictions == 1).transpose(1, 0, 2), (label == 1)[:, None]  # [n, s, r], [n, 1, r]
        shape = said.shape[1:]
        hits, said_or_so = (x.reshape(n, -1).astype(np.float32) for x in (said & so, said.astype(np.int8) + so))
        parts = [
            _f1(weights @ hits, weights @ said_or_so).reshape(-1, *shape).mean(2)
            for weights in _weights(n, n_draws, seed)
        ]
    return np.concatenate(parts).astype(np.float64)


def _weights(n: int, n_draws: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks [draws, n] float32 of how often each row was drawn; float32 counts exactly up to 2^24."""
    generator = np.random.default_rng(seed)
    for start in range(0, n_draws, _BLOCK):
        rows = generator.integers(0, n, (_BLOCK, n)) + n * np.arange(_BLOCK)[:, None]
        counts = np.bincount(rows.ravel(), minlength=_BLOCK * n).reshape(_BLOCK, n)
        yield counts[: n_draws - start].astype(np.float32)


def _r2(label: np.ndarray, predictions: np.ndarray, n_draws: int, seed: int) -> np.ndarray:
    """[draws, s] of numbers [n] and [s, n]."""
    y = label - label.mean()
    squares = np.stack([np.square(y), y, *np.square(predictions - label)], 1)
    sums = np.concatenate([weights.astype(np.float64) @ squares for weights in _weights(len(y), n_draws, seed)])
    around_mean = sums[:, :1] - np.square(sums[:, 1:2]) / len(y)
    return 1 - sums[:, 2:] / np.maximum(around_mean, np.finfo(np.float64).tiny)


def _f1(hits: np.ndarray, said_or_so: np.ndarray) -> np.ndarray:
    """Of twice the hits over what was said plus what is so; 0 where that is nothing."""
    return 2 * hits / np.maximum(said_or_so, 1)


def _macro_f1(weights: np.ndarray, label: np.ndarray, predictions: np.ndarray, n_classes: int) -> np.ndarray:
    """[draws, s]: the mean over classes that occur in a draw. Sparse, for of a row's classes all but two are 0."""
    from scipy import sparse

    s, n = predictions.shape

    def one_hot(classes: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """[s, k, draws] of classes [s', n]."""
        places = (classes + n_classes * np.arange(len(classes))[:, None])[keep]
        rows = np.broadcast_to(np.arange(n), classes.shape)[keep]
        matrix = sparse.csr_matrix((np.ones(len(rows), np.float32), (places, rows)), (len(classes) * n_classes, n))
        return (matrix @ turned).reshape(len(classes), n_classes, -1)

    turned = np.ascontiguousarray(weights.T)
    everywhere = np.ones((s, n), bool)
    said_or_so = one_hot(predictions, everywhere) + one_hot(label[None], everywhere[:1])
    found = _f1(one_hot(predictions, predictions == label), said_or_so)
    return (found.sum(1) / (said_or_so > 0).sum(1)).T

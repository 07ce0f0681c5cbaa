"""The charts of runs and datasets: as parts of pages (``reports.svg``), and as PNG, dark on white."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmtab.reports.svg import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, RED, canvas
from mmtab.runs.scored import ScoredPredictions
from mmtab.runs.scored_numbers import ScoredNumbers
from mmtab.training.metrics import average_precision
from mmtab.utils.text import one_line, short

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, FAINT)
WIDE, TALL, SMALL = 5.4, 3.4, (4.4, 2.8)  # inches
MAX_CLASSES, FEW_CLASSES = 24, 12  # of a confusion matrix; up to FEW_CLASSES, those without mistakes too
MOST = 0.9  # of the mistakes, that the classes shown make
MAX_COLUMNS = 30  # of those that are missed most
MAX_POINTS = 2000  # that are drawn one by one


def png(figure: Any, dpi: int = 144) -> bytes:
    """With nothing in it that changes from run to run."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=dpi, metadata={"Software": None})
    return sink.getvalue()


def _axes(width: float = WIDE, height: float = TALL, n: int = 1) -> tuple[Any, Any]:
    figure = canvas(width, height, layout="constrained")
    axes = figure.subplots(1, n)
    for panel in np.atleast_1d(axes):
        panel.patch.set_visible(False)
        for side, spine in panel.spines.items():
            spine.set_visible(side in ("bottom", "left"))
            spine.set_color(FAINT)
        panel.tick_params(labelsize=10, color=FAINT, labelcolor=INK)
    return figure, axes


def _legend_above(figure: Any, axes: Any, n_columns: int) -> Any:
    entries = axes.get_legend_handles_labels()
    return figure.legend(*entries, loc="outside upper center", ncols=n_columns, frameon=False, fontsize=10)


def _name(text: str, limit: int = 28) -> str:
    """Of any origin; matplotlib would take dollars for formulas."""
    return short(one_line(text), limit).replace("$", r"\$")


def learning(rows: Sequence[Mapping[str, float]], metric: str, n_trained: int) -> Any:
    """Losses and the metric by epoch. ``n_trained``: the epochs that there are."""
    figure, (left, right) = _axes(8.2, 3.2, 2)
    by_epoch = [row for row in rows if f"valid/{metric}" in row]
    epochs = [row["epoch"] + 1 for row in by_epoch]
    valid_losses = {"valid/log_loss": "valid log-loss", "valid/rmse": "valid RMSE"}
    losses = [(name, text, ORANGE) for name, text in valid_losses.items() if any(name in row for row in by_epoch)]
    for name, label, colour in (("train/loss_epoch", "train loss", FAINT), *losses):
        values = [row.get(name, np.nan) for row in by_epoch]
        left.plot(epochs, values, "o-", color=colour, label=label, markersize=3.5)
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=10)
    values = [row[f"valid/{metric}"] for row in by_epoch]
    right.plot(epochs, values, "o-", color=BLUE, markersize=3.5, label=f"valid {metric}")
    if values:
        best = int(np.argmax(values))
        right.plot(epochs[best], values[best], "o", color=GREEN, markersize=8, label=f"best, {values[best]:.3f}")
    right.legend(frameon=False, fontsize=10, loc="lower right")
    for axes in (left, right):
        axes.set_xlabel("epoch", fontsize=10)
        axes.set_xlim(0.5, max(n_trained, 1) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def confusion(predictions: ScoredPredictions) -> Any:
    """Shares of each label's rows, classes that are mistaken for each other side by side (average linkage); of many
    classes those that most mistakes are made with."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    counts, classes = _confused_classes(predictions)
    share = counts / np.maximum(np.bincount(predictions.y_true, minlength=len(predictions.classes))[classes, None], 1)
    k, names = len(classes), [_name(predictions.classes[i], 24) for i in classes]
    room = 0.085 * max(map(len, names), default=0) + 0.5
    cell = 0.3 if k > FEW_CLASSES else 0.42
    figure, axes = _axes(max(3.2, k * cell + room + 0.6), max(3.0, k * cell + room))
    full = np.argwhere(counts > 0)
    squares = PatchCollection([Rectangle((j - 0.5, i - 0.5), 1, 1) for i, j in full], facecolor=BLUE, linewidth=0)
    squares.set_alpha([0.9 * float(share[i, j]) ** 0.5 for i, j in full])
    axes.add_collection(squares)
    n = len(np.union1d(predictions.y_true, predictions.y_pred))
    what = "prediction" if k == n else f"prediction; {k} of {n} classes, which most mistakes are of"
    axes.set(xlabel=what, ylabel="label", xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(k), names, rotation=90)
    axes.set_yticks(range(k), names)
    axes.tick_params(length=0)
    for i, j in full:
        colour = "white" if share[i, j] > 0.45 else INK if i == j else ORANGE
        text = str(counts[i, j]) if counts[i, j] < 1000 else f"{counts[i, j] / 1000:.0f}k"
        axes.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _confused_classes(predictions: ScoredPredictions) -> tuple[np.ndarray, np.ndarray]:
    """[c, c] int64 labels by predictions, and [c] the classes in the order of the picture."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    classes = np.union1d(predictions.y_true, predictions.y_pred)
    if len(classes) > FEW_CLASSES:
        wrong = ~predictions.correct
        mistaken = np.concatenate([predictions.y_true[wrong], predictions.y_pred[wrong]])
        n_mistakes = np.bincount(mistaken, minlength=len(predictions.classes))
        worst = np.argsort(-n_mistakes, kind="stable")
        n_shown = int(np.searchsorted(np.cumsum(n_mistakes[worst]), MOST * n_mistakes.sum())) + 1
        classes = np.sort(worst[: min(max(n_shown, FEW_CLASSES), MAX_CLASSES)])
    y_true, y_pred = predictions.y_true, predictions.y_pred
    shown, counts = np.isin(y_true, classes) & np.isin(y_pred, classes), np.zeros((len(classes),) * 2, np.int64)
    np.add.at(counts, tuple(np.searchsorted(classes, y[shown]) for y in (y_true, y_pred)), 1)
    if len(classes) <= 2:
        return counts, classes
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    distance = 1 - np.clip(share + share.T, 0, 1)
    np.fill_diagonal(distance, 0)
    order = leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True))
    return counts[np.ix_(order, order)], classes[order]


def _shade(n: int) -> dict[str, Any]:
    """How n points of a scatter are drawn."""
    return {"s": 9, "color": BLUE, "alpha": max(0.15, min(0.7, 200 / n)), "linewidths": 0, "rasterized": n > MAX_POINTS}


def predicted(predictions: ScoredNumbers) -> Any:
    """Predictions by label; where all were right they would lie on the line."""
    figure, axes = _axes(WIDE, 4.2)
    y_true, y_pred = predictions.y_true, predictions.y_pred
    ends = [min(y_true.min(), y_pred.min()), max(y_true.max(), y_pred.max())]
    axes.plot(ends, ends, color=FAINT, linewidth=1, linestyle=":")
    axes.scatter(y_true, y_pred, **_shade(len(y_true)))
    axes.set(xlabel="label", ylabel="prediction")
    return figure


def residuals(predictions: ScoredNumbers) -> Any:
    """Label less prediction: by prediction, with the mean of each tenth, and how often each size occurs."""
    figure, (left, right) = _axes(8.2, 3.2, 2)
    error, order = -predictions.error, np.argsort(predictions.y_pred, kind="stable")
    left.axhline(0, color=FAINT, linewidth=1, linestyle=":")
    left.scatter(predictions.y_pred, error, **_shade(len(error)))
    tenths = [part for part in np.array_split(order, 10) if len(part)]
    means = [(predictions.y_pred[part].mean(), error[part].mean()) for part in tenths]
    left.plot(*zip(*means, strict=True), "o-", color=ORANGE, markersize=4, label="mean of a tenth of the rows")
    left.set(xlabel="prediction", ylabel="label - prediction")
    left.legend(frameon=False, fontsize=10)
    right.hist(error, bins=40, color=BLUE)
    right.set(xlabel="label - prediction", ylabel="rows")
    return figure


def precision_recall(predictions: ScoredPredictions) -> Any:
    """With the threshold that was chosen on valid."""
    from sklearn.metrics import precision_recall_curve

    label = predictions.y_true == 1
    figure, axes = _axes()
    if label.any():
        precision, recall, _ = precision_recall_curve(label, predictions.p_match)
        area = average_precision(label, predictions.p_match)
        axes.plot(recall, precision, color=BLUE, label=f"area {area:.3f}")
        match = predictions.y_pred == 1
        hits = (match & label).sum()
        at_threshold = f"threshold {predictions.threshold:.3g}: F1 {predictions.score():.3f}"
        axes.plot(hits / label.sum(), hits / max(match.sum(), 1), "o", color=ORANGE, markersize=8, label=at_threshold)
        axes.axhline(label.mean(), color=FAINT, linestyle=":", label=f"chance {label.mean():.3f}")
        axes.legend(frameon=False, fontsize=10, loc="lower left")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    return figure


def reliability(predictions: ScoredPredictions) -> Any:
    """Before and after calibration; circles grow with the rows they stand for."""
    figure, axes = _axes(WIDE, 3.9)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
    ways = [(True, BLUE, "as predicted")]
    if predictions.temperature != 1 and predictions.probability is not None:
        ways = [(False, ORANGE, "before"), (True, BLUE, f"after {predictions.scaling}")]
    for scaled, colour, title in ways:
        confidence, share, n = predictions.reliability(scaled)
        axes.plot(confidence, share, color=colour, linewidth=1.2)
        title = f"{title}: ECE {predictions.ece(scaled):.3f}"
        axes.scatter(confidence, share, s=12 + 160 * n / n.sum(), color=colour, alpha=0.75, linewidths=0, label=title)
    if predictions.threshold is None:
        axes.set(xlabel="confidence", ylabel="accuracy")
    else:
        axes.set(xlabel="probability of a match", ylabel="share of matches")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    for handle in _legend_above(figure, axes, 1).legend_handles:
        handle.set_sizes([40])
    return figure


def risk_coverage(predictions: Mapping[str, ScoredPredictions]) -> Any:
    """The share of mistakes among the most confident predictions."""
    figure, axes = _axes()
    for (name, relation), colour in zip(predictions.items(), COLOURS * 9, strict=False):
        coverage, risk = relation.risk_coverage()
        start = min(9, len(risk) - 1)  # the first few say nothing
        axes.plot(coverage[start:], risk[start:], color=colour, label=f"{name}area {risk.mean():.4f}")
    axes.set(xlabel="coverage (share of rows that is predicted)", ylabel="share that is wrong", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=10)
    return figure


def by_modality(ablation: Mapping[str, Any], order: Sequence[str]) -> Any:
    """The score with each modality alone and without it, between nothing and everything."""
    figure, axes = _axes(WIDE, 1.3 + 0.5 * len(order))
    for i, name in enumerate(reversed(order)):
        without, alone = (ablation["modalities"][name][key] for key in ("without", "alone"))
        axes.plot([without, ablation["score"]], [i, i], color=BLUE, linewidth=7, alpha=0.3, solid_capstyle="butt")
        axes.plot(without, i, "o", color=BLUE, markersize=8, label="without it" if not i else None)
        axes.plot(alone, i, "D", color=ORANGE, markersize=6, label="alone" if not i else None)
    axes.axvline(ablation["score"], color=GREEN, label="all", linewidth=1.5)
    axes.axvline(ablation["nothing"], color=FAINT, linestyle=":", label="nothing")
    axes.set_yticks(range(len(order)), list(reversed(order)), fontsize=11)
    axes.set(xlabel=f"{ablation['split']} {ablation['metric']}", ylim=(-0.6, len(order) - 0.4))
    _legend_above(figure, axes, 4)
    return figure


def by_column(ablation: Mapping[str, Any]) -> Any:
    """What is lost without each column, with 95 % intervals, the greatest first."""
    columns = sorted(ablation["columns"].items(), key=lambda item: item[1]["loss"])[-MAX_COLUMNS:]
    figure, axes = _axes(WIDE, 1.0 + 0.32 * len(columns))
    colours = dict(zip(("image", "text", "numeric", "categorical"), COLOURS, strict=False))
    for i, (_, values) in enumerate(columns):
        colour = colours[values["modality"]]
        axes.plot([values["low"], values["high"]], [i, i], color=colour, linewidth=2)
        axes.plot(values["loss"], i, "o", color=colour, markersize=6)
    axes.axvline(0, color=FAINT, linewidth=1)
    axes.set_yticks(range(len(columns)), [_name(name) for name, _ in columns], fontsize=10)
    for kind in dict.fromkeys(values["modality"] for _, values in columns):
        axes.plot([], [], "o-", color=colours[kind], label=kind)
    _legend_above(figure, axes, 4)
    axes.set(xlabel=f"{ablation['metric']} lost without the column", ylim=(-0.6, len(columns) - 0.4))
    return figure


def missingness(ablation: Mapping[str, Any]) -> Any:
    figure, axes = _axes()
    shares, scores = ablation["missingness"]["shares"], ablation["missingness"]["scores"]
    for (name, values), colour in zip(scores.items(), [*COLOURS[: len(scores) - 1], INK], strict=True):
        line = "o-" if name in ablation["modalities"] else "o--"
        axes.plot(shares, values, line, color=colour, label=name, markersize=4)
    axes.set(xlabel="share of rows that lack it", ylabel=f"{ablation['split']} {ablation['metric']}", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=10)
    return figure


def by_rows(curve: Mapping[str, Any], expected: float) -> Any:
    """The score by rows of train, and that ``expected`` of twice as many."""
    figure, axes = _axes(WIDE, 2.6)
    rows, scores = curve["rows"], curve["scores"]
    axes.plot(
        [rows[-1], 2 * rows[-1]], [scores[-1], expected], "o--", color=FAINT, markersize=4, label="if it goes on so"
    )
    axes.plot(rows, scores, "o-", color=INK, markersize=4, label="measured")
    axes.set(ylabel=f"valid {curve['metric']}")
    _rows_of_train(axes, [*rows, 2 * rows[-1]])
    axes.legend(frameon=False, fontsize=10, loc="lower right")
    return figure


def worth_by_rows(curve: Mapping[str, Any]) -> Any:
    """What each modality contributes to the score, by rows of train."""
    figure, axes = _axes(WIDE, 2.6)
    for (name, worth), colour in zip(curve["modalities"].items(), COLOURS, strict=False):
        axes.plot(curve["rows"], worth, "o-", color=colour, markersize=4, label=name)
    axes.axhline(0, color=FAINT, linewidth=1)
    axes.set(ylabel=f"part of {curve['metric']}")
    _rows_of_train(axes, curve["rows"])
    axes.legend(frameon=False, fontsize=10)
    return figure


def _rows_of_train(axes: Any, ticks: Sequence[int]) -> None:
    axes.set(xlabel="rows of train", xscale="log")
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.set_xticks([], minor=True)


def label_curve(curve: Mapping[str, Any]) -> Any:
    """F1 by the number of labels, chosen by the page and at random: mean and range over seeds."""
    figure, axes = _axes(WIDE, 2.6)
    for who, colour, title in (("random", FAINT, "labels at random"), ("page", INK, "labels that this page chooses")):
        f1 = np.array(curve[who])
        axes.fill_between(curve["labels"], f1.min(1), f1.max(1), color=colour, alpha=0.15, linewidth=0)
        axes.plot(curve["labels"], f1.mean(1), "o-", color=colour, markersize=4, label=title)
    axes.set(xlabel="labels", ylabel="F1")
    axes.legend(frameon=False, fontsize=10, loc="lower right")
    return figure


def many_learning(curves: Mapping[str, Sequence[Mapping[str, float]]], metric: str) -> Any:
    """The valid metric of several runs by epoch."""
    figure, axes = _axes()
    for (name, rows), colour in zip(curves.items(), COLOURS * 9, strict=False):
        points = [(row["epoch"] + 1, row[f"valid/{metric}"]) for row in rows if f"valid/{metric}" in row]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=_name(name), markersize=3.5)
    axes.set(xlabel="epoch", ylabel=f"valid {metric}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=10)
    return figure


def many_modalities(ablations: Mapping[str, Mapping[str, Any]]) -> Any:
    """Each run's contribution of each modality (Shapley value), with 95 % intervals."""
    names = list(dict.fromkeys(name for ablation in ablations.values() for name in ablation["modalities"]))
    figure, axes = _axes(WIDE, 1.2 + 0.22 * len(names) * (len(ablations) + 1))
    for r, ((run, ablation), colour) in enumerate(zip(ablations.items(), COLOURS * 9, strict=False)):
        for i, name in enumerate(reversed(names)):
            if name not in ablation["modalities"]:
                continue
            m, y = ablation["modalities"][name], i + 0.35 - 0.7 * (r + 0.5) / len(ablations)
            axes.plot([m["shapley_low"], m["shapley_high"]], [y, y], color=colour, linewidth=2)
            axes.plot(m["shapley"], y, "o", color=colour, markersize=5.5, label=None if i else _name(run))
    axes.axvline(0, color=FAINT, linewidth=1)
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=11)
    axes.set(xlabel="contribution to the score (Shapley value)", ylim=(-0.6, len(names) - 0.4))
    _legend_above(figure, axes, 2)
    return figure


# --- small ones, for the card of a dataset ---------------------------------------------------------------------------


def small_bars(bars: Sequence[tuple[str, float]]) -> Any:
    figure, axes = _axes(*SMALL)
    axes.barh(range(len(bars)), [n for _, n in bars], color=BLUE)
    axes.set_yticks(range(len(bars)), [_name(name, 22) for name, _ in bars])
    axes.invert_yaxis()
    return figure


def small_histogram(unit: str, numbers: np.ndarray) -> Any:
    """Without the half percent at either end, of which a few would leave one bar."""
    figure, axes = _axes(*SMALL)
    low, high = np.quantile(numbers, [0.005, 0.995])
    inside = numbers[(numbers >= low) & (numbers <= high)]
    if not np.isfinite(high - low) or high - low <= abs(high) * 1e-12:
        inside = np.sign(numbers)
    axes.hist(inside, bins=30, color=BLUE)
    axes.set_xlabel(_name(unit))
    return figure

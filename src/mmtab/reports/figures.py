"""The pictures of a run's report, each as PNG. They are drawn dark on white, for pages of either colour scheme."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmtab.reports.html import printable, short
from mmtab.reports.predictions import Outcome

BLUE, ORANGE, GREEN, GREY, INK = "#1f6fb5", "#c05a12", "#26804a", "#8b8f96", "#222222"
COLOURS = (BLUE, ORANGE, GREEN, "#8a4fb0", "#b01f4f", "#5d6066")
WIDE, TALL = 5.4, 3.4  # inches
MAX_CLASSES = 60  # of a confusion matrix


def png(figure: Any) -> bytes:
    """With nothing in it that changes from run to run."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=144, metadata={"Software": None})
    return sink.getvalue()


def _axes(width: float = WIDE, height: float = TALL, n: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # heavy, and only needed here; this class needs no screen

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, n)
    for each in np.atleast_1d(axes):
        for side in ("top", "right"):
            each.spines[side].set_visible(False)
        each.tick_params(labelsize=10, color=GREY, labelcolor=INK)
    return figure, axes


def _name(text: str, limit: int = 28) -> str:
    """Of any origin; matplotlib would take dollars for formulas."""
    return short(" ".join(printable(text).split()), limit).replace("$", r"\$")


def learning(rows: Sequence[Mapping[str, float]], metric: str, n_trained: int) -> Any:
    """Losses and the metric by epoch. ``n_trained``: the epochs that there are."""
    figure, (left, right) = _axes(8.2, 3.2, 2)
    by_epoch = [row for row in rows if f"valid/{metric}" in row]
    epochs = [row["epoch"] + 1 for row in by_epoch]
    for name, label, colour in (("train/loss_epoch", "train loss", GREY), ("valid/log_loss", "valid log-loss", ORANGE)):
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


def confusion(outcome: Outcome) -> Any:
    """Shares of each label's rows, classes that are mistaken for each other side by side (average linkage); beyond
    MAX_CLASSES those with the most mistakes."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    seen = np.union1d(outcome.label, outcome.said)
    if len(seen) > MAX_CLASSES:
        wrong = ~outcome.right
        often = np.bincount(np.concatenate([outcome.label[wrong], outcome.said[wrong]]), minlength=len(outcome.classes))
        seen = np.sort(np.argsort(-often, kind="stable")[:MAX_CLASSES])
    counts = outcome.confusion(seen)
    if len(seen) > 2:
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        far = 1 - np.clip(share + share.T, 0, 1)
        np.fill_diagonal(far, 0)
        order = leaves_list(linkage(squareform(far, checks=False), "average", optimal_ordering=True))
        counts, seen = counts[np.ix_(order, order)], seen[order]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    k = len(seen)
    cell = 0.21 if k > 12 else 0.42
    names = [_name(outcome.classes[i], 24) for i in seen]
    room = 0.085 * max(map(len, names)) + 0.5
    figure, axes = _axes(max(3.2, k * cell + room + 0.6), max(3.0, k * cell + room))
    axes.imshow(np.where(counts > 0, np.sqrt(share), np.nan), cmap="Blues", vmin=0, vmax=1.15, aspect="equal")
    size = 7.5 if k > 12 else 9.5
    axes.set_xticks(range(k), names, rotation=90, fontsize=size)
    axes.set_yticks(range(k), names, fontsize=size)
    axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#0001", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    for i, j in np.argwhere(counts > 0):
        colour = "white" if share[i, j] > 0.45 else INK if i == j else "#8c2d04"
        text = str(counts[i, j]) if counts[i, j] < 1000 or k <= 12 else f"{counts[i, j] / 1000:.0f}k"
        axes.text(j, i, text, ha="center", va="center", fontsize=size - 1.5, color=colour)
    axes.set(xlabel="said", ylabel="label")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def precision_recall(outcome: Outcome) -> Any:
    """With the threshold that was chosen on valid."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    label = outcome.label == 1
    figure, axes = _axes()
    if label.any():
        precision, recall, _ = precision_recall_curve(label, outcome.p_match)
        axes.plot(recall, precision, color=BLUE, label=f"area {average_precision_score(label, outcome.p_match):.3f}")
        said = outcome.said == 1
        hit = (said & label).sum()
        axes.plot(hit / label.sum(), hit / max(said.sum(), 1), "o", color=ORANGE, markersize=8,
                  label=f"threshold {outcome.threshold:.3g}: F1 {outcome.score():.3f}")  # fmt: skip
        axes.axhline(label.mean(), color=GREY, linestyle=":", label=f"chance {label.mean():.3f}")
        axes.legend(frameon=False, fontsize=10, loc="lower left")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    return figure


def reliability(outcome: Outcome) -> Any:
    """Before and after calibration; circles grow with the rows they stand for."""
    figure, axes = _axes(WIDE, 3.9)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    ways = [(True, BLUE, "as predicted")]
    if outcome.temperature != 1 and outcome.probability is not None:
        ways = [(False, ORANGE, "before"), (True, BLUE, f"after {outcome.scaling}")]
    for scaled, colour, title in ways:
        confidence, right, n = outcome.reliability(scaled)
        axes.plot(confidence, right, color=colour, linewidth=1.2)
        axes.scatter(confidence, right, s=12 + 160 * n / n.sum(), color=colour, alpha=0.75, linewidths=0,
                     label=f"{title}: ECE {outcome.ece(scaled):.3f}")  # fmt: skip
    pairs = outcome.threshold is not None
    axes.set(xlabel="probability of a match" if pairs else "confidence", ylabel="share of matches" if pairs else "accuracy", xlim=(0, 1), ylim=(0, 1.02))  # fmt: skip
    for handle in figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", frameon=False, fontsize=10).legend_handles:  # fmt: skip
        handle.set_sizes([40])
    return figure


def risk_coverage(outcomes: Mapping[str, Outcome]) -> Any:
    """What is wrong among the surest part of the rows."""
    figure, axes = _axes()
    for (name, outcome), colour in zip(outcomes.items(), COLOURS * 9, strict=False):
        coverage, risk = outcome.risk_coverage()
        shown = slice(min(9, len(risk) - 1), None)  # the first few say nothing
        axes.plot(coverage[shown], risk[shown], color=colour, label=f"{name}area {risk.mean():.4f}")
    axes.set(xlabel="coverage (share of rows that is predicted)", ylabel="share that is wrong", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=10)
    return figure


def by_modality(found: Mapping[str, Any], order: Sequence[str]) -> Any:
    """The score with each modality alone and without it, between nothing and everything."""
    figure, axes = _axes(WIDE, 1.3 + 0.5 * len(order))
    for i, name in enumerate(reversed(order)):
        each = found["modalities"][name]
        axes.plot([each["without"], found["score"]], [i, i], color=BLUE, linewidth=7, alpha=0.3, solid_capstyle="butt")
        axes.plot(each["without"], i, "o", color=BLUE, markersize=8, label="without it" if not i else None)
        axes.plot(each["alone"], i, "D", color=ORANGE, markersize=6, label="alone" if not i else None)
    axes.axvline(found["score"], color=GREEN, label="all", linewidth=1.5)
    axes.axvline(found["nothing"], color=GREY, linestyle=":", label="nothing")
    axes.set_yticks(range(len(order)), list(reversed(order)), fontsize=11)
    axes.set(xlabel=f"{found['split']} {found['metric']}", ylim=(-0.6, len(order) - 0.4))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=10)
    return figure


def by_column(found: Mapping[str, Any], limit: int = 30) -> Any:
    """What is lost without each column, with 95 % intervals, the greatest first."""
    columns = sorted(found["columns"].items(), key=lambda item: item[1]["loss"])[-limit:]
    figure, axes = _axes(WIDE, 1.0 + 0.32 * len(columns))
    colours = dict(zip(("image", "text", "numeric", "categorical"), COLOURS, strict=False))
    for i, (_, each) in enumerate(columns):
        colour = colours[each["modality"]]
        axes.plot([each["low"], each["high"]], [i, i], color=colour, linewidth=2)
        axes.plot(each["loss"], i, "o", color=colour, markersize=6)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(columns)), [_name(name) for name, _ in columns], fontsize=10)
    for kind in dict.fromkeys(each["modality"] for _, each in columns):
        axes.plot([], [], "o-", color=colours[kind], label=kind)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=10)
    axes.set(xlabel=f"{found['metric']} lost without the column", ylim=(-0.6, len(columns) - 0.4))
    return figure


def missingness(found: Mapping[str, Any]) -> Any:
    figure, axes = _axes()
    shares, scores = found["missingness"]["shares"], found["missingness"]["scores"]
    for (name, values), colour in zip(scores.items(), [*COLOURS[: len(scores) - 1], INK], strict=True):  # fmt: skip
        axes.plot(
            shares, values, "o-" if name in found["modalities"] else "o--", color=colour, label=name, markersize=4
        )
    axes.set(xlabel="share of rows that lack it", ylabel=f"{found['split']} {found['metric']}", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=10)
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


def many_modalities(found: Mapping[str, Mapping[str, Any]]) -> Any:
    """Each run's contribution of each modality (Shapley value), with 95 % intervals."""
    names = list(dict.fromkeys(name for each in found.values() for name in each["modalities"]))
    figure, axes = _axes(WIDE, 1.2 + 0.22 * len(names) * (len(found) + 1))
    for r, ((run, each), colour) in enumerate(zip(found.items(), COLOURS * 9, strict=False)):
        for i, name in enumerate(reversed(names)):
            if name not in each["modalities"]:
                continue
            m, y = each["modalities"][name], i + 0.35 - 0.7 * (r + 0.5) / len(found)
            axes.plot([m["shapley_low"], m["shapley_high"]], [y, y], color=colour, linewidth=2)
            axes.plot(m["shapley"], y, "o", color=colour, markersize=5.5, label=None if i else _name(run))
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=11)
    axes.set(xlabel="contribution to the score (Shapley value)", ylim=(-0.6, len(names) - 0.4))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=10)
    return figure

"""A run in words: one judgement of how it learnt, from which one piece of advice follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmtab.config.compose import compose
from mmtab.data.schema import Column, ColumnType, Schema, TaskKind
from mmtab.reports.findings import Finding, findings, standard_error
from mmtab.runs.scored import ScoredPredictions

SCHEMA = Schema("toy", TaskKind.KWAY, (Column("text", ColumnType.TEXT),), label="type", metric="accuracy")


def scored(score: float, chance: float, n: int, threshold: float | None = None) -> ScoredPredictions:
    """Predictions of which a share ``score`` is right, where ``chance`` of the labels are of the commonest class."""
    y_true = (np.arange(n) >= round(chance * n)) * (1 + np.arange(n) % 9)
    wrong = np.arange(n) >= round(score * n)
    y_pred = np.where(wrong, (y_true + 1) % 10, y_true)
    ids, even = pa.table({"id": [str(i) for i in range(n)]}), np.full((n, 10), 0.1)
    some = np.full(n, 0.5)
    names = [f"class {i}" for i in range(10)]
    return ScoredPredictions(
        SCHEMA, "test", None, np.arange(n), ids, ids["id"].to_pylist(), names, y_true, y_pred, some, some, some, even
    )


def curve(values: Sequence[float], losses: Sequence[float]) -> list[dict[str, float]]:
    return [{"valid/accuracy": v, "valid/log_loss": loss} for v, loss in zip(values, losses, strict=True)]


def judged(
    predictions: ScoredPredictions, curves: Sequence[dict[str, float]], *overrides: str, error: float = 0.02
) -> list[Finding]:
    """What is said before calibration and mistakes."""
    config: Any = compose("output=unused", *overrides)
    said = list(findings(config, [predictions], {}, curves, [], None, None, error))
    return said[: next(i for i, finding in enumerate(said) if finding.text.startswith("Probabilities"))]


RISING = curve([0.3, 0.45, 0.55, 0.65], [2.0, 1.7, 1.4, 1.2])
LEVEL = curve([0.3, 0.64, 0.65, 0.645], [2.0, 1.2, 1.19, 1.2])
SURER = curve([0.3, 0.64, 0.65, 0.655], [2.0, 1.2, 1.3, 1.5])  # the loss rises, the score does not fall
SURER_AND_BETTER = curve([0.3, 0.5, 0.6, 0.7], [2.0, 1.2, 1.3, 1.5])
WORSE = curve([0.3, 0.65, 0.6, 0.55], [2.0, 1.2, 1.5, 1.9])


@pytest.mark.parametrize(
    ("curves", "kind", "says", "advice"),
    [
        (
            RISING,
            "warning",
            "It could learn longer: valid accuracy still rose, from 0.550 in epoch 3 to 0.650",
            "more epochs",
        ),
        (LEVEL, "good", "It learnt long enough: valid accuracy was best in epoch 3 of 4 (0.650)", ""),
        (SURER, "plain", "it grew too sure", ""),
        (SURER_AND_BETTER, "warning", "It could learn longer", "more epochs, trainer.max_epochs=8"),
        (
            WORSE,
            "warning",
            "It overfits: valid log-loss fell to 1.200 in epoch 2 and rose to 1.900",
            "trainer.lr=0.00035",
        ),
    ],
    ids=["rising", "level", "surer", "surer and better", "worse"],
)
def test_a_curve_leads_to_one_piece_of_advice(curves: Any, kind: str, says: str, advice: str) -> None:
    learnt, fit = judged(scored(0.65, 0.25, 400), curves)
    assert learnt.kind == "good" and learnt.text.startswith("It learnt: test accuracy is 0.650;") and not learnt.tries
    assert fit.kind == kind and says in fit.text
    assert fit.tries.startswith(advice) and bool(fit.tries) == bool(advice)
    assert not ("more" in fit.tries and "fewer" in fit.tries)


def test_more_time_is_advised_where_the_time_was_up() -> None:
    *_, fit = judged(scored(0.65, 0.25, 400), RISING, "trainer.max_minutes=10")
    assert fit.tries == "more time, trainer.max_minutes=20"


def test_a_rise_within_noise_is_none() -> None:
    rising = curve([0.60, 0.61, 0.62, 0.63], [1.5, 1.4, 1.3, 1.3])
    assert judged(scored(0.63, 0.25, 4000), rising, error=0.005)[-1].text.startswith("It could learn longer")
    assert judged(scored(0.63, 0.25, 100), rising, error=0.05)[-1].text.startswith("It learnt long enough")


@pytest.mark.parametrize(
    ("n", "score", "says"),
    [
        (
            400,
            0.308,
            "It may have learnt little: test accuracy is 0.307; always predicting the commonest class gives 0.268. "
            "With 400 rows",
        ),
        (4000, 0.308, "It learnt: test accuracy is 0.308; always predicting the commonest class gives 0.267."),
        (4000, 0.25, "It learnt nothing: test accuracy is 0.250"),
    ],
)
def test_the_size_of_the_split_says_what_is_beyond_chance(n: int, score: float, says: str) -> None:
    said = judged(scored(score, 0.267, n), LEVEL)
    assert said[0].text.startswith(says)
    assert [bool(finding.tries) for finding in said] == [not says.startswith("It learnt:"), False], "one advice, if any"


def test_what_learnt_nothing_yet_and_still_rises_needs_more_epochs() -> None:
    learnt, fit = judged(scored(0.25, 0.267, 400), RISING)
    assert learnt.kind == "warning" and learnt.tries == "more epochs, trainer.max_epochs=8" and not fit.tries
    learnt, fit = judged(scored(0.25, 0.267, 400), WORSE)
    assert learnt.tries.startswith("check labels and columns") and not fit.tries


def test_the_standard_error_is_that_of_the_rows_that_count() -> None:
    assert standard_error(scored(0.5, 0.25, 400)) == pytest.approx(0.025)
    assert standard_error(scored(1.0, 0.25, 100)) > 0.005, "a hundred rows do not prove that there is no error"
    labels = (np.arange(1000) < 50).astype(np.int64)
    pairs = replace(scored(0.5, 0.25, 1000), y_true=labels, y_pred=labels * (np.arange(1000) % 2), threshold=0.5)
    assert standard_error(pairs) == pytest.approx(np.sqrt(2 / 3 * 1 / 3 / 50), rel=0.02), "of 50 matches"

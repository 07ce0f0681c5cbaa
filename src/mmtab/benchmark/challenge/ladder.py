"""Public scores that do not tell the public labels: the Ladder of Blum and Hardt (2015, arXiv:1502.04585).

A team's public score changes only when a submission is better than it by a step, and is then shown as a multiple of the
step. So a submission tells one bit, whether it is that much better, and only about 1 / step of them can ever answer
yes: trying a row at a time, or averaging whatever scored well, leads nowhere. The step is no smaller than the standard
error that an accuracy on so many rows can have, below which a difference would mean nothing anyway.

What it does not guarantee: a person who enters as several teams has as many ladders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def step_of(n_rows: int) -> float:
    """The step for a score on so many public rows: 0.5 / sqrt(n), rounded up to a 1, 2 or 5 of its decimal."""
    return next((step for step in STEPS if step >= 0.5 / math.sqrt(n_rows)), STEPS[-1])


def climb(scores: Sequence[float], step: float) -> list[tuple[float, int]]:
    """After each submission, the score that is shown and the index of the submission that counts: the one that raised
    it last. ``scores``: exact, in the order of submission."""
    rungs: list[tuple[float, int]] = []
    for i, score in enumerate(scores):
        if not rungs or score >= rungs[-1][0] + step - 1e-12:
            rungs.append((round(round(score / step) * step, 6), i))
        else:
            rungs.append(rungs[-1])
    return rungs

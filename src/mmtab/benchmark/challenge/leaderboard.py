"""Who leads a challenge, who won it, and what a team submitted."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmtab.benchmark.challenge import database
from mmtab.benchmark.challenge.folder import Challenge
from mmtab.benchmark.challenge.ladder import climb
from mmtab.benchmark.challenge.submissions import team_name
from mmtab.benchmark.challenge.untrusted import one_line
from mmtab.benchmark.statistics import places
from mmtab.benchmark.types import Board, Entry, RankedDataset, Score
from mmtab.utils.errors import ConfigError, RunError
from mmtab.utils.plain import texts


@dataclass(frozen=True)
class Attempt:
    """A line of a team's history; ``status`` scored or rejected, the latter with a ``reason`` and no number. ``public``
    is the score that was shown (see ``ladder``)."""

    dataset: str
    time: str
    status: str
    attempt: int | None
    public: float | None
    reason: str


def standings(folder: Path, final: bool = False) -> Board:
    """Of each team and dataset the submission that raised its public score last: that score or, ``final``, its private
    one. Only the final board has labels and predictions, from which intervals come: those of the public rows would tell
    more than the scores that are shown."""
    challenge, part = Challenge.read(folder), "private" if final else "public"
    rows = {dataset: challenge.rows(dataset, public=not final) for dataset in challenge.datasets}
    datasets = {}
    for dataset in challenge.datasets:
        truth = challenge.truth(dataset)
        datasets[dataset] = RankedDataset(
            dataset,
            truth.schema.title or dataset,
            str(truth.schema.task),
            truth.schema.metric,
            label=truth.label[rows[dataset]] if final else None,
            facts={"scored on": f"{len(rows[dataset]):,} {part} rows of {len(truth):,} of the test split"},
        )
    with database.reading(folder) as db:
        teams, scored = database.teams(folder, db), database.scored(folder, db)
    times: dict[str, list[str]] = {}
    for each in scored:
        times.setdefault(each.team, []).append(each.time)
    about = {key: f"{len(of)} attempt{'s' * (len(of) > 1)}, the last {shown(max(of))}" for key, of in times.items()}
    if unknown := times.keys() - teams.keys():
        raise RunError(one_line(f"{folder / database.DATABASE} is damaged: it has no team {min(unknown)}"))
    scores: dict[str, list[Score]] = {}
    for (key, dataset), lines in itertools.groupby(scored, key=lambda each: (each.team, each.dataset)):
        if dataset in datasets:  # challenge.yaml may have been edited
            attempts = list(lines)
            shown_score, place = climb([each.public for each in attempts], challenge.step(dataset))[-1]
            counts = attempts[place]
            score = Score(dataset, 0, shown_score)
            if final:
                prediction = challenge.read_predictions(dataset, counts.sha256, counts.suffix)[rows[dataset]]
                score = Score(dataset, 0, counts.private, prediction=prediction)
            scores.setdefault(key, []).append(score)
    entries = [Entry(teams[key], teams[key], "team", about[key], of_team) for key, of_team in sorted(scores.items())]
    best_is = f"the submission that raised its public score last{', here its private score' if final else ''}"
    if not final:
        best_is += "; a score rises in steps, when a submission is better by one"
    facts = {
        "scored on": f"the {part} rows of each test split",
        "what counts": f"of each team and dataset {best_is}",
        "submissions": f"at most {challenge.per_day} a day, team and dataset",
        "as of": shown(database.timestamp()),
    }
    title = f"{challenge.title}{': final standings' if final else ''}"
    return Board(title, challenge.tracks, datasets, entries, facts=facts)


def ranked(board: Board, track: str) -> list[tuple[int | None, Entry, float | None]]:
    """Place, entry and mean over the track's datasets, the best first, equal ones with the same place; entries that
    lack a dataset come last, without either, and those without any not at all."""
    datasets = board.tracks[track]
    means: list[tuple[Entry, float | None]] = []
    for entry in board.entries:
        values = [score.value for dataset in datasets for score in entry.of(dataset)]
        if values:
            means.append((entry, float(np.mean(values)) if len(values) == len(datasets) else None))
    place = iter(places(np.array([mean for _, mean in means if mean is not None])).tolist())
    lines = [(None if mean is None else next(place), entry, mean) for entry, mean in means]
    return sorted(lines, key=lambda line: (line[0] is None, line[0] or 0, line[1].name))


def history(folder: Path, team: str) -> list[Attempt]:
    """All of a team's attempts, the first one first; raises ConfigError for a team that never submitted anything."""
    challenge = Challenge.read(folder)
    attempts = (
        "select dataset, time, status, attempt, public, coalesce(reason, '') from attempts where team = ? order by id"
    )
    with database.reading(folder) as db:
        database.scored(folder, db, team_name(team)[1])  # which tells of damage
        lines = db.execute(attempts, (team_name(team)[1],)).fetchall()
    with database.checking(folder, f"attempts of {team.strip()}"):
        for values in lines:
            texts()([values[0], values[1], values[-1]], "dataset, time, reason")
    if not lines:
        raise ConfigError(f"{team.strip()} has submitted nothing")
    exact: dict[str, list[float]] = {}
    shown_lines = []
    for dataset, time, status, attempt, public, reason in lines:
        if status == "scored" and dataset in challenge.datasets:
            exact.setdefault(dataset, []).append(public)
            public = climb(exact[dataset], challenge.step(dataset))[-1][0]
        elif status == "scored":  # challenge.yaml was edited
            public = None
        shown_lines.append(Attempt(dataset, time, status, attempt, public, reason))
    return shown_lines


def shown(when: str) -> str:
    """A timestamp as readers see it."""
    return f"{when[:10]} {when[11:16]} UTC"

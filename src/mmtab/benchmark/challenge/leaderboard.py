"""Who leads a challenge, who won it, and what a team submitted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmtab.benchmark.challenge import database
from mmtab.benchmark.challenge.folder import Challenge
from mmtab.benchmark.challenge.submissions import team_name
from mmtab.benchmark.statistics import places
from mmtab.benchmark.types import Board, Entry, RankedDataset, Score
from mmtab.utils.errors import ConfigError

# Of each team and dataset the submission with the best public score, of equal ones the first
BEST = """
select team, dataset, public, private, sha256, suffix from (
    select *, row_number() over (partition by team, dataset order by public desc, attempt) as place
    from attempts where status = 'scored'
) where place = 1
"""


@dataclass(frozen=True)
class Attempt:
    """A line of a team's history; ``status`` scored or rejected, the latter with a ``reason`` and no number."""

    dataset: str
    time: str
    status: str
    attempt: int | None
    public: float | None
    reason: str


def standings(folder: Path, final: bool = False) -> Board:
    """Of each team and dataset the submission with the best public score (of equal ones the first): its public score
    or, ``final``, its private one. Labels and predictions are of the rows that were scored, so that the scoreboard of a
    running challenge holds nothing of the others."""
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
            label=truth.label[rows[dataset]],
            facts={"scored on": f"{len(rows[dataset]):,} {part} rows of {len(truth):,} of the test split"},
        )
    with database.reading(folder) as db:
        teams = dict(db.execute("select key, name from teams order by key").fetchall())
        best = db.execute(BEST).fetchall()
        totals = "select team, count(*), max(time) from attempts where status = 'scored' group by team"
        about = {key: f"{n} attempt{'s' * (n > 1)}, the last {shown(last)}" for key, n, last in db.execute(totals)}
    scores: dict[str, list[Score]] = {}
    for key, dataset, public, private, sha256, suffix in best:
        if dataset in datasets:  # challenge.yaml may have been edited
            prediction = challenge.read_predictions(dataset, sha256, suffix)[rows[dataset]]
            scores.setdefault(key, []).append(Score(dataset, 0, private if final else public, prediction=prediction))
    entries = [Entry(teams[key], teams[key], "team", about[key], of_team) for key, of_team in sorted(scores.items())]
    best_is = f"the submission with the best public score{', here its private score' if final else ''}"
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
    Challenge.read(folder)
    attempts = (
        "select dataset, time, status, attempt, public, coalesce(reason, '') from attempts where team = ? order by id"
    )
    with database.reading(folder) as db:
        lines = db.execute(attempts, (team_name(team)[1],)).fetchall()
    if not lines:
        raise ConfigError(f"{team.strip()} has submitted nothing")
    return [Attempt(*line) for line in lines]


def shown(when: str) -> str:
    """A timestamp as readers see it."""
    return f"{when[:10]} {when[11:16]} UTC"

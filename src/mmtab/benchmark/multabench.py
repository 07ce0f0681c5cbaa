"""What MulTaBench publishes, beside a benchmark's own results: ``mmtab benchmark beside=multabench``.

Published is, for each of its datasets and folds, one run of every model with each of its encoders, in its package: ROC
AUC of two classes, log-loss of more, RMSE of numbers. Compared are scores by that metric; ranks only where the rows of
train and test are the same, which those of a dataset that ``mmtab prepare import multabench:NAME/FOLD`` wrote are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmtab.benchmark.plan import Source
from mmtab.benchmark.results import read_results
from mmtab.benchmark.scoreboard.formats import NONE
from mmtab.benchmark.types import Board
from mmtab.data import files, table
from mmtab.data.schema import TaskKind
from mmtab.prepare.importers.multabench import HUB, N_PARTS, N_REPEATS, PREFIX
from mmtab.utils.atomic import write_text
from mmtab.utils.errors import ConfigError
from mmtab.utils.optional import require
from mmtab.utils.text import markdown_table, markdown_text

NAME = EXTRA = "multabench"
METRICS = {"roc_auc": "roc_auc", "log_loss": "log_loss", "root_mean_squared_error": "rmse"}  # theirs: mmtab's name
HIGHER = "roc_auc"  # of these, where more is better
N_FOLDS = N_PARTS * N_REPEATS
Own = dict[str, dict[str, list[float]]]  # by system and dataset, of each seed


class Twin(NamedTuple):
    """A dataset of the track that is one of theirs. ``other``: in what its rows differ from those of a published fold,
    empty where they do not; ``values`` by name of the published entry."""

    dataset: str
    repository: str
    fold: int | None
    metric: str
    other: str
    values: dict[str, float]

    @property
    def column(self) -> str:
        return f"{markdown_text(self.dataset)} ({self.metric} {'↑' if self.metric == HIGHER else '↓'})"


def find_twins(sources: Mapping[str, Source]) -> list[Twin]:
    """Raises ConfigError where the package is missing, or none of the datasets is one of its."""
    package, export = (require(name, extra=EXTRA) for name in (NAME, f"{NAME}.leaderboard.export"))
    try:
        names = {info.hf_repo.rpartition("/")[2]: info.id.name for info in package.list_datasets()}
        columns = ["dataset", "fold", "entry", "status", "metric", "test_score", "test_error", "n_train", "n_test"]
        runs = export.load_entries()[columns].to_dict("records")
    except (AttributeError, KeyError, TypeError) as error:
        problem = f"the results of {NAME} {metadata.version(NAME)} have another form ({error!r})"
        raise ConfigError(f'beside={NAME}: {problem}. Fix: pip install "mmtab[{EXTRA}]"') from error
    twins = list[Twin]()
    for source in sources.values():
        if (origin := _origin(source, names)) is not None:
            of_set = [run for run in runs if run["dataset"] == names[origin[0]] and run["status"] == "ok"]
            twins += _twin(source, *origin, of_set)
    if not twins:
        fix = f"mmtab prepare import {PREFIX}NAME/FOLD -o FOLDER makes one"
        raise ConfigError(f"beside={NAME}: no dataset of the track is one of MulTaBench's. Fix: {fix}")
    return twins


def _origin(source: Source, names: Iterable[str]) -> tuple[str, int | None] | None:
    """Their repository and fold, as the import noted them; or by the name alone, without a fold."""
    found = re.search(rf"{re.escape(HUB)}/([\w-]+)", source.schema.source)
    if found and found[1] in names:
        fold = source.schema.split.get("fold")
        return found[1], fold if fold in range(N_FOLDS) else None
    ours = {re.sub(r"\W", "_", name.lower()) for name in (source.name, source.schema.name)}
    repositories = ((name, name.replace("-", "_")) for name in names)  # core-text-reg-book-price is called book_price
    return next(((name, None) for name, full in repositories if {full, full.split("_", 3)[-1]} & ours), None)


def _twin(source: Source, repository: str, fold: int | None, published: Sequence[dict[str, Any]]) -> list[Twin]:
    """One, or none where nothing is published of the fold, or the task is another one."""
    if fold is not None:
        published = [run for run in published if run["fold"] == fold]
    metric = METRICS.get(published[0]["metric"]) if published else None
    if metric is None or (metric == "rmse") != (source.schema.task is TaskKind.REGRESSION):
        return []
    other = f"other rows, maybe other columns, classes or units; published is the mean of {N_FOLDS} folds"
    if fold is not None:
        paths = (table.find_table(source.folder, source.schema, stem) for stem in ("train", "valid", "test"))
        train, valid, test = (files.count(path, source.name) for path in paths)
        n_train, n_test = int(published[0]["n_train"]), int(published[0]["n_test"])
        differs = (
            f"{train + valid:,} rows of train and {test:,} of test, where fold {fold} has {n_train:,} and {n_test:,}"
        )
        other = "" if (train + valid, test) == (n_train, n_test) else differs
    scores: dict[str, list[float]] = {}
    for run in published:
        scores.setdefault(run["entry"], []).append(run["test_score" if metric == HIGHER else "test_error"])
    values = {entry: float(np.mean(of_entry)) for entry, of_entry in scores.items()}
    return [Twin(source.name, repository, fold, metric, other, values)]


def write_beside(output: Path, board: Board, sources: Mapping[str, Source], twins: Sequence[Twin]) -> None:
    """Write multabench.md to the benchmark's folder: a table of this benchmark's entries and the published ones, the
    best first, and below it in what they differ."""
    own: Own = {}
    for _, result in read_results(output):
        source = sources.get(result["dataset"])
        for twin in twins:
            if source and source.name == twin.dataset and result["data_fingerprint"] == source.fingerprint:
                score = result["metrics"]["test"].get(twin.metric, math.nan)
                own.setdefault(result["system"], {}).setdefault(twin.dataset, []).append(score)
    titles = {entry.name: entry.title for entry in board.entries}
    entries = [(f"**{markdown_text(titles[name])}**", own[name]) for name in own]
    for name in dict.fromkeys(name for twin in twins for name in twin.values):
        of_twins = {twin.dataset: [twin.values[name]] for twin in twins if name in twin.values}
        entries.append((markdown_text(name), of_twins))
    scores = [[float(np.mean(of.get(twin.dataset, [math.nan]))) for twin in twins] for _, of in entries]
    ranks = _ranks(np.array(scores), twins)
    order = sorted(range(len(entries)), key=lambda i: (math.isnan(ranks[i]), ranks[i]))
    ranked = not all(twin.other for twin in twins)
    lines = []
    for i in order:
        rank = f"{ranks[i]:.1f}" if ranked and not math.isnan(ranks[i]) else NONE
        lines.append([entries[i][0], rank, *(NONE if math.isnan(x) else f"{x:.4g}" for x in scores[i])])
    head = ["system", "average rank", *(twin.column for twin in twins)]
    notes = "\n".join(f"- {note}" for note in _notes(board, twins, own, titles))
    write_text(output / f"{NAME}.md", f"# Beside MulTaBench\n\n{markdown_table(head, lines)}\n\n{notes}\n")


def _ranks(scores: np.ndarray, twins: Sequence[Twin]) -> np.ndarray:
    """[n] average ranks over the datasets of the same rows, or over all where none has them, to sort by; NaN where a
    score is missing."""
    of = [j for j, twin in enumerate(twins) if not twin.other] or range(len(twins))
    better = np.array([1 if twin.metric == HIGHER else -1 for twin in twins]) * scores
    ahead = (better[None] > better[:, None]).sum(1) + ((better[None] == better[:, None]).sum(1) - 1) / 2
    return np.where(np.isnan(scores), np.nan, 1 + ahead)[:, list(of)].mean(1)


def _notes(board: Board, twins: Sequence[Twin], own: Own, titles: Mapping[str, str]) -> list[str]:
    """In what the two differ, a sentence each."""
    places = [f"{twin.dataset} ({twin.repository}/{twin.fold})" for twin in twins if not twin.other]
    notes = [
        f"Bold are systems of this benchmark, the mean over their seeds. The others are published with {NAME} "
        f"{metadata.version(NAME)}, one run a fold, of models that read embeddings of text and pictures (frozen small, "
        "tuned or frozen large ones, by their names) or the text itself. ↑: more is better, ↓: less is better; this "
        f"benchmark's own scoreboard is by {', '.join(sorted({board.datasets[t.dataset].metric for t in twins}))}.",
        f"Train and test are the published fold's, by the import's note and the number of rows: {', '.join(places)}. "
        f"Systems here choose by valid, part of train there. Of {N_FOLDS} folds this is one; the public leaderboard "
        "ranks over all, by Elo."
        if places
        else "No dataset has the rows of a published fold, so nothing is ranked; the order is by what is shown.",
    ]
    notes += [f"Not ranked: {twin.dataset} beside {twin.repository}; {twin.other}." for twin in twins if twin.other]
    lacking = [
        f"{titles[name]} on {twin.dataset}"
        for twin in twins
        for name in own
        if np.isnan(own[name].get(twin.dataset, [])).any()
    ]
    notes += [f"Without probabilities, which the metric takes: {', '.join(lacking)}."] * bool(lacking)
    left_out = sorted(board.datasets.keys() - {twin.dataset for twin in twins})
    notes += [f"Not of MulTaBench, or of another task there: {', '.join(left_out)}."] * bool(left_out)
    return [markdown_text(note) for note in notes]

"""A candidate's score weighed against those of its rivals, the other candidates of either of its records.

Where each record has one partner, a pair that scores high is no match if others of its records score higher. The pair
model cannot know: it sees one pair at a time, and learned from pairs of which every third matches, not every hundredth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import expit, logit

from mmtab.data.pairs import ENOUGH_MATCHES, Pairs, Records
from mmtab.data.splits import components
from mmtab.matching.encoding import Context
from mmtab.matching.keep import names_of
from mmtab.matching.labels import find_pairs
from mmtab.matching.learning import best_threshold
from mmtab.matching.result import Matches
from mmtab.utils.errors import MmtabError

C = 1.0  # inverse strength of the ridge penalty, of standardised inputs
NEARLY_ALL = 0.95  # share of train's matches whose records have no other partner there
TOO_MANY = 2.0  # times the matches that there may be: then probabilities are those of labelled pairs, not of candidates
THRESHOLDS = (0.02, 0.05, *np.linspace(0.1, 0.8, 8).round(1).tolist())  # few, for clusters of large tables take time


@dataclass(frozen=True)
class Graph:
    """Candidates as left and right row numbers [n] of ``n_records``, and the scores [n] that blocking gave them."""

    left: np.ndarray
    right: np.ndarray
    n_records: int
    nearness: np.ndarray
    one_table: bool = False

    def touched(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """[n] bool: candidates that share a record with one of these pairs."""
        if self.one_table:
            left = right = np.append(left, right)
        return np.isin(self.left, left) | np.isin(self.right, right)

    def places(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Of these pairs, as far as they are candidates."""
        found = find_pairs(self.left, self.right, left, right, self.n_records)
        return found[found >= 0]

    def shares(self, x: np.ndarray) -> list[np.ndarray]:
        """Twice [n]: the log-softmax of ``x`` over the candidates of the left record, and over those of the right."""
        highest = self._highest(x)
        total = np.zeros(self.n_records)
        for side in (self.left, self.right):
            total += np.bincount(side, np.exp(x - highest[side]), self.n_records)
        return self._of_ends([x - highest[side] - np.log(total[side]) for side in (self.left, self.right)])

    def margins(self, x: np.ndarray) -> list[np.ndarray]:
        """Twice [n]: ``x`` less the highest of the other candidates of the left record, and of the right. A record
        without others has one that is lower than all, by 1."""
        ends, both = np.concatenate([self.left, self.right]), np.tile(x, 2)
        order = np.lexsort((-both, ends))
        start = np.searchsorted(ends[order], np.arange(self.n_records + 1))
        several = np.diff(start) > 1
        highest, second = self._highest(x), np.full(self.n_records, x.min(initial=0.0) - 1)
        second[several] = both[order[start[:-1][several] + 1]]
        sides = (self.left, self.right)
        return self._of_ends([x - np.where(x >= highest[side], second[side], highest[side]) for side in sides])

    def _of_ends(self, values: list[np.ndarray]) -> list[np.ndarray]:
        """Of one table, whose records have no side, the smaller of the two comes first."""
        return list(np.sort(values, 0)) if self.one_table else values

    def _highest(self, x: np.ndarray) -> np.ndarray:
        """[n_records], -inf of a record without candidates."""
        highest = np.full(self.n_records, -np.inf)
        for side in (self.left, self.right):
            np.maximum.at(highest, side, x)
        return highest


def weigh(graph: Graph, probability: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """[n] probabilities of the candidates, each against its rivals; None where too few matches are known to fit them.

    A logistic regression reads the pair model's log-odds and the nearness, and how these stand among those of the
    other candidates of the left and of the right record: the share of the nearness, and of both together the share (the
    dual softmax: Smith et al. 2017, Cheng et al. 2021), a sharper share and the margin over the best other (Lowe 2004).
    A second round adds the share of what the first one says. It is fitted to candidates, so that its probabilities are
    those of candidates.

    probability  [n] of the pair model
    known        [n] 1 of matches that the model did not learn from, 0 of candidates that are none, -1 of others
    """
    rows = np.flatnonzero(known >= 0)
    match = known[rows] == 1
    if match.sum() < ENOUGH_MATCHES or match.all():
        return None
    own = [logit(probability.clip(1e-15, 1 - 1e-15)), graph.nearness.astype(float)]
    near, both = _fitted(own[1:], rows, match), _fitted(own, rows, match)
    first = [*own, *graph.shares(near), *graph.shares(both), *graph.shares(2 * both), *graph.margins(both)]
    return expit(_fitted([*first, *graph.shares(_fitted(first, rows, match))], rows, match))


def against_rivals(context: Context, matches: Matches, nearness: np.ndarray, methods: list[str]) -> list[int]:
    """Weigh the probabilities of each relation and choose its threshold anew. Returns by relation how many matches
    both were fitted to, 0 where the pair model's stay.

    What is known are the valid pairs of the run's own dataset whose records are at hand with the same cells. Where
    records of two tables have one partner, as train tells, or probabilities fitted to labelled pairs alone add up to
    more matches than there can be, other candidates of valid matches count as none. In one table such probabilities
    and their threshold are taken only where clusters among records of valid matches become better. Elsewhere the
    threshold is that of the best expected F1 among records whose partner train did not tell, where these have enough
    matches.
    """
    n_known = [0] * len(methods)
    if not len(matches.left):
        return n_known
    try:
        whole_train, whole_valid = context.labelled("train"), context.labelled("valid")
        train, valid = _at_hand(context, whole_train, whole_valid)
    except (MmtabError, OSError) as error:
        print(f"scores stay those of the pair model, since the run's dataset cannot be read to weigh them ({error})")
        return n_known
    lacks = len(matches.left) - len(nearness)  # labelled pairs that blocking did not find
    nearness = np.append(nearness, np.full(lacks, nearness.min(initial=0.0)))
    one_table = matches.records.n_left is None
    graph = Graph(matches.left, matches.right, len(matches.records.table), nearness, one_table)
    for r, name in enumerate(matches.schema.relations):
        single = not one_table and whole_train.single_share(name) >= NEARLY_ALL
        known = _known(graph, train, valid, name, single)
        weighed = weigh(graph, matches.probability[:, r], known)
        too_many = weighed is not None and weighed.sum() > TOO_MANY * _most(matches.records, whole_train, name)
        if too_many and not one_table:
            known, too_many = _known(graph, train, valid, name, rivals=True), False
            weighed = weigh(graph, matches.probability[:, r], known)
        if weighed is None:
            continue
        after = replace(matches, probability=matches.probability.copy())
        after.probability[:, r] = weighed
        chances: np.ndarray | None
        if too_many:  # so that they do not say how many matches there are; labels have to
            chances = _told(graph, train, valid, name)
        else:
            new = ~graph.touched(*train.labelled(name, 1))
            enough = weighed[new].sum() >= ENOUGH_MATCHES  # where records have many partners, train may touch all
            chances = np.where(new, weighed, np.nan) if enough else None
        threshold, f1 = best_threshold(after, methods[r], r, THRESHOLDS, chances)
        own = matches.thresholds[r : r + 1].tolist()
        if too_many and f1 <= best_threshold(matches, methods[r], r, own, chances)[1]:
            continue
        n_known[r] = int((known == 1).sum())
        matches.probability[:, r], matches.thresholds[r] = weighed, threshold
    return n_known


def _told(graph: Graph, train: Pairs, valid: Pairs, relation: str) -> np.ndarray:
    """[n] of one table: 1 of candidates that the matches of train and valid connect, 0 of others with a record of a
    valid match, NaN of others, of which labels tell nothing."""
    ends = (np.concatenate(of) for of in zip(train.labelled(relation, 1), valid.labelled(relation, 1), strict=True))
    groups = components(graph.n_records, *ends)
    told = np.full(len(graph.left), np.nan)
    of_valid = graph.touched(*valid.labelled(relation, 1))
    told[of_valid] = (groups[graph.left] == groups[graph.right])[of_valid]
    return told


def _known(graph: Graph, train: Pairs, valid: Pairs, relation: str, rivals: bool) -> np.ndarray:
    """[n] for ``weigh``. ``rivals``: other candidates of valid matches count as none, unless train says they match."""
    known = np.full(len(graph.left), -1)
    if rivals:
        known[graph.touched(*valid.labelled(relation, 1))] = 0
    for pairs, label, says in ((train, 1, -1), (valid, 0, 0), (valid, 1, 1)):
        known[graph.places(*pairs.labelled(relation, label))] = says
    return known


def _most(records: Records, train: Pairs, relation: str) -> float:
    """How many matches there are if each record of the smaller side, or of the one table, has as many as those that
    match in train."""
    one_table, ends = records.n_left is None, [*train.labelled(relation, 1)]
    if one_table:  # which holds both ends of each match
        ends = [np.concatenate(ends)]
    partners = max((len(side) / len(np.unique(side)) for side in ends if len(side)), default=np.inf)
    return partners * min(map(len, records.sides.values())) / (2 if one_table else 1)


def _at_hand(context: Context, *labelled: Pairs) -> list[Pairs]:
    """Of pairs of the run's own dataset those whose records are among those to match, as row numbers of these."""
    (_, own), records = context.dataset, context.records
    rows = np.unique(np.concatenate([side for pairs in labelled for side in (pairs.left, pairs.right)]))
    n_left = len(own.table) if own.n_left is None else own.n_left
    places = np.full(len(own.table), -1)
    for side, of_side in (("left", rows[rows < n_left]), ("right", rows[rows >= n_left])):
        found = records.row_of(own.table.ids.take(pa.array(of_side)), side)
        places[of_side] = np.asarray(pc.fill_null(found, -1))
    rows = rows[places[rows] >= 0]
    ours, theirs = (
        names_of(context.session, Records(of.table.take(at), int((at < (of.n_left or 0)).sum())))
        for of, at in ((own, rows), (records, places[rows]))
    )
    places[rows[(ours != theirs).any(1)]] = -1  # another record by the same id
    at_hand = []
    for pairs in labelled:
        left, right = places[pairs.left], places[pairs.right]
        kept = np.flatnonzero((left >= 0) & (right >= 0))
        at_hand.append(replace(pairs.take(kept), left=left[kept], right=right[kept]))
    return at_hand


def _fitted(columns: list[np.ndarray], rows: np.ndarray, match: np.ndarray) -> np.ndarray:
    """[n] log-odds by a logistic regression on ``columns`` ([n] each), fitted to ``rows``."""
    from sklearn.linear_model import LogisticRegression

    x = np.stack([column[rows] for column in columns], 1)
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-9] = np.inf  # what is the same in all that is known tells nothing of others
    model = LogisticRegression(C=C, max_iter=1000).fit((x - mean) / scale, match)
    weights = model.coef_[0] / scale
    log_odds = np.full(len(columns[0]), model.intercept_[0] - mean @ weights)
    for column, weight in zip(columns, weights, strict=True):  # one at a time: there may be millions of candidates
        log_odds += weight * column
    return log_odds

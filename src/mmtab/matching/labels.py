"""Labels that people give to pairs of a result: read, learned from, and asked for where they say most."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import minimize
from scipy.special import expit, logit

from mmtab.data import files, splits
from mmtab.data.cells import first
from mmtab.data.csv_files import FOUND_OUT, Dialect
from mmtab.data.pairs import Pairs, Records, read_pairs_file
from mmtab.data.raw import standard_file
from mmtab.data.schema import LABEL, Schema
from mmtab.data.table import Table, names_in
from mmtab.training.metrics import too_few_matches
from mmtab.utils.errors import DataError, RunError

RELATION = "relation"  # the column that names it, where there are several
N_PRIOR = 20  # labels that the run's own calibration counts as
WIDEST = 3.0  # the largest logarithm of the temperature, with which nothing is left of scores
WIDE = 2.0  # times what a model's log-odds say of how sure it is, before labels tell
STEP, MOST = 1.0, 12  # log-odds of a bin of scores, and bins on either side of the threshold


@dataclass(frozen=True)
class PairLabels:
    """Row numbers of pairs, the number of the relation and 1 where it holds, 0 where not; [n] int64 each."""

    left: np.ndarray
    right: np.ndarray
    relation: np.ndarray
    label: np.ndarray

    @staticmethod
    def none() -> PairLabels:
        return PairLabels(*(np.zeros(0, np.int64),) * 4)

    def known(self, left: np.ndarray, right: np.ndarray, n_records: int, n_relations: int) -> np.ndarray:
        """[n, r] int8: of pairs that include those labelled, 1 and 0, -1 where there is no label."""
        known = np.full((len(left), n_relations), -1, np.int8)
        known[find_pairs(left, right, self.left, self.right, n_records), self.relation] = self.label
        return known

    def one_partner(self, relation: int) -> bool:
        """Whether no record has two partners by these labels."""
        chosen = (self.relation == relation) & (self.label == 1)
        matches = np.unique(np.stack([self.left[chosen], self.right[chosen]], 1), axis=0)
        return all(len(np.unique(side)) == len(side) for side in matches.T)


def read_labels(path: Path, schema: Schema, records: Records, dialect: Dialect = FOUND_OUT) -> PairLabels:
    """A table of any form with left_id, right_id and label, with several relations also relation. Raises RunError,
    which names the file and the row, for unknown ids and for labels that contradict each other."""
    try:
        with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
            table = standard_file(path, Path(scratch), schema.name, dialect)
            pairs = read_pairs_file(table, replace(schema, relations={LABEL: ()}), records)
            relation = _relations(table, schema, len(pairs))
    except DataError as error:
        raise RunError(f"labels={path}: {error}") from error
    if pairs.labels is None:
        raise RunError(f"labels={path}: the column {LABEL} is missing or empty. Fix: 1 for a match, 0 for none")
    labels = PairLabels(pairs.left, pairs.right, relation, np.asarray(pairs.labels).astype(np.int64))
    alone = np.flatnonzero(labels.left == labels.right)
    if len(alone):
        raise RunError(f"labels={path}, row {alone[0] + 1}: both ids are of one record. Fix: leave the row out")
    for number in np.unique(relation):
        _check_consistent(path, pairs, labels, int(number), len(records.table))
    return labels


def _relations(path: Path, schema: Schema, n: int) -> np.ndarray:
    """[n] int64 the number of each row's relation."""
    names = list(schema.relations)
    if RELATION not in files.header(path, schema.name).names:
        if len(names) > 1:
            raise DataError(schema.name, "the file lacks this column", column=RELATION, expected=f"one of {names}")
        return np.zeros(n, np.int64)
    table = Table(schema.name, path.stem, path.parent, pa.nulls(n, pa.string()), {})
    given = names_in(table, files.read(path, schema.name, [RELATION]), RELATION)
    place = pc.index_in(given, value_set=pa.array(names, given.type))
    if place.null_count:
        row = first(pc.is_null(place))
        problem, found = "no relation of the run", given[row].as_py()
        raise table.error(problem, row=row, column=RELATION, expected=f"one of {names}", found=found)
    return np.asarray(place).astype(np.int64)


def _check_consistent(path: Path, pairs: Pairs, labels: PairLabels, relation: int, n_records: int) -> None:
    rows = np.flatnonzero(labels.relation == relation)
    matches, others = rows[labels.label[rows] == 1], rows[labels.label[rows] == 0]
    whole = splits.components(n_records, pairs.left[matches], pairs.right[matches])
    bad = others[whole[pairs.left[others]] == whole[pairs.right[others]]]
    if not len(bad):
        return
    row = int(bad[0])
    ids = pairs.left_ids[row].as_py(), pairs.right_ids[row].as_py()
    joining = matches[whole[pairs.left[matches]] == whole[pairs.left[row]]][:5] + 1
    raise RunError(
        f"labels={path}, row {row + 1}: label 0 for {ids[0]} and {ids[1]}, which rows with label 1 join: "
        f"{', '.join(map(str, joining))}. Fix: correct one of them"
    )


def find_pairs(left: np.ndarray, right: np.ndarray, wanted: np.ndarray, with_: np.ndarray, n: int) -> np.ndarray:
    """[m]: the place of pairs ``wanted`` and ``with_`` [m] among ``left`` and ``right`` [k], in either order, -1 where
    there is none; row numbers of n records."""
    among, keys = (np.minimum(a, b) * n + np.maximum(a, b) for a, b in ((left, right), (wanted, with_)))
    if not len(among):
        return np.full(len(keys), -1)
    order = np.argsort(among)
    place = order[np.minimum(np.searchsorted(among, keys, sorter=order), len(among) - 1)]
    return np.where(among[place] == keys, place, -1)


# --- what they teach --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """Probabilities [n] of a relation; log-odds are divided by ``temperature``, then ``bias`` is added. ``left_out``:
    why nothing was learned. ``contradicted``: what labels say that leave nothing of the scores."""

    probability: np.ndarray
    temperature: float = 1.0
    bias: float = 0.0
    left_out: str = ""
    contradicted: str = ""


def learn(probability: np.ndarray, known: np.ndarray) -> Learned:
    """Fit temperature and bias to the labels ``known`` [n] (-1: none).

    What labels say of the pairs with a score does not depend on how scores were chosen for labelling, so the fit needs
    no weights for that. The run's calibration, which comes from valid, counts as ``N_PRIOR`` labels that agree with it.
    """
    rows = np.flatnonzero(known >= 0)
    y, z = known[rows].astype(float), logit(probability.clip(1e-15, 1 - 1e-15))
    few = too_few_matches(y, "the labels file")
    if few:
        return Learned(probability, left_out=few)
    agreed, given = expit(z[rows]), z[rows]

    def loss(x: np.ndarray) -> float:
        scaled = given / np.exp(x[0]) + x[1]
        log_sum = np.logaddexp(0, scaled)
        return float((log_sum - y * scaled).sum() + N_PRIOR * (log_sum - agreed * scaled).mean())

    log_temperature, bias = minimize(loss, [0.0, 0.0], bounds=[(-WIDEST, WIDEST), (-10, 10)], method="L-BFGS-B").x
    temperature = float(np.exp(log_temperature))
    contradicted = ""
    if log_temperature > WIDEST - 0.01:
        n_others = int(((given >= 0) != (y == 1)).sum())
        contradicted = f"the labels contradict the model: {n_others} of {len(y)} say the opposite of its score"
    return Learned(expit(z / temperature + bias), temperature, float(bias), contradicted=contradicted)


# --- which to ask for -------------------------------------------------------------------------------------------------


def worth_labelling(
    pairs: tuple[np.ndarray, np.ndarray], margin: np.ndarray, clusters: np.ndarray, n: int, rng: np.random.Generator
) -> list[int]:
    """Places of up to n of the candidates ``pairs`` whose labels say most, the most telling mix first.

    ``margin`` [m]: log-odds above the threshold, NaN for pairs not to ask for; ``clusters`` [n_records] of the result.
    Candidates fall into bins of scores. A bin of c candidates gets labels in proportion to sqrt(p(1 - p)) and to the
    fourth root of c: to c itself, nearly all would be sure to be no matches. The model is not trusted to know p: its
    log-odds are divided by ``WIDE``. No two of the pairs share a cluster, so that none is a near-copy of another.
    """
    places = np.flatnonzero(np.isfinite(margin))
    bin_of = np.clip(np.floor(margin[places] / STEP), -MOST, MOST)
    bins, of, count = np.unique(bin_of, return_inverse=True, return_counts=True)
    p = expit((bins + 0.5) * STEP / WIDE)
    weight = np.sqrt(p * (1 - p)) * count**0.25
    waiting = [iter(rng.permutation(places[of == b]).tolist()) for b in range(len(bins))]
    taken, used, chosen = np.zeros(len(bins)), set[int](), list[int]()
    open_bins = np.ones(len(bins), bool)
    while len(chosen) < n and open_bins.any():
        b = int(np.where(open_bins, (taken + 0.5) / weight, np.inf).argmin())  # Webster's rule: any prefix is spread
        for place in waiting[b]:
            both = {int(clusters[side[place]]) for side in pairs}
            if not both & used:
                used |= both
                chosen.append(place)
                taken[b] += 1
                break
        else:
            open_bins[b] = False
    return chosen

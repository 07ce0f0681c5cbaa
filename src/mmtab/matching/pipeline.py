"""From two tables (or one) to clusters of the same thing: blocking, scoring, clustering, and what spoke for each match.

Work is done in shards, which an unfinished run leaves in ``<output>.parts`` and the next one takes up. What is held in
memory is the tables' cells, a vector a record and the candidates; tokens and pictures' features lie on disk.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmtab.config.types import Hardware, MatchConfig
from mmtab.data import files
from mmtab.data import table as tables
from mmtab.data.dataset import dataset_folder
from mmtab.data.digests import digest_of
from mmtab.data.pairs import Records, read_pairs, read_pairs_file, read_records
from mmtab.data.pictures import Progress
from mmtab.data.schema import LABEL, ColumnType, Schema, TaskKind
from mmtab.data.table import Table
from mmtab.features.batches import Rows, Tokens
from mmtab.features.encoded import Sequences, cross_sequences, without_text
from mmtab.features.similarity import EVERYTHING
from mmtab.matching.blocking import Blocker, Choice, Side, choose, pairs, word_vectors
from mmtab.matching.clustering import METHODS, evaluate
from mmtab.model.models import PairModel
from mmtab.runs import provenance
from mmtab.runs.session import Session, cache_of, open_run, progress_of
from mmtab.training.metrics import pair_metrics
from mmtab.utils.atomic import write_json
from mmtab.utils.cache import Arrays, Store
from mmtab.utils.errors import ConfigError, MmtabError, RunError

BATCH = 512  # pairs, or rows, in one forward pass


@dataclass
class Result:
    """What ``match`` found. ``left``, ``right`` [n]: row numbers of the candidates, ``probability`` [n, r] of each;
    ``clusters`` [r, n_records]; ``report``: counts, blocking, seconds, memory and, given truth, scores."""

    schema: Schema
    records: Records
    left: np.ndarray
    right: np.ndarray
    probability: np.ndarray
    clusters: np.ndarray
    thresholds: np.ndarray
    reasons: dict[int, np.ndarray]  # place among the candidates -> [r, columns]
    columns: list[str]
    report: dict[str, Any]

    @property
    def together(self) -> np.ndarray:
        """[n, r] bool: candidates whose records are in one cluster."""
        return (self.clusters[:, self.left] == self.clusters[:, self.right]).T

    @property
    def called(self) -> np.ndarray:
        """[n, r] bool: candidates that score as matches."""
        return self.probability >= self.thresholds

    def samples(self, n: int, seed: int = 0) -> dict[str, list[int]]:
        """Candidates worth a person's look, by group, ``n`` in all where there are enough; each stands in one group."""
        rng, groups = np.random.default_rng(seed), dict[str, list[int]]()
        sure = np.flatnonzero((self.together & self.called).any(1))
        gap = (self.probability - self.thresholds).T
        chosen = {
            "just below the threshold": [np.flatnonzero(~self.called[:, r])[np.argsort(-g[~self.called[:, r]])] for r, g in enumerate(gap)],
            "doubtful matches": [np.flatnonzero(self.called[:, r])[np.argsort(g[self.called[:, r]])] for r, g in enumerate(gap)],
            "scored as a match, parted by clustering": [np.flatnonzero(self.called[:, r] & ~self.together[:, r]) for r in range(len(gap))],
            "matches at random": [rng.permutation(sure)],
        }  # fmt: skip
        taken: set[int] = set()
        for group, lists in chosen.items():
            room = n // len(chosen)
            for places in lists:
                free = [int(place) for place in places[: 4 * room] if int(place) not in taken]
                groups.setdefault(group, []).extend(free[: room // len(lists)])
                taken.update(groups[group])
        return {group: groups[group] for group in reversed(chosen) if groups[group]}


def match(config: MatchConfig, progress: Progress = progress_of) -> Result:
    """Block, score, cluster, explain; write ``output`` (pairs), ``<output>_clusters`` (records) and ``<output>.json``."""
    started, output = time.perf_counter(), Path(config.output)
    _check(config, output)
    session = open_run(Path(config.run), Hardware(config.accelerator))
    if session.schema.task is not TaskKind.MATCHING:
        raise RunError(f"{config.run} was trained to classify rows; matching wants a run on a matching dataset")
    records, read = _read(config, session)
    work = Store(output.with_name(output.name + ".parts"))
    job = _Job(session, records, work, config, _fingerprint(config, read), progress)
    clock = _Clock()
    with clock("encode"):
        shelf = job.encode()
    with clock("block"):
        choice, left, right = job.block(shelf)
    with clock("score"):
        probability = job.score(shelf, left, right)
    with clock("cluster"):
        thresholds, n = session.task.thresholds, len(records.table)  # type: ignore[attr-defined]
        cluster = METHODS[config.clustering]
        clusters = np.stack(
            [cluster(n, left, right, p, float(t)) for p, t in zip(probability.T, thresholds, strict=True)]
        )
    result = Result(session.schema, records, left, right, probability, clusters, thresholds, {}, job.columns, {})
    if config.explain:
        with clock("explain"):
            result.reasons = job.explain(shelf, result)
    n_asking = n if records.n_left is None else min(records.n_left, n - records.n_left)
    possible = n * (n - 1) // 2 if records.n_left is None else records.n_left * (n - records.n_left)
    result.report = {
        "run": config.run,
        "n_records": n,
        "n_left": records.n_left,
        "blocking": {
            "k_words": choice.k_words,
            "k_vectors": choice.k_vectors,
            "valid_recall": choice.recall,
            "n_candidates": len(left),
            "candidates_per_record": len(left) / max(n_asking, 1),
            "reduction_ratio": 1 - len(left) / max(possible, 1),
        },
        "relations": {
            name: {
                "threshold": float(thresholds[r]),
                "n_matches": int(result.together[:, r].sum()),
                "n_clusters": len(np.unique(clusters[r])),
                "n_clusters_of_several": int((np.bincount(clusters[r]) > 1).sum()),
            }
            for r, name in enumerate(session.schema.relations)
        },
        "clustering": config.clustering,
    }
    if config.truth is not None:
        result.report["scores"] = _scores(Path(config.truth), result)
    result.report |= {
        "seconds": clock.seconds | {"total": time.perf_counter() - started},
        "peak_memory_mib": provenance.peak_memory_mib(),
    }
    _write(result, output)
    shutil.rmtree(work.root, ignore_errors=True)
    return result


# --- the work --------------------------------------------------------------------------------------------------------


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, stage: str) -> _Clock:
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._stage] = time.perf_counter() - self._start


@dataclass(frozen=True)
class _Shelf:
    """What is known of each record: ``parts`` are folders, a shard each, of arrays that are mapped only while they are read,
    so that memory does not fill with what was read before."""

    parts: list[Path]
    size: int
    cross: Sequences | None = None

    def has(self, name: str) -> bool:
        return (self.parts[0] / f"{name}.npy").is_file()

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        shard, out = rows // self.size, None
        for i in np.unique(shard):
            part = np.load(self.parts[i] / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            out = np.empty((len(rows), *part.shape[1:]), part.dtype) if out is None else out
            here = shard == i
            out[here] = part[rows[here] - i * self.size]
        assert out is not None
        return out

    def whole(self, name: str) -> np.ndarray:
        return np.concatenate([np.load(part / f"{name}.npy", allow_pickle=False) for part in self.parts])

    def held(self, rows: np.ndarray) -> _Held:
        """Some records in memory."""
        names = [name for name in ("tokens", "mask", "summary", "vector") if self.has(name)]
        return _Held(rows, {name: self.take(name, rows) for name in names}, self.cross)


@dataclass(frozen=True)
class _Held:
    """``rows``: sorted row numbers; ``cross`` is of all records."""

    rows: np.ndarray
    arrays: Arrays
    cross: Sequences | None

    def __call__(self, rows: np.ndarray, device: torch.device) -> Rows:
        """As the model's ``rows`` gave them."""
        places = np.searchsorted(self.rows, rows)
        found = {name: torch.from_numpy(values[places]).to(device) for name, values in self.arrays.items()}
        tokens = Tokens(found["tokens"].float(), found["mask"])
        return Rows(tokens, found.get("summary"), found.get("vector"))


# Records held in memory; left, right, comparison of pairs -> [n, width]
Score = Callable[[_Held, np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


@dataclass
class _Job:
    session: Session
    records: Records
    work: Store
    config: MatchConfig
    key: str
    progress: Progress

    @property
    def model(self) -> PairModel:
        model = self.session.model
        assert isinstance(model, PairModel)
        return model

    @property
    def columns(self) -> list[str]:
        """What reasons are given for: the columns, and the texts taken together where these are compared."""
        names = [column.name for column in self.session.schema.columns]
        comparison = self.session.fitted.comparison
        return [*names, EVERYTHING] if self.model.comparison is not None and comparison is not None else names

    # --- records

    def encode(self) -> _Shelf:
        """Every record once, a shard at a time."""
        table, size = self.records.table, self.config.shard
        shards = range(0, len(table), size)
        parts = [
            self.work.folder("rows", {"key": self.key, "first": first}, functools.partial(self._encode, first))
            for first in self.progress(iter(shards), len(shards), "records")
        ]
        cross = None
        if self.model.cross is not None:
            cross = cross_sequences(table, self.session.cross_columns, self.model.cross, self.work)
        return _Shelf(parts, size, cross)

    def _encode(self, first: int, _: object) -> Arrays:
        whole, n = self.records.table, min(self.config.shard, len(self.records.table) - first)
        table = replace(
            whole,
            ids=whole.ids.slice(first, n),
            columns={name: cells.slice(first, n) for name, cells in whole.columns.items()},
            first_row=first,
        )
        self.work.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".encoding-", dir=self.work.root) as scratch:
            # Pixels and tokens are of no further use
            encoded = self.session.encode(table, Store(Path(scratch)), progress=False)
            found: dict[str, list[np.ndarray]] = {"tokens": [], "mask": []}
            with self.session.evaluating():
                for start in range(0, n, BATCH):
                    batch = encoded.rows(np.arange(start, min(start + BATCH, n))).to(self.session.device)
                    rows = self.model.rows(batch)
                    found["tokens"].append(rows.tokens.x.to(torch.float16).cpu().numpy())
                    found["mask"].append(rows.tokens.mask.cpu().numpy())
                    for name in ("summary", "vector"):
                        x = getattr(rows, name)
                        if x is not None:
                            found.setdefault(name, []).append(x.float().cpu().numpy())
            arrays = {name: np.concatenate(values) for name, values in found.items()}
            if self.model.comparison is not None and encoded.pictures:
                arrays["pictures"] = np.stack(list(encoded.pictures.values()), 1)
        return arrays

    # --- candidates

    def block(self, shelf: _Shelf) -> tuple[Choice, np.ndarray, np.ndarray]:
        """How many neighbours, and the candidates: left and right row numbers."""
        sides, n_left = self._side(self.records.table, shelf), self.records.n_left
        rows = np.arange(len(sides))
        if n_left is None:
            blocker, first, second, asks_left = Blocker(sides), rows, rows, True
        else:
            first, second = sorted((rows[:n_left], rows[n_left:]), key=len)
            blocker, asks_left = Blocker(sides[first], sides[second]), int(first[0]) == 0
        if self.config.k is not None:
            choice = Choice(self.config.k, self.config.k, None)
        else:
            choice = self._choose(blocker, asks_left)

        def build(_: object) -> Arrays:
            a, b = pairs(*blocker.neighbours(max(choice.k_words, choice.k_vectors, 1)), choice, n_left is None)
            a, b = first[a], second[b]
            left, right = (a, b) if asks_left else (b, a)
            order = np.lexsort((right, left))  # so that a shard of pairs needs few shards of records
            return {"left": left[order], "right": right[order]}

        key = {"key": self.key, "k_words": choice.k_words, "k_vectors": choice.k_vectors}
        found = self.work.arrays("candidates", key, build)
        return choice, np.array(found["left"]), np.array(found["right"])

    def _side(self, table: Table, shelf: _Shelf) -> Side:
        if shelf.has("vector"):
            vectors = shelf.whole("vector")
        else:  # no towers: the mean of the row's tokens, untrained for this but better than nothing
            shards = np.array_split(np.arange(len(table)), len(shelf.parts))
            mean = [shelf.take("tokens", rows).astype(np.float32).mean(1) for rows in shards]
            vectors = np.concatenate([x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in mean])
        return Side(word_vectors(_texts(table, self.session.schema)), vectors)

    def _choose(self, blocker: Blocker, asks_left: bool) -> Choice:
        """From the valid matches of the run's dataset: where their partners would stand among the records at hand."""
        session, max_k = self.session, self.config.max_k
        dataset, fallback = session.config.dataset, Choice(max_k, max_k, None)
        try:
            data = dataset_folder(dataset, session.config.data_root, cache_of(session.config))
            records = read_records(data, session.schema, dataset.bad_cells)  # type: ignore[arg-type]
            known = read_pairs(data, session.schema, "valid", records)
        except MmtabError as error:
            print(f"k={max_k}, since the valid pairs of the run's dataset cannot be read to choose it ({error})")
            return fallback
        match = np.any([np.asarray(labels) == 1 for labels in known.relations.values()], 0)
        ends = (known.left[match], known.right[match])
        rows, places = np.unique(np.concatenate(ends), return_inverse=True)
        few = Records(_taken(records.table, rows), None)
        job = replace(self, records=few, key=digest_of(f"{self.key} valid"))
        side = job._side(few.table, job.encode())
        a, b = places[: len(ends[0])], places[len(ends[0]) :]
        own = None
        if self.records.n_left is None:  # asked of its own table, a record would find itself
            found = pc.index_in(few.table.ids.take(pa.array(a)), value_set=self.records.table.ids)
            own = np.asarray(found.fill_null(-1)).astype(np.int64)
        if not asks_left:
            a, b = b, a
        return choose(blocker.places(side[a], side[b], max_k, own), max_k, self.config.recall)

    # --- pairs

    def score(self, shelf: _Shelf, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """[n, r] probabilities of the candidates."""
        n_relations = len(self.session.schema.relations)
        logits = self._sharded("scores", shelf, left, right, self._logits, n_relations, "pairs")
        return self.session.task.probabilities(logits.astype(np.float64))

    def explain(self, shelf: _Shelf, result: Result) -> dict[int, np.ndarray]:
        """For each match the log-odds that each column adds: those of the pair less those without the column [r, columns]."""
        shown = [place for places in result.samples(self.config.n_shown).values() for place in places]
        chosen = np.union1d(np.flatnonzero((result.together | result.called).any(1)), np.array(shown, np.int64))
        shape = (len(self.session.schema.relations), len(self.columns))
        ends = result.left[chosen], result.right[chosen]
        flat = self._sharded("reasons", shelf, *ends, self._reasons, shape[0] * shape[1], "reasons")
        return {int(i): reasons.reshape(shape) for i, reasons in zip(chosen, flat, strict=True)}

    def _reasons(self, held: _Held, left: np.ndarray, right: np.ndarray, comparison: np.ndarray | None) -> np.ndarray:
        """[n, r * columns]"""
        owners, fitted = np.array(self.model.owners, object), self.session.fitted.comparison
        whole, out = self._logits(held, left, right, comparison), []
        for name in self.columns:
            without = comparison
            if comparison is not None and fitted is not None:
                gone = np.array([owner == name for owner in fitted.owners])
                without = np.where(gone, np.float32(np.nan), comparison)
            hidden = torch.from_numpy((owners == name).astype(bool))
            out.append(whole - self._logits(held, left, right, without, hidden, name))
        return np.stack(out, 2).reshape(len(left), -1)

    def _sharded(
        self, kind: str, shelf: _Shelf, left: np.ndarray, right: np.ndarray, one: Score, width: int, title: str
    ) -> np.ndarray:
        """[n, width]: ``one`` on shards of pairs; the comparison of the next is made while the model reads this one."""
        size = 8 * self.config.shard
        shards = [(left[i : i + size], right[i : i + size]) for i in range(0, len(left), size)]
        keys = [{"key": self.key, "pairs": digest_of(np.stack(shard))} for shard in shards]
        parts = [np.zeros((0, width), np.float32)]
        with ThreadPoolExecutor(1) as ahead:
            waiting = [None if self.work.has(kind, key) else shard for key, shard in zip(keys, shards, strict=True)]
            comparisons = self._compared(shelf, waiting, ahead)
            for key, shard, comparison in self.progress(
                zip(keys, shards, comparisons, strict=True), len(shards), title
            ):
                build = functools.partial(_made, one, shelf, shard[0], shard[1], comparison)
                parts.append(self.work.arrays(kind, key, build)["out"])
        return np.concatenate(parts)

    def _compared(self, shelf: _Shelf, shards: list[Any], ahead: ThreadPoolExecutor) -> Iterator[np.ndarray | None]:
        def start(i: int) -> Any:
            shard = shards[i] if i < len(shards) else None
            return None if shard is None else ahead.submit(self._compare, shelf, *shard)

        coming = start(0)
        for i in range(len(shards)):
            comparison = None if coming is None else coming.result()
            coming = start(i + 1)
            yield comparison

    def _compare(self, shelf: _Shelf, left: np.ndarray, right: np.ndarray) -> np.ndarray | None:
        if self.model.comparison is None:
            return None
        rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
        pictures = {}
        if len(rows) and shelf.has("pictures"):
            seen = shelf.take("pictures", rows)
            pictures = {name: seen[:, c] for c, name in enumerate(self.session.schema.of_type(ColumnType.IMAGE))}
        return self.session.compare(
            _taken(self.records.table, rows), places[: len(left)], places[len(left) :], pictures
        )

    def _logits(
        self,
        held: _Held,
        left: np.ndarray,
        right: np.ndarray,
        comparison: np.ndarray | None,
        hidden: torch.Tensor | None = None,
        column: str | None = None,
    ) -> np.ndarray:
        """[n, r] float32. ``hidden``: token places left out, those of ``column``."""
        device, out = self.session.device, [np.zeros((0, len(self.session.schema.relations)), np.float32)]
        hidden = None if hidden is None else hidden.to(device)
        with self.session.evaluating():
            for start in range(0, len(left), BATCH):
                a, b = left[start : start + BATCH], right[start : start + BATCH]
                rows = [held(side, device) for side in (a, b)]
                if hidden is not None and hidden.any():
                    rows = [self.model.summarise(side.tokens, hidden) for side in rows]
                features = None
                if comparison is not None:
                    features = torch.from_numpy(comparison[start : start + BATCH]).to(device)
                text = None
                if held.cross is not None:
                    text = held.cross.double(*held.cross.ordered(a, b))
                    if column in self.session.cross_columns:
                        text = without_text(text, self.session.cross_columns.index(column), held.cross.n_columns)
                    text = text.to(device)
                logits = self.model.score(rows[0], rows[1], features, text, hidden)
                out.append(logits.float().cpu().numpy())
        return np.concatenate(out)


def _made(
    one: Score, shelf: _Shelf, left: np.ndarray, right: np.ndarray, comparison: np.ndarray | None, _: object
) -> Arrays:
    held = shelf.held(np.unique(np.concatenate([left, right])))
    return {"out": one(held, left, right, comparison)}


# --- reading ---------------------------------------------------------------------------------------------------------


def _check(config: MatchConfig, output: Path) -> None:
    if output.suffix not in files.FORMATS:
        raise ConfigError(f"output={output}: expected a name ending in .parquet or .csv")
    if config.clustering not in METHODS:
        raise ConfigError(f"clustering={config.clustering}: expected one of {', '.join(METHODS)}")
    for name, least in (("k", 1), ("max_k", 1), ("shard", 1), ("n_shown", 0)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise ConfigError(f"{name}={value}: expected at least {least}")
    if not 0 < config.recall <= 1:
        raise ConfigError(f"recall={config.recall}: expected above 0, and at most 1")
    if config.records is not None and (config.left or config.right):
        raise ConfigError("records stands beside left or right: give one table, or two")
    if (config.left is None) != (config.right is None):
        raise ConfigError("left and right go together; for one table give records=TABLE")


def _read(config: MatchConfig, session: Session) -> tuple[Records, list[Path]]:
    """The records, and the files that they come from."""
    places = {name: Path(getattr(config, name)) for name in ("left", "right", "records") if getattr(config, name)}
    if places:
        return session.read_records(**places), list(places.values())
    data = dataset_folder(session.config.dataset, session.config.data_root, cache_of(session.config))
    records = read_records(data, session.schema, session.config.dataset.bad_cells)  # type: ignore[arg-type]
    stems = ["records"] if records.n_left is None else ["left", "right"]
    return records, [tables.find_table(data, session.schema, stem) for stem in stems]


def _fingerprint(config: MatchConfig, read: list[Path]) -> str:
    run = Path(config.run)
    return f"{tables.fingerprint([run / 'checkpoints' / 'best.ckpt', run / 'fitted.json', run / 'config.yaml', *read])} {config.shard}"


def _texts(table: Table, schema: Schema) -> list[str]:
    """All that is written in a row, but for what some relation ignores."""
    if not schema.written:
        return [""] * len(table)
    cells = [pc.fill_null(table.columns[name].cast(pa.large_string()), "") for name in schema.written]
    return pc.binary_join_element_wise(*cells, pa.scalar(" ", pa.large_string())).to_pylist()


def _taken(table: Table, rows: np.ndarray) -> Table:
    take = pa.array(rows)
    columns = {name: cells.take(take) for name, cells in table.columns.items()}
    return replace(table, ids=table.ids.take(take), columns=columns)


# --- truth and writing -----------------------------------------------------------------------------------------------


def _scores(path: Path, result: Result) -> dict[str, float]:
    """Against labelled pairs: recall of blocking, and F1 of score and of clusters; against entities: of clusters."""
    schema, records = result.schema, result.records
    names = files.header(path, schema.name).names
    found: dict[str, float] = {}
    if "left_id" in names:
        pairs = read_pairs_file(path, schema, records)
        keys, asked = (
            _keys(*ends, len(records.table)) for ends in ((result.left, result.right), (pairs.left, pairs.right))
        )
        order = np.argsort(keys)
        place = np.searchsorted(keys, asked, sorter=order)
        place = order[np.minimum(place, len(keys) - 1)] if len(keys) else np.zeros(len(asked), np.int64)
        blocked = keys[place] == asked if len(keys) else np.zeros(len(asked), bool)
        for r, name in enumerate(schema.relations):
            if name not in pairs.relations:
                continue
            label, prefix = np.asarray(pairs.relations[name]), "" if name == LABEL else f"{name}/"
            score = np.where(blocked, result.probability[place, r] if len(keys) else 0.0, 0.0)
            clusters = result.clusters[r]
            together = (clusters[pairs.left] == clusters[pairs.right]).astype(float)
            found[f"{prefix}blocking_recall"] = float(blocked[label == 1].mean()) if (label == 1).any() else 1.0
            for kind, value, threshold in (("score", score, result.thresholds[r]), ("cluster", together, 0.5)):
                metrics = pair_metrics(value, label, float(threshold))
                found |= {f"{prefix}{kind}_{m}": metrics[m] for m in ("f1", "precision", "recall")}
        return found
    columns = [name for name in ("entity", *schema.relations) if name in names]
    if schema.id not in names or not columns:
        raise RunError(f"truth={path}: expected left_id, right_id and labels, or {schema.id} and an entity for each relation; found {names}")  # fmt: skip
    raw = files.read(path, schema.name)
    place = pc.index_in(records.table.ids, value_set=pc.cast(raw[schema.id].combine_chunks(), records.table.ids.type))
    if len(pc.unique(records.table.ids)) < len(records.table):
        raise RunError(f"truth={path}: an id names a record on either side, so entities by id are unclear; give labelled pairs")  # fmt: skip
    for r, name in enumerate(schema.relations):
        column = name if name in names else "entity"
        if column not in names:
            continue
        codes = raw[column].combine_chunks().dictionary_encode().indices
        truth = np.asarray(pc.fill_null(codes.take(place), -1)).astype(np.int64)
        prefix = "" if name == LABEL else f"{name}/"
        found |= {f"{prefix}{key}": float(value) for key, value in evaluate(result.clusters[r], truth).items()}
        found[f"{prefix}blocking_recall"] = _entity_recall(result, truth)
    return found


def _entity_recall(result: Result, truth: np.ndarray) -> float:
    """The share of the true pairs (across the sides, where there are two) that are candidates."""
    n_left, side = result.records.n_left, np.zeros(len(truth), np.int64)
    if n_left is not None:
        side[n_left:] = 1
    known, m = truth >= 0, int(truth.max(initial=-1)) + 1
    counts = np.stack([np.bincount(truth[known & (side == s)], minlength=m) for s in (0, 1)])
    n_true = (counts[0] * (counts[0] - 1) // 2).sum() if n_left is None else (counts[0] * counts[1]).sum()
    hits = (truth[result.left] == truth[result.right]) & known[result.left]
    return float(hits.sum() / n_true) if n_true else 1.0


def _keys(left: np.ndarray, right: np.ndarray, n: int) -> np.ndarray:
    return np.minimum(left, right) * n + np.maximum(left, right)


def said(reasons: np.ndarray, columns: list[str], sign: int) -> str:
    """Columns that spoke for (1) or against (-1), the loudest first, such as "title +3.2; brand +0.8"."""
    order = [i for i in np.argsort(-sign * reasons, kind="stable") if sign * reasons[i] >= 0.05]
    return "; ".join(f"{name_of(columns[i])} {reasons[i]:+.1f}" for i in order)


def name_of(column: str) -> str:
    return "texts together" if column == EVERYTHING else column


def _write(result: Result, output: Path) -> None:
    """The pairs that some relation holds for, by score or by cluster; the records with their clusters; the report."""
    ids, together, n_left = result.records.table.ids, result.together, result.records.n_left
    kept = np.flatnonzero((together | result.called).any(1))
    left, right = result.left[kept], result.right[kept]
    columns: dict[str, pa.Array] = {"left_id": ids.take(pa.array(left)), "right_id": ids.take(pa.array(right))}
    relations = list(result.schema.relations)
    for r, name in enumerate(relations):
        end = "" if len(relations) == 1 else f"_{name}"
        columns[f"probability{end}"] = pa.array(result.probability[kept, r])
        columns[f"prediction{end}"] = pa.array(together[kept, r].astype(np.int8))
        apart = ~together[kept, r]
        columns[f"cluster{end}"] = pa.array(result.clusters[r][left], mask=apart)
        if result.reasons:
            for title, sign in (("for", 1), ("against", -1)):
                texts = [said(result.reasons[int(i)][r], result.columns, sign) for i in kept]
                columns[f"spoke_{title}{end}"] = pa.array(texts, pa.string())
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(output, pa.table(columns))
    sides = ["records"] * len(ids) if n_left is None else ["left"] * n_left + ["right"] * (len(ids) - n_left)
    members: dict[str, pa.Array] = {"table": pa.array(sides), result.schema.id: ids}
    for r, name in enumerate(relations):
        members["cluster" if len(relations) == 1 else f"cluster_{name}"] = pa.array(result.clusters[r])
    files.write_table(output.with_name(f"{output.stem}_clusters{output.suffix}"), pa.table(members))
    write_json(output.with_suffix(".json"), result.report)

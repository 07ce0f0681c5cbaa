"""From two tables, or one, to clusters of the same thing: encode, block, score, cluster, explain.

Work is done in shards, which an unfinished run leaves in ``<output>.parts`` and the next one takes up. Memory holds the
tables' cells, a vector a record and the candidates; tokens and picture features lie on disk.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmtab.config.types import Hardware, MatchConfig, RunConfig
from mmtab.data import files
from mmtab.data import table as tables
from mmtab.data.csv_files import Dialect
from mmtab.data.pairs import Records, read_records
from mmtab.data.raw import standard_file
from mmtab.data.remote import fetched
from mmtab.data.schema import Schema
from mmtab.matching.asked import check_match, written
from mmtab.matching.blocking import Candidates, block, search_vectors
from mmtab.matching.encoding import Context, EncodedRecords, encode_records
from mmtab.matching.explain import explain, explained_columns
from mmtab.matching.keep import keep_of
from mmtab.matching.labels import PairLabels, find_pairs, read_labels
from mmtab.matching.learning import changes, clustered, label_curve, with_labels
from mmtab.matching.result import Matches, write_candidates
from mmtab.matching.rivals import against_rivals
from mmtab.matching.scoring import score
from mmtab.matching.truth import BlockedPairs, blocking_against, scores_against
from mmtab.runs import provenance
from mmtab.runs.folder import CONFIG, FITTED, SCHEMA
from mmtab.runs.inputs import check_output, data_folder, records_to_match
from mmtab.runs.session import open_run
from mmtab.training.places import BEST
from mmtab.utils.atomic import write_json
from mmtab.utils.cache import Store
from mmtab.utils.engine import Engine, running
from mmtab.utils.errors import ConfigError


def match(config: MatchConfig) -> Matches:
    """Match as configured, and write the files that ``Matches.write`` names.

    Raises ConfigError for settings that do not fit, RunError for a run or a truth table of another kind.
    """
    with running(**asdict(config.engine)) as engine:
        return _match(config, engine)


def _match(config: MatchConfig, engine: Engine) -> Matches:
    output, seconds = Path(config.output), _Stopwatch()
    config = _with_local_tables(config)
    context, labels = _begin(config, engine)
    session, records = context.session, context.records
    methods = _methods(context, labels)  # which may refuse, before anything is computed
    thresholds: np.ndarray = session.task.thresholds.copy()  # type: ignore[attr-defined]
    encoded, candidates = _block(context, seconds)
    n_blocked, n = len(candidates.left), len(records.table)
    new = find_pairs(candidates.left, candidates.right, labels.left, labels.right, n) < 0
    ends = np.unique(np.sort(np.stack([labels.left[new], labels.right[new]], 1)), axis=0)  # of one table, in any order
    left, right = np.append(candidates.left, ends[:, 0]), np.append(candidates.right, ends[:, 1])
    probability, n_kept = np.zeros((0, len(thresholds))), 0
    if len(left):
        probability, n_kept = score(context, encoded, left, right)
        seconds.lap("score")
    known, columns = labels.known(left, right, n, len(thresholds)), explained_columns(context)
    unlabelled = Matches(
        session.schema,
        records,
        left,
        right,
        probability,
        np.zeros((len(thresholds), n), np.int64),
        thresholds,
        np.full_like(known, -1),
        n_blocked,
        columns,
    )
    pair_calls = replace(unlabelled, known=known).above_threshold
    n_weighed = against_rivals(context, unlabelled, candidates.score, methods)
    unlabelled = clustered(unlabelled, methods)
    matches, learned = with_labels(unlabelled, methods, known)
    seconds.lap("cluster")
    if config.explain and len(left):
        shown = [place for places in matches.samples(config.n_shown).values() for place in places]
        likely = np.flatnonzero((matches.together | matches.above_threshold).any(1))
        places = np.union1d(likely, np.array(shown, np.int64))
        contributions = explain(context, encoded, left[places], right[places], columns)
        matches.contributions = dict(zip(places.tolist(), contributions, strict=True))
        seconds.lap("explain")
    matches.report = blocking_report(context, candidates) | {"relations": _relations(matches, methods, n_weighed)}
    if context.keep is not None:
        matches.report["kept"] = {"records": encoded.n_kept, "pairs": n_kept}
    if config.labels is not None:
        for r, of_relation in enumerate(matches.report["relations"].values()):
            of_relation |= changes(unlabelled, matches, r, learned[r])
    if config.truth is not None:
        with _truth(config) as truth:
            alone = {r: pair_calls[:, r] for r in np.flatnonzero(n_weighed).tolist()}
            matches.report["scores"] = scores_against(truth, matches, alone)
            if config.curve:
                matches.report["label_curve"] = label_curve(truth, matches, methods)
    matches.report |= seconds.costs()
    matches.write(output)
    shutil.rmtree(context.store.root, ignore_errors=True)
    return matches


def find_candidates(config: MatchConfig) -> dict[str, Any]:
    """``match`` until the candidates are found: writes them, the vectors of the records and the report, which it
    returns."""
    output, seconds = Path(config.output), _Stopwatch()
    config = _with_local_tables(config)
    with running(**asdict(config.engine)) as engine:
        context, _ = _begin(config, engine)
        encoded, candidates = _block(context, seconds)
    report = blocking_report(context, candidates)
    if context.keep is not None:
        report["kept"] = {"records": encoded.n_kept}
    if config.truth is not None:
        blocked = BlockedPairs(context.session.schema, context.records, candidates.left, candidates.right)
        with _truth(config) as truth:
            report["scores"] = blocking_against(truth, blocked)
    report |= seconds.costs()
    vectors = search_vectors(encoded) if encoded.shards else np.zeros((0, 1), np.float32)
    write_candidates(output, context.session.schema, context.records, candidates, vectors)
    write_json(output.with_suffix(".json"), report)
    shutil.rmtree(context.store.root, ignore_errors=True)
    return report


def _with_local_tables(config: MatchConfig) -> MatchConfig:
    names = ("left", "right", "records", "truth", "labels")
    local: dict[str, Any] = {name: str(fetched(path)) for name in names if (path := getattr(config, name))}
    return replace(config, **local)


def _begin(config: MatchConfig, engine: Engine) -> tuple[Context, PairLabels]:
    """The run and the records, once all settings are found to fit. The tables are read first: it takes longest to open
    the run."""
    output = Path(config.output)
    run_config, schema = check_match(config)
    if config.truth is not None:
        with _truth(config) as truth:  # which tells now of one that cannot be read
            files.header(truth, "truth")
    records, paths = _read(config, run_config, schema)
    for path in written(output):
        check_output(path, paths)
    labels = PairLabels.none()
    if config.labels is not None:
        labels = read_labels(Path(config.labels), schema, records, dialect_of(config))
    session = open_run(Path(config.run), Hardware(config.accelerator), config)
    store, run_digest = Store(output.with_name(output.name + ".parts")), tables.fingerprint(_files_of(Path(config.run)))
    keep = keep_of(config, session, run_digest, store.root)
    try:
        store.claim()  # it is removed in the end: not what lay there before
    except ConfigError as error:
        raise ConfigError(f"{store.root} cannot hold what is half done. Fix: another output") from error
    reading = [config.shard, config.encoding, config.delimiter, config.image_root, config.bad_cells]
    key = f"{run_digest} {tables.fingerprint(paths)} {reading}"
    return Context(session, records, store, config, key, engine, keep), labels


def _block(context: Context, seconds: _Stopwatch) -> tuple[EncodedRecords, Candidates]:
    """All records, encoded, and the candidates among them."""
    session, records, n = context.session, context.records, len(context.records.table)
    seconds.start()
    if not n or records.n_left in (0, n):  # a side without records: there is nothing to match
        return EncodedRecords([], n, np.zeros(0, np.int64)), Candidates.none()
    session.warn_of_bad_cells(records.table)
    for name, rows in records.sides.items():
        session.compare_with_train(replace(records.table.take(rows[: context.config.shard]), name=name))
    encoded = encode_records(context)
    seconds.lap("encode")
    candidates = block(context, encoded)
    seconds.lap("block")
    return encoded, candidates


@contextlib.contextmanager
def _truth(config: MatchConfig) -> Iterator[Path]:
    """The table of what is known, which may be of any form that other tables may have."""
    with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
        yield standard_file(Path(str(config.truth)), Path(scratch), "truth", dialect_of(config))


def dialect_of(config: MatchConfig) -> Dialect:
    return Dialect(config.encoding or "", config.delimiter or "")


class _Stopwatch:
    """Seconds by stage, in ``laps``."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.start()
        self._began = self._start

    def start(self) -> None:
        self._start = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage], self._start = now - self._start, now

    def costs(self) -> dict[str, Any]:
        seconds = self.laps | {"total": time.perf_counter() - self._began}
        return {"seconds": seconds, "peak_memory_mib": provenance.peak_memory_mib()}


def _methods(context: Context, labels: PairLabels) -> list[str]:
    """How each relation is clustered."""
    chosen, session = context.config.clustering, context.session
    if chosen == "unique" and context.records.n_left is None:
        raise ConfigError("clustering=unique is for two tables, and the run's dataset has one")
    names = session.schema.relations
    doubled = [name for r, name in enumerate(names) if not labels.one_partner(r)]
    if chosen == "unique" and doubled:
        raise ConfigError(
            f"labels={context.config.labels} gives a record two partners ({doubled[0]}); clustering=unique forbids that"
        )
    if chosen != "auto":
        return [chosen] * len(names)
    single = session.fitted.one_to_one if context.records.n_left is not None else ()
    return ["unique" if name in single and name not in doubled else "correlation" for name in names]


def blocking_report(context: Context, candidates: Candidates) -> dict[str, Any]:
    records, neighbourhood, n_candidates = context.records, candidates.neighbourhood, len(candidates.left)
    n, n_left = len(records.table), records.n_left
    n_queries = n if n_left is None else min(n_left, n - n_left)
    n_possible = n * (n - 1) // 2 if n_left is None else n_left * (n - n_left)
    return {
        "run": context.config.run,
        "n_records": n,
        "n_left": n_left,
        "blocking": {
            "k": neighbourhood.k,
            "weight_of_vectors": neighbourhood.weight,
            "valid_recall": neighbourhood.recall,
            "n_candidates": n_candidates,
            "candidates_per_record": n_candidates / max(n_queries, 1),
            "reduction_ratio": 1 - n_candidates / max(n_possible, 1),
        },
    }


def _relations(matches: Matches, methods: list[str], n_weighed: list[int]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "threshold": float(matches.thresholds[r]),
            "clustering": methods[r],
            "weighed_by": n_weighed[r],
            "n_matches": int(matches.together[:, r].sum()),
            "n_clusters": len(np.unique(matches.clusters[r])),
            "n_clusters_of_several": int((np.bincount(matches.clusters[r]) > 1).sum()),
        }
        for r, name in enumerate(matches.schema.relations)
    }


def _read(config: MatchConfig, run: RunConfig, schema: Schema) -> tuple[Records, list[Path]]:
    """The records, and the files that they come from."""
    paths = {name: Path(getattr(config, name)) for name in ("left", "right", "records") if getattr(config, name)}
    if paths:
        with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
            options: dict[str, Any] = {"dialect": dialect_of(config), **paths}
            options |= {"image_root": Path(config.image_root)} if config.image_root else {}
            records = records_to_match(schema, run.dataset.bad_cells, Path(scratch), **options)
        return records, list(paths.values())
    folder = data_folder(run)
    records = read_records(folder, schema, run.dataset.bad_cells)  # type: ignore[arg-type]
    stems = ["records"] if records.n_left is None else ["left", "right"]
    return records, [tables.find_table(folder, schema, stem) for stem in stems]


def _files_of(run: Path) -> list[Path]:
    """Those of the run that decide what it computes."""
    backbones = (path for name in ("text_backbone", "cross_backbone") for path in (run / name).glob("*"))
    return [run / BEST, *(run / name for name in (FITTED, CONFIG, SCHEMA)), *filter(Path.is_file, backbones)]

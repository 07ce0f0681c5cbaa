"""What training begins with: tables read, preprocessing fitted on train, the model built, everything encoded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmtab.config.compose import settle
from mmtab.config.types import Hardware, RunConfig
from mmtab.data import table as tables
from mmtab.data.cells import join
from mmtab.data.dataset import chosen_schema
from mmtab.data.files import header
from mmtab.data.pairs import Pairs, read_pairs, read_records
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.data.streams import Stream
from mmtab.data.table import Table, has_labels
from mmtab.features.batches import is_known
from mmtab.features.lexical import Lexicon
from mmtab.features.loader import RowBatches
from mmtab.features.preprocess import Fitted
from mmtab.features.target import Target
from mmtab.features.unseen import ON_VALID, unseen_columns, unseen_shares
from mmtab.model.matcher import Matcher
from mmtab.model.row_model import RowModel
from mmtab.model.solvers import LeastSquares, Logistic, Solver
from mmtab.runs.inputs import data_folder, labels_of, pair_ids, row_ids, store_of
from mmtab.runs.session import Batches, Session
from mmtab.training.build import build_model, build_task, check_settings, columns_of_text, takes_base, with_text_length
from mmtab.training.compute import Compute
from mmtab.training.fit import FitSettings
from mmtab.training.mining import HardNegativeMiner
from mmtab.training.tasks import PairTask
from mmtab.training.towers import fit_towers
from mmtab.utils.errors import ConfigError, DataError
from mmtab.utils.machine import threads, usable_cores
from mmtab.utils.progress import under_way


@dataclass(frozen=True)
class Prepared:
    """What training begins with.

    session:   the model, not trained yet
    train:     batches to learn from
    valid:     batches by which the best epoch is chosen
    valid_ids: id columns of valid
    files:     the files that training reads
    ids_of:    ids of training rows (or pairs) by number
    miner:     finds hard negatives while a pair model trains; None: there are none to find
    """

    session: Session
    train: Batches
    valid: Batches
    valid_ids: pa.Table
    files: list[Path]
    ids_of: Callable[[Sequence[int]], list[str]]
    miner: HardNegativeMiner | None = None

    @property
    def fit_settings(self) -> FitSettings:
        session, config = self.session, self.session.config
        return FitSettings(
            dataset=session.schema.name,
            model=session.model,
            task=session.task,
            compute=session.compute,
            trainer=config.trainer,
            seed=config.seed,
            resume=config.resume == "auto",
            train=self.train,
            valid=self.valid,
            ids_of=self.ids_of,
            miner=self.miner,
            mine_every=config.pair_head.mine_every,
        )


LEAST_SPREAD = 1e-100  # of labels that are numbers


def prepare(config: RunConfig) -> Prepared:
    """Read train and valid, fit on train, build the model, encode. From then on the process computes in as many threads
    as the settings say."""
    schema, data = described(config)
    with threads(config.trainer.n_threads or usable_cores()):
        return (prepare_rows if schema.of_rows else prepare_pairs)(config, schema, data)


def described(config: RunConfig) -> tuple[Schema, Path]:
    """The schema of the dataset, with what its tables on disk add to it, and its folder. Settings that do not fit, and
    devices that there are not, are told of first."""
    check_settings(config)
    compute_of(config)
    data = data_folder(config)
    schema = chosen_schema(config.dataset, data)
    stored_in = [path for path in tables.training_files(data, schema)[1:] if not path.stem.startswith("pairs")]
    headers = {path.stem: header(path, schema.name) for path in stored_in}
    schema = tables.with_storage(schema, stored_in)
    if "left" in headers:
        columns = [column.name for column in schema.columns]
        absent = {side: [name for name in columns if name not in fields.names] for side, fields in headers.items()}
        schema = replace(schema, absent=absent)
    return schema, data


def prepare_rows(config: RunConfig, schema: Schema, data: Path) -> Prepared:
    bad_cells: Any = config.dataset.bad_cells
    valid = Stream(tables.find_table(data, schema, "valid"), schema, data, bad_cells)
    train: Stream | Table = Stream(tables.find_table(data, schema, "train"), schema, data, bad_cells)
    if config.dataset.train_share < 1:
        table = tables.read_split(data, schema, "train", bad_cells)
        kinds = table.labels if schema.task is TaskKind.KWAY else None
        train = table.take(_some(len(table), kinds, config))
    fitted = Fitted.rows(train.batches(), schema, config.categories)
    # Labels are checked before anything slow happens.
    if not has_labels(data, schema, "train"):
        fix = "fill the label column of train"
        raise DataError(schema.name, "no labels to learn from", table="train", column=schema.label, fix=fix)
    train_labels, valid_labels = (labels_of(fitted, table, schema) for table in (train, valid))
    if not is_known(valid_labels).any():
        raise DataError(schema.name, "no labels to choose the best epoch with", table="valid", column=schema.label)
    solvers = _solvers(config, schema, fitted, train_labels)
    fitted = replace(fitted, target=solvers[0].target)
    if takes_base(config, fitted.n_classes) and schema.of_type(ColumnType.TEXT):
        fitted = replace(fitted, lexicon=Lexicon.fit(train, schema, store_of(config)))
    config = settled(config, schema, len(train), train)
    model, backbones = build_model(config, schema, fitted)
    task = build_task(config, schema, fitted, train_labels)
    session = Session(config, schema, fitted, model, backbones, task, compute_of(config))
    encoded, valid_batches = session.encode(train), RowBatches(session.encode(valid), valid_labels)
    shares, base = unseen_shares(encoded, valid_batches.table), None
    assert isinstance(model, RowModel)
    if model.base is not None:
        whole = RowBatches(encoded, train_labels)
        batches = whole.in_order(), valid_batches.in_order()
        with under_way("fitting the base"):
            base, best = model.base.fit(*batches, shares, solvers, config.seed, store_of(config))
        if best:
            fitted = replace(fitted, target=solvers[best].target)
            session = replace(session, task=build_task(config, schema, fitted))
    train_batches = RowBatches(encoded, train_labels, base=base, unseen=shares, seed=config.seed)
    unseen = unseen_columns(valid, valid_batches.table, fitted.preprocessor, schema, share=ON_VALID)
    session = replace(session, fitted=replace(fitted, unseen=tuple(unseen)))

    def ids_of(rows: Sequence[int]) -> list[str]:
        ids = join([batch.ids for batch in train.batches()])
        return [str(ids[row]) for row in rows]

    files = tables.training_files(data, schema)
    return Prepared(session, train_batches, valid_batches, row_ids(valid), files, ids_of)


def settled(config: RunConfig, schema: Schema, n_train: int, table: Stream | Table) -> RunConfig:
    """The settings with what they leave to the task, the ``n_train`` rows or pairs, and the text of ``table``."""
    texts = columns_of_text(config, schema)
    apart = not schema.of_rows and bool(schema.ignored_by_some & set(texts))
    return with_text_length(settle(config, schema.task, bool(texts), n_train, apart=apart), schema, table)


def _solvers(config: RunConfig, schema: Schema, fitted: Fitted, label: np.ndarray) -> list[Solver]:
    """What a base may be fitted by; of a number one for each scale that it may be learned on."""
    if fitted.n_classes is not None:
        return [Logistic(fitted.n_classes)]
    wanted, column = config.regression_head.scale, schema.label
    if label.min() == label.max():
        problem, fix = "all labels of train are the same number", "choose another label"
        raise DataError(schema.name, problem, table="train", column=column, found=label[0].item(), fix=fix)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = np.abs(label - label.mean()).max()
    if not LEAST_SPREAD < spread < 1 / LEAST_SPREAD:
        problem = "labels that differ by too little or too much to be squared"
        expected = f"differences above {LEAST_SPREAD:g} and below {1 / LEAST_SPREAD:g}"
        found, fix = f"{label.min():g} to {label.max():g}", "give them in another unit"
        raise DataError(schema.name, problem, table="train", column=column, expected=expected, found=found, fix=fix)
    possible = Target.possible(label)
    if wanted not in ("auto", *possible):
        raise ConfigError(f"regression_head.scale={wanted}: expected labels above 0, found {label.min():g} in train")
    return [LeastSquares(Target.fit(kind, label)) for kind in (possible if wanted == "auto" else [wanted])]


def prepare_pairs(config: RunConfig, schema: Schema, data: Path) -> Prepared:
    bad_cells: Any = config.dataset.bad_cells
    records = read_records(data, schema, bad_cells)
    train_pairs, valid_pairs = (read_pairs(data, schema, split, records) for split in ("train", "valid"))
    train_pairs = _consistent(train_pairs, schema, config.dataset.contradictions)
    if config.dataset.train_share < 1:
        train_pairs = train_pairs.take(_some(len(train_pairs), pa.array(train_pairs.is_match), config))
    for pairs in (train_pairs, valid_pairs):
        _check_labels(pairs, schema, data)
    config = settled(config, schema, len(train_pairs), records.table)
    fitted = Fitted.matching(records.table, train_pairs, schema, config.categories)
    if records.n_left is not None:
        fitted = replace(fitted, one_to_one=tuple(train_pairs.one_to_one()))
    model, backbones = build_model(config, schema, fitted)
    task = build_task(config, schema, fitted)
    session = Session(config, schema, fitted, model, backbones, task, compute_of(config))
    encoded, similarities = session.encode(records.table), None
    if isinstance(model, Matcher) and model.search is not None:
        ends = train_pairs.matches, valid_pairs.matches
        with under_way("fitting the search towers"):
            fit_towers(model.search, encoded, records.n_left, *ends, config.seed, store_of(config))
    if config.pair_head.compare:
        assert fitted.similarity is not None
        with under_way("comparing pairs"):
            features = fitted.similarity(records.table, train_pairs.left, train_pairs.right, encoded.pictures)
        fitted = fitted.with_scalers(features)
        session, similarities = replace(session, fitted=fitted), fitted.scale(features)
    valid_rows = np.unique(np.concatenate([valid_pairs.left, valid_pairs.right]))
    unseen = unseen_columns(records.table, encoded, fitted.preprocessor, schema, valid_rows, ON_VALID)
    session = replace(session, fitted=replace(fitted, unseen=tuple(unseen)))
    train = session.pairs(records, encoded, train_pairs, training=True, similarities=similarities)
    valid = session.pairs(records, encoded, valid_pairs)
    assert isinstance(model, Matcher)
    if model.base is not None:
        known = train.some(np.arange(len(train_pairs)))
        model.base.fit(known, valid, config.seed, store_of(config))
    miner = None
    if train.n_mined:
        assert isinstance(task, PairTask)
        compare = partial(session.compare, records.table, pictures=encoded.pictures)
        miner = HardNegativeMiner(train, session.rows, task, compare)

    def ids_of(pairs: Sequence[int]) -> list[str]:
        sides = (records.table.ids.take(pa.array(side[list(pairs)])) for side in (train.left, train.right))
        return [f"{left} and {right}" for left, right in zip(*(side.to_pylist() for side in sides), strict=True)]

    files = tables.training_files(data, schema)
    return Prepared(session, train, valid, pair_ids(valid_pairs), files, ids_of, miner)


def _some(n: int, kinds: pa.Array | None, config: RunConfig) -> np.ndarray:
    """``dataset.train_share`` of n rows (of each of the ``kinds`` that they are of), at least one: row numbers. Those
    of a smaller share are among those of a greater one, for one seed."""
    order, share = np.random.default_rng(config.seed).permutation(n), config.dataset.train_share
    codes = np.zeros(n, np.int64) if kinds is None else kinds.dictionary_encode().indices.fill_null(-1).to_numpy()
    parts = (order[codes[order] == code] for code in np.unique(codes))
    return np.sort(np.concatenate([part[: max(1, round(share * len(part)))] for part in parts]))


def _consistent(pairs: Pairs, schema: Schema, contradictions: str) -> Pairs:
    """The pairs of train, without those that are labelled both 1 and 0 where the setting says so."""
    found = pairs.contradictions()
    if not found:
        return pairs
    a, b = found[0][:2].tolist()
    names = f"{pairs.left_ids[a]} and {pairs.right_ids[a]} in rows {a + 1} and {b + 1}"
    problem = f"{len(found)} pair(s) are labelled both 1 and 0"
    if contradictions == "error":
        fix = "correct the labels, or set dataset.contradictions=drop"
        raise DataError(schema.name, problem, table=pairs.name, row=a + 1, found=names, fix=fix)
    advice = "left out" if contradictions == "drop" else "kept; dataset.contradictions=drop leaves them out"
    warnings.warn(f"{schema.name}, {pairs.name}: {problem} (the first: {names}): {advice}", stacklevel=2)
    return pairs.take(np.setdiff1d(np.arange(len(pairs)), np.concatenate(found))) if contradictions == "drop" else pairs


def _check_labels(pairs: Pairs, schema: Schema, data: Path) -> None:
    """Raise DataError for a relation whose labels teach nothing."""
    for name in schema.relations:
        labels = pairs.relations.get(name)
        problem = "no labels" if labels is None else "only one class" if len(labels.unique()) < 2 else ""
        if problem:
            raise Table(schema.name, pairs.name, data, pairs.left_ids, {}).error(
                problem, column=name, expected="matches (1) and others (0)"
            )


def compute_of(config: RunConfig) -> Compute:
    return Compute(Hardware.of(config.trainer), config.trainer.precision)

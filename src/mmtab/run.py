"""A run and its folder: train(), evaluate(), predict().

The folder says everything: config.yaml, schema.yaml, fitted.json, text_backbone/ (architecture and tokenizer),
checkpoints/best.ckpt, metrics.csv (by epoch), metrics.json, predictions_<split>.parquet, provenance.json. It needs
neither the training data nor the hub to be used elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import pytorch_lightning as pl
import torch
import yaml
from omegaconf import OmegaConf
from torch import nn

from mmtab import mining, provenance
from mmtab import table as tables
from mmtab.build import build_model, build_task, check_settings, cross_columns, encoder_of
from mmtab.config import PRECISIONS, RunConfig, settle
from mmtab.datamodule import EncodedTable, KWayBatches, PairBatches, encode_table, loader, text_columns
from mmtab.datasets import dataset_folder
from mmtab.errors import DataError, RunError
from mmtab.files import FORMATS
from mmtab.fitted import Fitted
from mmtab.images import no_progress
from mmtab.machine import native_bf16, prepare_process, usable_cores
from mmtab.module import Module
from mmtab.schema import Schema, TaskKind
from mmtab.store import Store
from mmtab.table import Pairs, Records, Stream, Table
from mmtab.tasks import PairTask, Predictions, Task, gather
from mmtab.tensors import Rows

FORMAT = 2
ROWS_IN_MEMORY = 1 << 30
Batches = KWayBatches | PairBatches


@dataclass
class Session:
    """A model with all it needs to read tables: what train() makes and open_run() restores."""

    config: RunConfig
    schema: Schema
    fitted: Fitted
    model: nn.Module
    task: Task
    accelerator: str = "auto"
    before_epochs: Callable[[], None] | None = None

    def kway(self, table: Table | Stream) -> KWayBatches:
        """Batches over a table, with labels where it has them."""
        return KWayBatches(self.encode(table), _labels(self.fitted, table, self.schema))

    def compare(
        self, records: Table, left: np.ndarray, right: np.ndarray, pictures: Mapping[str, np.ndarray]
    ) -> np.ndarray | None:
        """[n_pairs, f] float32: comparison features of pairs, scaled; None where the model reads none."""
        if self.fitted.comparison is None or not self.config.pair_head.compare:
            return None
        return self.fitted.scale(self.fitted.comparison(records, left, right, pictures))

    def read_records(
        self, *, left: Path | None = None, right: Path | None = None, records: Path | None = None
    ) -> Records:
        """Tables to match: two, or one. Image paths start at the folder of the table that names them."""
        bad: Any = self.config.dataset.bad_cells
        if records is not None:
            return Records(tables.read_table(records, self.schema, bad_cells=bad), None)
        if left is None or right is None:
            raise RunError("matching wants left=TABLE and right=TABLE, or records=TABLE")
        if left.resolve().parent != right.resolve().parent:
            raise RunError("left and right must lie in one folder, where the paths of their pictures start")
        sides = [tables.read_table(side, self.schema, bad_cells=bad, partial=True) for side in (left, right)]
        return tables.stack_sides(sides[0], sides[1], self.schema)

    @property
    def cross_columns(self) -> list[str]:
        """Columns of text that both rows of a pair are read in one sequence of."""
        return cross_columns(self.config, self.schema)

    def pairs(self, records: Records, encoded: EncodedTable, pairs: Pairs, training: bool = False) -> PairBatches:
        """Batches over pairs of the records."""
        head, labels = self.config.pair_head, np.full((len(pairs), len(self.schema.ignored)), -1)
        for r, name in enumerate(self.schema.ignored):
            if name in pairs.relations:
                labels[:, r] = np.asarray(pairs.relations[name])
        return PairBatches(
            encoded,
            pairs.left,
            pairs.right,
            labels.astype(np.int64),
            self.compare(records.table, pairs.left, pairs.right, encoded.pictures),
            compared=self.fitted.comparison.owners if self.fitted.comparison else (),
            augment=head.augment if training else None,
            n_mined=round(head.hard_negatives * len(pairs)) if training else 0,
            seed=self.config.seed,
        )

    def mine(self, records: Table, batches: PairBatches) -> None:
        """Fill the places for mined non-matches anew, with what the towers of today confuse."""
        n, encoded = len(batches) - batches.n_mined, batches.table
        left, right, match = batches.left[:n], batches.right[:n], (batches.labels[:n] == 1).any(1)
        a, b, known = mining.hard_negatives(self.vectors(encoded), left, right, match)
        known, anchor = np.unique(known, return_inverse=True)
        rows = np.concatenate([a, left[known]]), np.concatenate([b, right[known]])
        comparison = self.compare(records, *rows, encoded.pictures)
        scored = PairBatches(encoded, *rows, np.full((len(rows[0]), batches.labels.shape[1]), -1), comparison)
        outputs = [scored.__getitems__(list(range(i, min(i + 256, len(scored))))) for i in range(0, len(scored), 256)]
        with self.evaluating():
            logits = [self.model(batch.to(self.device)).logits.float().cpu().numpy() for batch in outputs]
        p = self.task.probabilities(np.concatenate(logits)).max(1) if logits else np.zeros(0)
        kept = np.flatnonzero(mining.passes(p[: len(a)], p[len(a) :][anchor]))
        hardest = kept[np.argsort(-p[kept], kind="stable")][: batches.n_mined]
        batches.mined(a[hardest], b[hardest], None if comparison is None else comparison[hardest])

    def vectors(self, encoded: EncodedTable) -> np.ndarray:
        """[n, d] float32: the towers' vectors of all rows, of length 1."""
        out = np.zeros((encoded.n_rows, self.config.d_model), np.float32)
        with self.evaluating():
            for rows, found in self._each_once(encoded, np.arange(encoded.n_rows)):
                assert found.vector is not None
                out[rows] = found.vector.float().numpy()
        return out

    def encode_rows(self, batches: PairBatches) -> None:
        """Encode each row of the pairs once, and not in each batch that it stands in; those that would take more than
        ``ROWS_IN_MEMORY`` bytes stay with the batches."""
        batches.known = None
        rows = np.unique(np.concatenate([batches.left, batches.right]))
        tokens: Any = self.model.tokenizer.column  # type: ignore[union-attr]
        if len(rows) * tokens.numel() * tokens.element_size() > ROWS_IN_MEMORY:
            return
        place = np.full(batches.table.n_rows, -1)
        with self.evaluating():
            found = list(self._each_once(batches.table, rows))
        place[np.concatenate([some for some, _ in found])] = np.arange(len(rows))
        batches.known = Rows.concat([each for _, each in found]), place

    def _each_once(self, encoded: EncodedTable, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Rows]]:
        """Rows by number, those of similar length together, and what the model makes of each on its own; to be asked
        while ``evaluating``."""
        rows = rows[np.argsort(-encoded.text_lengths[rows], kind="stable")]
        size = self.config.trainer.eval_batch_size
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            yield some, self.model.rows(encoded.rows(some).to(self.device)).to("cpu")  # type: ignore[operator, union-attr]

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Forward passes without gradients or dropout, in this run's precision."""
        training = self.model.training
        self.model.to(self.device).eval()
        try:
            with torch.inference_mode(), self.autocast():
                yield
        finally:
            self.model.train(training)

    def load(self, split: str, folder: Path) -> tuple[Batches, pa.Table, list[Path]]:
        """A split of a dataset folder to score: batches, its id columns, and the files read."""
        if self.schema.task is TaskKind.KWAY:
            path = tables.find_table(folder, self.schema, split)
            table = Stream(path, self.schema, folder, self.config.dataset.bad_cells)  # type: ignore[arg-type]
            return self.kway(table), _row_ids(table), [path]
        records = tables.read_records(folder, self.schema, self.config.dataset.bad_cells)  # type: ignore[arg-type]
        pairs = tables.read_pairs(folder, self.schema, split, records)
        path = tables.find_table(folder, self.schema, f"pairs_{split}")
        return self.pairs(records, self.encode(records.table), pairs), _pair_ids(pairs), [path]

    def predictions(self, batches: Batches) -> tuple[Predictions, float]:
        """Of all rows or pairs, in order, and the seconds it took."""
        trainer = self.trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
        start = time.perf_counter()
        if isinstance(batches, PairBatches):
            self.encode_rows(batches)
        outputs = trainer.predict(
            Module(self.model, self.task, self.config.trainer),
            loader(batches, self.config.trainer.eval_batch_size, shuffle=False),
        )
        return gather(outputs), time.perf_counter() - start  # type: ignore[arg-type]

    def trainer(self, **options: Any) -> pl.Trainer:
        """A Lightning trainer with this run's hardware and precision."""
        return pl.Trainer(
            accelerator=self.accelerator, devices=1, precision=self.precision,  # type: ignore[arg-type]
            enable_model_summary=False, use_distributed_sampler=False, deterministic="warn", **options,
        )  # fmt: skip

    @property
    def device(self) -> torch.device:
        return torch.device(
            "cuda" if self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
        )

    @property
    def precision(self) -> str:
        wanted = self.config.trainer.precision
        return PRECISIONS[wanted] if wanted != "auto" else "bf16-mixed" if native_bf16(self.device) else "32-true"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of this run's forward passes."""
        bf16 = self.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()

    def encode(self, table: Table | Stream, store: Store | None = None, progress: bool = True) -> EncodedTable:
        """All that is computed once for a table, and kept in ``store`` (default: the cache)."""
        if table.n_bad_cells:
            warnings.warn(
                f"{self.schema.name}, table {table.name}: {table.n_bad_cells} bad cells taken as missing", stacklevel=2
            )
        return encode_table(
            table, self.schema, self.fitted.preprocessor, encoder_of(self.model, "text"), encoder_of(self.model, "image"),
            store or store_of(self.config), cross=getattr(self.model, "cross", None),
            cross_columns=self.cross_columns, bad_cells=self.config.dataset.bad_cells,  # type: ignore[arg-type]
            autocast=self.autocast, device=self.device, store_frozen=self.config.store_frozen,
            compare_pictures=self.fitted.comparison is not None and bool(self.config.pair_head.compare), progress=progress_of if progress and self.config.trainer.progress else no_progress,
        )  # fmt: skip


# --- training --------------------------------------------------------------------------------------------------------


def train(config: RunConfig, folder: Path) -> dict[str, float]:
    """Train on train, choose on valid, write the run folder; returns the valid metrics. Never opens the test split."""
    if (folder / "provenance.json").exists():
        raise RunError(f"{folder} already holds a finished run; give another output=FOLDER")
    started = time.perf_counter()
    quieten()
    prepare_process()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    torch.set_num_threads(config.trainer.n_threads or usable_cores())
    session, train_batches, valid_batches, valid_ids, files = prepare(config)
    prepared = time.perf_counter() - started
    _save_description(session, folder)

    module, trainer, best = fit(session, train_batches, valid_batches, folder)
    _load_weights(session.model, best)
    predictions, predict_seconds = session.predictions(valid_batches)
    session.task.fit_threshold(predictions)
    metrics = session.task.metrics_of(predictions)
    _write_predictions(session, folder / "predictions_valid.parquet", valid_ids, predictions, valid_batches.labels)
    _write_metrics(folder, "valid", metrics)
    write_json(
        folder / "provenance.json",
        provenance.facts()
        | {
            "format": FORMAT,
            "thresholds": session.task.thresholds.tolist() if isinstance(session.task, PairTask) else None,
            "seed": config.seed,
            "precision": session.precision,
            "device": str(session.device),
            "data_fingerprint": tables.fingerprint(files),
            "n_parameters": sum(p.numel() for p in session.model.parameters()),
            "n_trained_parameters": sum(p.numel() for p in session.model.parameters() if p.requires_grad),
            "n_train": len(train_batches),
            "n_epochs": trainer.current_epoch,
            "seconds": {"prepare": prepared, "train": module.train_seconds, "total": time.perf_counter() - started},
            "train_rows_per_second": module.n_trained / max(module.train_seconds, 1e-9),
            "predict_rows_per_second": len(valid_batches) / max(predict_seconds, 1e-9),
            "peak_memory_mib": provenance.peak_memory_mib(),
        },
    )
    return metrics


def prepare(config: RunConfig) -> tuple[Session, Batches, Batches, pa.Table, list[Path]]:
    """Read train and valid, fit on train, build the model, encode; also the ids of valid and the files read."""
    check_settings(config)
    data = dataset_folder(config.dataset, config.data_root, cache_of(config))
    schema = Schema.read(data)
    if config.dataset.drop:
        schema = schema.without(list(config.dataset.drop))
    schema = schema.choose(config.dataset.relations, config.dataset.ignore)
    bad = config.dataset.bad_cells
    rules = config.categories
    if schema.task is TaskKind.KWAY:
        paths = [tables.find_table(data, schema, split) for split in ("train", "valid")]
        train, valid = (Stream(path, schema, data, bad) for path in paths)  # type: ignore[arg-type]
        fitted = Fitted.kway(train.batches(), schema, rules)
        if fitted.preprocessor.labels_ is None:
            raise DataError(
                schema.name, "no labels to learn from", table="train", column=schema.label,
                fix="fill the label column of train",
            )  # fmt: skip
        config = settle(config, schema.task, bool(text_columns(schema, tuple(config.text["also"]))), len(train))
        # Labels are checked before anything slow happens.
        labels = [_labels(fitted, table, schema) for table in (train, valid)]
        if (labels[1] < 0).all():
            raise DataError(schema.name, "no labels to choose the best epoch with", table="valid", column=schema.label)
        model = build_model(config, schema, fitted)
        task = build_task(config, schema, fitted, labels[0])
        session = Session(config, schema, fitted, model, task, config.trainer.accelerator)
        batches = [
            KWayBatches(session.encode(table), known) for table, known in zip((train, valid), labels, strict=True)
        ]
        return session, batches[0], batches[1], _row_ids(valid), [data / "dataset.yaml", *paths]
    records = tables.read_records(data, schema, bad)  # type: ignore[arg-type]
    train_pairs, valid_pairs = (tables.read_pairs(data, schema, split, records) for split in ("train", "valid"))
    for pairs in (train_pairs, valid_pairs):
        for name in schema.ignored:
            told = pairs.relations.get(name)
            problem = "no labels" if told is None else "only one class" if len(told.unique()) < 2 else ""
            if problem:
                raise Table(schema.name, pairs.name, data, pairs.left_ids, {}).error(
                    problem, column=name, expected="matches (1) and others (0)"
                )
    texts = text_columns(schema, tuple(config.text["also"]))
    config = settle(config, schema.task, bool(texts), len(train_pairs), apart=bool(schema.ignored_by_some & set(texts)))
    fitted = Fitted.matching(records.table, train_pairs, schema, rules)
    model = build_model(config, schema, fitted)
    session = Session(config, schema, fitted, model, build_task(config, schema, fitted), config.trainer.accelerator)
    encoded = session.encode(records.table)
    if config.pair_head.compare:
        assert fitted.comparison is not None
        features = fitted.comparison(records.table, train_pairs.left, train_pairs.right, encoded.pictures)
        session.fitted = fitted.with_scalers(features)
    train_b = session.pairs(records, encoded, train_pairs, training=True)
    valid_b = session.pairs(records, encoded, valid_pairs)
    if train_b.n_mined:
        session.before_epochs = functools.partial(session.mine, records.table, train_b)
    stems = ["records"] if records.n_left is None else ["left", "right"]
    files = [
        data / "dataset.yaml",
        *(tables.find_table(data, schema, stem) for stem in (*stems, "pairs_train", "pairs_valid")),
    ]
    return session, train_b, valid_b, _pair_ids(valid_pairs), files


def fit(
    session: Session, train_batches: Batches, valid_batches: Batches, folder: Path
) -> tuple[Module, pl.Trainer, Path]:
    """Train, and keep the weights of the best epoch on valid in ``folder``: where they lie comes last."""
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    from mmtab.callbacks import BeforeValidation, EpochLines, EveryEpochs, loggers, progress_bar

    settings = session.config.trainer
    monitor = f"valid/{session.task.metric}"
    module = Module(session.model, session.task, settings)
    best = ModelCheckpoint(
        folder / "checkpoints",
        "best",
        monitor=monitor,
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    callbacks: list[Any] = [
        best,
        EarlyStopping(monitor, patience=settings.patience or 3, mode="max"),
        EpochLines(session.task.metric),
    ]
    if session.before_epochs is not None:
        callbacks.insert(0, EveryEpochs(session.before_epochs, session.config.pair_head.mine_every))
    if isinstance(valid_batches, PairBatches):
        callbacks.append(BeforeValidation(functools.partial(session.encode_rows, valid_batches)))
    bar = progress_bar(settings.progress)
    if settings.compile:
        session.model.compile(dynamic=True)
    trainer = session.trainer(
        max_epochs=settings.max_epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, len(train_batches) // settings.batch_size // 10),
        logger=loggers(session.config, folder),
        callbacks=callbacks + bar,
        enable_progress_bar=bool(bar),
    )
    trainer.fit(
        module,
        loader(
            train_batches, settings.batch_size, shuffle=True, seed=session.config.seed, n_workers=settings.n_workers
        ),
        loader(valid_batches, settings.eval_batch_size, shuffle=False),
    )
    session.model._compiled_call_impl = None  # scores of a run do not hang on whether it was compiled
    if trainer.interrupted:
        raise KeyboardInterrupt
    return module, trainer, Path(best.best_model_path)


# --- using a run -----------------------------------------------------------------------------------------------------


def open_config(folder: Path) -> RunConfig:
    """The resolved configuration of a run."""
    raw = _read_run_file(folder, "config.yaml")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), raw))
    assert isinstance(config, RunConfig)
    return config


def open_run(folder: Path, accelerator: str = "auto") -> Session:
    """Restore a finished run; raises RunError when the folder is not one, or one of another version."""
    facts = _read_run_file(folder, "provenance.json")
    if facts.get("format") != FORMAT:
        raise RunError(
            f"{folder} was written by mmtab {facts.get('versions', {}).get('mmtab', '?')} in run format {facts.get('format')}; "
            f"this version reads format {FORMAT}. Train again, or use that version of mmtab"
        )
    quieten()
    prepare_process()
    config = open_config(folder)
    schema = Schema.from_dict(_read_run_file(folder, "schema.yaml"))
    fitted = Fitted.from_dict(_read_run_file(folder, "fitted.json"), schema)
    model = build_model(config, schema, fitted, folder)
    _load_weights(model, folder / "checkpoints" / "best.ckpt")
    task = build_task(config, schema, fitted)
    if isinstance(task, PairTask):
        task.thresholds = np.array(facts["thresholds"])
    return Session(config, schema, fitted, model, task, accelerator)


def evaluate(
    folder: Path, split: str = "test", path: Path | None = None, accelerator: str = "auto"
) -> dict[str, float]:
    """Score a labelled split with the stored threshold; writes its predictions and adds its metrics to the folder."""
    session = open_run(folder, accelerator)
    config = session.config
    data = path or dataset_folder(config.dataset, config.data_root, cache_of(config))
    batches, ids, files = session.load(split, data)
    if (batches.labels < 0).any():
        raise RunError(
            f"{session.schema.name}, split {split}: it has no labels, so it can be predicted but not scored; use scripts/predict.py"
        )
    predictions, seconds = session.predictions(batches)
    metrics = session.task.metrics_of(predictions)
    _write_predictions(session, folder / f"predictions_{split}.parquet", ids, predictions, batches.labels)
    extra = {
        "n_rows": len(batches),
        "data_fingerprint": tables.fingerprint(files),
        "predict_rows_per_second": len(batches) / max(seconds, 1e-9),
    }
    _write_metrics(folder, split, metrics | extra)
    return metrics


def evaluate_if_labelled(folder: Path, split: str) -> dict[str, float] | None:
    """As evaluate(), but None for a split that is absent or has no labels."""
    config = open_config(folder)
    data = dataset_folder(config.dataset, config.data_root, cache_of(config))
    schema = Schema.from_dict(_read_run_file(folder, "schema.yaml"))
    return evaluate(folder, split) if tables.has_labels(data, schema, split) else None


def ceiling(folder: Path) -> dict[str, float]:
    """The best reachable value of the dataset's metric with the columns of this run, where it is known."""
    schema = Schema.from_dict(_read_run_file(folder, "schema.yaml"))
    return {} if schema.ceiling is None else {schema.metric: schema.ceiling}


def predict(
    folder: Path, input: Path, output: Path, *, left: Path | None = None, right: Path | None = None, records: Path | None = None,
    accelerator: str = "auto",
) -> int:  # fmt: skip
    """Predict rows, or pairs of the rows of ``left`` and ``right`` (or ``records``); returns how many. Image paths start
    at the folder of the table that names them."""
    session = open_run(folder, accelerator)
    if output.suffix not in FORMATS:
        raise RunError(f"output={output}: expected a name ending in .parquet or .csv")
    bad: Any = session.config.dataset.bad_cells
    batches: Batches
    if session.schema.task is TaskKind.KWAY:
        table = Stream(input, session.schema, input.parent, bad, labels=False)
        batches, ids = session.kway(table), _row_ids(table)
    else:
        found = session.read_records(left=left, right=right, records=records)
        pairs = tables.read_pairs_file(input, session.schema, found)
        batches, ids = session.pairs(found, session.encode(found.table), pairs), _pair_ids(pairs)
    predictions, _ = session.predictions(batches)
    _write_predictions(session, output, ids, predictions, None)
    return len(batches)


# --- files -----------------------------------------------------------------------------------------------------------


def _save_description(session: Session, folder: Path) -> None:
    from mmtab.encoders.backbones import save_text_config

    folder.mkdir(parents=True, exist_ok=True)
    config = OmegaConf.to_container(OmegaConf.structured(session.config))
    _write(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    _write(folder / "schema.yaml", yaml.safe_dump(session.schema.to_dict(), sort_keys=False, allow_unicode=True))
    write_json(folder / "fitted.json", session.fitted.to_dict(), indent=None)
    for text, place in (
        (encoder_of(session.model, "text"), "text_backbone"),
        (getattr(session.model, "cross", None), "cross_backbone"),
    ):
        if text is not None:
            save_text_config(text.backbone, text.tokenizer, folder / place)


def _write_predictions(
    session: Session, path: Path, ids: pa.Table, predictions: Predictions, labels: np.ndarray | None
) -> None:
    """Ids, a probability a class (or that of a match), the prediction, and the label where known. Of very many classes
    only the likeliest, with their probabilities."""
    columns, probabilities = {name: ids[name] for name in ids.column_names}, predictions.probability
    if isinstance(session.task, PairTask):
        assert probabilities is not None
        for r, relation in enumerate(session.task.relations):
            suffix = "" if len(session.task.relations) == 1 else f"_{relation}"
            columns |= {
                f"probability{suffix}": pa.array(probabilities[:, r]),
                f"prediction{suffix}": pa.array((probabilities[:, r] >= session.task.thresholds[r]).astype(np.int8)),
            }
            if labels is not None:
                columns[f"label{suffix}"] = pa.array(labels[:, r].astype(np.int8))
    else:
        coder, best, p_best = session.fitted.preprocessor.labels_, predictions.best, predictions.best_probability
        assert coder is not None and best is not None and p_best is not None
        classes = pa.array(coder.classes_)
        if probabilities is not None:
            columns |= {f"p_{name}": pa.array(p) for name, p in zip(coder.classes_, probabilities.T, strict=True)}
        columns["prediction"] = classes.take(pa.array(best[:, 0]))
        if probabilities is None:
            p_best = p_best.astype(np.float32)
            columns |= {
                "probability": pa.array(p_best[:, 0]),
                "top": _lists(classes.take(pa.array(best.ravel())), best.shape[1], path.suffix),
                "top_probability": _lists(pa.array(p_best.ravel()), best.shape[1], path.suffix),
            }
        if labels is not None:
            columns["label"] = classes.take(pa.array(labels))
    table = pa.table(list(columns.values()), names=list(columns))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    if path.suffix == ".csv":
        pa.csv.write_csv(table, scratch)
    else:
        pa.parquet.write_table(table, scratch)
    scratch.replace(path)


def _lists(values: pa.Array, size: int, suffix: str) -> pa.Array:
    """Values as lists of ``size`` each; csv has no lists, there they are joined by semicolons."""
    if suffix == ".csv":
        values = values.cast(pa.string())
    lists = pa.ListArray.from_arrays(pa.array(range(0, len(values) + 1, size), pa.int32()), values)
    return pc.binary_join(lists, ";") if suffix == ".csv" else lists


def _write_metrics(folder: Path, split: str, metrics: dict[str, Any]) -> None:
    path = folder / "metrics.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, known | {split: metrics})


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    _write(path, json.dumps(value, indent=indent, ensure_ascii=False))


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def _read_run_file(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise RunError(f"{folder} is not a finished run: it has no {name}")
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path} is damaged ({str(error).splitlines()[0]})") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged (expected a mapping)")
    return value


def _load_weights(model: nn.Module, path: Path) -> None:
    import pickle

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict({key.removeprefix("model."): value for key, value in saved.items()})
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(f"{path}: these weights cannot be loaded ({str(error).strip().splitlines()[0]})") from error


# --- small things ----------------------------------------------------------------------------------------------------


def _labels(fitted: Fitted, table: Table | Stream, schema: Schema) -> np.ndarray:
    """[n] int64, -1 where the table has no labels."""
    coder = fitted.preprocessor.labels_
    assert coder is not None and schema.label is not None
    return np.concatenate([coder.transform(batch, schema.label) for batch in table.batches()])


def _row_ids(table: Stream) -> pa.Table:
    return pa.table({table.schema.id: tables.join([batch.ids for batch in table.batches()])})


def _pair_ids(pairs: Pairs) -> pa.Table:
    return pa.table({"left_id": pairs.left_ids, "right_id": pairs.right_ids})


def cache_of(config: RunConfig) -> Path:
    return Path(config.cache).expanduser()


def store_of(config: RunConfig) -> Store:
    return Store(cache_of(config), None if config.cache_gb is None else int(config.cache_gb * 1e9))


def progress_of(steps: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    """A bar that goes when it is done."""
    from rich.progress import track

    return track(steps, title, total=total, transient=True) if total > 1 else steps


def quieten() -> None:
    """Silence remarks of libraries that a user can do nothing about."""
    import logging

    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (".*num_workers.*", ".*in eval mode at the start of training.*", ".*custom batch sampler.*", ".*does not have many workers.*", ".*Trying to infer the `batch_size`.*", ".*exists and is not empty.*",
                    ".*`isinstance\\(treespec, LeafSpec\\)`.*", ".*lr_scheduler.step\\(\\).*"):  # fmt: skip
        warnings.filterwarnings("ignore", message)

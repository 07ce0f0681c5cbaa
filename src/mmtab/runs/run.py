"""A run and its folder: train(), evaluate(), predict().

The folder says everything: config.yaml, schema.yaml, fitted.json, text_backbone/ (architecture and tokenizer),
checkpoints/best.ckpt, metrics.csv (by epoch), metrics.json, predictions_<split>.parquet, provenance.json. It needs
neither the training data nor the hub to be used elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytorch_lightning as pl
import torch
import yaml

from mmtab.config.compose import settle
from mmtab.config.types import Hardware, RunConfig, TrainerConfig
from mmtab.data import table as tables
from mmtab.data.dataset import dataset_folder
from mmtab.data.files import FORMATS
from mmtab.data.pairs import read_pairs, read_pairs_file, read_records
from mmtab.data.schema import Schema, TaskKind
from mmtab.data.streams import Stream
from mmtab.data.table import Table
from mmtab.features.encoded import KWayBatches, loader, text_columns
from mmtab.features.fitted import Fitted
from mmtab.runs import provenance
from mmtab.runs.folder import (
    FORMAT,
    differences,
    load_weights,
    open_config,
    read_facts,
    read_run_file,
    write_config,
    write_metrics,
    write_predictions,
)
from mmtab.runs.session import Batches, Session, cache_of, labels_of, open_run, pair_ids, quieten, row_ids
from mmtab.runs.wandb import log_results, wandb_loggers
from mmtab.training.build import build_model, build_task, check_settings, encoder_of
from mmtab.training.callbacks import BeforeValidation, EpochLines, EveryEpochs, MetricsFile, progress_bar
from mmtab.training.checkpoints import LAST, AtomicIO, Checkpoints, find_last
from mmtab.training.module import BadLoss, Module
from mmtab.training.tasks import PairTask
from mmtab.utils import distributed as ranks
from mmtab.utils.atomic import write_json, write_text
from mmtab.utils.errors import DataError, RunError, TrainingError
from mmtab.utils.locks import alone_in
from mmtab.utils.machine import prepare_process, usable_cores

PERCENT = np.linspace(0, 1, 101)


class Prepared(NamedTuple):
    """What training begins with. ``ids_of``: what training rows (or pairs) by number are called in the data."""

    session: Session
    train: Batches
    valid: Batches
    valid_ids: pa.Table
    files: list[Path]
    ids_of: Callable[[Sequence[int]], list[str]]


# --- training --------------------------------------------------------------------------------------------------------


def train(config: RunConfig, folder: Path) -> dict[str, float]:
    """Train on train, choose on valid, write the run folder; returns the valid metrics. Never opens the test split.

    An unfinished run of the same settings in the folder goes on where it was killed, and ends with the same numbers; of a
    finished one the metrics are returned. Raises RunError where the folder holds another run, or another process writes
    to it, and Stopped when a signal stopped it.
    """
    with alone_in(folder) if ranks.is_first() else contextlib.nullcontext():
        if provenance.is_finished(folder):
            return _metrics_there(config, folder)
        if _goes_on(config, folder):
            config = _halved_as_there(config, folder)
            _check_same(config, folder, settled=False)
        elif ranks.is_first():
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        while True:
            try:
                return _train(config, folder)
            except torch.OutOfMemoryError as error:
                problem = str(error).splitlines()[0]
            except RuntimeError as error:
                if "can't allocate memory" not in str(error):
                    raise
                problem = str(error).splitlines()[0]
            config = _after_oom(config, problem)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            gc.collect()
            torch.cuda.empty_cache()


def _train(config: RunConfig, folder: Path) -> dict[str, float]:
    started = time.perf_counter()
    quieten()
    prepare_process()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    torch.set_num_threads(config.trainer.n_threads or usable_cores())
    prepared = prepare(config)
    session = prepared.session
    fingerprint = tables.fingerprint(prepared.files)
    prepared_seconds = time.perf_counter() - started
    if _goes_on(config, folder):
        _check_same(session.config, folder, settled=True)
    elif ranks.is_first():
        _save_description(session, folder)

    module, trainer, checkpoints = fit(prepared, folder, fingerprint)
    load_weights(session.model, checkpoints.finish(trainer))
    predictions, predict_seconds = session.predictions(prepared.valid)
    session.task.calibrate(predictions)
    if (session.task.temperatures != 1).any():
        predictions, _ = session.predictions(prepared.valid)
    session.task.fit_threshold(predictions)
    metrics = session.task.metrics_of(predictions)
    n_trained = sum(ranks.of_all(module.n_trained))
    if ranks.is_first():
        valid = folder / "predictions_valid.parquet"
        write_predictions(valid, session.task, session.fitted, prepared.valid_ids, predictions, prepared.valid.labels)
        write_metrics(folder, "valid", metrics)
        write_json(
            folder / "provenance.json",
            provenance.facts()
            | {
                "format": FORMAT,
                "temperatures": session.task.temperatures.tolist(),
                "biases": session.task.biases.tolist() if isinstance(session.task, PairTask) else None,
                "thresholds": session.task.thresholds.tolist() if isinstance(session.task, PairTask) else None,
                "confidence": np.quantile(session.task.confidence(predictions), PERCENT, axis=0).tolist(),
                "seed": config.seed,
                "precision": session.precision,
                "device": str(session.device),
                "n_processes": trainer.world_size,
                "n_threads": torch.get_num_threads(),
                "resumed_at_steps": checkpoints.resumed_at,
                "data_fingerprint": fingerprint,
                "n_parameters": sum(p.numel() for p in session.model.parameters()),
                "n_trained_parameters": sum(p.numel() for p in session.model.parameters() if p.requires_grad),
                "n_train": len(prepared.train),
                "n_epochs": trainer.current_epoch,
                "seconds": {
                    "prepare": prepared_seconds,
                    "train": module.train_seconds,
                    "total": time.perf_counter() - started,
                },
                "train_rows_per_second": n_trained / max(module.train_seconds, 1e-9),
                "predict_rows_per_second": len(prepared.valid) / max(predict_seconds, 1e-9),
                "peak_memory_mib": provenance.peak_memory_mib(),
            },
        )
        checkpoints.clean()
        log_results(session.config, folder, "valid")
    return ranks.of_first(metrics)  # nobody opens the folder before it is whole


def _goes_on(config: RunConfig, folder: Path) -> bool:
    return config.resume == "auto" and (folder / LAST).exists()


def _halved_as_there(config: RunConfig, folder: Path) -> RunConfig:
    """With the batch that an unfinished run was left with where memory did not suffice for the one asked for."""
    there = open_config(folder).trainer
    while config.trainer.on_oom == "halve" and config.trainer.batch_size > there.batch_size:
        config = replace(config, trainer=_halved(config.trainer))
    return config


def _metrics_there(config: RunConfig, folder: Path) -> dict[str, float]:
    """Of the finished run that the folder holds already."""
    if config.resume == "never":
        raise RunError(f"{folder} already holds a finished run; give another output=FOLDER")
    _check_same(config, folder, settled=False)
    facts = read_facts(folder)
    if ranks.is_first():
        when = f"finished {facts['time']} at commit {facts['git_commit']}"
        warnings.warn(f"{folder} already holds this run, {when}: nothing was trained", stacklevel=3)
        (folder / LAST).unlink(missing_ok=True)  # which a kill right at the end may have left
    return read_run_file(folder, "metrics.json")["valid"]


def _check_same(config: RunConfig, folder: Path, settled: bool) -> None:
    different = differences(open_config(folder), config, settled)
    if different:
        kind = "a finished" if provenance.is_finished(folder) else "an unfinished"
        raise RunError(
            f"{folder} already holds {kind} run with other settings ({'; '.join(different)}); give another output=FOLDER"
            + ("" if provenance.is_finished(folder) else ", or resume=never to begin anew")
        )


def _after_oom(config: RunConfig, problem: str) -> RunConfig:
    """Half the batch and twice as many of them a step, if that was asked for; raises TrainingError otherwise."""
    size, settings = config.trainer.batch_size, config.trainer
    if settings.on_oom == "halve" and size > 1:
        smaller = _halved(settings)
        warnings.warn(
            f"out of memory ({problem}): beginning anew with trainer.batch_size={smaller.batch_size} "
            f"trainer.accumulate={smaller.accumulate}", stacklevel=3,
        )  # fmt: skip
        return replace(config, trainer=smaller)
    raise TrainingError(
        f"out of memory with trainer.batch_size={size} ({problem}). Lower it (trainer.on_oom=halve does so by itself), or "
        "text.max_length, image.size, text.n_tuned_layers; or set text.checkpointing=true, image.checkpointing=true"
    )


def _halved(settings: TrainerConfig) -> TrainerConfig:
    return replace(settings, batch_size=(settings.batch_size + 1) // 2, accumulate=settings.accumulate * 2)


def prepare(config: RunConfig) -> Prepared:
    """Read train and valid, fit on train, build the model, encode."""
    check_settings(config)
    data = dataset_folder(config.dataset, config.data_root, cache_of(config))
    schema = Schema.read(data)
    if config.dataset.drop:
        schema = schema.without(list(config.dataset.drop))
    schema = schema.choose(config.dataset.relations, config.dataset.ignore)
    bad = config.dataset.bad_cells
    rules, hardware = config.categories, Hardware.of(config.trainer)
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
        labels = [labels_of(fitted, table, schema) for table in (train, valid)]
        if (labels[1] < 0).all():
            raise DataError(schema.name, "no labels to choose the best epoch with", table="valid", column=schema.label)
        model = build_model(config, schema, fitted)
        task = build_task(config, schema, fitted, labels[0])
        session = Session(config, schema, fitted, model, task, hardware)
        batches = [
            KWayBatches(session.encode(table), known) for table, known in zip((train, valid), labels, strict=True)
        ]

        def names(rows: Sequence[int]) -> list[str]:
            ids = row_ids(train)[schema.id]
            return [str(ids[row]) for row in rows]

        return Prepared(session, batches[0], batches[1], row_ids(valid), tables.training_files(data, schema), names)
    records = read_records(data, schema, bad)  # type: ignore[arg-type]
    train_pairs, valid_pairs = (read_pairs(data, schema, split, records) for split in ("train", "valid"))
    for pairs in (train_pairs, valid_pairs):
        for name in schema.relations:
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
    session = Session(config, schema, fitted, model, build_task(config, schema, fitted), hardware)
    encoded = session.encode(records.table)
    if config.pair_head.compare:
        assert fitted.comparison is not None
        features = fitted.comparison(records.table, train_pairs.left, train_pairs.right, encoded.pictures)
        session.fitted = fitted.with_scalers(features)
    train_b = session.pairs(records, encoded, train_pairs, training=True)
    valid_b = session.pairs(records, encoded, valid_pairs)
    if train_b.n_mined:
        session.after_epochs = functools.partial(session.mine, records.table, train_b)

    def ids_of(pairs: Sequence[int]) -> list[str]:
        sides = (records.table.ids.take(pa.array(side[list(pairs)])) for side in (train_b.left, train_b.right))
        return [f"{left} and {right}" for left, right in zip(*(side.to_pylist() for side in sides), strict=True)]

    return Prepared(session, train_b, valid_b, pair_ids(valid_pairs), tables.training_files(data, schema), ids_of)


def fit(prepared: Prepared, folder: Path, fingerprint: str = "") -> tuple[Module, pl.Trainer, Checkpoints]:
    """Train, or go on with training; raises TrainingError for a loss that is no number, with the rows of its batch."""
    from pytorch_lightning.callbacks import EarlyStopping

    session, settings = prepared.session, prepared.session.config.trainer
    monitor = f"valid/{session.task.metric}"
    module, metrics = Module(session.model, session.task, settings), MetricsFile(folder / "metrics.csv")
    train_loader = loader(
        prepared.train, settings.batch_size, shuffle=True, seed=session.config.seed, n_workers=settings.n_workers
    )
    sampler: Any = train_loader.batch_sampler
    checkpoints = Checkpoints(
        folder, monitor, prepared.train, sampler, metrics, fingerprint=fingerprint, keep=settings.keep,
        seconds=settings.checkpoint_seconds,
    )  # fmt: skip
    callbacks: list[Any] = [
        EarlyStopping(monitor, patience=settings.patience or 3, mode="max"),
        EpochLines(session.task.metric),
        checkpoints,
    ]
    if session.after_epochs is not None:
        callbacks.insert(0, EveryEpochs(session.after_epochs, session.config.pair_head.mine_every))
    if not isinstance(prepared.valid, KWayBatches):
        callbacks.append(BeforeValidation(functools.partial(session.encode_rows, prepared.valid)))
    bar = progress_bar(settings.progress)
    if settings.compile:
        session.model.compile(dynamic=True)
    trainer = session.trainer(
        max_epochs=settings.max_epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, len(prepared.train) // settings.batch_size // 10),
        logger=[metrics, *wandb_loggers(session.config, folder)],
        callbacks=callbacks + bar,
        enable_progress_bar=bool(bar),
        plugins=[AtomicIO()],
    )
    last = find_last(folder, fingerprint) if session.config.resume == "auto" else None
    try:
        trainer.fit(
            module, train_loader, loader(prepared.valid, settings.eval_batch_size, shuffle=False), ckpt_path=last,
            weights_only=True,
        )  # fmt: skip
    except BadLoss as error:
        names = prepared.ids_of(error.rows)
        raise TrainingError(
            f"{session.schema.name}: the {error.what} is {error.value:g} in epoch {trainer.current_epoch + 1}, after step "
            f"{trainer.global_step}, in the batch of {', '.join(names)}. Look at these rows; or lower trainer.lr "
            f"(={settings.lr:g}) and trainer.backbone_lr (={settings.backbone_lr:g}), or set trainer.precision=fp32"
        ) from error
    except FloatingPointError as error:  # of the valid rows
        raise TrainingError(f"{session.schema.name}, valid, epoch {trainer.current_epoch + 1}: {error}") from error
    session.model._compiled_call_impl = None  # scores of a run do not hang on whether it was compiled
    if trainer.interrupted:
        raise KeyboardInterrupt
    return module, trainer, checkpoints


# --- using a run -----------------------------------------------------------------------------------------------------


def evaluate(
    folder: Path, split: str = "test", path: Path | None = None, hardware: Hardware | None = None
) -> dict[str, float]:
    """Score a labelled split with the stored threshold; writes its predictions and adds its metrics to the folder."""
    session = open_run(folder, hardware)
    config = session.config
    data = path or dataset_folder(config.dataset, config.data_root, cache_of(config))
    batches, ids, files = session.load(split, data)
    if (batches.labels < 0).any():
        raise RunError(
            f"{session.schema.name}, split {split}: it has no labels, so it can be predicted but not scored; use scripts/predict.py"
        )
    predictions, seconds = session.predictions(batches)
    metrics = session.task.metrics_of(predictions)
    extra = {
        "n_rows": len(batches),
        "data_fingerprint": tables.fingerprint(files),
        "predict_rows_per_second": len(batches) / max(seconds, 1e-9),
    }
    if ranks.is_first():
        with alone_in(folder, wait=600):
            path = folder / f"predictions_{split}.parquet"
            write_predictions(path, session.task, session.fitted, ids, predictions, batches.labels)
            write_metrics(folder, split, metrics | extra)
            log_results(config, folder, split, data)
    return metrics


def evaluate_if_labelled(folder: Path, split: str) -> dict[str, float] | None:
    """As evaluate(), on the hardware of the training, but None for a split that is absent or has no labels."""
    config = open_config(folder)
    data = dataset_folder(config.dataset, config.data_root, cache_of(config))
    schema = Schema.from_dict(read_run_file(folder, "schema.yaml"))
    hardware = Hardware.of(config.trainer)
    return evaluate(folder, split, hardware=hardware) if tables.has_labels(data, schema, split) else None


def ceiling(folder: Path) -> dict[str, float]:
    """The best reachable value of the dataset's metric with the columns of this run, where it is known."""
    schema = Schema.from_dict(read_run_file(folder, "schema.yaml"))
    return {} if schema.ceiling is None else {schema.metric: schema.ceiling}


def predict(
    folder: Path, input: Path, output: Path, *, left: Path | None = None, right: Path | None = None, records: Path | None = None,
    hardware: Hardware | None = None, coverage: float | None = None, cost: float | None = None,
) -> int:  # fmt: skip
    """Predict rows, or pairs of the rows of ``left`` and ``right`` (or ``records``); returns how many. Image paths start
    at the folder of the table that names them. ``coverage``: predict only that share of rows, those that the model is
    surest of, as measured on valid. ``cost`` of a false match, where a missed one costs 1, sets the threshold."""
    session = open_run(folder, hardware)
    least = None if coverage is None else _least_confidence(folder, coverage)
    if cost is not None:
        if not isinstance(session.task, PairTask):
            raise RunError("cost is for matching: of k classes the likeliest is predicted")
        if not 0 < cost < math.inf:
            raise RunError(
                f"cost={cost}: expected a number above 0, what a false match costs where a missed one costs 1"
            )
        session.task.thresholds[:] = cost / (1 + cost)  # Elkan 2001; the probabilities are calibrated on valid
    if output.suffix not in FORMATS:
        raise RunError(f"output={output}: expected a name ending in .parquet or .csv")
    bad: Any = session.config.dataset.bad_cells
    batches: Batches
    if session.schema.task is TaskKind.KWAY:
        table = Stream(input, session.schema, input.parent, bad, labels=False)
        batches, ids = session.kway(table), row_ids(table)
    else:
        found = session.read_records(left=left, right=right, records=records)
        pairs = read_pairs_file(input, session.schema, found)
        batches, ids = session.pairs(found, session.encode(found.table), pairs), pair_ids(pairs)
    predictions, _ = session.predictions(batches)
    if ranks.is_first():
        write_predictions(output, session.task, session.fitted, ids, predictions, None, least)
    return len(batches)


def _least_confidence(folder: Path, coverage: float) -> np.ndarray:
    """[r] what a prediction needs so that the wanted share of valid has it."""
    if not 0 < coverage <= 1:
        raise RunError(f"coverage={coverage}: expected a share of the rows, above 0 and at most 1")
    known = read_facts(folder).get("confidence")
    if known is None:
        raise RunError(f"{folder} is of an earlier mmtab, which kept no confidence; train again to use coverage")
    if coverage == 1:
        return np.full(len(known[0]), -math.inf)
    return np.array([np.interp(1 - coverage, PERCENT, quantiles) for quantiles in zip(*known, strict=True)])


def _save_description(session: Session, folder: Path) -> None:
    from mmtab.features.backbones import save_text_config

    write_config(folder, session.config)
    write_text(folder / "schema.yaml", yaml.safe_dump(session.schema.to_dict(), sort_keys=False, allow_unicode=True))
    write_json(folder / "fitted.json", session.fitted.to_dict(), indent=None)
    for text, place in (
        (encoder_of(session.model, "text"), "text_backbone"),
        (getattr(session.model, "cross", None), "cross_backbone"),
    ):
        if text is not None:
            save_text_config(text.backbone, text.tokenizer, folder / place)

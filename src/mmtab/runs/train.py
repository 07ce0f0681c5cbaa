"""Training into a run folder, which then says everything: config.yaml, schema.yaml, fitted.json, text_backbone/
(architecture and tokenizer), checkpoints/best.ckpt, task.json (calibration), metrics.csv (by epoch), metrics.json,
predictions_<split>.parquet, provenance.json. It needs neither the training data nor the hub to be used elsewhere.
"""

from __future__ import annotations

import contextlib
import gc
import math
import shutil
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml

from mmtab.config.types import RunConfig, TrainerConfig
from mmtab.data import table as tables
from mmtab.data.checked import kept_alarms
from mmtab.features.preprocess import order_of
from mmtab.runs import provenance
from mmtab.runs.folder import (
    DESCRIPTION,
    FITTED,
    FORMAT,
    METRICS,
    PROVENANCE,
    RESULTS,
    SCHEMA,
    check_same,
    check_unclaimed,
    open_config,
    read_facts,
    read_run_file,
    write_config,
    write_task_state,
)
from mmtab.runs.inputs import data_folder
from mmtab.runs.ladder import MARGIN, climb, finished_as
from mmtab.runs.loggers import check_loggers, loggers_of
from mmtab.runs.manifest import recording
from mmtab.runs.predictions import predictions_path
from mmtab.runs.session import Session
from mmtab.runs.setup import prepare
from mmtab.runs.wandb import log_results
from mmtab.training.checkpoints import Checkpoints
from mmtab.training.compute import silence_libraries
from mmtab.training.fit import fit
from mmtab.training.places import LAST
from mmtab.training.weights import load_weights
from mmtab.utils import distributed
from mmtab.utils.atomic import write_json, write_text
from mmtab.utils.errors import RunError, TrainingError
from mmtab.utils.locks import alone_in
from mmtab.utils.machine import prepare_process
from mmtab.utils.progress import asked, say, under_way
from mmtab.utils.text import count


def train(config: RunConfig, folder: Path, reserve: float = 0.0) -> dict[str, float]:
    """Train on train, choose on valid, write the run folder; returns the valid metrics. Never opens the test split.

    reserve: so many of the minutes of ``trainer.max_minutes`` are kept for a further run, unless preparing that one, by
    what this one has taken, would use them up

    An unfinished run of the same settings in the folder goes on where it was killed, and ends with the same numbers;
    of a finished one the metrics are returned. Raises RunError where the folder holds another run, or another process
    writes to it, and Stopped when a signal stopped it.
    """
    alone = alone_in(folder) if distributed.is_first() else contextlib.nullcontext()
    with alone, asked(config.trainer.progress):
        if provenance.is_finished(folder):
            return _finished_metrics(finished_as(config, folder, open_config(folder)), folder)
        check_unclaimed(folder, config.ladder)
        if config.ladder:
            return climb(config, folder, train)
        if _resumes(config, folder):
            config = _with_reduced_batch(config, folder)
            check_same(config, folder, settled=False)
        elif distributed.is_first():
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        while True:
            try:
                return _train(config, folder, reserve)
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


def _train(config: RunConfig, folder: Path, reserve: float) -> dict[str, float]:
    started = time.perf_counter()
    silence_libraries()
    prepare_process()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    check_loggers(config)
    with under_way("preparing"):
        prepared = prepare(config)
    session, task = prepared.session, prepared.session.task
    fingerprint = tables.fingerprint(prepared.files)
    alarms = kept_alarms(data_folder(config), fingerprint)  # now: training must not be lost to a damaged file
    prepare_seconds = time.perf_counter() - started
    if _resumes(config, folder):
        check_same(session.config, folder, settled=True)
    elif distributed.is_first():
        with recording(folder, *DESCRIPTION, *RESULTS):
            _write_description(session, folder)

    # Before training, after which the weights may lie in parts on several processes
    base = session.base_metrics(prepared.valid)
    loggers, limit = loggers_of(session.config, folder), config.trainer.max_minutes
    if limit is not None and reserve > MARGIN * prepare_seconds / 60:
        limit = max(0.0, limit - reserve)
    if distributed.is_first():
        say(_plan(session, len(prepared.train), limit))
    left = None if limit is None else max(0.0, 60 * limit - (time.perf_counter() - started))
    settings = replace(prepared.fit_settings, seconds=left)
    module, trainer, checkpoints = fit(settings, folder, fingerprint, loggers)
    load_weights(session.model, checkpoints.finish(trainer))
    predictions, predict_seconds = session.predictions(prepared.valid)
    task.calibrate(predictions, prepared.train.labels)
    if (task.temperatures != 1).any():
        predictions, _ = session.predictions(prepared.valid)
    task.fit_threshold(predictions)
    task.fit_confidence(predictions, prepared.train.labels)
    metrics = task.metrics_of(predictions)
    n_trained = sum(distributed.of_all(module.n_trained))
    if distributed.is_first():
        facts = {
            "left_out": task.left_out,
            "base": {"valid": base},
            "data_fingerprint": fingerprint,
            "alarms": alarms,
            "n_train": len(prepared.train),
            "seconds": {
                "prepare": prepare_seconds,
                "train": module.train_seconds,
                "total": time.perf_counter() - started,
            },
            "train_rows_per_second": n_trained / max(module.train_seconds, 1e-9),
            "predict_rows_per_second": len(prepared.valid) / max(predict_seconds, 1e-9),
        }
        with recording(folder, *RESULTS):
            path = predictions_path(folder, "valid")
            session.write_predictions(path, prepared.valid_ids, predictions, prepared.valid.labels)
            write_json(folder / METRICS, {"valid": metrics})
            write_task_state(folder, task)
            write_json(folder / PROVENANCE, _training_facts(session, trainer, checkpoints) | facts)
            checkpoints.clean()
        for what, why in task.left_out.items():
            say(f"{what} not fitted: {why}")
        log_results(session.config, folder, "valid")
    return distributed.of_first(metrics)  # nobody opens the folder before it is complete


def _plan(session: Session, n_train: int, limit: float | None) -> str:
    """What training is about to do, in a line."""
    settings, compute = session.config.trainer, session.compute
    sizes = [(p.numel(), p.requires_grad) for p in session.model.parameters()]
    learned, total = sum(n for n, learns in sizes if learns), sum(n for n, _ in sizes)
    what = count(n_train, "row" if session.schema.of_rows else "pair")
    n_steps = math.ceil(n_train / settings.batch_size / settings.accumulate)
    text = f"training: {learned:,} of {total:,} parameters learn from {what}, "
    text += f"at most {count(settings.max_epochs or 0, 'epoch')} of {count(n_steps, 'step')}"
    if limit is not None:
        text += f" and {limit:.4g} min in all"
    place = f"{compute.device}, {torch.get_num_threads()} threads" if compute.device.type == "cpu" else compute.device
    return f"{text}, on {place}, {compute.precision}"


def _training_facts(session: Session, trainer: pl.Trainer, checkpoints: Checkpoints) -> dict[str, Any]:
    parameters = list(session.model.parameters())
    return provenance.facts() | {
        "format": FORMAT,
        "seed": session.config.seed,
        "precision": session.compute.precision,
        "device": str(session.compute.device),
        "n_processes": trainer.world_size,
        "n_threads": torch.get_num_threads(),
        "resumed_at_steps": checkpoints.resumed_at,
        "n_parameters": sum(p.numel() for p in parameters),
        "n_trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "n_epochs": trainer.current_epoch,
        "peak_memory_mib": provenance.peak_memory_mib(),
    }


def _write_description(session: Session, folder: Path) -> None:
    write_config(folder, session.config)
    write_text(folder / SCHEMA, yaml.safe_dump(session.schema.to_dict(), sort_keys=False, allow_unicode=True))
    write_json(folder / FITTED, session.fitted.to_dict() | order_of(session.schema), indent=None)
    session.backbones.save(folder)


# --- a folder that holds a run already -------------------------------------------------------------------------------


def _resumes(config: RunConfig, folder: Path) -> bool:
    return config.resume == "auto" and (folder / LAST).exists()


def _finished_metrics(config: RunConfig, folder: Path) -> dict[str, float]:
    """Of the finished run that the folder holds."""
    if config.resume == "never":
        raise RunError(f"{folder} already holds a finished run; give another output=FOLDER")
    check_same(config, folder, settled=False)
    facts = read_facts(folder)
    if distributed.is_first():
        commit = facts.get("git_commit")
        when = f"finished {facts['time']}{f' at commit {commit}' if commit else ''}"
        warnings.warn(f"{folder} already holds this run, {when}: nothing was trained", stacklevel=3)
        (folder / LAST).unlink(missing_ok=True)  # which a kill right at the end may have left
    return read_run_file(folder, METRICS)["valid"]


# --- out of memory ---------------------------------------------------------------------------------------------------


def _with_reduced_batch(config: RunConfig, folder: Path) -> RunConfig:
    """With the batch size of the unfinished run, which may have been halved for lack of memory."""
    try:
        reduced = open_config(folder).trainer
    except RunError as error:
        fix = "give another output=FOLDER, or resume=never to begin anew"
        raise RunError(f"the unfinished run there is of another version, or damaged: {error}. Fix: {fix}") from error
    while config.trainer.on_oom == "halve" and config.trainer.batch_size > reduced.batch_size:
        config = replace(config, trainer=_halved(config.trainer))
    return config


def _after_oom(config: RunConfig, problem: str) -> RunConfig:
    """Half the batch and twice as many of them a step, if that was asked for; raises TrainingError otherwise."""
    size, settings = config.trainer.batch_size, config.trainer
    if settings.on_oom == "halve" and size > 1:
        smaller = _halved(settings)
        warnings.warn(
            f"out of memory ({problem}): beginning anew with trainer.batch_size={smaller.batch_size} "
            f"trainer.accumulate={smaller.accumulate}",
            stacklevel=3,
        )
        return replace(config, trainer=smaller)
    raise TrainingError(
        f"out of memory with trainer.batch_size={size} ({problem}). Lower it (trainer.on_oom=halve does so by itself), "
        "or text.max_length, image.size, text.n_tuned_layers; or set text.checkpointing=true, image.checkpointing=true"
    )


def _halved(settings: TrainerConfig) -> TrainerConfig:
    return replace(settings, batch_size=(settings.batch_size + 1) // 2, accumulate=settings.accumulate * 2)

"""Scoring a run on a labelled split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmtab.config.types import SPLITS, WANDB_OFF, Hardware, LocalSettings, RunConfig, WandbConfig
from mmtab.data import table as tables
from mmtab.features.batches import is_known
from mmtab.runs.blocks import predict_rows
from mmtab.runs.folder import read_schema, write_metrics
from mmtab.runs.inputs import data_folder, trained_on
from mmtab.runs.manifest import recording
from mmtab.runs.predictions import predictions_path
from mmtab.runs.session import open_run
from mmtab.utils import distributed
from mmtab.utils.engine import SERIAL, Engine
from mmtab.utils.errors import RunError
from mmtab.utils.locks import alone_in


def evaluate(
    folder: Path,
    split: str = "test",
    path: Path | None = None,
    hardware: Hardware | None = None,
    local: LocalSettings | None = None,
    wandb: WandbConfig | None = None,
    engine: Engine = SERIAL,
) -> dict[str, float]:
    """Score a labelled split with the stored threshold; writes its predictions and adds its metrics to the folder.
    ``path``: a dataset folder other than that of the run; ``local`` as for ``open_config``; ``wandb``: default off;
    ``engine``: where blocks of the split are computed."""
    if split not in SPLITS:
        raise RunError(f"split={split}: expected {', '.join(SPLITS[:-1])} or {SPLITS[-1]}")
    session = open_run(folder, hardware, local)
    config = replace(session.config, wandb=wandb or WandbConfig())
    data = path or trained_on(folder, config)
    rows, ids, files = session.read(split, data)
    labels = session.labels(rows)
    if not is_known(labels).all():
        raise RunError(
            f"{session.schema.name}, split {split}: it has no labels, so it can be predicted but not scored; "
            "use mmtab predict"
        )
    predictions, seconds = predict_rows(session, rows, engine, labels)
    metrics = session.task.metrics_of(predictions)
    extra = {
        "n_rows": len(labels),
        "data_fingerprint": tables.fingerprint(files),
        "predict_rows_per_second": len(labels) / max(seconds, 1e-9),
    }
    if distributed.is_first():
        with alone_in(folder, wait=600):
            target = predictions_path(folder, split)
            with recording(folder, target.name):
                session.write_predictions(target, ids, predictions, labels)
            write_metrics(folder, split, metrics | extra)
            if config.wandb.mode not in WANDB_OFF:  # else what it logs with need not be imported
                from mmtab.runs.wandb import log_results

                log_results(config, folder, split, data)
    return metrics


def evaluate_if_labelled(folder: Path, split: str, config: RunConfig) -> dict[str, float] | None:
    """As evaluate(), with the settings that the run was trained with just now, but None for a split that is absent or
    has no labels."""
    if not tables.has_labels(data_folder(config), read_schema(folder), split):
        return None
    hardware = Hardware.of(config.trainer)
    return evaluate(folder, split, hardware=hardware, local=LocalSettings.of(config), wandb=config.wandb)


def ceiling(folder: Path) -> dict[str, float]:
    """The best reachable value of the dataset's metric with the columns of this run, where it is known."""
    schema = read_schema(folder)
    return {} if schema.ceiling is None else {schema.metric: schema.ceiling}

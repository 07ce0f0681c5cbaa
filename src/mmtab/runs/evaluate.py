"""Scoring a run on a labelled split."""

from __future__ import annotations

from pathlib import Path

from mmtab.config.types import Hardware
from mmtab.data import table as tables
from mmtab.data.schema import Schema
from mmtab.runs.folder import open_config, read_run_file, write_metrics
from mmtab.runs.inputs import data_folder
from mmtab.runs.predictions import predictions_path
from mmtab.runs.session import open_run
from mmtab.runs.wandb import log_results
from mmtab.utils import distributed
from mmtab.utils.errors import RunError
from mmtab.utils.locks import alone_in


def evaluate(
    folder: Path, split: str = "test", path: Path | None = None, hardware: Hardware | None = None
) -> dict[str, float]:
    """Score a labelled split with the stored threshold; writes its predictions and adds its metrics to the folder.
    ``path``: a dataset folder other than that of the run."""
    session = open_run(folder, hardware)
    config = session.config
    data = path or data_folder(config)
    batches, ids, files = session.load(split, data)
    if (batches.labels < 0).any():
        raise RunError(
            f"{session.schema.name}, split {split}: it has no labels, so it can be predicted but not scored; "
            "use mmtab predict"
        )
    predictions, seconds = session.predictions(batches)
    metrics = session.task.metrics_of(predictions)
    extra = {
        "n_rows": len(batches),
        "data_fingerprint": tables.fingerprint(files),
        "predict_rows_per_second": len(batches) / max(seconds, 1e-9),
    }
    if distributed.is_first():
        with alone_in(folder, wait=600):
            session.write_predictions(predictions_path(folder, split), ids, predictions, batches.labels)
            write_metrics(folder, split, metrics | extra)
            log_results(config, folder, split, data)
    return metrics


def evaluate_if_labelled(folder: Path, split: str) -> dict[str, float] | None:
    """As evaluate(), on the hardware of the training, but None for a split that is absent or has no labels."""
    config = open_config(folder)
    data = data_folder(config)
    schema = Schema.from_dict(read_run_file(folder, "schema.yaml"))
    hardware = Hardware.of(config.trainer)
    return evaluate(folder, split, hardware=hardware) if tables.has_labels(data, schema, split) else None


def ceiling(folder: Path) -> dict[str, float]:
    """The best reachable value of the dataset's metric with the columns of this run, where it is known."""
    schema = Schema.from_dict(read_run_file(folder, "schema.yaml"))
    return {} if schema.ceiling is None else {schema.metric: schema.ceiling}

"""The loggers that a run's settings name, beside metrics.csv: wandb, and those of Lightning."""

from __future__ import annotations

import os
from pathlib import Path

from pytorch_lightning.loggers import Logger

from mmtab.config.types import RunConfig
from mmtab.runs.folder import deciding
from mmtab.runs.wandb import wandb_loggers
from mmtab.utils import distributed
from mmtab.utils.optional import require


def check_loggers(config: RunConfig) -> None:
    """Raises ConfigError that says what to install for a logger whose library is missing."""
    for name in {"tensorboard", "mlflow"} & {*config.logger}:
        require(name, extra=name)


def loggers_of(config: RunConfig, folder: Path) -> list[Logger]:
    """Of the first process; they get what metrics.csv gets."""
    if not distributed.is_first():
        return []
    loggers = list[Logger]()
    for name in dict.fromkeys(config.logger):
        if name == "tensorboard":
            from pytorch_lightning.loggers import TensorBoardLogger

            loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
        elif name == "mlflow":
            from pytorch_lightning.loggers import MLFlowLogger

            server = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
            loggers.append(MLFlowLogger(config.dataset.name, run_name=folder.name, tracking_uri=server))
    for logger in loggers:
        logger.log_hyperparams({name: str(value) for name, value in deciding(config).items()})
    return [*wandb_loggers(config, folder), *loggers]

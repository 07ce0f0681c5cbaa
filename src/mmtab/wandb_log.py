"""What a run tells wandb. Whatever goes wrong there, the run matters more."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from mmtab.config import RunConfig


def wandb_loggers(config: RunConfig, folder: Path) -> list[Logger]:
    """wandb where asked; its failing to start never stops a run."""
    if config.wandb.mode == "disabled":
        return []
    try:
        from pytorch_lightning.loggers import WandbLogger

        options: dict[str, Any] = {
            "group": config.wandb.group,
            "tags": list(config.wandb.tags),
            "mode": config.wandb.mode,
        }
        logger = WandbLogger(
            project=config.wandb.project, save_dir=folder, name=f"{config.dataset.name}-{config.seed}", **options
        )
        logger.experiment.config.update(dataclasses.asdict(config))
        return [logger]
    except Exception as error:  # whatever wandb raises, the run matters more
        warnings.warn(f"wandb is off for this run: {error}", stacklevel=2)
        return []

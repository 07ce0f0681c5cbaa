"""The typed top of every configuration. No torch here, so that --help and mistakes cost no waiting."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from mmtab.errors import ConfigError
from mmtab.preprocess import CategoryRules

CONFIGS = Path(__file__).parents[2] / "configs"
PRECISIONS = {"auto": "", "bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}


@dataclass
class GenerateConfig:
    """A task of the shipped catalogue: product_type, duplicates or variants."""

    task: str = MISSING
    n_rows: int = 4000
    seed: int = 0


@dataclass
class DatasetConfig:
    """``path`` is absolute or under ``data_root``. ``drop``: columns or column types to leave out. ``bad_cells``:
    ``missing`` counts and reports cells that do not fit their column's type instead of stopping."""

    name: str = MISSING
    path: str | None = None
    generate: GenerateConfig | None = None
    drop: list[str] = field(default_factory=list)
    bad_cells: str = "error"


@dataclass
class TrainerConfig:
    """``precision``: auto (bf16 where the hardware computes it natively), bf16, fp16 or fp32. ``patience``: epochs
    without a better valid score. ``n_threads`` 0: all cores."""

    max_epochs: int = 8
    patience: int = 3
    batch_size: int = 64
    eval_batch_size: int = 128
    lr: float = 1e-3
    backbone_lr: float = 2e-4
    weight_decay: float = 0.02
    warmup_fraction: float = 0.1
    gradient_clip: float = 1.0
    accumulate: int = 1
    precision: str = "auto"
    accelerator: str = "auto"
    n_workers: int = 0
    n_threads: int = 0
    progress: bool = True


@dataclass
class WandbConfig:
    """``mode``: disabled, offline or online."""

    mode: str = "disabled"
    project: str = "mmtab"
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class RunConfig:
    """Everything a training run is made of. The untyped parts are leaves of configs/, each with its ``_target_``."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    data_root: str = "data"
    cache: str = "~/.cache/mmtab"
    output: str = MISSING
    seed: int = 0
    d_model: int = 128
    token_dropout: float = 0.1
    categories: CategoryRules = field(default_factory=CategoryRules)
    text: dict[str, Any] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)
    numeric: dict[str, Any] = field(default_factory=dict)
    categorical: dict[str, Any] = field(default_factory=dict)
    fusion: dict[str, Any] = field(default_factory=dict)
    kway_head: dict[str, Any] = field(default_factory=dict)
    pair_head: dict[str, Any] = field(default_factory=dict)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    test: bool = True  # once trained, score the test split where it has labels


@dataclass
class EvaluateConfig:
    """``path``, where given, stands in for the folder the run was trained on."""

    run: str = MISSING
    split: str = "test"
    path: str | None = None
    accelerator: str = "auto"


@dataclass
class PredictConfig:
    """``input``: a table, or for matching a table of pairs with ``left`` and ``right`` (or one ``records``)."""

    run: str = MISSING
    input: str = MISSING
    output: str = MISSING
    left: str | None = None
    right: str | None = None
    records: str | None = None
    accelerator: str = "auto"


def typed(config: DictConfig) -> RunConfig:
    """Resolve and check; raises ConfigError for values that fit no type or choice."""
    run = OmegaConf.to_object(config)
    assert isinstance(run, RunConfig)
    choices = {
        "trainer.precision": (run.trainer.precision, sorted(PRECISIONS)),
        "dataset.bad_cells": (run.dataset.bad_cells, ["error", "missing"]),
        "wandb.mode": (run.wandb.mode, ["disabled", "offline", "online"]),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ConfigError(f"{name}={value}: expected one of {', '.join(allowed)}")
    for name, least in (
        ("max_epochs", 1),
        ("batch_size", 1),
        ("eval_batch_size", 1),
        ("accumulate", 1),
        ("patience", 1),
    ):
        if getattr(run.trainer, name) < least:
            raise ConfigError(f"trainer.{name}={getattr(run.trainer, name)}: expected at least {least}")
    return run


def register() -> None:
    """Make the typed tops known to Hydra; each configs/*.yaml names its own in ``defaults``."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for name, node in (
        ("run_config", RunConfig),
        ("evaluate_config", EvaluateConfig),
        ("predict_config", PredictConfig),
    ):
        store.store(name=name, node=node)

"""The settings of every command, each with its meaning, choices and bounds. No torch here, so that --help and mistakes
cost no waiting."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from mmtab.config.settings import setting
from mmtab.utils.errors import ConfigError


def _configs() -> Path:
    """The repository's ``configs/``, or the copy that an installed package carries."""
    checkout = Path(__file__).parents[3]
    return checkout / "configs" if (checkout / "pyproject.toml").is_file() else Path(__file__).parents[1] / "configs"


CONFIGS = _configs()
PRECISIONS = {"auto": "", "bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}
PARTS = ("text", "image", "numeric", "categorical", "fusion")  # groups of configs/ that are one leaf each
TASKS = ("kway", "regression", "matching")
WANDB_OFF = (None, "disabled")  # modes
SPLITS = ("train", "valid", "test")
SCALES = ("identity", "log", "rank")  # on which a label that is a number may be learned
STRATEGIES = ("auto", "ddp", "fsdp")
BAD_CELLS = "cells that do not fit the type of their column: stop, or count, report and treat them as missing"
ACCELERATOR = "what to compute on; auto: a GPU where there is one"
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")  # Lightning's names
DEVICES = "number of devices, which share the rows"
DATA_ROOT = "folder of the dataset folders"
CACHE = "folder of computed features and generated datasets"
CACHE_GB = "size of the cache, from which the least recently used goes first; null: no limit"
ENCODING = "encoding of text files, such as cp1250; null: found out"
DELIMITER = "what separates the cells of text files; null: found out"


@dataclass
class GenerateConfig:
    task: str = setting(
        MISSING, "task of the shipped catalogue: product_type, duplicates, variants, or offers (both relations)"
    )
    n_rows: int = setting(4000, "rows to generate", at_least=1, at_most=100_000_000)
    seed: int = setting(0, "seed of the generated rows", at_least=0, below=2**32)


@dataclass
class DatasetConfig:
    name: str = setting(MISSING, "name of the dataset, and of the folder of its runs")
    path: str | None = setting(
        None, "dataset folder: absolute, under data_root, or else from the current folder", kind="path"
    )
    generate: GenerateConfig | None = setting(None, "generate the shipped catalogue instead of reading a folder")
    drop: list[str] = setting([], "columns, or types of columns, to leave out")
    bad_cells: str = setting("error", BAD_CELLS, choices=("error", "missing"))
    image_root: str | None = setting(
        None, "folder where picture paths of tables given to Run.predict start, set by mmtab.fit", kind="path"
    )
    metric: str | None = setting(None, "such as macro_f1: what is maximised on valid; null: as dataset.yaml says")
    train_share: float = setting(1.0, "share of train, of each class alike, to learn from", above=0, at_most=1)
    contradictions: str = setting(
        "keep",
        "matching: pairs that train labels both 1 and 0: count and report them, leave them out as well, or stop",
        choices=("keep", "drop", "error"),
    )
    relations: list[str] = setting([], "matching: relations to learn of those in dataset.yaml; empty: all")
    ignore: list[str] = setting([], "matching: columns in which matches may differ")


@dataclass
class TrainerConfig:
    max_epochs: int | None = setting(
        None, "epochs; null: 12 with frozen text, 5 with tuned, more where they would be under 500 steps", at_least=1
    )
    patience: int | None = setting(
        None, "epochs without a better valid score before training ends; null: a third of all, at least 3", at_least=1
    )
    max_minutes: float | None = setting(
        None,
        "minutes from the start of the command, preparation included, after which training ends; the learning rate "
        "falls to 0 by then, and scoring comes on top; null: no limit",
        above=0,
    )
    batch_size: int = setting(64, "rows (or pairs) of a batch, of all processes together", at_least=1)
    eval_batch_size: int = setting(64, "rows (or pairs) of a batch in evaluation", at_least=1, at_most=1_000_000)
    lr: float = setting(7e-4, "learning rate of everything but the pretrained networks", at_least=0)
    backbone_lr: float = setting(1e-4, "learning rate of the pretrained networks' layers that learn", at_least=0)
    weight_decay: float = setting(0.02, "weight decay of AdamW", at_least=0)
    warmup_fraction: float = setting(0.1, "share of the steps in which the learning rate rises", at_least=0, at_most=1)
    gradient_clip: float = setting(1.0, "largest norm of a gradient", at_least=0)
    accumulate: int = setting(1, "batches whose gradients make one optimiser step", at_least=1)
    compile: bool = setting(False, "training steps by torch.compile, which takes a minute or two to begin")
    precision: str = setting(
        "auto",
        "number format; auto: bf16 where the hardware computes it natively, else fp32",
        choices=tuple(PRECISIONS),
    )
    accelerator: str = setting("auto", ACCELERATOR, choices=ACCELERATORS)
    devices: int | str = setting(1, "devices of a machine, a process each; auto: all", choices=("auto",), at_least=1)
    n_nodes: int = setting(1, "machines", at_least=1)
    strategy: str = setting("auto", "how several processes train: copies (ddp) or shards (fsdp)", choices=STRATEGIES)
    n_workers: int = setting(0, "processes that load batches; 0: the training process does", at_least=0, at_most=1024)
    n_threads: int = setting(0, "threads; 0: OMP_NUM_THREADS, or all cores", at_least=0, at_most=1 << 16)
    checkpoint_seconds: float = setting(60.0, "seconds between checkpoints to resume from", at_least=0)
    keep: int = setting(1, "epochs, the best on valid, whose weights are kept", at_least=1)
    on_oom: str = setting(
        "stop",
        "where memory does not suffice: stop, or halve the batch, accumulate twice as many and start again",
        choices=("stop", "halve"),
    )
    progress: bool | None = setting(
        None, "show how far it is; null: in commands, and in Python on a terminal or in a notebook"
    )

    def check_together(self) -> None:
        if self.on_oom == "halve" and (self.devices != 1 or self.n_nodes > 1):
            raise ConfigError(
                "trainer.on_oom=halve: several processes cannot begin anew together; lower trainer.batch_size"
            )


@dataclass(frozen=True)
class Hardware:
    """What a model runs on; the meanings are those of TrainerConfig."""

    accelerator: str = "auto"
    devices: int | str = 1
    n_nodes: int = 1
    strategy: str = "auto"

    @staticmethod
    def of(settings: TrainerConfig) -> Hardware:
        return Hardware(settings.accelerator, settings.devices, settings.n_nodes, settings.strategy)


@dataclass
class KWayHeadConfig:
    head: dict[str, Any] = setting({}, "the module that turns row vectors into logits")
    n_tuned_text_layers: int | None = setting(
        2, "what text.n_tuned_layers=auto means for k-way classification", at_least=0
    )
    label_smoothing: float = setting(0.05, "share of the target that is spread over all classes", at_least=0, below=1)
    class_weights: bool = setting(False, "weigh classes, not rows, equally in the loss")
    n_sampled: int | None = setting(
        None, "classes drawn for each training step to compare the labels with; null: all classes", at_least=1
    )


@dataclass
class RegressionHeadConfig:
    head: dict[str, Any] = setting({}, "the module that turns row vectors into numbers")
    n_tuned_text_layers: int | None = setting(2, "what text.n_tuned_layers=auto means for regression", at_least=0)
    scale: str = setting(
        "auto", "scale on which the label is learned; auto: with which the base errs least", choices=("auto", *SCALES)
    )
    loss: str = setting("huber", "loss of an error, in standard deviations of train", choices=("huber", "squared"))


@dataclass
class AugmentConfig:
    cell_drop: float = setting(0.0, "probability that a cell of a pair goes missing in training", at_least=0, below=1)
    span_deletion: float = setting(0.0, "probability that a pair's text loses a span", at_least=0, below=1)
    column_shuffle: float = setting(0.0, "probability that a pair's columns change order", at_least=0, below=1)


@dataclass
class PairHeadConfig:
    model: dict[str, Any] = setting({}, "the pair model")
    tower: dict[str, Any] | None = setting(None, "head that compares two row vectors; null: none")
    joint: dict[str, Any] | None = setting(None, "head that reads both rows' tokens together; null: none")
    compare: dict[str, Any] | None = setting(None, "encoder of similarity features; null: none")
    base: dict[str, Any] | None = setting(
        None,
        "model of the similarity features, fitted first, whose logits are averaged with the others'; null: none",
    )
    cross_text: bool = setting(False, "read both rows' text in one sequence too, by a text encoder of its own")
    cross: dict[str, Any] = setting({}, "where the settings of that encoder differ from text")
    n_tuned_text_layers: int | None = setting(0, "what text.n_tuned_layers=auto means for matching", at_least=0)
    augment: AugmentConfig = setting(AugmentConfig, "augmentation of training pairs")
    hard_negatives: float = setting(0.0, "mined non-matches of an epoch, as a share of the training pairs", at_least=0)
    mine_every: int = setting(1, "epochs after which non-matches are mined again", at_least=1)
    pos_weight: float | None = setting(None, "weight of a match in the loss; null: 1", above=0)

    def check_together(self) -> None:
        if self.model and not (self.tower or self.joint or self.compare):
            raise ConfigError("pair_head: tower, joint and compare are all null; expected at least one")
        if self.cross_text and not self.joint:
            raise ConfigError("pair_head.cross_text: its tokens are read by the joint view; set pair_head.joint too")
        if self.tower and not self.model.get("towers"):
            raise ConfigError("pair_head.tower: it compares the vectors of towers; set pair_head.model.towers=true")
        if self.hard_negatives and not self.model.get("towers"):
            raise ConfigError(
                "pair_head.hard_negatives: they are found among the vectors of towers; set pair_head.model.towers=true"
            )


@dataclass
class WandbConfig:
    mode: str | None = setting(None, "null: online where logger names wandb", choices=("disabled", "offline", "online"))
    project: str = setting("mmtab", "project of the run")
    group: str | None = setting(None, "group of the run; null: that of runs which differ in the seed alone")
    job_type: str | None = setting(None, "kind of the run, for filters")
    tags: list[str] = setting([], "tags of the run")
    mistakes: int = setting(50, "wrong predictions of the highest confidence to show", at_least=0)
    artifact: bool = setting(True, "upload the run folder")


@dataclass
class CategoryRules:
    min_count: int = setting(2, "values that occur fewer times in train map to the id of unseen values", at_least=1)
    max_values: int = setting(
        10_000, "values of a column with an id of their own, the commonest; the rest are hashed", at_least=1
    )
    n_hash: int = setting(1_024, "hashed ids which the others share", at_least=0)


@dataclass
class RunConfig:
    """Everything a training run is made of. The untyped parts are leaves of configs/, each with its ``_target_``."""

    dataset: DatasetConfig = setting(DatasetConfig, "the dataset")
    data_root: str = setting("data", DATA_ROOT, kind="path")
    cache: str = setting("~/.cache/mmtab", CACHE, kind="path")
    cache_gb: float | None = setting(100.0, CACHE_GB, at_least=0)
    store_frozen: bool = setting(True, "compute frozen networks once, into the cache, instead of in every step")
    output: str = setting(MISSING, "run folder to write", kind="path")
    resume: str = setting(
        "auto",
        "auto: resume an unfinished run of the same settings in output; never: start it again",
        choices=("auto", "never"),
    )
    seed: int = setting(0, "seed of weights, batches and augmentation", at_least=0, below=2**32)
    ladder: list[str] = setting(
        [],
        "recipes to train in turn while trainer.max_minutes last, of which the best on valid is kept; see recipe=auto",
    )
    d_model: int = setting(128, "width of tokens and row vectors", at_least=1, at_most=65_536)
    n_members: int = setting(1, "models that learn side by side and are averaged", at_least=1, at_most=64)
    token_dropout: float = setting(
        0.1, "probability that a token is hidden from the fusion in training", at_least=0, below=1
    )
    categories: CategoryRules = setting(CategoryRules, "which categories get an embedding of their own")
    text: dict[str, Any] = setting({}, "encoder of text columns")
    image: dict[str, Any] = setting({}, "encoder of image columns")
    numeric: dict[str, Any] = setting({}, "encoder of numeric columns")
    categorical: dict[str, Any] = setting({}, "encoder of categorical columns")
    base: dict[str, Any] | None = setting(
        None, "convex model of a row, which the fusion model completes; not for matching; null: none"
    )
    search: dict[str, Any] | None = setting(
        None, "towers of their own for blocking, where 100 training matches are at hand; null: the pair model's vectors"
    )
    fusion: dict[str, Any] = setting({}, "module that turns the tokens of a row into its vector")
    kway_head: KWayHeadConfig = setting(KWayHeadConfig, "head and loss of k-way classification")
    regression_head: RegressionHeadConfig = setting(RegressionHeadConfig, "head and loss of regression")
    pair_head: PairHeadConfig = setting(PairHeadConfig, "heads and loss of matching")
    trainer: TrainerConfig = setting(TrainerConfig, "how to train")
    logger: list[str] = setting(["csv"], "loggers of metrics", choices=("csv", "wandb", "tensorboard", "mlflow"))
    wandb: WandbConfig = setting(WandbConfig, "logging to Weights & Biases")
    test: bool = setting(True, "once trained, score the test split where it has labels")
    report: bool = setting(True, "then write the report page, FOLDER/report/report.html")


@dataclass
class EngineConfig:
    name: str = setting("serial", "where it is computed: here, or on a cluster", choices=("serial", "ray"))
    address: str | None = setting(
        None,
        "HOST:PORT of the Ray cluster; auto: that of this machine; null: RAY_ADDRESS, else one is started here",
    )
    workers: int | None = setting(
        None, "processes that have the run open; null: as many as the cluster has room for", at_least=1
    )
    cpus: float = setting(1.0, "cores of a worker, which computes in as many threads", above=0)
    gpus: float = setting(0.0, "GPUs of a worker; with 0.5 two share one, and prepare shards in turn", at_least=0)

    def check_together(self) -> None:
        if self.name == "serial" and self != EngineConfig():
            raise ConfigError("engine: address, workers, cpus and gpus are settings of engine=ray. Fix: add engine=ray")

    def check_devices(self, devices: int) -> None:
        if self.name != "serial" and devices != 1:
            raise ConfigError(f"devices={devices} is for one machine; with engine={self.name} give engine.gpus")


@dataclass
class LocalSettings:
    """What belongs to this machine and whoever opens a run on it. The run itself has no say in it."""

    data_root: str = setting(lambda: os.environ.get("MMTAB_DATA", "data"), DATA_ROOT, kind="path")
    cache: str = setting(lambda: os.environ.get("MMTAB_CACHE", "~/.cache/mmtab"), CACHE, kind="path")
    cache_gb: float | None = setting(100.0, CACHE_GB, at_least=0)
    trust: list[str] = setting(
        [], "modules whose code the run may use, such as those of encoders that are not of mmtab"
    )
    bad_cells: str | None = setting(None, BAD_CELLS + "; null: as in training", choices=("error", "missing"))

    @staticmethod
    def of(config: RunConfig) -> LocalSettings:
        return LocalSettings(config.data_root, config.cache, config.cache_gb)


@dataclass
class EvaluateConfig(LocalSettings):
    run: str = setting(MISSING, "run folder", kind="path", exists=True)
    split: str = setting("test", "split to score", choices=SPLITS)
    path: str | None = setting(None, "dataset folder; null: that of the run's training", kind="path", exists=True)
    output: str | None = setting(None, "file to write the metrics to as well", kind="path", suffixes=(".json",))
    report: bool = setting(True, "write the report page too")
    engine: EngineConfig = setting(EngineConfig, "where blocks of the split are computed")
    wandb: WandbConfig = setting(WandbConfig, "logging to Weights & Biases, where the run has a run there")
    accelerator: str = setting("auto", ACCELERATOR, choices=ACCELERATORS)
    devices: int = setting(1, DEVICES, at_least=1)

    def check_together(self) -> None:
        self.engine.check_devices(self.devices)


@dataclass
class ReportConfig(LocalSettings):
    run: Any = setting(MISSING, "run folder, or a list of several to compare", kind="paths", exists=True)
    split: str | None = setting(None, "split to report; null: test where it was scored, else valid", choices=SPLITS)
    ablation: bool = setting(True, "score valid again without each column and modality, which takes longest")
    more_rows: bool = setting(False, "train on parts of train too, to say what more rows would bring")
    output: str | None = setting(None, "page of several runs; null: comparison.html", kind="path", suffixes=(".html",))
    accelerator: str = setting("auto", ACCELERATOR, choices=ACCELERATORS)
    devices: int = setting(1, DEVICES, at_least=1)


@dataclass
class NewTables(LocalSettings):
    run: str = setting(MISSING, "run folder", kind="path", exists=True)
    output: str = setting(MISSING, "table to write", kind="path", suffixes=(".parquet", ".csv"))
    left: str | None = setting(None, "matching: table of the left records", kind="path", exists=True, remote=True)
    right: str | None = setting(None, "matching: table of the right records", kind="path", exists=True, remote=True)
    records: str | None = setting(None, "matching: one table of all records", kind="path", exists=True, remote=True)
    image_root: str | None = setting(
        None, "folder where paths of pictures start; null: that of the table", kind="path", exists=True
    )
    engine: EngineConfig = setting(EngineConfig, "where shards of the tables are computed")
    encoding: str | None = setting(None, ENCODING)
    delimiter: str | None = setting(None, DELIMITER, kind="path")
    accelerator: str = setting("auto", ACCELERATOR, choices=ACCELERATORS)


@dataclass
class MatchConfig(NewTables):
    """Without tables: on those of the run's own dataset."""

    truth: str | None = setting(
        None, "pairs, or entities (id, a column for each relation), to score by", kind="path", exists=True, remote=True
    )
    labels: str | None = setting(None, "labelled pairs, to learn from", kind="path", exists=True, remote=True)
    curve: bool = setting(False, "with truth: show on the page how much F1 labels would bring, by their number")
    k: int | None = setting(None, "candidates of a record; null: the fewest that reach recall", at_least=1)
    recall: float = setting(0.99, "share of the valid matches that blocking has to retrieve", above=0, at_most=1)
    max_k: int = setting(200, "largest k to try", at_least=1)
    index_shard: int | None = setting(
        None, "records that blocking indexes at a time, which bounds its memory; null: all in one index", at_least=1
    )
    max_candidates: int = setting(4_000_000, "candidates in all, which a k that is tried does not exceed", at_least=1)
    stop: str = setting(
        "end",
        "stage to stop after; blocking: write the candidates with their scores, and the vectors of the records",
        choices=("end", "blocking"),
    )
    clustering: str = setting(
        "auto",
        "how pairs become clusters; unique: of two tables, one partner a record; auto: unique where no record of the "
        "run's training matches, 50 or more, has two partners, else correlation",
        choices=("auto", "unique", "correlation", "components"),
    )
    keep: str | None = setting(None, "folder that keeps records and scores for later calls; null: none", kind="path")
    shard: int = setting(4096, "records, or pairs, that are computed and saved at a time", at_least=1)
    n_shown: int = setting(60, "pairs on the page", at_least=0)
    explain: bool = setting(True, "say for each match which columns count for and against it")

    def check_together(self) -> None:
        if self.records is not None and (self.left or self.right):
            raise ConfigError("records stands beside left or right: give one table, or two")
        if self.records is not None and self.clustering == "unique":
            raise ConfigError("clustering=unique is for two tables; records is one")
        if (self.left is None) != (self.right is None):
            raise ConfigError("left and right go together; for one table give records=TABLE")
        if self.curve and self.truth is None:
            raise ConfigError("curve=true wants truth=TABLE, which says what the labels would be")
        if self.stop == "blocking" and (self.labels is not None or self.curve):
            raise ConfigError("stop=blocking uses no labels. Fix: leave out labels and curve, or stop")


@dataclass
class PredictConfig(NewTables):
    input: str = setting(
        MISSING, "table of rows; for matching, of pairs (left_id, right_id)", kind="path", exists=True, remote=True
    )
    devices: int = setting(1, DEVICES, at_least=1)
    coverage: float | None = setting(
        None, "share of the rows to predict, those of the highest confidence; null: all", above=0, at_most=1
    )
    interval: float | None = setting(
        None, "regression: share of labels that are to lie between low and high; null: 0.9", above=0, below=1
    )
    cost: float | None = setting(
        None, "matching: cost of a false match, of a missed one 1; null: the threshold of the best F1 on valid", above=0
    )

    def check_together(self) -> None:
        self.engine.check_devices(self.devices)


@dataclass
class ReproduceConfig(LocalSettings):
    run: str = setting(MISSING, "run folder", kind="path", exists=True)
    output: str = setting(MISSING, "new run folder", kind="path")
    path: str | None = setting(None, "dataset folder, where the data have moved", kind="path", exists=True)
    tolerance: float = setting(0.0, "largest difference of a metric that counts as reproduced", at_least=0)


@dataclass
class SweepConfig:
    """The settings up to ``seed`` define the sweep: of them only ``n_trials`` may grow. The others may change."""

    output: str = setting(MISSING, "folder of the sweep", kind="path")
    datasets: list[str] = setting(MISSING, "names of configs/dataset/, or dataset folders", kind="paths")
    seeds: list[int] = setting([0], "seeds of every dataset")
    overrides: list[str] = setting([], "settings of train, for every run")
    space: str | None = setting(
        None, "search space: a name of configs/sweep/ or a yaml file; null: one trial", kind="path"
    )
    n_trials: int | None = setting(None, "trials; null: the whole grid with sampler=grid, else 20", at_least=1)
    sampler: str = setting("tpe", "how trials are chosen", choices=("tpe", "random", "qmc", "grid", "nsgaii"))
    pruner: str = setting(
        "none", "rule by which a trial ends after its first runs", choices=("none", "median", "halving", "hyperband")
    )
    objectives: list[str] = setting(
        ["score"],
        "what to optimise",
        choices=("score", "train_seconds", "n_parameters", "peak_memory", "predict_rows_per_second"),
    )
    seed: int = setting(0, "seed of the sampler", at_least=0)
    n_jobs: int = setting(1, "runs at a time", at_least=1)
    retries: int = setting(1, "retries of a run that failed", at_least=0)
    test: str = setting("best", "trials to score on test in the end", choices=("best", "all", "none"))
    weights: str = setting("all", "trials whose checkpoints are kept", choices=("all", "best"))
    storage: str | None = setting(None, "database URL, for several machines; null: study.db in output")
    study: str | None = setting(None, "name of the sweep in the database; null: the name of output")

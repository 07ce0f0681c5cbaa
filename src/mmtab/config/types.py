"""The typed top of every configuration. No torch here, so that --help and mistakes cost no waiting."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING


def _configs() -> Path:
    """The repository's ``configs/``, or the copy that an installed package carries."""
    checkout = Path(__file__).parents[3]
    return checkout / "configs" if (checkout / "pyproject.toml").is_file() else Path(__file__).parents[1] / "configs"


CONFIGS = _configs()
PRECISIONS = {"auto": "", "bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}


@dataclass
class GenerateConfig:
    """A task of the shipped catalogue: product_type, duplicates, variants or offers (both relations at once)."""

    task: str = MISSING
    n_rows: int = 4000
    seed: int = 0


@dataclass
class DatasetConfig:
    """``path`` is absolute, under ``data_root``, or else from where you are. ``drop``: columns or column types to leave out. ``bad_cells``:
    ``missing`` counts and reports cells that do not fit their column's type instead of stopping. ``relations`` (matching):
    those to learn, where dataset.yaml names several; none: all. ``ignore``: columns in which matches may differ."""

    name: str = MISSING
    path: str | None = None
    generate: GenerateConfig | None = None
    drop: list[str] = field(default_factory=list)
    bad_cells: str = "error"
    relations: list[str] = field(default_factory=list)
    ignore: list[str] = field(default_factory=list)


@dataclass
class TrainerConfig:
    """``precision``: auto (bf16 where the hardware computes it natively), bf16, fp16 or fp32. ``max_epochs`` null: 12
    with frozen text and 5 with tuned, more where they would make fewer than 500 steps. ``patience`` (null: a third of
    the epochs, at least 3): epochs without a better valid score. ``n_threads`` 0: OMP_NUM_THREADS, or all cores.
    ``accumulate``: batches a step. ``compile``: training steps by torch.compile, which takes a minute or two to begin.

    ``devices`` (a number, or auto: all of a node), ``n_nodes`` and ``strategy`` (auto, ddp or fsdp) train with several
    processes; ``batch_size`` is that of all together. ``checkpoint_seconds``: how often a run saves where it stands.
    ``keep``: of how many epochs, the best on valid, the weights are kept. ``on_oom``: where memory does not suffice, stop,
    or halve the batch, accumulate twice as many and begin anew."""

    max_epochs: int | None = None
    patience: int | None = None
    batch_size: int = 64
    eval_batch_size: int = 64
    lr: float = 7e-4
    backbone_lr: float = 1e-4
    weight_decay: float = 0.02
    warmup_fraction: float = 0.1
    gradient_clip: float = 1.0
    accumulate: int = 1
    compile: bool = False
    precision: str = "auto"
    accelerator: str = "auto"
    devices: int | str = 1
    n_nodes: int = 1
    strategy: str = "auto"
    n_workers: int = 0
    n_threads: int = 0
    checkpoint_seconds: float = 60.0
    keep: int = 1
    on_oom: str = "stop"
    progress: bool = True


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
    """``n_tuned_text_layers`` is what text.n_tuned_layers=auto means. ``class_weights``: every class weighs the same.
    ``n_sampled``: in training each step compares the labels with so many classes drawn at random; null: with all."""

    head: dict[str, Any] = field(default_factory=dict)
    n_tuned_text_layers: int | None = 2
    label_smoothing: float = 0.05
    class_weights: bool = False
    n_sampled: int | None = None


@dataclass
class AugmentConfig:
    """Of training pairs, each a probability: that a cell goes missing, with what was compared of it; that a sequence of
    two rows' text loses a span; that it has its columns in another order."""

    cell_drop: float = 0.0
    span_deletion: float = 0.0
    column_shuffle: float = 0.0


@dataclass
class PairHeadConfig:
    """The parts of the pair model (``models.PairModel``); null leaves one out. ``compare``: the encoder of hand-made
    comparisons. ``cross_text``: both rows' text is also read in one sequence, by a text encoder with the settings of
    text.yaml and, where they differ, ``cross``. ``hard_negatives``: how many mined non-matches an epoch, as a share of the training pairs,
    renewed every ``mine_every`` epochs. ``pos_weight``: weight of a match in the loss."""

    model: dict[str, Any] = field(default_factory=dict)
    tower: dict[str, Any] | None = None
    joint: dict[str, Any] | None = None
    compare: dict[str, Any] | None = None
    cross_text: bool = False
    cross: dict[str, Any] = field(default_factory=dict)
    n_tuned_text_layers: int | None = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    hard_negatives: float = 0.0
    mine_every: int = 1
    pos_weight: float | None = None


@dataclass
class WandbConfig:
    """``mode``: disabled, offline or online. ``group`` null: one for runs that differ only in their seed. ``mistakes``: how
    many wrong predictions to show, those that the model was surest of. ``artifact``: whether to send the run folder."""

    mode: str = "disabled"
    project: str = "mmtab"
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    mistakes: int = 50
    artifact: bool = True


PARTS = ("text", "image", "numeric", "categorical", "fusion")  # groups of configs/ that are one leaf each


@dataclass
class CategoryRules:
    """Values seen fewer than ``min_count`` times are folded into the *unseen* id, which so gets trained. Of more than
    ``max_values`` kinds the commonest ``max_values`` keep an id of their own and the others share ``n_hash`` hashed ids."""

    min_count: int = 2
    max_values: int = 10_000
    n_hash: int = 1_024


@dataclass
class RunConfig:
    """Everything a training run is made of. The untyped parts are leaves of configs/, each with its ``_target_``.
    ``cache_gb`` bounds the cache on disk, of which the least recently used goes first; null: no bound. ``store_frozen``
    false: frozen networks run in every step, instead of once into the cache. ``resume``: auto goes on with an unfinished run
    of the same settings that lies in ``output``; never begins anew there."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    data_root: str = "data"
    cache: str = "~/.cache/mmtab"
    cache_gb: float | None = 100.0
    store_frozen: bool = True
    output: str = MISSING
    resume: str = "auto"
    seed: int = 0
    d_model: int = 128
    token_dropout: float = 0.1
    categories: CategoryRules = field(default_factory=CategoryRules)
    text: dict[str, Any] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)
    numeric: dict[str, Any] = field(default_factory=dict)
    categorical: dict[str, Any] = field(default_factory=dict)
    fusion: dict[str, Any] = field(default_factory=dict)
    kway_head: KWayHeadConfig = field(default_factory=KWayHeadConfig)
    pair_head: PairHeadConfig = field(default_factory=PairHeadConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    test: bool = True  # once trained, score the test split where it has labels
    report: bool = True  # then write FOLDER/report/report.html


@dataclass
class EvaluateConfig:
    """``path``, where given, stands in for the folder the run was trained on. ``report``: write the report page too."""

    run: str = MISSING
    split: str = "test"
    path: str | None = None
    report: bool = True
    accelerator: str = "auto"
    devices: int = 1


@dataclass
class ReportConfig:
    """``run``: a run folder, or several to compare. ``split``: default test, else valid. ``ablation`` scores valid again with
    columns taken away. ``output``: of a comparison, the page to write."""

    run: Any = MISSING
    split: str | None = None
    ablation: bool = True
    output: str = "comparison.html"
    accelerator: str = "auto"
    devices: int = 1


@dataclass
class MatchConfig:
    """``left`` and ``right``, or ``records`` to find what one table holds twice; none: the tables of the run's dataset.
    ``k``: candidates a record of each kind of blocking; null: the fewest that reach ``recall`` on the dataset's valid
    matches. ``clustering``: components or correlation. ``truth``: a table of pairs with labels, or of entities (id and a
    column a relation), to score against. ``shard``: records, or pairs, worked on at a time and kept should the run be
    killed. ``n_shown``: pairs on the page."""

    run: str = MISSING
    output: str = MISSING
    left: str | None = None
    right: str | None = None
    records: str | None = None
    truth: str | None = None
    k: int | None = None
    recall: float = 0.99
    max_k: int = 10
    clustering: str = "correlation"
    shard: int = 4096
    n_shown: int = 60
    explain: bool = True
    accelerator: str = "auto"


@dataclass
class PredictConfig:
    """``input``: a table, or for matching a table of pairs with ``left`` and ``right`` (or one ``records``). ``coverage``:
    leave predictions empty but for that share of rows (as on valid) which the model is surest of. ``cost`` (matching): what
    a false match costs where a missed one costs 1; null: the threshold with the best F1 on valid."""

    run: str = MISSING
    input: str = MISSING
    output: str = MISSING
    left: str | None = None
    right: str | None = None
    records: str | None = None
    accelerator: str = "auto"
    devices: int = 1
    coverage: float | None = None
    cost: float | None = None


@dataclass
class ReproduceConfig:
    """``path`` and ``data_root``: where the data are now. ``tolerance``: how far a metric may be off."""

    run: str = MISSING
    output: str = MISSING
    path: str | None = None
    data_root: str | None = None
    tolerance: float = 0.0


@dataclass
class SweepConfig:
    """``datasets``: names of configs/dataset/, or dataset folders. ``overrides``: of configs/train.yaml, for every run.
    ``space``: a name of configs/sweep/, or a yaml file; null: nothing varies, so that there is one trial. ``n_trials``
    null: the whole grid with sampler grid, else 20. ``sampler``: tpe, random, qmc, grid or nsgaii. ``pruner``, which ends
    a trial whose first runs promise little: none, median, halving or hyperband. ``objectives``: score, train_seconds,
    n_parameters, peak_memory, predict_rows_per_second. ``seed``: of the draws.

    These define the sweep and stay as they are; only ``n_trials`` may grow. The rest may change: ``n_jobs`` runs at a
    time; ``retries`` of a run that failed; ``test``: whose runs to score on test in the end, best, all or none;
    ``weights``: whose checkpoints to keep, all or best; ``storage``: a database URL (null: study.db in ``output``), in
    which ``study`` (null: the name of ``output``) is the sweep's name."""

    output: str = MISSING
    datasets: list[str] = MISSING
    seeds: list[int] = field(default_factory=lambda: [0])
    overrides: list[str] = field(default_factory=list)
    space: str | None = None
    n_trials: int | None = None
    sampler: str = "tpe"
    pruner: str = "none"
    objectives: list[str] = field(default_factory=lambda: ["score"])
    seed: int = 0
    n_jobs: int = 1
    retries: int = 1
    test: str = "best"
    weights: str = "all"
    storage: str | None = None
    study: str | None = None


@dataclass
class TrackConfig:
    """``datasets``: names of configs/dataset/, or dataset folders; the ranking is by the average over them."""

    title: str = MISSING
    datasets: list[str] = MISSING


@dataclass
class SystemConfig:
    """Something that is ranked. ``kind``: mmtab, control or rival. ``tasks``: those it can do. ``keep``: the column types it
    gets to see, all if none are named; datasets that lack one of them are left out, and so are those that lack one of
    ``needs``. ``deterministic``: one seed says it all. Just one of these says what it is: ``train``, overrides of
    train.py; ``baseline``, a name of benchmark/baselines/; ``command``, a program with its arguments; ``members``, other
    systems of which an ensemble is made."""

    title: str = MISSING
    about: str = ""
    kind: str = "control"
    tasks: list[str] = field(default_factory=lambda: ["kway", "matching"])
    keep: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    deterministic: bool = False
    train: list[str] | None = None
    baseline: str | None = None
    command: list[str] | None = None
    members: list[str] | None = None


@dataclass
class BenchmarkConfig:
    """``seeds``: how many, or a list of them. ``overrides``: of train.py, for every mmtab system, to try things quickly.
    ``n_jobs``: so many at a time, which share cores and GPUs. ``retries`` of what failed, in this call. ``weights``: whether
    to keep the checkpoints of mmtab's runs (all or none). ``refresh``: a Markdown file to put the ranking into, between the
    marks <!-- scoreboard --> and <!-- /scoreboard -->."""

    output: str = MISSING
    track: dict[str, TrackConfig] = field(default_factory=dict)
    system: dict[str, SystemConfig] = field(default_factory=dict)
    seeds: Any = 1
    overrides: list[str] = field(default_factory=list)
    n_jobs: int = 1
    retries: int = 1
    weights: str = "none"
    refresh: str | None = None
    data_root: str = "data"
    cache: str = "~/.cache/mmtab"

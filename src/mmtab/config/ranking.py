"""Settings of a benchmark: tracks of datasets, and the systems that are ranked on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from mmtab.config.settings import setting
from mmtab.config.types import CACHE, DATA_ROOT, TASKS


@dataclass
class TrackConfig:
    title: str = setting(MISSING, "title on the scoreboard")
    datasets: list[str] = setting(
        MISSING, "names of configs/dataset/, or dataset folders; ranked by their average", kind="paths"
    )


@dataclass
class SystemConfig:
    """Something that is ranked. One of ``train``, ``baseline``, ``command`` and ``members`` says what it is."""

    title: str = setting(MISSING, "title on the scoreboard")
    about: str = setting("", "what it does, in a sentence")
    kind: str = setting("control", "kind of the system", choices=("mmtab", "control", "rival"))
    tasks: list[str] = setting(list(TASKS), "tasks it can do", choices=TASKS)
    keep: list[str] = setting([], "column types it gets to see; empty: all. Datasets without one of them are left out")
    needs: list[str] = setting([], "column types without which a dataset is left out")
    deterministic: bool = setting(False, "the same for every seed, so that one is enough")
    train: list[str] | None = setting(None, "settings of train")
    in_tables: bool = setting(
        False, "with train, matching: pairs are scored by mmtab match, within the whole tables that they come from"
    )
    baseline: str | None = setting(None, "name of benchmark/baselines/")
    command: list[str] | None = setting(None, "program and its arguments")
    members: list[str] | None = setting(None, "systems that make up an ensemble")


@dataclass
class BenchmarkConfig:
    output: str = setting(MISSING, "folder of the benchmark", kind="path")
    track: dict[str, TrackConfig] = setting({}, "the tracks; track=NAME takes them from configs/track/")
    system: dict[str, SystemConfig] = setting({}, "the systems; system=[NAME,NAME] takes them from configs/system/")
    seeds: Any = setting(1, "number of seeds, or a list of them")
    overrides: list[str] = setting([], "settings of train, for every mmtab system")
    n_jobs: int = setting(1, "jobs at a time, which share cores and GPUs", at_least=1)
    retries: int = setting(1, "retries of a job that failed, in this call", at_least=0)
    weights: str = setting("none", "whether mmtab's runs keep their checkpoints", choices=("all", "none"))
    refresh: str | None = setting(
        None,
        "Markdown file to put the ranking into, between the marks <!-- scoreboard --> and <!-- /scoreboard -->",
        kind="path",
    )
    beside: str | None = setting(
        None, "published results to put beside these, on the datasets that both have", choices=("multabench",)
    )
    data_root: str = setting("data", DATA_ROOT, kind="path")
    cache: str = setting("~/.cache/mmtab", CACHE, kind="path")

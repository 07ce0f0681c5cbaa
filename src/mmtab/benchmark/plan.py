"""What a benchmark has to run: the datasets of its tracks, the systems that fit them, a job for each with each seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from mmtab.benchmark.job import Job, dropped_types, fill_in, is_done, read_result
from mmtab.config.compose import compose_run, dataset_place, names_in
from mmtab.config.overrides import written
from mmtab.config.ranking import BenchmarkConfig, SystemConfig
from mmtab.config.settings import check
from mmtab.config.types import CONFIGS
from mmtab.data import table
from mmtab.data.dataset import dataset_folder
from mmtab.data.schema import Schema
from mmtab.utils.errors import ConfigError

JOBS = "jobs"  # the folder of all jobs, JOBS/SYSTEM/DATASET/seedN


class Source(NamedTuple):
    """A dataset of a track. ``place``: the overrides of train.py that choose it."""

    name: str
    place: list[str]
    folder: Path
    schema: Schema
    fingerprint: str


def seeds_of(value: Any) -> list[int]:
    """A number of seeds, or the seeds."""
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    valid = isinstance(seeds, list) and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not valid or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds={value}: expected a number from 1, or a list of seeds")
    return seeds


def check_places(config: BenchmarkConfig) -> None:
    """Raises ConfigError for a dataset that is neither a name nor a folder, before anything is composed."""
    for track, settings in config.track.items():
        for entry in settings.datasets:
            dataset_place(entry, f"track.{track}")


def find_datasets(config: BenchmarkConfig) -> tuple[dict[str, Source], dict[str, list[str]]]:
    """All datasets of the tracks, and their names by track."""
    sources: dict[str, Source] = {}
    tracks: dict[str, list[str]] = {}
    for track, settings in config.track.items():
        where = f"track.{track}"
        if not settings.datasets:
            raise ConfigError(f"{where}: it lists no dataset")
        for entry in settings.datasets:
            name, place = dataset_place(entry, where)
            run = compose_run(f"{where}, {name}", place, [f"data_root={written(config.data_root)}"])
            folder = dataset_folder(run.dataset, config.data_root, Path(config.cache).expanduser())
            if name in sources and sources[name].folder != folder:
                raise ConfigError(f"{where}: two datasets are called {name}; rename one of the folders")
            schema = Schema.read(folder)
            if not table.has_labels(folder, schema, "test"):
                raise ConfigError(f"{where}: {name} has no labelled test split, so nothing can be ranked on it")
            if name not in sources:
                test = table.find_table(folder, schema, schema.table_of("test"))
                tables = [*table.training_files(folder, schema), test]
                sources[name] = Source(name, list(place), folder, schema, table.fingerprint(tables))
            tracks.setdefault(track, []).append(name)
    if not sources:
        raise ConfigError("track: none is chosen; expected one of configs/track/, or all")
    return sources, tracks


def applies(system: SystemConfig, schema: Schema) -> bool:
    """Whether a system fits a dataset, and sees less there than the same system with all columns would."""
    types = {str(column.type) for column in schema.columns}
    restricted = not system.keep or bool(dropped_types(schema, system.keep))
    return str(schema.task) in system.tasks and {*system.keep, *system.needs} <= types and restricted


def plan_jobs(config: BenchmarkConfig, sources: dict[str, Source]) -> dict[Path, Job]:
    """By their folders, in the order in which they are to be run: a dataset's cheap first seeds before further ones.
    Raises ConfigError for a finished job of another definition."""
    jobs: dict[Path, Job] = {}
    ensembles_last = sorted(config.system, key=lambda name: config.system[name].members is not None)
    for seed in seeds_of(config.seeds):
        for name in ensembles_last:
            for source in sources.values():
                if applies(config.system[name], source.schema):
                    jobs.setdefault(_folder(config, name, source, seed), _job(config, name, source, seed))
    for folder, job in jobs.items():
        if is_done(folder):
            _check_definition(folder, job)
    return jobs


def _job(config: BenchmarkConfig, name: str, source: Source, seed: int) -> Job:
    system = config.system[name]
    members = [member for member in system.members or [] if applies(config.system[member], source.schema)]
    handout = Path(config.output).resolve() / "handouts" / "datasets" / f"{source.name}-{source.fingerprint[:12]}"
    return Job(
        system=name,
        settings=dataclasses.asdict(system),
        dataset=source.name,
        seed=0 if system.deterministic else seed,
        place=source.place,
        data=str(source.folder),
        handout=str(handout),
        cache=str(Path(config.cache).expanduser()),
        fingerprint=source.fingerprint,
        overrides=list(config.overrides),
        members={member: str(_folder(config, member, source, seed)) for member in members},
        weights=config.weights,
    )


def _folder(config: BenchmarkConfig, name: str, source: Source, seed: int) -> Path:
    """Of a job; a deterministic system has the one seed 0."""
    seed = 0 if config.system[name].deterministic else seed
    return Path(config.output).resolve() / JOBS / name / source.name / f"seed{seed}"


def _check_definition(folder: Path, job: Job) -> None:
    finished = read_result(folder)["definition"]
    names = sorted(finished.keys() | job.definition.keys())
    differing = [name for name in names if finished.get(name) != job.definition.get(name)]
    if differing:
        name = differing[0]
        raise ConfigError(
            f"{folder} was run with another {', '.join(differing)} ({finished.get(name)} there, "
            f"{job.definition.get(name)} here); give another output=FOLDER, or remove that one"
        )


def with_members(config: BenchmarkConfig) -> BenchmarkConfig:
    """With the members of ensembles, from configs/system/, that are not among the systems."""
    members = {member for system in config.system.values() for member in system.members or []}
    added = sorted(name for name in members - config.system.keys() if name in names_in("system"))
    systems = dict(config.system)
    for name in added:
        raw: Any = OmegaConf.load(CONFIGS / "system" / f"{name}.yaml")
        system: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SystemConfig), raw[name]))
        systems[name] = system
    return dataclasses.replace(config, system=systems)


def check_systems(config: BenchmarkConfig) -> None:
    """Raises ConfigError for seeds and systems that cannot be run, before anything is read."""
    seeds_of(config.seeds)
    if not config.system:
        raise ConfigError("system: none is chosen; expected some of configs/system/, such as system=[frozen,majority]")
    check(config)
    for name, system in config.system.items():
        check_system(name, system, config)


def check_system(name: str, system: SystemConfig, config: BenchmarkConfig) -> None:
    """Raises ConfigError for a system that cannot be run, before any is."""
    where = f"system.{name}"
    ways = [way for way in ("train", "baseline", "command", "members") if getattr(system, way) is not None]
    if len(ways) != 1:
        raise ConfigError(
            f"{where}: expected one of train, baseline, command, members; found {', '.join(ways) or 'none'}"
        )
    check(system, f"{where}.")
    if system.in_tables and (system.train is None or system.tasks != ["matching"]):
        raise ConfigError(f"{where}: in_tables=true goes with train and tasks=[matching]")
    if system.command is not None:
        fill_in(name, system.command, Path(), Path(), 0)
    if system.baseline is not None:
        from mmtab.benchmark.baselines import BASELINES

        if system.baseline not in BASELINES:
            raise ConfigError(f"{where}.baseline={system.baseline}: expected one of {', '.join(BASELINES)}")
    for member in system.members or []:
        if member not in config.system:
            raise ConfigError(f"{where}: its member {member} is not among the systems; add it, system=[…,{member}]")
        if config.system[member].members is not None:
            raise ConfigError(f"{where}: its member {member} is an ensemble itself")
    if system.train is not None:
        compose_run(where, ("dataset=custom",), [*system.train, *config.overrides])

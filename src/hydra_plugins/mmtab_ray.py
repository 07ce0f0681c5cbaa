"""launcher=ray: each run of a Hydra multirun on a worker of a Ray cluster, by the engine that ``match`` computes on.

It is outside of the package mmtab, for Hydra finds launchers in the namespace ``hydra_plugins`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from mmtab.config.types import EngineConfig
from mmtab.utils.engine import Shared, running
from mmtab.utils.errors import MmtabError


class RayLauncher(Launcher):
    """Its parameters are the settings of ``EngineConfig``."""

    def __init__(self, **engine: Any) -> None:
        self.engine = engine

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        folder = Path(self.config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        jobs = []
        for i, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.hydra_context.config_loader.load_sweep_config(self.config, [*overrides])
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = i
                config.hydra.sweep.dir = str(folder)
            jobs.append(config)
            print(f"run {i}: {' '.join(filter_overrides(overrides))}", flush=True)
        with running(**self.engine) as engine:
            results = list(engine.map(partial(_worker, Shared(folder), self.hydra_context, self.task), jobs))
        failed = [str(initial_job_idx + i) for i, result in enumerate(results) if result is None]
        if failed:
            raise MmtabError(f"{len(failed)} of {len(jobs)} runs failed, for what is said above: {', '.join(failed)}")
        return results


def _worker(_folder: Shared, context: HydraContext, task: TaskFunction) -> Callable[[DictConfig], Callable[[], Any]]:
    """What a worker does for each run, once it is found to see the folder."""
    setup_globals()

    def run(config: DictConfig) -> JobReturn | None:
        HydraConfig.instance().set_config(config)
        try:
            done = run_job(task, config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
        except SystemExit:  # the error has been printed; it would end the worker, as if its machine were lost
            return None
        done.return_value  # noqa: B018  # raises what the run has raised
        return done

    return lambda config: partial(run, config)


ConfigStore.instance().store(
    group="hydra/launcher",
    name="mmtab_ray",
    node={"_target_": f"{__name__}.RayLauncher", **asdict(EngineConfig("ray"))},
)

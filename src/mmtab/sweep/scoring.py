"""The test split, which is looked at when a campaign is over and no choice hangs on it any more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from optuna.trial import TrialState

from mmtab.config.types import RunConfig
from mmtab.data.schema import Schema
from mmtab.runs.provenance import is_finished
from mmtab.sweep.ledger import Ledger
from mmtab.sweep.plan import Plan, Run
from mmtab.utils.errors import MmtabError


def unscored(plan: Plan, ledger: Ledger, problems: list[str]) -> Iterator[tuple[int, Run]]:
    """Runs to score on test, with the number of their trial; ``problems`` gets those that cannot be."""
    trials = {
        "best": ledger.best(),
        "all": [trial for trial in ledger.trials() if trial.state == TrialState.COMPLETE],
        "none": [],
    }[plan.config.test]
    scored = ledger.tests()
    for trial in trials:
        for run in plan.runs:
            folder = plan.run_folder(trial.number, run)
            if (trial.number, run.name) in scored:
                continue
            if not is_finished(folder):
                problems.append(f"trial {trial.number}, {run.name}, on test: its folder is on another machine")
                continue
            metrics = metrics_on_test(folder)
            if metrics is not None:  # the process that had it scored was killed before it said so
                ledger.note_test(trial.number, run, metrics)
                continue
            try:
                wanted = has_labelled_test(folder)
            except MmtabError as error:
                problems.append(f"trial {trial.number}, {run.name}, on test: {error}")
                continue
            if wanted:
                yield trial.number, run


def metrics_on_test(folder: Path) -> dict[str, Any] | None:
    """Of a run that was scored on test."""
    return json.loads((folder / "metrics.json").read_text()).get("test")


def has_labelled_test(folder: Path) -> bool:
    """Whether the dataset of a run has a test split that says the answers."""
    from mmtab.data.dataset import dataset_folder
    from mmtab.data.table import has_labels

    config = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.load(folder / "config.yaml"))
    )
    assert isinstance(config, RunConfig)
    data = dataset_folder(config.dataset, config.data_root, Path(config.cache).expanduser())
    return has_labels(data, Schema.from_dict(yaml.safe_load((folder / "schema.yaml").read_text())), "test")

"""Whether a run gives the same numbers again: its data, versions and settings looked at, trained anew, all compared."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmtab.config.types import PRECISIONS, ReproduceConfig
from mmtab.data import files
from mmtab.data import table as tables
from mmtab.runs import provenance
from mmtab.runs.evaluate import evaluate
from mmtab.runs.folder import PROVENANCE, open_config, read_facts, read_run_file, read_schema, reading
from mmtab.runs.inputs import data_folder
from mmtab.runs.manifest import verified
from mmtab.runs.predictions import prediction_columns, predictions_path
from mmtab.runs.train import train
from mmtab.utils.atomic import write_json
from mmtab.utils.errors import RunError

SURROUNDINGS = ("git_commit", "git_dirty", "python", "hardware", "precision", "device", "n_processes", "n_threads")


@dataclass
class Difference:
    """Something that was otherwise: ``then`` as the run's folder has it."""

    what: str
    then: Any
    now: Any


@dataclass
class Reproduction:
    """``metrics``: every one, of each split, then and now; ``around``: what else differs, which may be why;
    ``n_predictions_changed``, of a split."""

    metrics: list[Difference]
    around: list[Difference] = field(default_factory=list)
    n_predictions_changed: dict[str, int] = field(default_factory=dict)

    def worst(self) -> float:
        """The largest distance between a metric then and now."""
        return max((_distance(each.then, each.now) for each in self.metrics), default=math.inf)


def reproduce(settings: ReproduceConfig, output: Path) -> Reproduction:
    """Train the run's configuration again, into ``output``, with its number of threads and its precision. Raises
    RunError where its data are not there or are others. Writes reproduction.json."""
    then = Path(settings.run)
    facts, config = read_facts(then), open_config(then, settings)
    known = read_run_file(then, "metrics.json")
    if settings.path is not None:
        config.dataset.path = settings.path
    data = data_folder(config)
    schema = read_schema(then)
    _check_data(then, facts["data_fingerprint"], tables.training_files(data, schema))
    with reading(then / PROVENANCE):
        precision = {theirs: ours for ours, theirs in PRECISIONS.items()}[facts["precision"]]
    trainer = replace(config.trainer, n_threads=facts.get("n_threads", 0), precision=precision)
    again = replace(config, output=str(output), trainer=trainer)
    scores = {"valid": train(again, output)}
    for split in (name for name in known if name != "valid"):
        if tables.has_labels(data, schema, split):
            scores[split] = evaluate(output, split, data, local=settings)
    found = Reproduction(
        [
            Difference(f"{split}/{name}", known[split].get(name), value)
            for split, values in scores.items()
            for name, value in values.items()
        ],
        _around(facts, read_facts(output)),
        {split: _n_changed(then, output, split) for split in scores},
    )
    write_json(output / "reproduction.json", asdict(found))
    return found


def _check_data(folder: Path, then: str, paths: list[Path]) -> None:
    now = tables.fingerprint(paths)
    if now != then:
        names = ", ".join(path.name for path in paths)
        raise RunError(
            f"{folder} was trained on other data: one of {names} in {paths[0].parent} has changed (fingerprint {then} "
            f"then, {now} now). Name the folder of then with path=FOLDER"
        )


def _around(then: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    pairs = [(name, then.get(name), now.get(name)) for name in SURROUNDINGS]
    versions = then["versions"], now["versions"]
    pairs += [(f"version of {name}", *(each.get(name) for each in versions)) for name in provenance.PACKAGES]
    return [Difference(*each) for each in pairs if each[1] != each[2]]


def _n_changed(then: Path, now: Path, split: str) -> int:
    """Predictions that are not the same; all, where there are not as many; -1 where there are none, as in an export."""
    paths = [predictions_path(folder, split) for folder in (then, now)]
    if not all(path.is_file() for path in paths):
        return -1
    schema = read_schema(now)
    old, new = (files.read(verified(path.parent, path.name), schema.name) for path in paths)
    names = prediction_columns(schema)
    if old.num_rows != new.num_rows:
        return new.num_rows
    return int(np.any([np.asarray(old[name]) != np.asarray(new[name]) for name in names], 0).sum())


def _distance(then: Any, now: Any) -> float:
    if then is None or now is None:
        return math.inf
    return 0.0 if then == now or (then != then and now != now) else abs(then - now)

"""The files of a run folder."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import yaml
from omegaconf import OmegaConf
from torch import nn

from mmtab.config.types import RunConfig
from mmtab.data.files import write_table
from mmtab.features.fitted import Fitted
from mmtab.training.checkpoints import LAST
from mmtab.training.sharding import load_state
from mmtab.training.tasks import PairTask, Predictions, Task
from mmtab.utils.atomic import write_json, write_text
from mmtab.utils.errors import RunError

FORMAT = 2
# Settings that leave the numbers of a run as they are
APART = {"output", "data_root", "cache", "cache_gb", "resume", "wandb", "test", "report", "trainer.progress", "trainer.n_workers",
         "trainer.checkpoint_seconds", "trainer.keep", "trainer.on_oom", "dataset.path"}  # fmt: skip


def differences(there: RunConfig, here: RunConfig, settled: bool = True) -> list[str]:
    """Settings, of those that a run's numbers hang on, that are not the same. ``settled`` false: ``here`` still leaves
    some open (null, auto), and these agree with whatever was chosen."""
    old, new = deciding(there), deciding(here)
    return [
        f"{name}={old.get(name)} there, {new.get(name)} here"
        for name in sorted(old | new)
        if old.get(name) != new.get(name) and (settled or new.get(name) not in (None, "auto"))
    ]


def deciding(config: RunConfig, apart: set[str] = APART) -> dict[str, Any]:
    """The settings that a run's numbers hang on: all but those ``apart``, and what stands below them."""
    return {
        name: value
        for name, value in flat(config).items()
        if not any(name == each or name.startswith(f"{each}.") for each in apart)
    }


def flat(config: RunConfig) -> dict[str, Any]:
    """Settings by their dotted names, as on the command line."""

    def walk(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from walk(inner, f"{name}.{key}" if name else key)
        else:
            yield name, value

    return dict(walk(dataclasses.asdict(config), ""))


def open_config(folder: Path) -> RunConfig:
    """The resolved configuration of a run."""
    raw = read_run_file(folder, "config.yaml")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), raw))
    assert isinstance(config, RunConfig)
    return config


def write_config(folder: Path, config: RunConfig) -> None:
    raw = OmegaConf.to_container(OmegaConf.structured(config))
    write_text(folder / "config.yaml", yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))


def read_facts(folder: Path) -> dict[str, Any]:
    """provenance.json, of which the format is checked."""
    facts = read_run_file(folder, "provenance.json")
    if facts.get("format") != FORMAT:
        raise RunError(
            f"{folder} was written by mmtab {facts.get('versions', {}).get('mmtab', '?')} in run format {facts.get('format')}; "
            f"this version reads format {FORMAT}. Train again, or use that version of mmtab"
        )
    return facts


def read_run_file(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        unfinished = " (it holds one that was stopped: train again with the same settings to go on)"
        stopped = unfinished if (folder / LAST).exists() else ""
        raise RunError(f"{folder} is not a finished run: it has no {name}{stopped}")
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path} is damaged ({str(error).splitlines()[0]})") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged (expected a mapping)")
    return value


def load_weights(model: nn.Module, path: Path) -> None:
    """Weights of a checkpoint, read as plain tensors: nothing that a file asks for is executed."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        load_state(model, {key.removeprefix("model."): value for key, value in saved.items()})
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(f"{path}: these weights cannot be loaded ({str(error).strip().splitlines()[0]})") from error


def write_metrics(folder: Path, split: str, metrics: dict[str, Any]) -> None:
    path = folder / "metrics.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, known | {split: metrics})


def write_predictions(
    path: Path, task: Task, fitted: Fitted, ids: pa.Table, predictions: Predictions, labels: np.ndarray | None,
    least: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Ids, a probability a class (or that of a match), the prediction, and the label where known. Of very many classes
    only the likeliest, with their probabilities. ``least`` [r]: predictions with less confidence are missing."""
    confidence = None if least is None else task.confidence(predictions)

    def said(values: pa.Array, r: int = 0) -> dict[str, pa.Array]:
        suffix = f"_{task.relations[r]}" if isinstance(task, PairTask) and len(task.relations) > 1 else ""
        if least is None or confidence is None:
            return {f"prediction{suffix}": values}
        known = pc.if_else(pa.array(confidence[:, r] >= least[r]), values, pa.scalar(None, values.type))
        return {f"prediction{suffix}": known, f"confidence{suffix}": pa.array(confidence[:, r])}

    columns, probabilities = {name: ids[name] for name in ids.column_names}, predictions.probability
    if isinstance(task, PairTask):
        assert probabilities is not None
        for r, relation in enumerate(task.relations):
            suffix = "" if len(task.relations) == 1 else f"_{relation}"
            columns[f"probability{suffix}"] = pa.array(probabilities[:, r])
            columns |= said(pa.array((probabilities[:, r] >= task.thresholds[r]).astype(np.int8)), r)
            if labels is not None:
                columns[f"label{suffix}"] = pa.array(labels[:, r].astype(np.int8))
    else:
        coder, best, p_best = fitted.preprocessor.labels_, predictions.best, predictions.best_probability
        assert coder is not None and best is not None and p_best is not None
        classes = pa.array(coder.classes_)
        if probabilities is not None:
            columns |= {f"p_{name}": pa.array(p) for name, p in zip(coder.classes_, probabilities.T, strict=True)}
        columns |= said(classes.take(pa.array(best[:, 0])))
        if probabilities is None:
            p_best = p_best.astype(np.float32)
            columns |= {
                "probability": pa.array(p_best[:, 0]),
                "top": _lists(classes.take(pa.array(best.ravel())), best.shape[1], path.suffix),
                "top_probability": _lists(pa.array(p_best.ravel()), best.shape[1], path.suffix),
            }
        if labels is not None:
            columns["label"] = classes.take(pa.array(labels))
    table = pa.table(list(columns.values()), names=list(columns))
    write_table(path, table)


def _lists(values: pa.Array, size: int, suffix: str) -> pa.Array:
    """Values as lists of ``size`` each; csv has no lists, there they are joined by semicolons."""
    if suffix == ".csv":
        values = values.cast(pa.string())
    lists = pa.ListArray.from_arrays(pa.array(range(0, len(values) + 1, size), pa.int32()), values)
    return pc.binary_join(lists, ";") if suffix == ".csv" else lists

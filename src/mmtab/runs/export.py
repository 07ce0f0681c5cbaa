"""What of a run folder predicts: the smallest folder that opens as a run, without what belongs to this machine."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import yaml

from mmtab.config.types import LocalSettings, WandbConfig
from mmtab.runs.folder import CONFIG, DESCRIPTION, GRAPH, METRICS, PROVENANCE, TASK, open_config, read_facts
from mmtab.runs.inputs import check_outside
from mmtab.runs.manifest import read_manifest, recording, verified, verify_below
from mmtab.training.places import BEST
from mmtab.utils.addresses import check_here
from mmtab.utils.atomic import write_json, write_text
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError, RunError
from mmtab.utils.paths import leads_out

MODEL = (*DESCRIPTION, TASK, METRICS, PROVENANCE, str(BEST))
CARD = "README.md"
HERE = "."  # an export's setting ``output``
FORMATS = ("run", "onnx", "torch")
GRAPH_CARD = f"""
## Graph

The whole model is also there as a graph, from prepared features to final predictions. `{GRAPH}` says which file that is
and the names, types and shapes of what it reads; `mmtab.runs.prepared.Preparation` makes that of tables.
To load a `model.pt2` may run code that is in it; a `model.onnx` holds none.
"""


def model_files(folder: Path) -> list[str]:
    """Files of a run folder that ``load_run`` and ``predict`` read, by their paths within it. Raises RunError for a
    folder that is no finished run, or has no weights."""
    read_facts(folder)
    if not (folder / BEST).is_file():
        raise RunError(f"{folder} has no weights: {BEST} is not there")
    verify_below(folder, "text_backbone", "cross_backbone")
    paths = [path for pattern in MODEL for path in sorted(folder.glob(pattern)) if path.is_file()]
    if outside := [path for path in paths if leads_out(folder, path)]:
        raise RunError(f"{outside[0]} is a link out of the run. Fix: replace it by a copy (cp -L)")
    lost = [name for name in (TASK, METRICS) if name in read_manifest(folder)]  # of which ``verified`` tells
    return list(dict.fromkeys([*(path.relative_to(folder).as_posix() for path in paths), *lost]))


def is_export(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder with these settings was written by ``export_run``; a run may have a README of its user's."""
    return config.get("output") == HERE and (folder / CARD).exists()


def export_run(folder: Path, output: Path, card: Callable[[Path], str], format: str = FORMATS[0]) -> Path:
    """Write the new folder ``output``, whole or not at all: the files that predict, byte by byte, but for settings that
    name folders of this machine, and the model card that ``card`` makes of the run; with another of FORMATS also the
    model as a graph, see graph.py. Raises ConfigError for an output that exists, RunError for a folder that is no
    finished run or is damaged."""
    if format not in FORMATS:
        raise ConfigError(f"format={format}: expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    check_here(output, "output")
    folder, output = folder.expanduser(), output.expanduser()
    names = model_files(folder)
    if output.exists() or output.is_symlink():
        raise ConfigError(f"output {output} exists. Fix: remove it, or name another folder")
    check_outside(output, folder)

    def write(scratch: Path) -> None:
        with recording(scratch, *MODEL, GRAPH, "model.*"):
            for name in names:
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                if name != CONFIG:
                    shutil.copyfile(verified(folder, name), scratch / name)
            config = open_config(folder, LocalSettings("data", "~/.cache/mmtab"))
            dataset = dataclasses.replace(config.dataset, image_root=None)
            config = dataclasses.replace(config, output=HERE, dataset=dataset, wandb=WandbConfig(mode="disabled"))
            raw = _without_folders(dataclasses.asdict(config))
            write_text(scratch / CONFIG, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
            if format != "run":
                from mmtab.runs.graph import write_graph  # which imports torch

                write_json(scratch / GRAPH, _without_folders(write_graph(folder, scratch, format)))
        write_text(scratch / CARD, card(folder) + ("" if format == "run" else GRAPH_CARD))

    try:
        Store.place(output, write)
    except OSError as error:
        raise ConfigError(f"output {output} cannot be written ({error}). Fix: name another folder") from error
    return output


def _without_folders(value: Any, name: str = "") -> Any:
    """Settings in which the dataset's folder and networks that were read from files are named without where they lay;
    an export has what it reads of them."""
    if isinstance(value, dict):
        return {key: _without_folders(inner, key) for key, inner in value.items()}
    if name in ("backbone", "path") and isinstance(value, str):
        network, at, file = value.rpartition("@")
        return f"{network}{at}{PurePath(file).name if PurePath(file).is_absolute() else file}"
    return value

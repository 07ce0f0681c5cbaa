"""``mmtab.fit``: what ``mmtab train`` does, from tables in memory.

>>> run = mmtab.fit(df, label="type", time_limit=600)
>>> run.evaluate(), run.predict(new_rows), run.predict_proba(new_rows)
"""

from __future__ import annotations

import contextlib
import datetime
import filecmp
import inspect
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path, PurePath
from typing import Any, Literal

from mmtab.api.run import Named, Run, absolute
from mmtab.api.tables import root_of
from mmtab.config.compose import compose_run, dataset_place
from mmtab.config.overrides import written
from mmtab.config.types import CONFIGS, PARTS, LocalSettings
from mmtab.data import dataset as datasets
from mmtab.data import objects, raw, remote
from mmtab.data.schema import Schema, TaskKind
from mmtab.prepare.frames import from_frames
from mmtab.runs.evaluate import evaluate_if_labelled
from mmtab.runs.folder import check_run_folder
from mmtab.runs.provenance import is_finished
from mmtab.training.places import LAST
from mmtab.utils import distributed
from mmtab.utils.addresses import check_here
from mmtab.utils.errors import ConfigError, MmtabError, RunError
from mmtab.utils.isolation import isolated
from mmtab.utils.locks import alone_in


@isolated()
def fit(
    train: Any = None,
    valid: Any = None,
    test: Any = None,
    *,
    label: str | None = None,
    task: Literal["kway", "regression", "matching"] | None = None,
    recipe: str | None = None,
    output: Named | None = None,
    report: bool = False,
    time_limit: float | None = None,
    left: Any = None,
    right: Any = None,
    records: Any = None,
    types: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None,
    id: str | None = None,
    image_root: Named | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    metric: str | None = None,
    contradictions: Literal["keep", "drop", "error"] | None = None,
    fractions: tuple[float, float, float] | None = None,
    **overrides: Any,
) -> Run:
    """Train as ``mmtab train`` does; returns the finished run. A table is a frame of pandas or polars, an Arrow table
    or stream, a dataset of Hugging Face, a dict of columns, a list of dicts, or the path of a file (csv, tsv, parquet,
    jsonl or xlsx) or of a folder with a folder of pictures for each class. Raises DataError, ConfigError and
    TrainingError as the command.

    The process stays as it was: random states, flags of torch, filters of warnings, levels of loggers, environment
    variables and signal handlers. These belong to all threads, so calls in several threads run one after the other. The
    same call goes on with a run that was killed, and returns one that is finished.

    train: dataset by name or folder; or a table of rows; for matching, of pairs (left_id, right_id, label)
    valid: table; without it the rows of ``train`` are divided into train, valid and test
    test: table; or True to score the test split once trained (``Run.evaluate`` does so later)
    label: column with the class of a row, or its number
    task: kway, regression, or matching where ``left`` and ``right`` or ``records`` are given; None: of a label that has
        many different numbers regression, else kway
    recipe: name of configs/recipe/; None trains with the defaults of ``mmtab train``
    output: run folder, beside which OUTPUT-data gets tables given in memory; None makes a new one under runs/fit
    report: write the report page once trained (``Run.report`` does so later)
    time_limit: seconds after which training ends, preparation included: ``trainer.max_minutes`` of the command
    left, right, records: tables of the records that pairs name
    types: types of columns, which overrule what is inferred
    formats: how numbers and dates of columns are written: ``{"day": "day first", "price": "1.234,5 €"}``
    id: column that identifies a row
    image_root: folder of the pictures that image columns name, also of tables given to the run afterwards; None: that
        of the table, of a frame the current one
    encoding, delimiter: of text files, such as cp1250 and ``;``, where the files leave them open
    metric: what to maximise on valid and rank by: accuracy or macro_f1; of numbers r2; of pairs f1, pr_auc or roc_auc
    contradictions: pairs that train labels both 1 and 0: keep (and warn), drop or error; in short for the setting
        dataset.contradictions, as ``metric`` for dataset.metric
    fractions: shares of train, valid and test where ``train`` is divided; None: 0.7, 0.1 and 0.2
    overrides: settings of ``mmtab train``: ``seed=1``, ``trainer={"max_epochs": 5}``, ``fusion="mean"``; and
        ``numeric={"_target_": "mine.Encoder", "n_bins": 8}`` for a part of one's own, which gets ``d_model`` besides
    """
    _check_arguments(task, {"output": output, "image_root": image_root, "encoding": encoding, "delimiter": delimiter})
    when = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    folder = Run(Path(output).expanduser() if output is not None else Path("runs") / "fit" / when).folder
    said: dict[str, Any] = {"recipe": recipe, "dataset.metric": metric, "dataset.contradictions": contradictions}
    said |= {"trainer.max_minutes": _minutes(time_limit)}
    settings = _settings({name: value for name, value in said.items() if value is not None} | overrides)
    score_test, test = test is True, None if isinstance(test, bool) else test
    if train is None:
        records_given = any(frame is not None for frame in (left, right, records))
        pairs = "labelled pairs (left_id, right_id, label), first: mmtab.fit(pairs, left=…, right=…)"
        wanted = pairs if records_given else "a table, or a dataset, first"
        raise ConfigError(f"fit: there is nothing to learn from. Fix: give {wanted}")
    if (splits := objects.splits_in(train)) is not None:
        if not {"train"} <= {*splits} <= {"train", "valid", "test"} or valid is not None or test is not None:
            others = [name for name, frame in (("valid", valid), ("test", test)) if frame is not None]
            found = f"{', '.join(splits)}{' beside ' if others else ''}{', '.join(others)}"
            raise ConfigError(f"fit: expected a dataset of train, validation and test; found {found}")
        train, valid, test = splits["train"], splits.get("valid"), splits.get("test")
    train, valid, test, left, right, records = map(remote.fetched, (train, valid, test, left, right, records))
    tables: dict[str, Any] = {}
    train = train.folder if isinstance(train, datasets.Dataset) else train
    named = Path(train).expanduser() if isinstance(train, str | Path) else None
    if named is not None and not (raw.is_raw(named) or named.is_file() or raw.suffix_of(named)):
        if named.is_dir():
            Schema.read(named)  # which tells of a folder that is none
        place = list(dataset_place(str(train), "fit")[1])
        beside = {"valid": valid, "test": test, "label": label, "left": left, "right": right, "records": records}
        if given := [
            name
            for name, value in (beside | {"task": task, "types": types, "formats": formats, "id": id}).items()
            if value is not None
        ]:
            raise ConfigError(f"fit: {given[0]} goes with a table; {train} is a dataset, whose folder says this")
    else:
        asked = compose_run("fit", ["dataset=custom"], settings, ARGUMENTS)  # before anything is written
        records_by_name = {"left": left, "right": right, "records": records}
        sides = {name: frame for name, frame in records_by_name.items() if frame is not None}
        tables = sides | _splits(train, valid, test, task or ("matching" if sides else "rows"), bool(sides))
        if (left is None) != (right is None):
            alone, missing = ("left", "right") if right is None else ("right", "left")
            fix = f"give {missing}= too, or the one table of all records as records="
            raise ConfigError(f"fit: {alone} is given without {missing}. Fix: {fix}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"fit: output={folder}: {error.strerror}. Fix: give another output=FOLDER") from error
    with alone_in(folder) if distributed.is_first() else contextlib.nullcontext():
        if tables:
            check_run_folder(asked, folder)
            roots = {name: root_of(frame, image_root) for name, frame in tables.items()}
            options: dict[str, Any] = {"label": label, "id": id, "types": types, "formats": formats, "task": task}
            options |= {} if fractions is None else {"fractions": fractions}
            options |= {
                "encoding": encoding,
                "delimiter": delimiter,
                "image_root": roots,
                "bad_cells": asked.dataset.bad_cells,
            }
            was_there = _beside(folder).exists()
            data = _data_beside(folder, tables, **options)
            # To compose it anew, with the place, takes as long as all else before a small training
            overridden = {setting.partition("=")[0] for setting in settings}
            path = asked.dataset.path if "dataset.path" in overridden else str(data.folder.resolve())
            name = asked.dataset.name if "dataset.name" in overridden else data.schema.name
            config = replace(asked, dataset=replace(asked.dataset, path=path, name=name))
        else:
            config = compose_run("fit", place, settings, ARGUMENTS)
        if image_root is not None:
            config = replace(config, dataset=replace(config.dataset, image_root=str(root_of(None, image_root))))
        data_root, cache = absolute(config.data_root), absolute(config.cache)
        config = replace(config, output=str(folder), test=score_test, report=report, data_root=data_root, cache=cache)
        from mmtab.runs.train import train as train_run  # here, for who only opens runs needs no trainer

        try:
            train_run(config, folder)
        except MmtabError:
            if tables and not was_there and not (folder / LAST).exists() and not is_finished(folder):
                shutil.rmtree(data.folder)  # there is no run that it could belong to
            raise
    if score_test:
        evaluate_if_labelled(folder, "test", config)
    run = Run(folder, LocalSettings.of(config))
    if report:
        run.report()
    return run


ARGUMENTS = tuple(name for name in inspect.signature(fit).parameters if name != "overrides")


def _minutes(seconds: Any) -> float | None:
    if seconds is None:
        return None
    if not isinstance(seconds, Real) or isinstance(seconds, bool) or not 0 < float(seconds) < float("inf"):
        raise ConfigError(f"fit: time_limit={seconds!r}: expected seconds, a number above 0")
    return float(seconds) / 60


def _beside(folder: Path) -> Path:
    """Of a run's folder, where fit keeps the dataset folder of the tables."""
    return folder.parent / f"{folder.name}-data"


def _data_beside(folder: Path, tables: Mapping[str, Any], **options: Any) -> datasets.Dataset:
    """The dataset folder of the tables, beside the run, so that the run can be resumed, evaluated and reproduced. One
    that is there already has to be of the same tables."""
    target, scratch = _beside(folder), folder / ".building"
    if not distributed.is_first():
        return datasets.Dataset.read(target)
    strange = [path.name for path in scratch.iterdir() if path.name != target.name] if scratch.is_dir() else []
    if strange or scratch.is_symlink():
        problem = f"{scratch} holds {strange[0] if strange else 'a link'}, which fit has not written"
        raise ConfigError(f"fit: {problem}. Fix: remove it, or give another output=FOLDER")
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed call
    try:
        made = from_frames(tables, folder=scratch / target.name, **options).folder
        if not target.exists():
            shutil.move(made, target)
        else:
            names = [str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()]
            _, *different = filecmp.cmpfiles(made, target, names, shallow=False)
            if first := next((name for part in different for name in part), None):
                problem = f"{target} holds other data than fit was given ({first} differs)"
                raise ConfigError(f"{problem}. Fix: remove it, or give another output=FOLDER")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return datasets.Dataset.read(target)


def _splits(train: Any, valid: Any, test: Any, task: str, has_records: bool) -> dict[str, Any]:
    """Tables by the names that they have in a dataset folder: a table for each split, or one that is to be divided."""
    if (task == "matching") != has_records:
        raise ConfigError("fit: matching wants left and right, or records, beside the pairs; other tasks want neither")
    if valid is None and test is not None:
        raise ConfigError("fit: with test there has to be valid, by which the best epoch is chosen")
    if valid is None:
        return {"pairs" if task == "matching" else "rows": train}
    prefix = "pairs_" if task == "matching" else ""
    splits = {"train": train, "valid": valid, "test": test}
    return {f"{prefix}{split}": frame for split, frame in splits.items() if frame is not None}


def _check_arguments(task: Any, texts: Mapping[str, Any]) -> None:
    if task not in (None, *TaskKind):
        raise ConfigError(f"fit: task={task!r}: expected {' or '.join(TaskKind)}")
    for name, value in texts.items():
        if not isinstance(value, str | PurePath | None):
            raise ConfigError(f"fit: {name}={value!r}: expected text, such as a path")
        if value is not None:
            check_here(str(value), f"fit: {name}")


def _settings(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as on the command line, of settings and groups of them. A part that names a ``_target_`` of its own
    replaces the leaf, as the settings of the leaf that it replaces are those of another class."""

    def walk(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for name, value in values.items():
            if not prefix and (CONFIGS / name).is_dir() and not isinstance(value, str | Mapping):
                raise ConfigError(f"fit: {name}={value!r}: expected a name of configs/{name}/, or a dict of settings")
            if not prefix and name in PARTS and isinstance(value, Mapping) and "_target_" in value:
                yield from (f"~{name}", f"+{name}={written({'_partial_': True, **value})}")
                if "d_model" not in value:
                    yield f"+{name}.d_model=${{d_model}}"
            elif isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}={written(value)}"

    return list(walk(overrides, ""))

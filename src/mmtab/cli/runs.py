"""``mmtab train``, ``evaluate``, ``predict``, ``report`` and ``reproduce``: whatever makes or reads a run folder."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmtab.cli.output import print_line, print_metrics, say_first
from mmtab.config.types import (
    EvaluateConfig,
    Hardware,
    LocalSettings,
    PredictConfig,
    ReportConfig,
    ReproduceConfig,
    RunConfig,
)
from mmtab.utils.atomic import write_json
from mmtab.utils.engine import running
from mmtab.utils.errors import ConfigError
from mmtab.utils.progress import say, under_way
from mmtab.utils.text import count

SIDES = ("left", "right", "records")  # tables that pairs name


def train(settings: RunConfig) -> None:
    """Train on a dataset and, once the model is fixed, score it on the test split.

    mmtab train                                  the shipped catalogue
    mmtab train dataset=fashion seed=1           a dataset under data_root (or MMTAB_DATA)
    mmtab train dataset=custom dataset.path=FOLDER
    mmtab train -m dataset=fashion,music seed=0,1
    """
    from mmtab.data.dataset import chosen_schema, summary
    from mmtab.runs.folder import check_run_folder
    from mmtab.runs.inputs import data_folder

    folder = _output_folder()
    check_run_folder(settings, folder)
    with under_way(f"reading {settings.dataset.name}"):
        data = data_folder(settings)
        for line in summary(data, chosen_schema(settings.dataset, data)):
            say(line)
    with under_way("loading torch"):
        from mmtab.reports.run_page import report_after
        from mmtab.runs.evaluate import ceiling, evaluate_if_labelled
        from mmtab.runs.train import train as train_run
        from mmtab.utils import distributed

    columns = {"valid": train_run(settings, folder)}
    if settings.test and (test_metrics := evaluate_if_labelled(folder, "test", settings)) is not None:
        columns["test"] = test_metrics
    if not distributed.is_first():
        return
    if ceiling_metrics := ceiling(folder):
        columns["ceiling"] = ceiling_metrics
    print_metrics(f"{settings.dataset.name}, seed {settings.seed}", columns)
    if settings.report:
        print(report_after(folder, local=LocalSettings.of(settings)))
    _print_next(folder, data)


def _print_next(folder: Path, data: Path) -> None:
    """What was found out first, and what may be done with the run; ``data`` is its dataset's folder."""
    from mmtab.data import files
    from mmtab.reports.run_page import read_findings
    from mmtab.runs.folder import read_schema

    for finding in read_findings(folder)[:3]:
        print_line(f"- {finding.text}" + (f" Try: {finding.tries}" if finding.tries else ""))
    run, tables = shlex.quote(str(folder)), "input=ROWS.csv output=predictions.csv"
    commands = [f"mmtab predict run={run} {tables}", f"mmtab export {run} -o MODEL"]
    if not read_schema(folder).of_rows:
        tables = "records=RECORDS.csv" if files.exists(data, "records") else "left=LEFT.csv right=RIGHT.csv"
        commands[0] = f"mmtab match run={run} {tables} output=matches.csv"
    print_line(f"run folder: {folder}\nnext: {'; '.join(commands)}")


def _output_folder() -> Path:
    """That of this run, also of one of several. Its name has been resolved, so that a ``${`` in it means itself."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    runtime: Any = OmegaConf.to_container(HydraConfig.get().runtime, resolve=False)
    return Path(runtime["output_dir"])


def evaluate(settings: EvaluateConfig) -> None:
    """Score a run on a labelled split and write its report page.

    mmtab evaluate run=FOLDER split=test [path=DATASET]   path: where the dataset has moved
    mmtab evaluate FOLDER -o metrics.json              the metrics into a file too
    """
    from mmtab.runs.asked import check_split
    from mmtab.runs.inputs import check_outside

    folder, data = Path(settings.run), Path(settings.path) if settings.path else None
    check_split(folder, settings.split, data, settings)
    if settings.output:
        check_outside(Path(settings.output), folder)
    say_first(f"scoring split {settings.split}", settings.run)
    with under_way("loading torch"):
        from mmtab.reports.run_page import report_after
        from mmtab.runs.evaluate import evaluate as evaluate_run
        from mmtab.utils import distributed

    hardware = Hardware(settings.accelerator, settings.devices)
    with running(**asdict(settings.engine)) as engine:
        metrics = evaluate_run(folder, settings.split, data, hardware, settings, settings.wandb, engine)
    if distributed.is_first():
        print_metrics(settings.run, {settings.split: metrics})
        if settings.output:
            write_json(Path(settings.output).expanduser(), {settings.split: metrics})
            print(f"metrics: {settings.output}")
        if settings.report:
            print(report_after(folder, settings.split, data, hardware, settings))


def predict(settings: PredictConfig) -> None:
    """Predict rows or pairs of a table, which needs no labels, with a run.

    mmtab predict run=FOLDER input=TABLE output=PREDICTIONS
    mmtab predict run=FOLDER input=PAIRS left=TABLE right=TABLE output=PREDICTIONS
    """
    from mmtab.data.csv_files import Dialect
    from mmtab.runs.asked import PredictOptions, check_predict, check_rows
    from mmtab.runs.folder import open_config

    run, dialect = Path(settings.run), Dialect(settings.encoding or "", settings.delimiter or "")
    sides = {name: getattr(settings, name) for name in SIDES}
    asked = PredictOptions(settings.coverage, settings.cost, settings.interval)
    schema = check_predict(run, settings.input, Path(settings.output), sides, asked)
    if schema.of_rows:
        bad_cells, root = open_config(run, settings).dataset.bad_cells, settings.image_root
        check_rows(Path(settings.input), schema, bad_cells, Path(root) if root else None, dialect)
    say_first(f"predicting {settings.input}", settings.run)
    with under_way("loading torch"):
        from mmtab.data.remote import fetched
        from mmtab.runs.predict import predict as predict_run

    places = [run, Path(fetched(settings.input)), Path(settings.output)]
    names = (*SIDES, "image_root")
    options: dict[str, Any] = {name: Path(fetched(path)) for name in names if (path := getattr(settings, name))}
    options |= {"coverage": settings.coverage, "cost": settings.cost, "interval": settings.interval}
    options |= {"hardware": Hardware(settings.accelerator, settings.devices), "local": settings}
    options["dialect"] = dialect
    with running(**asdict(settings.engine)) as engine:
        n_rows = predict_run(*places, **options, engine=engine)
    print(f"{count(n_rows, 'prediction')} written to {settings.output}")


def report(settings: ReportConfig) -> None:
    """Write the report page of a run, or compare several.

    mmtab report run=FOLDER [split=valid]              FOLDER/report/report.html and its pictures
    mmtab report run=[FOLDER,FOLDER] output=PAGE.html  side by side, on rows that all of them scored
    """
    folders = [Path(folder) for folder in (settings.run if isinstance(settings.run, list) else [settings.run])]
    if settings.output is not None and len(folders) == 1:
        raise ConfigError("output= is for a comparison of several runs; the page of one lies in its folder")
    from mmtab.runs.scored import chosen_split, read_runs

    if len(folders) > 1:
        read_runs(folders, settings.split)  # which may refuse, before anything is written
    else:
        chosen_split(folders[0], settings.split)
    with under_way("loading torch"):
        from mmtab.reports import run_page, runs_page

    hardware = Hardware(settings.accelerator, settings.devices)
    for folder in folders:
        options: dict[str, Any] = {"ablation": settings.ablation, "more_rows": settings.more_rows}
        options |= {"hardware": hardware, "local": settings}
        print(f"written: {run_page.write_report(folder, settings.split, **options)}")
    if len(folders) > 1:
        page = Path(settings.output or "comparison.html")
        print(f"written: {runs_page.write_comparison(folders, page, settings.split, settings)}")


def reproduce(settings: ReproduceConfig) -> None:
    """Train a run again and compare every metric with what its folder says.

    mmtab reproduce run=FOLDER                    path=DATASET, where the data have moved
    mmtab reproduce run=FOLDER tolerance=0.002    how far a metric may be off

    Exit status 1 where a metric is further off. Differences in versions, commit and hardware are listed.
    """
    from mmtab.runs.reproduce import reproduce

    result = reproduce(settings, _output_folder())
    print_metrics(settings.run, {when: {m.what: getattr(m, when) for m in result.metrics} for when in ("then", "now")})
    for difference in result.around:
        print(f"different: {difference.what}: {difference.then} then, {difference.now} now")
    for split, n in result.n_predictions_changed.items():
        changed = f"{count(n, 'prediction')} changed" if n >= 0 else "the run has no predictions to compare with"
        print(f"{split}: {changed}")
    worst = result.worst()
    print("the same to the last digit" if worst == 0 else f"metrics differ by up to {worst:.3g}")
    sys.exit(int(worst > settings.tolerance))

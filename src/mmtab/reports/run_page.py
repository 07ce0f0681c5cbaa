"""The report of a run: one page that needs no other file and no network, and its pictures as PNG beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from mmtab.config.types import Hardware, LocalSettings, RunConfig
from mmtab.data.schema import Schema
from mmtab.reports import figures, numbers
from mmtab.reports import more_rows as rows_of_train
from mmtab.reports.ablation import ablate, ranking
from mmtab.reports.findings import Finding, findings, standard_error
from mmtab.reports.html import TEMPLATES, render
from mmtab.reports.rows import Cell, cells_of
from mmtab.reports.slices import Source, slices
from mmtab.reports.svg import svg
from mmtab.runs.folder import (
    ABLATION,
    METRICS,
    MORE_ROWS,
    PROVENANCE,
    learning_curves,
    open_config,
    read_facts,
    read_run_file,
)
from mmtab.runs.inputs import data_folder
from mmtab.runs.manifest import recording
from mmtab.runs.provenance import REPORT
from mmtab.runs.scored import Scored, ScoredPredictions, chosen_split, read_scored, scored_splits
from mmtab.runs.scored_numbers import ScoredNumbers
from mmtab.runs.session import open_run
from mmtab.training.metrics import bootstrap, class_metrics, number_metrics, pair_metrics
from mmtab.utils import distributed
from mmtab.utils.atomic import replacing, write_json, write_text
from mmtab.utils.errors import MmtabError
from mmtab.utils.progress import under_way

N_MISTAKES = 12
MAX_CLASSES = 1000  # of the table of classes
FOLDER = REPORT.parent
FINDINGS = str(FOLDER / "findings.json")


def write_report(
    folder: Path,
    split: str | None = None,
    *,
    ablation: bool = True,
    more_rows: bool = False,
    data: Path | None = None,
    hardware: Hardware | None = None,
    local: LocalSettings | None = None,
) -> Path:
    """Write FOLDER/report/report.html of a finished run and return its path.

    split:    one that was scored; default test, else valid
    ablation: score valid again with columns taken away, which is kept for later reports
    more_rows: train on parts of train too, and keep what that says
    data:     the dataset's folder; default the one that the run was trained on. Where it is no longer there, the page
              does without its rows
    hardware: on which the ablation predicts
    local:    where this machine has datasets and the cache; default as the environment says

    Raises RunError for a folder that is no finished run, or a split that was not scored.
    """
    facts, config = read_facts(folder), open_config(folder, local)
    predictions = read_scored(folder, chosen_split(folder, split))
    source, parts, problem = None, list[dict[str, Any]](), ""
    try:
        data = data or data_folder(config)
        source = Source(data, predictions[0].schema, predictions[0].split)
        parts = [part for relation in predictions for part in slices(relation, source)]
    except (MmtabError, OSError) as error:
        source = None
        problem = f"The rows could not be read ({error}), so there are no slices and no mistakes to look at."
    without, curve = _kept(folder, ABLATION), _kept(folder, MORE_ROWS)
    if without is None and ablation and source is not None:
        assert data is not None
        without = ablate(open_run(folder, hardware, local), data)
        _keep(folder, ABLATION, without)
    if curve is None and more_rows:
        curve = rows_of_train.measure(folder, config, None if source is None else data, hardware, local)
        _keep(folder, MORE_ROWS, curve)
    return _write(folder, facts, config, predictions, source, parts, problem, without, curve)


def _write(
    folder: Path,
    facts: Mapping[str, Any],
    config: RunConfig,
    predictions: Sequence[Scored],
    source: Source | None,
    parts: Sequence[Mapping[str, Any]],
    problem: str,
    without: Mapping[str, Any] | None,
    curve: Mapping[str, Any] | None,
) -> Path:
    """Write the page, its pictures and findings.json; ``parts`` are slices, ``without`` is an ablation, ``curve`` what
    parts of train bring."""
    schema, split, output = predictions[0].schema, predictions[0].split, folder / FOLDER
    metrics, curves = read_run_file(folder, METRICS), learning_curves(folder)
    base = (facts.get("base") or {}).get("valid")  # of runs of before there is none
    of_valid = read_scored(folder, "valid") if "valid" in scored_splits(folder) else predictions
    error = float(np.mean([standard_error(relation) for relation in of_valid]))
    conclusions = list(findings(config, predictions, metrics, curves, parts, without, base, error))
    pictures = dict[str, tuple[str, Markup]]()
    for i, (name, (about, figure)) in enumerate(_charts(predictions, schema, curves, facts, without, curve).items()):
        with replacing(output / f"{name}.png") as scratch:
            scratch.write_bytes(figures.png(figure))
        pictures[name] = about, svg(figure, f"chart{i}", about)
    page = render(
        TEMPLATES / "run.html.jinja",
        title=f"Report: {schema.name}",
        schema=schema,
        seed=facts["seed"],
        split=split,
        problem=problem,
        findings=conclusions,
        scores=_scores(metrics, schema),
        more_rows=rows_of_train.in_words(curve, error) if curve else "",
        headlines=[_headline(relation, metrics, base) for relation in predictions],
        pictures=pictures,
        classes=[_classes(r) for r in predictions if isinstance(r, ScoredPredictions) and r.threshold is None],
        slices=_slices(parts),
        ablation=without,
        modalities=_modalities(without) if without else ([], []),
        mistakes=[] if source is None else [(relation, _mistakes(relation, source)) for relation in predictions],
        left_out=facts.get("left_out", {}),
        alarms=facts.get("alarms"),
        costs=_costs(folder, facts),
        config=yaml.safe_dump(json.loads(json.dumps(asdict(config))), sort_keys=False, allow_unicode=True),
    )
    write_json(folder / FINDINGS, {"split": split, "findings": [asdict(finding) for finding in conclusions]})
    write_text(folder / REPORT, page)  # last: it tells that the report is whole
    return folder / REPORT


def report_after(
    folder: Path,
    split: str | None = None,
    data: Path | None = None,
    hardware: Hardware | None = None,
    local: LocalSettings | None = None,
) -> str:
    """``write_report`` right after a score, as a line to print. That a report cannot be written does not fail a run,
    and several processes leave it for later, since it scores in one."""
    if distributed.rank()[1] > 1:
        return f"report: mmtab report run={folder}"
    try:
        with under_way("report"):
            return f"report: {write_report(folder, split, data=data, hardware=hardware, local=local)}"
    except (MmtabError, OSError) as error:
        return f"no report: {error}"


def read_findings(folder: Path) -> list[Finding]:
    """Those of the report of a run, the most important first; none without a report."""
    if not (folder / FINDINGS).is_file():
        return []
    return [Finding(**finding) for finding in read_run_file(folder, FINDINGS)["findings"]]


def read_ablation(folder: Path) -> dict[str, Any] | None:
    """What an earlier report of these weights measured."""
    return _kept(folder, ABLATION)


def _kept(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / name
    if not path.is_file() or path.stat().st_mtime < (folder / PROVENANCE).stat().st_mtime:
        return None
    return read_run_file(folder, name)


def _keep(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    with recording(folder, name):
        write_json(folder / name, value)


def _charts(
    predictions: Sequence[Scored],
    schema: Schema,
    curves: Sequence[Mapping[str, float]],
    facts: Mapping[str, Any],
    without: Mapping[str, Any] | None,
    curve: Mapping[str, Any] | None,
) -> dict[str, tuple[str, Any]]:
    """By name what a chart shows, in words, and its figure."""
    drawn: dict[str, tuple[str, Any]] = {}
    if any(f"valid/{schema.metric}" in row for row in curves):
        drawn["learning"] = "losses and score by epoch", figures.learning(curves, schema.metric, facts["n_epochs"])
    if curve is not None:
        expected = rows_of_train.of_twice_as_many(curve)
        drawn["more_rows"] = "score on valid by rows of train", figures.by_rows(curve, expected)
        if "modalities" in curve:
            drawn["more_rows_modalities"] = "worth of each modality by rows of train", figures.worth_by_rows(curve)
    for relation in predictions:
        if isinstance(relation, ScoredNumbers):
            drawn["predicted"] = "prediction by label", figures.predicted(relation)
            drawn["residuals"] = "label less prediction, by prediction and by size", figures.residuals(relation)
            continue
        suffix = f"_{relation.relation}" if relation.relation else ""
        if relation.threshold is None:
            drawn["confusion"] = "confusion matrix: rows are labels, columns predictions", figures.confusion(relation)
        else:
            drawn[f"precision_recall{suffix}"] = "precision by recall", figures.precision_recall(relation)
        drawn[f"reliability{suffix}"] = "reliability diagram", figures.reliability(relation)
    of_classes = [relation for relation in predictions if isinstance(relation, ScoredPredictions)]
    by_relation = {f"{relation.relation}: " if relation.relation else "": relation for relation in of_classes}
    if by_relation:
        drawn["risk_coverage"] = "share of mistakes by coverage", figures.risk_coverage(by_relation)
    if without is not None:
        drawn["modalities"] = "score with and without each modality", figures.by_modality(without, ranking(without))
        drawn["columns"] = "what is lost without each column", figures.by_column(without)
        drawn["missingness"] = "score by share of missing cells", figures.missingness(without)
    return drawn


def _headline(
    predictions: Scored, metrics: Mapping[str, Mapping[str, Any]], base: Mapping[str, float] | None
) -> dict[str, Any]:
    """The score that ranks, with its 95 % interval over rows drawn with replacement, and what it has to beat: ``bars``
    are names and scores."""
    y_true, split, metric = predictions.y_true, predictions.split, predictions.schema.metric
    measure: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    if isinstance(predictions, ScoredNumbers):
        measure, guess, guessing = number_metrics, np.full(len(y_true), y_true.mean()), "the mean for all"
    elif predictions.threshold is None:
        commonest = np.bincount(y_true).argmax()
        measure, guess, guessing = class_metrics, np.full(len(y_true), commonest), "the commonest class for all"
    else:
        measure, guess, guessing = pair_metrics, np.ones(len(y_true), np.int64), "every pair a match"
    relation = getattr(predictions, "relation", None) or ""
    key = f"{relation}/{metric}" if relation else metric
    scores = {
        f"this model, {split}": metrics.get(split, {}).get(key, measure(y_true, predictions.y_pred).get(metric)),
        "this model, valid": metrics.get("valid", {}).get(key),
        "its base alone, valid": (base or {}).get(key),
        f"{guessing}, {split}": measure(y_true, guess).get(metric),
    }
    bars = [(name, score) for name, score in scores.items() if isinstance(score, float)]
    n_classes = len(getattr(predictions, "classes", ()))
    draws = bootstrap(y_true[:, None], predictions.y_pred[None, :, None], metric, n_classes)
    low, high = (None, None) if draws is None else np.quantile(draws[:, 0], (0.025, 0.975)).tolist()
    return {"metric": metric, "relation": relation, "score": bars[0][1], "low": low, "high": high, "bars": bars}


def _scores(metrics: Mapping[str, Mapping[str, Any]], schema: Schema) -> tuple[list[str], list[list[str]]]:
    """Head and body of a table: metrics by split."""
    splits = [split for split, values in metrics.items() if isinstance(values, dict)]
    names = dict.fromkeys(name for s in splits for name, value in metrics[s].items() if isinstance(value, float))
    names.pop("predict_rows_per_second", None)

    def score(split: str, name: str) -> str:
        value = metrics[split].get(name)
        return f"{value:.4f}" if isinstance(value, float) else ""

    body = [[f"{n}{' (ranks)' if n == schema.metric else ''}", *(score(split, n) for split in splits)] for n in names]
    return ["metric", *splits], body


def _classes(predictions: ScoredPredictions) -> tuple[list[str], list[list[object]], int]:
    """Head and body of a table, the worst class first, and the number of classes."""
    head = ["class", "rows", "precision", "recall", "F1", "taken for"]
    rows = sorted(predictions.by_class(), key=lambda row: row["F1"])
    return head, [[row[name] for name in head] for row in rows[:MAX_CLASSES]], len(rows)


def _slices(parts: Sequence[Mapping[str, Any]]) -> tuple[list[list[object]], list[str]]:
    """Body of a table, and the class of each line."""
    body: list[list[object]] = [
        [p["slice"], p["rows"], p["score"], p["rest"], p["score"] - p["rest"], interval(p["low"], p["high"])]
        for p in parts
    ]
    return body, ["up" if part["low"] > 0 else "down" if part["high"] < 0 else "" for part in parts]


def _modalities(without: Mapping[str, Any]) -> tuple[list[list[object]], list[str]]:
    """Body of a table, and the class of each line."""
    values = [(name, without["modalities"][name]) for name in ranking(without)]
    body: list[list[object]] = [
        [name, v["shapley"], interval(v["shapley_low"], v["shapley_high"])]
        + [v[key] for key in ("without", "alone", "changed", "verdict")]
        for name, v in values
    ]
    return body, ["down" if v["verdict"] == "unused" else "" for _, v in values]


def interval(low: float, high: float) -> str:
    return f"{low:+.3f} to {high:+.3f}"


def _mistakes(predictions: Scored, source: Source) -> list[dict[str, Any]]:
    """The surest wrong predictions, each with the cells of its row (of a pair, of both rows) and, of classes, those of
    the most confident of the rows that are rightly predicted as what it was taken for."""
    if isinstance(predictions, ScoredNumbers):
        return numbers.worst(predictions, source)
    worst, examples = predictions.surest_mistakes(N_MISTAKES).tolist(), dict[int, int]()
    if not worst:
        return []
    for i in worst if predictions.threshold is None else ():
        same = np.flatnonzero(predictions.correct & (predictions.y_pred == predictions.y_pred[i]))
        if len(same):
            examples[i] = int(same[predictions.p_pred[same].argmax()])
    rows = source.rows(np.unique(predictions.row[[*worst, *examples.values()]]))

    def cells(i: int) -> list[list[Cell]]:
        return [cells_of(predictions.schema, *place) for place in rows[int(predictions.row[i])]]

    return [
        {
            "y_true": predictions.classes[predictions.y_true[i]],
            "y_pred": predictions.classes[predictions.y_pred[i]],
            "p_true": predictions.p_true[i],
            "p_pred": predictions.p_pred[i],
            "sides": cells(i),
            "example": cells(examples[i])[0] if i in examples else None,
            "p_example": predictions.p_pred[examples[i]] if i in examples else None,
        }
        for i in worst
    ]


def _costs(folder: Path, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds = facts["seconds"]
    commit = f"commit {facts.get('git_commit')}{' with changes' if facts.get('git_dirty') else ''}, {facts.get('time')}"
    times = f"{seconds['train']:.1f} s in {facts['n_epochs']} epochs, after {seconds['prepare']:.1f} s of preparing"
    rates = f"{facts['train_rows_per_second']:,.0f} rows/s; predicted at {facts['predict_rows_per_second']:,.0f} rows/s"
    machine = f"{facts['device']}, {facts['precision']}, {facts['n_threads']} threads, {facts['n_processes']} processes"
    return [
        ("training", f"{times}; {seconds['total']:.1f} s in all"),
        ("rows", f"{facts['n_train']:,} for training, at {rates}"),
        ("memory", f"{facts['peak_memory_mib']:,} MiB at most"),
        ("parameters", f"{facts['n_parameters']:,}, of which {facts['n_trained_parameters']:,} learn"),
        ("where", machine),
        ("code", commit),
        ("data", str(facts.get("data_fingerprint"))),
        ("versions", ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())),
        ("run folder", folder.resolve().name),
    ]

"""The report of a run: one page that needs no other file and no network, and its pictures as PNG beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmtab.config.types import Hardware, RunConfig
from mmtab.data.dataset import dataset_folder
from mmtab.data.pictures import Progress, no_progress
from mmtab.data.schema import Schema
from mmtab.reports import figures, html
from mmtab.reports.ablation import ablate, ranking
from mmtab.reports.findings import Finding, findings
from mmtab.reports.html import safe
from mmtab.reports.predictions import Outcome, Source, learning_curves, read_outcomes, slices, splits_of
from mmtab.runs.folder import open_config, read_facts, read_run_file
from mmtab.runs.session import cache_of, open_run
from mmtab.utils import distributed as ranks
from mmtab.utils.atomic import replacing, write_json, write_text
from mmtab.utils.errors import MmtabError, RunError

N_MISTAKES = 12
FOLDER = "report"  # in the folder of the run


def write_report(
    folder: Path, split: str | None = None, *, ablation: bool = True, data: Path | None = None,
    hardware: Hardware | None = None, progress: Progress = no_progress,
) -> Path:  # fmt: skip
    """Write FOLDER/report/report.html of a finished run and return its path.

    ``split``: one that was scored; default test, else valid. ``ablation``: score valid again with columns taken away, which
    is kept for later reports. Where the dataset is no longer there, the page does without its rows. Raises RunError for a
    folder that is no finished run, or a split that was not scored.
    """
    facts, config = read_facts(folder), open_config(folder)
    found = splits_of(folder)
    if split is None and not found:
        raise RunError(f"{folder}: no split was scored; run scripts/evaluate.py run={folder}")
    split = split or found[0]
    outcomes = read_outcomes(folder, split)
    schema, metrics, curves = outcomes[0].schema, read_run_file(folder, "metrics.json"), learning_curves(folder)
    missing: list[str] = []
    source, parts = None, list[dict[str, Any]]()
    try:
        data = data or dataset_folder(config.dataset, config.data_root, cache_of(config))
        source = Source.open(data, schema, split)
        for outcome in outcomes:
            of = f", {outcome.relation}" if outcome.relation else ""
            parts += [each | {"slice": f"{each['slice']}{of}"} for each in slices(outcome, source)]
    except (MmtabError, OSError) as error:
        source = None
        missing.append(f"The rows could not be read ({error}), so there are no slices and no mistakes to look at.")
    without = read_ablation(folder)
    if without is None and ablation and source is not None:
        assert data is not None
        without = ablate(open_run(folder, hardware), data, progress=progress)
        write_json(folder / FOLDER / "ablation.json", without)
    said = findings(config, outcomes, metrics, curves, parts, without)
    pictures = _pictures(outcomes, schema, curves, facts, without)
    (folder / FOLDER).mkdir(exist_ok=True)
    for name, (picture, _) in pictures.items():
        with replacing(folder / FOLDER / f"{name}.png") as scratch:
            scratch.write_bytes(picture)
    body = _body(folder, split, outcomes, metrics, facts, config, said, pictures, parts, source, without, missing)
    path = folder / FOLDER / "report.html"
    write_text(path, html.document(f"Report: {schema.name}", body, STYLE, html.SORTS))
    write_json(folder / FOLDER / "findings.json", {"split": split, "findings": [asdict(each) for each in said]})
    return path


def report_after(
    folder: Path, split: str | None = None, data: Path | None = None, hardware: Hardware | None = None
) -> str:
    """``write_report`` right after a score, as a line to print. That a report cannot be written does not fail a run, and
    several processes leave it for later, since it scores in one."""
    if ranks.rank()[1] > 1:
        return f"report: python scripts/report.py run={folder}"
    try:
        return f"report: {write_report(folder, split, data=data, hardware=hardware)}"
    except (MmtabError, OSError) as error:
        return f"no report: {error}"


def read_ablation(folder: Path) -> dict[str, Any] | None:
    """What an earlier report of these weights found."""
    path = folder / FOLDER / "ablation.json"
    if not path.is_file() or path.stat().st_mtime < (folder / "provenance.json").stat().st_mtime:
        return None
    return dict(json.loads(path.read_text()))


def _pictures(
    outcomes: Sequence[Outcome], schema: Schema, curves: Sequence[Mapping[str, float]], facts: Mapping[str, Any], without: Mapping[str, Any] | None
) -> dict[str, tuple[bytes, str]]:  # fmt: skip
    """By name: PNG, and what it shows in words."""
    drawn: dict[str, tuple[Any, str]] = {}
    if any(f"valid/{schema.metric}" in row for row in curves):
        drawn["learning"] = figures.learning(curves, schema.metric, facts["n_epochs"]), "losses and score by epoch"
    for outcome in outcomes:
        suffix = f"_{outcome.relation}" if outcome.relation else ""
        if outcome.threshold is None:
            drawn["confusion"] = figures.confusion(outcome), "confusion matrix: rows are labels, columns what was said"
        else:
            drawn[f"precision_recall{suffix}"] = figures.precision_recall(outcome), "precision by recall"
        drawn[f"reliability{suffix}"] = figures.reliability(outcome), "reliability diagram"
    of = {f"{outcome.relation}: " if outcome.relation else "": outcome for outcome in outcomes}
    drawn["risk_coverage"] = figures.risk_coverage(of), "share of mistakes by coverage"
    if without is not None:
        drawn["modalities"] = figures.by_modality(without, ranking(without)), "score with and without each modality"
        drawn["columns"] = figures.by_column(without), "what is lost without each column"
        drawn["missingness"] = figures.missingness(without), "score by share of missing cells"
    return {name: (figures.png(figure), about) for name, (figure, about) in drawn.items()}


def _body(
    folder: Path, split: str, outcomes: Sequence[Outcome], metrics: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any],
    config: RunConfig, said: Sequence[Finding], pictures: Mapping[str, tuple[bytes, str]], parts: list[dict[str, Any]],
    source: Source | None, without: Mapping[str, Any] | None, missing: Sequence[str],
) -> str:  # fmt: skip
    schema = outcomes[0].schema

    def shown(*names: str) -> str:
        found = [
            f'<figure class="{name}"><div class="scroll" tabindex="0"><img alt="{safe(about)}" src="{html.uri(picture, "png")}"></div></figure>'
            for name, (picture, about) in pictures.items()
            if name.startswith(names)
        ]
        return f'<div class="figures">{"".join(found)}</div>' if found else ""

    sections = [
        f"<h1>{safe(schema.title or schema.name)}</h1><p class=dim>{safe(schema.name)}, {safe(schema.task)}, seed {facts['seed']}; everything below is of the {safe(split)} split unless it says otherwise.</p>",
        *(f'<p class="warning">{safe(text)}</p>' for text in missing),
        _findings(said),
        f"<h2>Scores</h2>{_scores(metrics, schema)}",
        f"<h2>Did it learn?</h2>{shown('learning')}",
        f"<h2>Where is it wrong?</h2>{shown('confusion', 'precision_recall')}{_classes(outcomes)}{_slices(parts)}",
        f"<h2>Can its probabilities be trusted?</h2>{shown('reliability', 'risk_coverage')}"
        "<p class=dim>Reliability: a model that says 0.8 should be right in 8 of 10 cases. Coverage: how many mistakes are left when only the surest are predicted (<code>predict coverage=0.9</code>).</p>",
    ]
    if without is not None:
        sections.append(
            f"<h2>What does it use?</h2>{_modalities(without)}{shown('modalities', 'columns', 'missingness')}"
        )
    if source is not None:
        sections += [_mistakes(outcome, source) for outcome in outcomes]
    sections.append(_costs(folder, facts, config))
    return "".join(sections)


def _findings(said: Sequence[Finding]) -> str:
    lines = []
    for each in said:
        tries = f"<br><small>Try: {safe(each.tries)}</small>" if each.tries else ""
        lines.append(f'<li class="{each.kind}">{safe(each.text)}{tries}</li>')
    return f'<ul class="findings">{"".join(lines)}</ul>'


def _scores(metrics: Mapping[str, Mapping[str, Any]], schema: Schema) -> str:
    splits = [split for split, values in metrics.items() if isinstance(values, dict)]
    names = list(
        dict.fromkeys(name for split in splits for name, value in metrics[split].items() if isinstance(value, float))
    )
    names = [name for name in names if name != "predict_rows_per_second"]
    body = [
        [f"{name}{' (ranks)' if name == schema.metric else ''}", *(_figure(metrics[s].get(name)) for s in splits)]
        for name in names
    ]
    return html.plain_table(["metric", *splits], body)


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ""


def _classes(outcomes: Sequence[Outcome]) -> str:
    found = []
    for outcome in outcomes:
        if outcome.threshold is not None:
            continue
        rows = sorted(outcome.by_class(), key=lambda each: each["F1"])
        title = f"Scores of {len(rows)} classes"
        head = ["class", "rows", "precision", "recall", "F1", "taken for"]
        found.append(f"<h3>{title}</h3>{html.sortable(head, [[each[name] for name in head] for each in rows[:1000]])}")
    return "".join(found)


def _slices(parts: Sequence[Mapping[str, Any]]) -> str:
    if not parts:
        return ""
    kinds = ["up" if each["low"] > 0 else "down" if each["high"] < 0 else "" for each in parts]
    body: list[list[object]] = [
        [each["slice"], each["rows"], each["score"], each["rest"], each["score"] - each["rest"], f"{each['low']:+.3f} to {each['high']:+.3f}"]
        for each in parts
    ]  # fmt: skip
    table = html.sortable(["slice", "rows", "score", "on the rest", "difference", "95 % interval"], body, kinds)
    return f"<h3>Parts of the data</h3>{table}<p class=dim>Coloured where the difference is beyond noise.</p>"


def _modalities(without: Mapping[str, Any]) -> str:
    head = ["modality", "contribution", "95 % interval", "without it", "alone", "predictions changed", "verdict"]
    body: list[list[object]] = []
    for name in ranking(without):
        each = without["modalities"][name]
        body.append([name, each["shapley"], f"{each['shapley_low']:+.3f} to {each['shapley_high']:+.3f}", each["without"], each["alone"], each["changed"], each["verdict"]])  # fmt: skip
    kinds = ["down" if line[-1] == "unused" else "" for line in body]
    of = (
        f"{without['n_rows']:,} of {without['n_rows_of_split']:,}"
        if without["n_rows"] < without["n_rows_of_split"]
        else f"all {without['n_rows']:,}"
    )
    return (
        f"<p>On {of} rows of {safe(without['split'])}, with cells taken away as if they were missing and without training again. "
        f"With everything {safe(without['metric'])} is {without['score']:.3f}, with nothing {without['nothing']:.3f}; contributions (Shapley values) divide the difference.</p>"
        f"{html.sortable(head, body, kinds)}"
    )


def _mistakes(outcome: Outcome, source: Source) -> str:
    worst = outcome.worst(N_MISTAKES)
    of = f" of {outcome.relation}" if outcome.relation else ""
    if not len(worst):
        return f"<h2>Worst mistakes{safe(of)}</h2><p>There are none.</p>"
    examples = _examples(outcome, worst) if outcome.threshold is None else {}
    wanted = np.unique(outcome.row[np.concatenate([worst, np.array(list(examples.values()), int)])])
    rows, cards = source.rows(wanted), []
    for i in worst.tolist():
        said, label = outcome.classes[outcome.said[i]], outcome.classes[outcome.label[i]]
        sides = [html.row_list(outcome.schema, *place) for place in rows[int(outcome.row[i])]]
        if i in examples:
            other = examples[i]
            sides.append(f"<p class=dim>One that is {safe(said)} ({outcome.p_said[other]:.2f}):</p>{html.row_list(outcome.schema, *rows[int(outcome.row[other])][0])}")  # fmt: skip
        columns = "".join(f"<div>{side}</div>" for side in sides)
        title = f"{safe(label)} <small>({outcome.p_label[i]:.2g})</small> taken for {safe(said)} <small>({outcome.p_said[i]:.3g})</small>"
        cards.append(f'<article><h3>{title}</h3><div class="sides">{columns}</div></article>')
    about = "Those of which the model was surest, with the probabilities of both" + ("; beside each the row of which it says the same with the most right. Look for wrong labels first." if examples else ". Look for wrong labels first.")  # fmt: skip
    return f'<h2>Worst mistakes{safe(of)}</h2><p class=dim>{about}</p><div class="cards">{"".join(cards)}</div>'


def _examples(outcome: Outcome, worst: np.ndarray) -> dict[int, int]:
    """For each mistake a row that is what it was taken for: the surest of those that were recognised."""
    found = {}
    for i in worst.tolist():
        same = np.flatnonzero(outcome.right & (outcome.said == outcome.said[i]))
        if len(same):
            found[i] = int(same[outcome.p_said[same].argmax()])
    return found


def _costs(folder: Path, facts: Mapping[str, Any], config: RunConfig) -> str:
    seconds = facts["seconds"]
    lines = [
        ["training", f"{seconds['train']:.1f} s in {facts['n_epochs']} epochs, after {seconds['prepare']:.1f} s of preparing; {seconds['total']:.1f} s in all"],
        ["rows", f"{facts['n_train']:,} for training, at {facts['train_rows_per_second']:,.0f} rows/s; predicted at {facts['predict_rows_per_second']:,.0f} rows/s"],
        ["memory", f"{facts['peak_memory_mib']:,} MiB at most"],
        ["parameters", f"{facts['n_parameters']:,}, of which {facts['n_trained_parameters']:,} learn"],
        ["where", f"{facts['device']}, {facts['precision']}, {facts['n_threads']} threads, {facts['n_processes']} processes"],
        ["code", f"commit {facts.get('git_commit')}{' with changes' if facts.get('git_dirty') else ''}, {facts.get('time')}"],
        ["data", str(facts.get("data_fingerprint"))],
        ["versions", ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())],
        ["run folder", folder.resolve().name],
    ]  # fmt: skip
    text = yaml.safe_dump(json.loads(json.dumps(asdict(config))), sort_keys=False, allow_unicode=True)
    return (
        f"<h2>Time, memory, provenance</h2>{html.plain_table(['', ''], lines)}"
        f"<details><summary>config.yaml</summary><pre>{safe(text)}</pre></details>"
    )


STYLE = """
:root{--dim:#5d6066;--good:#26804a;--warn:#b9770e}@media(prefers-color-scheme:dark){:root{--dim:#a9adb3;--good:#5fc98a;--warn:#e0a63c}}
h3{font-size:1rem;margin:1.2rem 0 .3rem}.dim,small{color:var(--dim)}small{font-size:.85em}h1,h2,h3,p,li{overflow-wrap:anywhere}
.findings{list-style:none;padding:0;margin:1rem 0}.findings li{border-left:.3rem solid #8886;padding:.25rem .7rem;margin:.35rem 0}
.findings .good{border-color:var(--good)}.findings li.warning{border-color:var(--warn);color:inherit;font-weight:400}
.figures{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}figure{margin:0;background:#fff;border-radius:.4rem;padding:.4rem;min-width:0;max-width:100%;box-sizing:border-box}
figure img{display:block;width:auto;max-width:100%;height:auto}figure{flex:0 1 32rem}figure.learning{flex-basis:50rem}figure.confusion{flex-basis:63rem}
.sortable{font-variant-numeric:tabular-nums}.sortable th{font-size:.8rem;vertical-align:bottom}.sortable .number{text-align:right;white-space:nowrap}.sortable .number button{text-align:right}
.scroll td,.scroll td:last-child,.scroll td:nth-child(2):nth-last-child(2){min-width:0}.sortable td:first-child{min-width:8rem}.up td{background:#26804a22}.down td{background:#c05a1226}
.cards{display:flex;flex-wrap:wrap;gap:1rem}.cards .sides>div{flex:1 1 9rem}.scroll{max-height:34rem;overflow:auto}figure .scroll{max-height:none}
pre{overflow-x:auto;font-size:.8rem}details{margin:1rem 0}summary{cursor:pointer}
button:focus-visible,.scroll:focus-visible,summary:focus-visible{outline:2px solid #1f6fb5;outline-offset:1px}
@media(max-width:40rem){body{padding:.7rem}figure{width:100%}figure.confusion img{max-width:none;width:52rem}.cards article{flex-basis:100%}}
"""

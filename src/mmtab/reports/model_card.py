"""A model card: what a run was trained on, how well it predicts and where not, as Markdown that model hubs read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmtab.data.schema import Schema, TaskKind
from mmtab.runs.folder import FITTED, METRICS, read_facts, read_run_file, read_schema
from mmtab.runs.scored import ScoredPredictions, read_scored, scored_splits
from mmtab.training.metrics import bootstrap
from mmtab.utils.text import markdown_table, markdown_text, short

TAGS = {TaskKind.KWAY: "tabular-classification", TaskKind.REGRESSION: "tabular-regression"}  # pipelines of hubs
QUESTIONS = {
    TaskKind.KWAY: "which of {n} classes a row is",
    TaskKind.REGRESSION: "the number in {label} of a row",
    TaskKind.MATCHING: "whether two rows match ({relations})",
}
SHOWN: tuple[str, ...] = ("accuracy", "macro_f1", "top5", "log_loss", "ece", "r2", "rmse", "mae")
SHOWN += ("f1", "precision", "recall", "pr_auc", "roc_auc")
N_CLASSES = 20  # that are listed


def model_card(folder: Path) -> str:
    """Of a finished run. Figures are those of its own files; intervals are there where its predictions are."""
    schema, facts = read_schema(folder), read_facts(folder)
    metrics, intervals = read_run_file(folder, METRICS), _intervals(folder, schema)
    head = yaml.safe_dump(_front_matter(schema, metrics), sort_keys=False, allow_unicode=True)
    labels = read_run_file(folder, FITTED)["preprocessor"].get("labels_")
    classes = labels["classes_"] if labels else []
    words = {"n": len(classes), "label": schema.label, "relations": ", ".join(schema.relations)}
    question = markdown_text(QUESTIONS[schema.task].format(**words))
    parts = [
        f"---\n{head}---",
        f"# {markdown_text(schema.title or schema.name)}",
        f"A model of mmtab that predicts {question}.",
        "## Use",
        "    import mmtab\n"
        '    run = mmtab.load_run("FOLDER")\n'
        f"    run.predict({'pairs, left=left, right=right' if schema.task is TaskKind.MATCHING else 'rows'})",
        "It reads these columns, and refuses tables that lack one:",
        markdown_table(["column", "type"], [[markdown_text(c.name), str(c.type)] for c in schema.columns]),
        "## Scores",
        _scores(metrics, intervals, schema),
        "## Training data",
        "\n".join(f"- {line}" for line in _data(schema, facts)),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(schema, facts, metrics, classes)),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(schema: Schema, metrics: dict[str, dict[str, float]]) -> dict[str, Any]:
    task = TAGS.get(schema.task)
    kinds = sorted({str(column.type) for column in schema.columns})
    results = [
        {
            "task": {"type": task or "entity-matching"},
            "dataset": {"name": schema.name, "type": schema.name, "split": split},
            "metrics": [{"type": name, "value": round(scores[name], 4)} for name in SHOWN if _number(scores, name)],
        }
        for split, scores in metrics.items()
    ]
    return {
        "library_name": "mmtab",
        **({"pipeline_tag": task} if task else {}),
        "tags": ["tabular", "multimodal", str(schema.task), *kinds],
        "model-index": [{"name": schema.name, "results": results}],
    }


def _number(scores: dict[str, Any], name: str) -> bool:
    return isinstance(scores.get(name), int | float) and bool(np.isfinite(scores[name]))


def _intervals(folder: Path, schema: Schema) -> dict[str, tuple[float, float]]:
    """By split, 95 % bounds of the metric that ranks, by a bootstrap over its rows."""
    bounds = {}
    for split in scored_splits(folder):
        draws = []
        for scored in read_scored(folder, split):
            n = len(scored.classes) if isinstance(scored, ScoredPredictions) else 0
            draws.append(bootstrap(scored.y_true[:, None], scored.y_pred[None, :, None], schema.metric, n))
        if draws and all(draw is not None for draw in draws):
            low, high = np.percentile(np.mean(draws, 0)[:, 0], (2.5, 97.5))  # type: ignore[arg-type]
            bounds[split] = (float(low), float(high))
    return bounds


def _scores(metrics: dict[str, dict[str, float]], intervals: dict[str, tuple[float, float]], schema: Schema) -> str:
    splits = [split for split in ("valid", "test") if split in metrics]
    names = [schema.metric, *(name for name in SHOWN if name != schema.metric)]

    def cell(split: str, name: str) -> str:
        if not _number(metrics[split], name):
            return ""
        bounds = intervals.get(split) if name == schema.metric else None
        return f"{metrics[split][name]:.4g}" + (f" ({bounds[0]:.3f}–{bounds[1]:.3f})" if bounds else "")

    rows = [[name.replace("_", " "), *(cell(split, name) for split in splits)] for name in names]
    table = markdown_table(["metric", *splits], [row for row in rows if any(row[1:])])
    note = "The model was chosen on valid, so its scores there are too high."
    if intervals:
        note += " In parentheses 95 % intervals over the rows of the split."
    if "test" not in splits:
        note += " It was not scored on test."
    return f"{table}\n\n{note}"


def _data(schema: Schema, facts: dict[str, Any]) -> Iterator[str]:
    yield f"{markdown_text(schema.name)}, {int(facts['n_train']):,} training {'rows' if schema.of_rows else 'pairs'}"
    for name, text in (("licence", schema.licence), ("source", schema.source)):
        yield f"{name}: {markdown_text(text) if text else 'not said'}"
    if schema.split:
        yield f"division: {markdown_text(json.dumps(schema.split, ensure_ascii=False))}"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    alarms = facts.get("alarms")
    if not alarms:
        yield "checked, without alarms" if alarms == [] else "not checked for leaks (mmtab prepare check)"
    for alarm in alarms or []:
        yield markdown_text(f"checked, {alarm['severity']}: {alarm['message']}")
    seconds = float(facts["seconds"]["total"])
    yield f"trained for {seconds:.0f} s on {facts['device']}, seed {facts['seed']} ({versions})"


def _limits(
    schema: Schema, facts: dict[str, Any], metrics: dict[str, dict[str, float]], classes: list[str]
) -> Iterator[str]:
    if classes:
        shown = ", ".join(short(name, 40) for name in classes[:N_CLASSES])
        more = f" and {len(classes) - N_CLASSES:,} more" if len(classes) > N_CLASSES else ""
        yield markdown_text(f"every row gets one of these classes, also one that is of none: {shown}{more}")
    for what, why in facts.get("left_out", {}).items():
        yield markdown_text(f"{what} not fitted: {why}")
    if "test" in metrics and _number(metrics["valid"], schema.metric) and _number(metrics["test"], schema.metric):
        change = metrics["test"][schema.metric] - metrics["valid"][schema.metric]
        yield f"from valid to test {schema.metric.replace('_', ' ')} changes by {change:+.3f}"
    if schema.ceiling is not None:
        yield f"the best that can be reached with these columns is {schema.metric} {schema.ceiling:.3f}"
    yield "nearly all cells of a column being unlike those of train gives a warning when rows are predicted"
    yield "scores of other data, and by groups of people, were not measured"

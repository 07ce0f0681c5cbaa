"""Several runs side by side: what differs in their settings, scores on the same rows, curves, and what each one uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtab.reports import figures, html
from mmtab.reports.html import safe
from mmtab.reports.predictions import Outcome, learning_curves, read_outcomes, splits_of
from mmtab.reports.run_page import STYLE, read_ablation
from mmtab.runs.folder import flat, open_config, read_facts, read_run_file
from mmtab.training.metrics import bootstrap
from mmtab.utils.atomic import write_text
from mmtab.utils.errors import RunError

MAX_NAMED = 20  # rows that the runs disagree on
LEFT_OUT = ("output", "data_root", "cache")


def write_comparison(folders: Sequence[Path], output: Path, split: str | None = None) -> Path:
    """Write one page about runs of the same dataset; ``split``: default the first that all of them scored, test before valid.

    Differences are of the rows that all runs scored, with the interval of a paired bootstrap. Raises RunError where runs are
    of different datasets, or share no scored split.
    """
    common = [s for s in splits_of(folders[0]) if all(s in splits_of(folder) for folder in folders)]
    if split is None and not common:
        raise RunError("these runs have no scored split in common; run scripts/evaluate.py for each")
    names = dict(zip(_names(folders), folders, strict=True))
    outcomes = {name: read_outcomes(folder, split or common[0]) for name, folder in names.items()}
    schemas = {each[0].schema.name for each in outcomes.values()}
    if len(schemas) > 1:
        raise RunError(f"runs of different datasets cannot be compared row by row: {', '.join(sorted(schemas))}")
    schema = next(iter(outcomes.values()))[0].schema
    facts = {name: read_facts(folder) for name, folder in names.items()}
    sections = [
        f"<h1>{len(names)} runs of {safe(schema.name)}</h1><p class=dim>On the {safe(split or common[0])} split.</p>",
        f"<h2>Scores</h2>{_scores(names, outcomes, facts, schema.metric)}",
        f"<h2>What differs</h2>{_settings(names)}",
    ]
    drawn = {}
    curves = {name: learning_curves(folder) for name, folder in names.items()}
    if any(curves.values()):
        drawn["valid score by epoch"] = figures.many_learning(curves, schema.metric)
    firsts = {f"{name}: ": each[0] for name, each in outcomes.items()}
    drawn["share of mistakes by coverage"] = figures.risk_coverage(firsts)
    without = {name: found for name, folder in names.items() if (found := read_ablation(folder))}
    if without:
        drawn["what each modality contributes"] = figures.many_modalities(without)
    shown = "".join(f'<figure><img alt="{safe(about)}" src="{html.uri(figures.png(figure), "png")}"></figure>' for about, figure in drawn.items())  # fmt: skip
    sections.append(f'<h2>Curves</h2><div class="figures">{shown}</div>')
    sections.append(_disagreements(outcomes))
    write_text(output, html.document(f"Runs of {schema.name}", "".join(sections), STYLE, html.SORTS))
    return output


def _names(folders: Sequence[Path]) -> list[str]:
    """As little of each path as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-n:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise RunError(f"the same run is named twice: {', '.join(map(str, folders))}")


def _scores(
    names: Mapping[str, Path], outcomes: Mapping[str, Sequence[Outcome]], facts: Mapping[str, Mapping[str, Any]], metric: str
) -> str:  # fmt: skip
    """The best first, by the metric that ranks; each beside it by the rows that all scored."""
    scores = {name: read_run_file(folder, "metrics.json") for name, folder in names.items()}
    split = next(iter(outcomes.values()))[0].split
    order = sorted(names, key=lambda name: -scores[name][split][metric])
    apart = _apart(outcomes, order)
    head = ["run", f"{split} {metric}", "below the best", "95 % interval", "log-loss", "ECE", "valid", "training, s", "rows/s", "MiB", "parameters that learn"]  # fmt: skip
    body: list[list[object]] = []
    for name in order:
        here, fact = scores[name][split], facts[name]
        low, high = apart.get(name, (float("nan"), float("nan")))
        body.append(
            [name, here[metric], scores[order[0]][split][metric] - here[metric], "" if name == order[0] or np.isnan(low) else f"{low:+.3f} to {high:+.3f}",
             here.get("log_loss", float("nan")), float(np.mean([each.ece() for each in outcomes[name]])), scores[name].get("valid", {}).get(metric, float("nan")),
             float(fact["seconds"]["train"]), float(fact["predict_rows_per_second"]), int(fact["peak_memory_mib"]), int(fact["n_trained_parameters"])]
        )  # fmt: skip
    noise = ["up" if name != order[0] and apart.get(name, (1.0, 1.0))[0] <= 0 else "" for name in order]
    return html.sortable(head, body, noise) + "<p class=dim>Coloured: within noise of the best.</p>"


def _apart(outcomes: Mapping[str, Sequence[Outcome]], order: Sequence[str]) -> dict[str, tuple[float, float]]:
    """By run, between what its score lies below that of the first, by rows that all scored; of several relations their mean."""
    found = []
    for r in range(len(outcomes[order[0]])):
        each = [outcomes[name][r] for name in order]
        places = [{key: i for i, key in enumerate(outcome.ids)} for outcome in each]
        shared = [key for key in each[0].ids if all(key in place for place in places)]
        if not shared or len({tuple(outcome.classes) for outcome in each}) > 1:
            return {}
        rows = [np.array([place[key] for key in shared]) for place in places]
        said = np.stack([outcome.said[row][:, None] for outcome, row in zip(each, rows, strict=True)])
        label = each[0].label[rows[0]][:, None]
        metric = "accuracy" if each[0].threshold is None else "f1"
        metric = "macro_f1" if metric == "accuracy" and each[0].schema.metric == "macro_f1" else metric
        drawn = bootstrap(label, said, metric, len(each[0].classes))
        assert drawn is not None
        found.append(drawn)
    draws = np.mean(found, 0)
    bounds = np.percentile(draws[:, :1] - draws, (2.5, 97.5), axis=0)
    return {name: (float(low), float(high)) for name, (low, high) in zip(order, bounds.T, strict=True)}


def _settings(names: Mapping[str, Path]) -> str:
    settings = {name: flat(open_config(folder)) for name, folder in names.items()}
    keys = dict.fromkeys(key for each in settings.values() for key in each)
    rows = [
        [key, *(str(each.get(key, "")) for each in settings.values())]
        for key in keys
        if key.split(".")[0] not in LEFT_OUT and len({str(each.get(key)) for each in settings.values()}) > 1
    ]
    return html.plain_table(["setting", *settings], rows) if rows else "<p>No setting.</p>"


def _disagreements(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """Rows that some runs have right and others wrong: how many, and the first of them."""
    parts = []
    for relation in zip(*outcomes.values(), strict=True):
        shared = set.intersection(*(set(outcome.ids) for outcome in relation))
        place = [{key: i for i, key in enumerate(outcome.ids)} for outcome in relation]
        keys = [key for key in relation[0].ids if key in shared]
        right = np.array([[outcome.right[where[key]] for outcome, where in zip(relation, place, strict=True)] for key in keys]).reshape(-1, len(relation))  # fmt: skip
        apart = [key for key, row in zip(keys, right, strict=True) if row.any() and not row.all()]
        of = f" ({relation[0].relation})" if relation[0].relation else ""
        rows = [
            [key, relation[0].classes[relation[0].label[place[0][key]]], *(outcome.classes[outcome.said[where[key]]] for outcome, where in zip(relation, place, strict=True))]
            for key in apart[:MAX_NAMED]
        ]  # fmt: skip
        parts.append(
            f"<h2>Where they disagree{safe(of)}</h2><p>All are right on {int(right.all(1).sum()):,} of {len(keys):,} rows, none on {int((~right.any(1)).sum()):,}, "
            f"some on {len(apart):,}: an ensemble could gain there.</p>{html.plain_table(['row', 'label', *outcomes], rows) if rows else ''}"
        )
    return "".join(parts)

"""What came out of a campaign: summary.json, summary.md and plots, written to its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mmtab.sweep import choose
from mmtab.sweep.ledger import Ledger, records_of
from mmtab.sweep.live import STATES, settings_text
from mmtab.sweep.plan import Plan
from mmtab.utils.atomic import replacing, write_text

Tests = dict[tuple[int, str], dict[str, Any]]  # metrics on test, by trial and run


def summarise(plan: Plan, ledger: Ledger, problems: Sequence[str]) -> dict[str, Any]:
    """The findings in plain values. ``problems``: runs that could not be scored on test."""
    trials = ledger.trials()
    tests = ledger.tests()
    importances, reason = _importances(plan, trials)
    return {
        "campaign": ledger.study.study_name,
        "definition": plan.definition,
        "best": [trial.number for trial in ledger.best()],
        "trials": [_trial(plan, tests, trial) for trial in _ranked(plan, trials)],
        "failures": [_failure(plan, trial) for trial in trials if trial.state == TrialState.FAIL],
        "unscored": list(problems),
        "importances": importances,
        "without_importances": reason,
    }


def write_summary(plan: Plan, ledger: Ledger, summary: dict[str, Any]) -> str:
    """Write what is not there yet; returns the text of summary.md."""
    text = markdown(plan, summary)
    stored, path = json.dumps(summary, indent=1, ensure_ascii=False), plan.output / "summary.json"
    if not path.exists() or path.read_text(encoding="utf-8") != stored:
        for name, figure in _figures(plan, ledger.trials(), summary):
            with replacing(plan.output / name) as scratch:
                figure.savefig(scratch, format="png")
        write_text(plan.output / "summary.md", text)
        write_text(path, stored)  # last, for it says that all of this is there
    return text


def markdown(plan: Plan, summary: dict[str, Any]) -> str:
    trials = summary["trials"]
    by_number = {trial["trial"]: trial for trial in trials}
    counts = [f"{sum(t['state'] == state for t in trials)} {state}" for state in ("finished", "pruned", "failed", "unfinished")]  # fmt: skip
    parts = [f"# {summary['campaign']}", f"Trials: {', '.join(counts)}. Scores are on valid; the score of a trial is the average over datasets of the mean over seeds."]  # fmt: skip
    for number in summary["best"]:
        best = by_number[number]
        title = "Best" if len(plan.directions) == 1 else "On the Pareto front"
        reached = ", ".join(f"{name} {_number(value)}" for name, value in best["values"].items())
        parts.append(f"## {title}: trial {number}, {reached}")
        parts.append("```\n" + "\n".join(best["commands"]) + "\n```")
        rows = [
            [name, found["metric"], _spread(found), _spread(best["test"][name]) if name in best["test"] else ""]
            for name, found in best["valid"].items()
        ]
        parts.append(_table(["dataset", "metric", "valid", "test"], rows))
    rows = [
        [str(trial["trial"]), trial["state"]]
        + [_number(trial["values"][name]) if name in trial["values"] else "" for name in plan.config.objectives]
        + [_spread(trial["valid"][name]) if name in trial["valid"] else "" for name in plan.datasets]
        + [settings_text(trial["settings"])]
        for trial in trials
    ]
    parts += [
        "## Trials",
        _table(["trial", "state", *plan.config.objectives, *plan.datasets, "settings"], rows),
    ]
    if summary["failures"]:
        rows = [[str(cell) for cell in failure.values()] for failure in summary["failures"]]
        parts += ["## Failures", _table(list(summary["failures"][0]), rows)]
    if summary["unscored"]:
        parts += ["## Not scored on test", "\n".join(f"- {problem}" for problem in summary["unscored"])]
    parts.append("## Importance of the settings")
    if summary["importances"]:
        rows = [[name, f"{share:.2f}"] for name, share in summary["importances"].items()]
        parts.append(_table(["setting", f"share of the variance of {plan.config.objectives[0]}"], rows))
    else:
        parts.append(f"Left out: {summary['without_importances']}.")
    return "\n\n".join(parts) + "\n"


def _trial(plan: Plan, tests: Tests, trial: FrozenTrial) -> dict[str, Any]:
    records = records_of(trial)
    valid: dict[str, Any] = {}
    test: dict[str, Any] = {}
    for dataset in plan.datasets:
        runs = [
            r for r in plan.runs if r.dataset == dataset and r.name in records and records[r.name].state == "finished"
        ]
        if runs:
            metric = records[runs[0].name].metric
            valid[dataset] = _statistics(metric, [records[run.name].value("score") for run in runs])
            scored = [tests[trial.number, run.name] for run in runs if (trial.number, run.name) in tests]
            if scored:
                test[dataset] = _statistics(metric, [found[metric] for found in scored])
    params = trial.user_attrs.get("drawn", {}).get("params", {})
    first = [next(run for run in plan.runs if run.dataset == dataset) for dataset in plan.datasets]
    return {
        "trial": trial.number,
        "state": STATES.get(trial.state, "unfinished"),
        "values": dict(zip(plan.config.objectives, trial.values or [], strict=False)),
        "settings": params,
        "commands": [plan.command(run, params) for run in first] if "drawn" in trial.user_attrs else [],
        "valid": valid,
        "test": test,
        "seconds": sum(record.seconds for record in records.values()),
    }


def _statistics(metric: str, values: list[float]) -> dict[str, Any]:
    return {"metric": metric, "mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "values": values}


def _failure(plan: Plan, trial: FrozenTrial) -> dict[str, Any]:
    """The run that a trial failed by: of those that failed, the one that was tried most."""
    records = records_of(trial)
    failed = [run for run in plan.runs if run.name in records and records[run.name].state == "failed"]
    run = max(failed, key=lambda run: records[run.name].attempts)
    return {
        "trial": trial.number,
        "run": run.name,
        "attempts": records[run.name].attempts,
        "error": records[run.name].error,
        "log": str(plan.run_folder(trial.number, run) / "log.txt"),
    }


def _ranked(plan: Plan, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """By the first objective, those that were pruned after those that were finished, and the rest by number."""
    sign = -1 if plan.directions[0] == "maximize" else 1
    place = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL]
    return sorted(trials, key=lambda t: (place.index(t.state), sign * t.values[0] if t.values else 0.0, t.number))


def _importances(plan: Plan, trials: Sequence[FrozenTrial]) -> tuple[dict[str, float], str | None]:
    """The share of the first objective's variance that each setting explains (fANOVA), and why there is none."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    varying = [s.name for s in plan.settings if len({trial.params[s.name] for trial in done}) > 1]
    if len(done) < 2:
        return {}, f"{len(done)} finished trials; it takes at least 2"
    if not varying:
        return {}, "no setting differs between the finished trials"
    if len({trial.values[0] for trial in done}) < 2:
        return {}, "all finished trials are equally good"
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = choose.copy_of(plan, done)
    found = get_param_importances(
        study, evaluator=FanovaImportanceEvaluator(seed=0), params=varying, target=lambda trial: trial.values[0]
    )
    return {name: float(share) for name, share in found.items()}, None


def _figures(plan: Plan, trials: Sequence[FrozenTrial], summary: dict[str, Any]) -> list[tuple[str, Any]]:
    """By the name of the file."""
    from matplotlib.figure import Figure  # heavy, and only needed here; this class needs no screen

    found = []
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    first, upwards = plan.config.objectives[0], plan.directions[0] == "maximize"
    if done:
        figure = Figure(figsize=(6, 3.5), dpi=120, layout="constrained")
        axes = figure.subplots()
        numbers, values = [trial.number for trial in done], [trial.values[0] for trial in done]
        so_far = [(max if upwards else min)(values[: i + 1]) for i in range(len(values))]
        axes.plot(numbers, values, "o", label="trial")
        axes.step(numbers, so_far, where="post", label="best so far")
        axes.set(xlabel="trial", ylabel=first)
        axes.legend()
        found.append(("history.png", figure))
    if summary["importances"]:
        names = list(reversed(summary["importances"]))
        figure = Figure(figsize=(6, 1 + 0.4 * len(names)), dpi=120, layout="constrained")
        axes = figure.subplots()
        axes.barh(names, [summary["importances"][name] for name in names])
        axes.set(xlabel=f"share of the variance of {first}")
        found.append(("importances.png", figure))
    if done and len(plan.directions) > 1:
        figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
        axes = figure.subplots()
        best = [trial for trial in done if trial.number in summary["best"]]
        for some, label in ((done, "trial"), (best, "Pareto front")):
            axes.plot([trial.values[0] for trial in some], [trial.values[1] for trial in some], "o", label=label)
        for trial in best:
            axes.annotate(str(trial.number), trial.values[:2], fontsize=7)
        axes.set(xlabel=first, ylabel=plan.config.objectives[1])
        axes.legend()
        found.append(("pareto.png", figure))
    return found


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.0f}"


def _spread(found: dict[str, Any]) -> str:
    return f"{found['mean']:.4f}" + (f" ± {found['std']:.4f}" if found["std"] is not None else "")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

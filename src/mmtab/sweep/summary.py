"""The results of a sweep: summary.json, summary.md and plots, written to its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mmtab.sweep.display import STATES, settings_text
from mmtab.sweep.draws import copy_study
from mmtab.sweep.plan import Plan
from mmtab.sweep.study import Study, results_of
from mmtab.utils.atomic import replacing, write_text
from mmtab.utils.text import text_table

Tests = dict[tuple[int, str], dict[str, Any]]  # metrics on test, by trial and run
RANKS = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL]


def summarise(plan: Plan, study: Study, unscored: Sequence[str]) -> dict[str, Any]:
    """The results in plain values. ``unscored``: what could not be scored on test or has no report, and why."""
    trials = {number: trial for number, trial in enumerate(study.trials()) if trial.state != TrialState.WAITING}
    tests = study.tests()
    importances, reason = _importances(plan, list(trials.values()))
    ranked = sorted(trials, key=lambda n: (RANKS.index(trials[n].state), plan.loss(trials[n]), n))
    return {
        "sweep": study.study.study_name,
        "definition": plan.definition,
        "best": study.best(),
        "trials": [_trial(plan, tests, number, trials[number]) for number in ranked],
        "failures": [_failure(plan, n, trial) for n, trial in trials.items() if trial.state == TrialState.FAIL],
        "unscored": list(unscored),
        "importances": importances,
        "without_importances": reason,
    }


def write_summary(plan: Plan, study: Study, summary: dict[str, Any]) -> str:
    """Write what is not there yet; returns the text of summary.md."""
    text = markdown(plan, summary)
    content, path = json.dumps(summary, indent=1, ensure_ascii=False), plan.output / "summary.json"
    written = {path: content, plan.output / "summary.md": text}
    if any(not p.exists() or p.read_bytes() != wanted.encode() for p, wanted in written.items()):
        _write_plots(plan, study.trials(), list(summary["importances"]))
        write_text(plan.output / "summary.md", text)
        write_text(path, content)  # last, for it says that all of this is there
    return text


def markdown(plan: Plan, summary: dict[str, Any]) -> str:
    trials = summary["trials"]
    by_number = {trial["trial"]: trial for trial in trials}
    states = [trial["state"] for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("finished", "pruned", "failed", "unfinished"))
    parts = [
        f"# {summary['sweep']}",
        f"Trials: {counts}. Scores are on valid; a trial's score is the average over datasets of the mean over seeds.",
    ]
    for number in summary["best"]:
        best = by_number[number]
        title = "Best" if len(plan.directions) == 1 else "On the Pareto front"
        reached = ", ".join(f"{name} {_number(value)}" for name, value in best["values"].items())
        rows = [
            [name, valid["metric"], _mean(valid), _mean(best["test"].get(name))]
            for name, valid in best["valid"].items()
        ]
        parts += [
            f"## {title}: trial {number}, {reached}",
            "```\n" + "\n".join(best["commands"]) + "\n```",
            text_table(["dataset", "metric", "valid", "test"], rows),
        ]
    rows = [
        [str(trial["trial"]), trial["state"]]
        + [_number(trial["values"].get(name)) for name in plan.config.objectives]
        + [_mean(trial["valid"].get(name)) for name in plan.datasets]
        + [settings_text(trial["settings"])]
        for trial in trials
    ]
    head = ["trial", "state", *plan.config.objectives, *plan.datasets, "settings"]
    parts += ["## Trials", text_table(head, rows)]
    if summary["failures"]:
        rows = [[str(cell) for cell in failure.values()] for failure in summary["failures"]]
        parts += ["## Failures", text_table(list(summary["failures"][0]), rows)]
    if summary["unscored"]:
        parts += [
            "## Not scored on test, or without a report",
            "\n".join(f"- {problem}" for problem in summary["unscored"]),
        ]
    parts.append("## Importance of the settings")
    if summary["importances"]:
        rows = [[name, f"{share:.2f}"] for name, share in summary["importances"].items()]
        parts.append(text_table(["setting", f"share of the variance of {plan.config.objectives[0]}"], rows))
    else:
        parts.append(f"Left out: {summary['without_importances']}.")
    return "\n\n".join(parts) + "\n"


def _trial(plan: Plan, tests: Tests, number: int, trial: FrozenTrial) -> dict[str, Any]:
    results = {name: result for name, result in results_of(trial).items() if result.finished}
    drawn = trial.user_attrs.get("drawn")
    first_runs = [next(run for run in plan.runs if run.dataset == dataset) for dataset in plan.datasets]
    valid: dict[str, Any] = {}
    test: dict[str, Any] = {}
    for dataset in plan.datasets:
        names = [run.name for run in plan.runs if run.dataset == dataset and run.name in results]
        if names:
            metric = results[names[0]].metric
            valid[dataset] = _statistics(metric, [results[name].values["score"] for name in names])
            scored = [tests[number, name][metric] for name in names if (number, name) in tests]
            if scored:
                test[dataset] = _statistics(metric, scored)
    return {
        "trial": number,
        "state": STATES.get(trial.state, "unfinished"),
        "values": dict(zip(plan.config.objectives, trial.values or [], strict=False)),
        "settings": drawn["params"] if drawn else {},
        "folder": drawn["folder"] if drawn else None,
        "commands": [plan.command(run, drawn["params"]) for run in first_runs] if drawn else [],
        "valid": valid,
        "test": test,
        "seconds": sum(result.seconds for result in results_of(trial).values()),
    }


def _statistics(metric: str, values: list[float]) -> dict[str, Any]:
    return {"metric": metric, "mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "values": values}


def _failure(plan: Plan, number: int, trial: FrozenTrial) -> dict[str, Any]:
    name = trial.user_attrs["failed_run"]
    result = results_of(trial)[name]
    log = plan.output / trial.user_attrs["drawn"]["folder"] / name / "log.txt"
    return {"trial": number, "run": name, "attempts": result.attempts, "error": result.error, "log": str(log)}


def _importances(plan: Plan, trials: Sequence[FrozenTrial]) -> tuple[dict[str, float], str | None]:
    """The share of the first objective's variance that each setting explains (fANOVA), or why there is none."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    varying = [s.name for s in plan.settings if len({trial.params[s.name] for trial in complete}) > 1]
    if len(complete) < 2:
        return {}, f"{len(complete)} finished trials; it takes at least 2"
    if not varying:
        return {}, "no setting differs between the finished trials"
    if len({trial.values[0] for trial in complete}) < 2:
        return {}, "all finished trials are equally good"
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    shares = get_param_importances(
        copy_study(plan, complete),
        evaluator=FanovaImportanceEvaluator(seed=0),
        params=varying,
        target=lambda trial: trial.values[0],
    )
    return {name: float(share) for name, share in shares.items()}, None


def _write_plots(plan: Plan, trials: Sequence[FrozenTrial], varying: Sequence[str]) -> None:
    """history.png and, where there is something to show, importances.png and pareto.png."""
    if all(trial.state != TrialState.COMPLETE for trial in trials):
        return
    import matplotlib.pyplot as plt
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as plots

    plt.switch_backend("agg")  # needs no screen
    names, study = plan.config.objectives, copy_study(plan, trials)
    first: dict[str, Any] = {"target": lambda trial: trial.values[0], "target_name": names[0]}
    axes: dict[str, Any] = {"history": plots.plot_optimization_history(study, **(first if len(names) > 1 else {}))}
    if varying:
        evaluator = FanovaImportanceEvaluator(seed=0)
        axes["importances"] = plots.plot_param_importances(study, evaluator=evaluator, params=list(varying), **first)
    if len(names) > 1:
        two: dict[str, Any] = {"targets": lambda trial: trial.values[:2], "target_names": names[:2]}
        axes["pareto"] = plots.plot_pareto_front(study, **two)
    for name, plot in axes.items():
        with replacing(plan.output / f"{name}.png") as scratch:
            plot.figure.savefig(scratch, format="png", bbox_inches="tight")
        plt.close(plot.figure)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:,.0f}"


def _mean(statistics: dict[str, Any] | None) -> str:
    if statistics is None:
        return ""
    return f"{statistics['mean']:.4f}" + (f" ± {statistics['std']:.4f}" if statistics["std"] is not None else "")

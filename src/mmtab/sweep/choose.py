"""What a trial draws, and whether it ends early: functions of the campaign's seed, the trial's number and the trials before.

Nothing of a draw is kept in a process, and Optuna is asked about a copy of the study in memory. So a process may be killed at
any moment, and whoever draws again draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, create_trial

from mmtab.sweep.plan import Plan
from mmtab.sweep.space import Value, grid_point

POPULATION = 10  # of nsgaii: campaigns have tens of trials, and its first generation is random
REDUCTION = 3  # of halving and hyperband: a third of the trials goes on
System = dict[str, Any]  # what a sampler or pruner of Optuna notes about a trial for the next time


def draw(plan: Plan, number: int, before: Sequence[FrozenTrial]) -> tuple[dict[str, Value], System]:
    """The settings of a trial. ``before``: all trials of lower number, in order, of which the running ones count as such."""
    kind, seed, settings = plan.config.sampler, plan.config.seed, plan.settings
    if not settings:
        return {}, {}
    if kind == "grid":
        return dict(zip([s.name for s in settings], grid_point(settings, number), strict=True)), {}
    if kind in ("random", "qmc"):
        places = _sobol(seed, number, len(settings)) if kind == "qmc" else np.random.default_rng([seed, number]).random(len(settings))  # fmt: skip
        return {s.name: s.at(float(place)) for s, place in zip(settings, places, strict=True)}, {}
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    sampler = TPESampler(seed=own) if kind == "tpe" else NSGAIISampler(seed=own, population_size=POPULATION)
    study = copy_of(plan, before, sampler)
    asked = study.ask({s.name: s.distribution for s in settings})
    system = {key: value for key, value in study.trials[-1].system_attrs.items() if not key.startswith("tpe:")}
    return {s.name: s.tidy(asked.params[s.name]) for s in settings}, system


def hopeless(plan: Plan, trials: Sequence[FrozenTrial], number: int, step: int, value: float) -> tuple[bool, System]:
    """Whether a trial ends here, by its mean over the first ``step`` runs and those of the others. ``trials``: all."""
    study = copy_of(plan, trials, pruner=_pruner(plan))
    trial = study.trials[number]
    # Its other means are of fewer datasets: the best of them, which the median is compared to, may be of the easiest one.
    trial.intermediate_values = {step: value}
    return bool(study.pruner.prune(study, trial)), study.trials[number].system_attrs


def copy_of(
    plan: Plan, trials: Sequence[FrozenTrial], sampler: BaseSampler | None = None, pruner: BasePruner | None = None
) -> optuna.Study:
    """A study in memory with the same trials by the same numbers."""
    study = optuna.create_study(
        study_name="copy", directions=plan.directions, sampler=sampler or TPESampler(), pruner=pruner or _pruner(plan)
    )
    for trial in trials:
        same = create_trial(
            state=trial.state,
            values=trial.values,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=noted(trial),
            intermediate_values=trial.intermediate_values,
        )
        study.add_trial(same)
    return study


def noted(trial: FrozenTrial) -> System:
    """What sampler and pruner noted about a trial."""
    return {
        key: value
        for name in ("drawn", "judged")
        for key, value in trial.user_attrs.get(name, {}).get("system", {}).items()
    }


def _sobol(seed: int, number: int, n: int) -> np.ndarray:
    from scipy.stats import qmc  # takes a second to import

    engine = qmc.Sobol(n, scramble=True, seed=seed)
    if number:
        engine.fast_forward(number)
    return engine.random(1)[0]


def _pruner(plan: Plan) -> BasePruner:
    if plan.config.pruner == "median":
        return MedianPruner()
    if plan.config.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    if plan.config.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=len(plan.runs), reduction_factor=REDUCTION)
    return optuna.pruners.NopPruner()

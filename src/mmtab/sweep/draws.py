"""What a trial draws and whether it is pruned: functions of the sweep's seed, the trial's number and the trials before.

Samplers and pruners of Optuna are made anew for each question, and asked about a copy of the study in memory. So no
state is lost with a process that is killed, and whoever draws again draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from mmtab.sweep.plan import Plan
from mmtab.sweep.space import Value, grid_point

POPULATION = 10  # of nsgaii: sweeps have tens of trials, and its first generation is random
REDUCTION = 3  # of halving and hyperband: a third of the trials goes on
System = dict[str, Any]  # what a sampler or pruner notes about a trial for the next time


def draw(plan: Plan, number: int, before: Sequence[FrozenTrial]) -> tuple[dict[str, Value], System]:
    """The settings of a trial, given all trials of lower number in order."""
    kind, seed, settings = plan.config.sampler, plan.config.seed, plan.settings
    if not settings:
        return {}, {}
    if kind == "grid":
        return dict(zip([setting.name for setting in settings], grid_point(settings, number), strict=True)), {}
    if kind in ("random", "qmc"):
        rng = np.random.default_rng([seed, number])
        shares = _sobol(seed, number, len(settings)) if kind == "qmc" else rng.random(len(settings))
        return {setting.name: setting.at(float(share)) for setting, share in zip(settings, shares, strict=True)}, {}
    state = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    sampler = TPESampler(seed=state) if kind == "tpe" else NSGAIISampler(seed=state, population_size=POPULATION)
    study = copy_study(plan, before, sampler)
    trial = study.ask({setting.name: setting.distribution for setting in settings})
    system = {key: value for key, value in study.trials[-1].system_attrs.items() if not key.startswith("tpe:")}
    return {setting.name: setting.tidy(trial.params[setting.name]) for setting in settings}, system


def should_prune(
    plan: Plan, trials: Sequence[FrozenTrial], number: int, step: int, value: float
) -> tuple[bool, System]:
    """Whether a trial ends after its first ``step`` runs, whose mean is ``value``. ``trials``: all of the sweep."""
    pruners = {
        "none": NopPruner(),
        "median": MedianPruner(),
        "halving": SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION),
        "hyperband": HyperbandPruner(min_resource=1, max_resource=len(plan.runs), reduction_factor=REDUCTION),
    }
    study = copy_study(plan, trials, pruner=pruners[plan.config.pruner])
    trial = study.trials[number]
    # Its earlier means are of fewer datasets: the best of them, to which the median is compared, may be of the easiest.
    trial.intermediate_values = {step: value}
    return bool(study.pruner.prune(study, trial)), study.trials[number].system_attrs


def copy_study(
    plan: Plan, trials: Sequence[FrozenTrial], sampler: BaseSampler | None = None, pruner: BasePruner | None = None
) -> optuna.Study:
    """A study in memory with these trials, numbered from 0."""
    study = optuna.create_study(
        directions=plan.directions,
        study_name="copy",  # part of hyperband's choice of a bracket
        sampler=sampler or TPESampler(),
        pruner=pruner or NopPruner(),
    )
    for trial in trials:
        drawn, pruning = (trial.user_attrs.get(name, {}).get("system", {}) for name in ("drawn", "pruning"))
        copy = create_trial(
            state=TrialState.RUNNING if trial.state == TrialState.WAITING else trial.state,  # else ask() would begin it
            values=trial.values,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=drawn | pruning,
            intermediate_values=trial.intermediate_values,
        )
        study.add_trial(copy)
    return study


def _sobol(seed: int, number: int, n: int) -> np.ndarray:
    from scipy.stats import qmc  # takes a second to import

    engine = qmc.Sobol(n, scramble=True, seed=seed)
    if number:
        engine.fast_forward(number)
    return engine.random(1)[0]

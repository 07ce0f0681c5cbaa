"""The controls that keep a benchmark honest: simple models of a dataset. A model that does not beat them has learnt
nothing of its own, and a dataset on which nothing beats them does not tell models apart.

Everything is fitted on train; valid only chooses (a penalty, when to stop, a threshold). The test table is read once,
when the model is fixed, and its labels never: the folder has none."""

from mmtab.benchmark.baselines.controls import BASELINES, Fit, run_baseline

__all__ = ["BASELINES", "Fit", "run_baseline"]

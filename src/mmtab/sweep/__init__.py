"""Sweeps: datasets x seeds x a search space, as runs of mmtab train that may be stopped and resumed at any moment.

A trial is one draw from the space. It is a run for each dataset and seed, and its score is the average over datasets of
the mean over seeds. Trials live in Optuna's storage, so several processes and machines can share a sweep.
"""

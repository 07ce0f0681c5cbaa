"""Campaigns: datasets x seeds x a search space, as runs of scripts/train.py that may be stopped and resumed at any moment.

A trial is one draw from the space; it is a run for each dataset and seed, and its score the average over datasets of the
mean over seeds. What is known of it is kept by Optuna, so that several processes and machines can share a campaign.
"""

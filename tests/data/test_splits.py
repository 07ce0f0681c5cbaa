"""Dividing rows: every row once, classes balanced, groups whole, time in order, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtab.data.splits import FRACTIONS, assign, components

LIMITS = settings(max_examples=80, deadline=None)


@LIMITS
@given(st.lists(st.integers(0, 6), min_size=1, max_size=300), st.integers(0, 5))
def test_stratified_keeps_each_class_within_a_row_of_its_share(kinds: list[int], seed: int) -> None:
    labels = np.unique(kinds, return_inverse=True)[1]
    place = assign(len(labels), FRACTIONS, seed, labels=labels)
    assert (place == assign(len(labels), FRACTIONS, seed, labels=labels)).all()
    for kind in np.unique(labels):
        counts = np.bincount(place[labels == kind], minlength=3)
        assert counts[0] >= 1
        assert (np.abs(counts - np.array(list(FRACTIONS.values())) * counts.sum()) < 2.01).all()
    total = np.bincount(place, minlength=3)
    assert (np.abs(total - np.array(list(FRACTIONS.values())) * len(labels)) <= labels.max() + 1).all()


@LIMITS
@given(st.lists(st.integers(0, 40), min_size=3, max_size=200), st.booleans())
def test_no_group_is_in_two_splits(names: list[int], stratified: bool) -> None:
    groups = np.array(names)
    place = assign(len(groups), FRACTIONS, 0, groups=groups, labels=groups % 3 if stratified else None)
    assert all(len(set(place[groups == g])) == 1 for g in groups)


def test_groups_come_near_the_fractions_and_the_balance() -> None:
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(0, 500, 5000), rng.choice(5, 5000, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    place = assign(5000, FRACTIONS, 0, groups=groups, labels=labels)
    for split, share in enumerate(FRACTIONS.values()):
        for kind in range(5):
            assert np.mean(place[labels == kind] == split) == pytest.approx(share, abs=0.03)


@LIMITS
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200))
def test_time_goes_forward_and_a_moment_is_not_parted(moments: list[float]) -> None:
    times = np.array(moments)
    place = assign(len(times), FRACTIONS, 0, times=times)
    for early in range(3):
        for late in range(early + 1, 3):
            if (place == early).any() and (place == late).any():
                assert times[place == early].max() < times[place == late].min()


def test_fractions_must_sum_to_one() -> None:
    with pytest.raises(ValueError, match="do not sum to 1"):
        assign(10, {"train": 0.7, "test": 0.7}, 0)


def test_components_join_what_pairs_connect() -> None:
    found = components(6, np.array([0, 1, 4]), np.array([1, 2, 5]))
    assert found[0] == found[1] == found[2] != found[3] and found[4] == found[5] != found[3]

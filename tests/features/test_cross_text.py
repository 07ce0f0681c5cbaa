"""Text of two rows in one sequence, whose frozen lower layers read each row by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmtab.config.types import AugmentConfig
from mmtab.data.table import Table
from mmtab.features.backbones import TextBackbone, TextSpec
from mmtab.features.cache import FeatureCache
from mmtab.features.text import Sequences, cross_sequences, without_text
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError

CELLS = {
    "title": pa.array(["a red lamp", "a blue lamp of brass", None, "chair", "table " * 40]),
    "made_of": pa.array(["brass", None, None, "wood of an old tree", "oak"]),
}
FIRST, SECOND = np.array([0, 1, 2, 3, 4, 2, 0, 2]), np.array([1, 0, 0, 2, 3, 4, 4, 2])


@pytest.fixture
def network(backbone: Path) -> TextBackbone:
    return TextBackbone(TextSpec.load(str(backbone), max_length=48), n_tuned_layers=1, apart=True).eval()


@pytest.fixture
def sequences(tmp_path: Path, network: TextBackbone) -> tuple[Sequences, Sequences]:
    """Of some rows, without and with what the frozen layers make of each."""
    store = Store(tmp_path / "store")
    table = Table("toys", "records", tmp_path, pa.array([str(i) for i in range(5)]), CELLS)
    plain = cross_sequences(table, list(CELLS), network.spec, store)
    return plain, replace(plain, states=FeatureCache(store).lower_layers(network, plain))


def test_what_is_computed_once_a_row_is_what_each_pair_would_compute(
    network: TextBackbone, sequences: tuple[Sequences, Sequences]
) -> None:
    plain, stored = (each.double(FIRST, SECOND) for each in sequences)
    assert plain.states is None and stored.states is not None
    with torch.no_grad():
        (x, present), (again, also) = (network(text, 2 * len(FIRST), 2) for text in (plain, stored))
    assert torch.equal(present, also)
    assert present.tolist()[2] == [False, False]  # row 2 has no text
    torch.testing.assert_close(x, again, atol=2e-3, rtol=2e-3)
    assert not torch.allclose(x[0], x[6])  # row 0 beside row 1, and beside row 4: the layers that learn read both


def test_states_follow_their_tokens_through_augmentation(
    network: TextBackbone, sequences: tuple[Sequences, Sequences]
) -> None:
    _, stored = sequences
    rows, n = np.array([0, 1, 3]), 3
    single = stored.single(rows)
    assert single.states is not None
    augment = AugmentConfig(span_deletion=1.0, column_shuffle=1.0)
    text = stored.double(rows, rows, augment, np.random.default_rng(0))
    assert text.states is not None
    for i in range(n):
        known = {
            tuple(state.tolist()): int(token) for token, state in zip(single.ids[i], single.states[i], strict=True)
        }
        inside = text.mask[i]
        of = [known[tuple(state.tolist())] for state in text.states[i][inside]]
        assert of == text.ids[i][inside].tolist()


def test_a_column_left_out_is_not_in_what_frozen_layers_made_of_the_others(
    network: TextBackbone, sequences: tuple[Sequences, Sequences]
) -> None:
    plain, stored = (without_text(each.double(FIRST, SECOND), 0, 2) for each in sequences)
    with torch.no_grad():
        (x, present), (again, _) = (network(text, 2 * len(FIRST), 2) for text in (plain, stored))
    assert torch.equal(x, again)
    assert not present[:, 0].any() and present[:, 1].any()


def test_layers_shared_by_processes_are_not_cut_in_two(network: TextBackbone) -> None:
    with pytest.raises(ConfigError, match=r"pair_head\.cross\.apart=false, or trainer=ddp"):
        network.run_all_layers()

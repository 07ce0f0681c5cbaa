"""The linear base of a k-way model: what it says, what it is fitted to, and that fusion begins where it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from toy_data import write_kway

import mmtab
from mmtab.model.base import LinearBase
from mmtab.model.solvers import Logistic
from mmtab.runs.session import open_run
from mmtab.runs.setup import prepare
from mmtab.runs.train import train

FROZEN = ("text.n_tuned_layers=0", "trainer.max_epochs=1")


def fitted(configure: Callable[..., Any], folder: Path, *settings: str) -> tuple[Any, LinearBase]:
    prepared = prepare(configure(folder, *FROZEN, *settings))
    base = prepared.session.model.base
    assert isinstance(base, LinearBase)
    return prepared, base


@pytest.mark.parametrize("settings", [(), ("text.n_tuned_layers=1",), ("dataset.drop=[text]",)])
def test_training_begins_from_the_base(
    configure: Callable[..., Any], tmp_path: Path, settings: tuple[str, ...]
) -> None:
    prepared, base = fitted(configure, write_kway(tmp_path / "toys", n=60), *settings)
    batch = next(prepared.valid.in_order())
    with prepared.session.evaluating():
        alone, together = base(batch.table), prepared.session.model(batch).logits
    assert torch.allclose(alone, together.log_softmax(1), atol=0.1)
    assert (alone.argmax(1) == batch.label).float().mean() > 0.6
    assert torch.allclose(alone.exp().sum(1), torch.ones(len(alone)), atol=0.5)


def test_what_training_is_told_of_a_row_is_by_fits_to_other_rows(configure: Callable[..., Any], tmp_path: Path) -> None:
    """Labels of train are noise: a fit knows those it saw, and no others."""
    folder = write_kway(tmp_path / "toys", n=300)
    path = folder / "train.parquet"
    table = pa.parquet.read_table(path)
    noise = pa.array([f"kind {kind}" for kind in np.random.default_rng(0).integers(0, 3, len(table))])
    pa.parquet.write_table(table.set_column(table.column_names.index("label"), "label", noise), path)
    prepared, base = fitted(configure, folder)
    batch = next(prepared.train.in_order())
    with torch.no_grad():
        seen = base(prepared.train.table.rows(batch.row.numpy()))
    told = torch.from_numpy(prepared.train.base)
    right = [(logits.argmax(1) == batch.label).float().mean().item() for logits in (seen, told)]
    assert right[0] > right[1] + 0.1 and right[1] < 0.45


def test_a_category_that_valid_does_not_share_is_of_no_use_to_it(configure: Callable[..., Any], tmp_path: Path) -> None:
    """In train the artist gives the genre away; the artists of valid are others."""
    folder = write_kway(tmp_path / "toys", n=200, images=False)
    for split in ("train", "valid", "test"):
        path = folder / f"{split}.parquet"
        table = pa.parquet.read_table(path)
        kinds = table["label"].to_pylist()
        artists = pa.array([f"{split} {kind} {i % 4}" for i, kind in enumerate(kinds)])
        pa.parquet.write_table(table.set_column(table.column_names.index("colour"), "colour", artists), path)
    prepared, base = fitted(configure, folder)
    start = base.parts["ngrams"].n_first + base.parts["ngrams"].n_dense
    assert (base.parts["ngrams"].weight[start:] == 0).all() and (
        base.parts["vectors"].weight[-base.n_ids[0] :] == 0
    ).all()
    ids = prepared.train.table.categorical[:, 0]
    shown = prepared.train.__getitems__(list(range(len(prepared.train)))).table.categorical[:, 0].numpy()
    assert (ids > 1).mean() > 0.9 and (shown == 1).all(), "training shows them as values that it does not know"


@pytest.mark.parametrize("settings", [("base=none",), ("kway_head.n_sampled=2",)])
def test_a_model_may_have_none(configure: Callable[..., Any], tmp_path: Path, settings: tuple[str, ...]) -> None:
    prepared = prepare(configure(write_kway(tmp_path / "toys"), *FROZEN, *settings))
    assert prepared.session.model.base is None and prepared.train.base is None
    assert prepared.session.fitted.lexicon is None, "nothing would read it"


def test_a_run_keeps_its_base_and_says_what_it_adds(configure: Callable[..., Any], tmp_path: Path) -> None:
    config = configure(write_kway(tmp_path / "toys", n=100), *FROZEN)
    train(config, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert set(facts["base"]["valid"]) >= {"accuracy", "log_loss"}
    again, prepared = open_run(tmp_path / "run"), prepare(config)
    first, second = again.model.base.state_dict(), prepared.session.model.base.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    run = mmtab.load_run(tmp_path / "run")
    page = run.report().read_text()
    assert "the base alone has" in page


def test_a_run_that_differs_elsewhere_takes_the_same_base(
    tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, fits, fit = write_kway(tmp_path / "data"), 0, Logistic.fits

    def counted(*arguments: Any) -> Any:
        nonlocal fits
        fits += 1
        return fit(*arguments)

    monkeypatch.setattr(Logistic, "fits", counted)
    options = ["base=linear", "dataset.drop=[image]", "trainer.max_epochs=1", f"cache={tmp_path / 'cache'}"]
    first = train(configure(data, *options), tmp_path / "first")
    n_fits = fits
    train(configure(data, *options, "d_model=8"), tmp_path / "second")
    assert fits == n_fits > 0
    assert train(configure(data, *options), tmp_path / "again") == first
    train(configure(data, *options, "seed=1"), tmp_path / "third")
    assert fits > n_fits, "other folds"

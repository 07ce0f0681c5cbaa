"""Models that learn side by side and are averaged are one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from toy_data import write_kway, write_numbers, write_pairs

import mmtab
from mmtab.config.types import RunConfig
from mmtab.model.matcher import Matcher
from mmtab.model.row_model import RowModel
from mmtab.runs.evaluate import evaluate
from mmtab.runs.session import open_run
from mmtab.runs.train import train

SMALL = ["trainer.max_epochs=2", "trainer.precision=fp32", "text.n_depths=1"]


@pytest.mark.parametrize(
    ("base", "write"),
    [
        ("linear", write_kway),
        ("linear", write_numbers),
        ("none", write_numbers),
        pytest.param("none", write_kway, marks=pytest.mark.slow),
    ],
)
def test_a_run_of_several_predicts_the_mean_of_their_scores(
    write: Any, base: str, configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    data, folder = write(tmp_path / "data", n=60), tmp_path / "run"
    valid = train(configure(data, *SMALL, "n_members=3", f"base={base}"), folder)
    assert evaluate(folder, "valid") == valid
    session = open_run(folder)
    model = session.model
    assert isinstance(model, RowModel) and len(model.others) == 2
    names = {name.split("backbone")[0] for name, _ in model.named_parameters() if "backbone" in name}
    assert names == {"tokenizer.encoders.text.", "tokenizer.encoders.image."}, "pretrained networks are there once"

    batches, _, _ = session.load("test", data)
    batch, singles = batches.__getitems__([*range(len(batches))]), []
    for single in (model, *model.others):
        assert single is model or not torch.equal(single.head.layers[1].weight, model.head.layers[1].weight)
        singles.append(scores_of(alone(single, model.base), batch))
    np.testing.assert_allclose(scores_of(model, batch), np.mean(singles, 0), atol=1e-5)
    rows = pq.read_table(data / "test.parquet")
    assert mmtab.load_run(folder).embed(rows, image_root=data).shape == (len(rows), 3 * 16)


def alone(single: Any, base: Any) -> RowModel:
    """The model that one of several is."""
    weights = [parameter.detach().clone() for parameter in single.head.parameters()]
    model = RowModel(single.tokenizer, single.fusion, single.head, base)
    with torch.no_grad():  # a new model begins with next to nothing
        for parameter, weight in zip(single.head.parameters(), weights, strict=True):
            parameter.copy_(weight)
    return model.eval()


def scores_of(model: RowModel, batch: Any) -> np.ndarray:
    """[n, k] logits, or [n, 1] numbers."""
    with torch.no_grad():
        scores: Any = model(batch)
        return (scores.logits if hasattr(scores, "logits") else scores.value[:, None]).numpy()


def test_one_of_several_is_the_model_that_there_would_be_alone(
    configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    data = write_kway(tmp_path / "data", n=40, images=False)
    states = []
    for n in (1, 2):
        folder = tmp_path / f"run{n}"
        train(
            configure(
                data,
                *SMALL,
                "trainer.lr=0",
                "trainer.backbone_lr=0",
                "trainer.max_epochs=1",
                f"n_members={n}",
                "base=none",
            ),
            folder,
        )
        states.append(open_run(folder).model.state_dict())
    assert set(states[0]) < set(states[1])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("head", ["combined", "fusion", "two_tower"])
def test_a_run_of_several_matchers_predicts_the_mean_of_their_logits(
    head: str, configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    data, folder = write_pairs(tmp_path / "data", n=60), tmp_path / "run"
    valid = train(configure(data, *SMALL, "n_members=2", f"pair_head={head}"), folder)
    assert evaluate(folder, "valid") == valid
    session = open_run(folder)
    model = session.model
    assert isinstance(model, Matcher) and len(model.others) == 1
    names = {name.split("backbone")[0] for name, _ in model.named_parameters() if "backbone" in name}
    assert not any(name.startswith("others") for name in names), "pretrained networks are there once"
    assert not any(name.startswith("others.0.base") for name in model.state_dict()), "the base is there once"

    batches, _, _ = session.load("test", data)
    batch = batches.__getitems__([*range(len(batches))])
    turned = replace(batch, left=batch.right, right=batch.left)
    logits, back = (logits_of(model, one) for one in (batch, turned))
    assert np.array_equal(logits, back), "the same from either side, to the last bit"
    others, model.others = [*model.others], nn.ModuleList()
    singles = [logits_of(one, batch) for one in (model, *others)]
    assert not np.allclose(*singles)
    np.testing.assert_allclose(logits, np.mean(singles, 0), atol=1e-5)
    if head != "fusion":  # whose rows have no vectors
        rows = pq.read_table(data / "left.parquet")
        assert mmtab.load_run(folder).embed(rows, image_root=data, side="left").shape == (len(rows), 2 * 16)


def logits_of(model: Matcher, batch: Any) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(batch).logits.numpy()

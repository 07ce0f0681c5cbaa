"""An encoder of one's own needs what the ``ColumnEncoder`` protocol says, and nothing else: of every column type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from toy_data import write_kway, write_pairs

import mmtab
from mmtab.features.batches import TensorTable, Tokens
from mmtab.runs.session import open_run

N_BUCKETS = 64


class OwnText(torch.nn.Module):
    """The mean embedding of a cell's tokens."""

    tokens_per_column = 1

    def __init__(self, n_columns: int, d_model: int) -> None:
        super().__init__()
        self.n_columns = n_columns
        self.embedding = torch.nn.Embedding(N_BUCKETS, d_model)
        self.missing = torch.nn.Parameter(torch.randn(n_columns, d_model))

    def forward(self, table: TensorTable) -> Tokens:
        text = table.text
        x = self.missing.repeat(table.n_rows, 1)
        for part in range(text.slot.shape[1]):
            has_cell = text.slot[:, part] >= 0
            inside = (text.part == part)[has_cell, :, None].to(x.dtype)
            cells = (self.embedding(text.ids[has_cell] % N_BUCKETS) * inside).sum(1) / inside.sum(1).clamp(min=1)
            x = x.index_put((text.slot[has_cell, part],), cells.to(x.dtype))
        return all_present(x.view(table.n_rows, self.n_columns, -1))


class OwnImage(torch.nn.Module):
    """The mean colour of each cell's pictures, and their spread: two tokens a cell."""

    tokens_per_column = 2

    def __init__(self, n_columns: int, d_model: int, brightness: float = 1.0) -> None:
        super().__init__()
        self.n_columns, self.brightness = n_columns, brightness
        self.colour, self.spread = torch.nn.Linear(3, d_model), torch.nn.Linear(3, d_model)
        self.missing = torch.nn.Parameter(torch.randn(n_columns, 2, d_model))

    def forward(self, table: TensorTable) -> Tokens:
        pixels, index = table.image.pixels.float() / 255 * self.brightness, table.image.index
        tokens = torch.stack([self.colour(pixels.mean((2, 3))), self.spread(pixels.std((2, 3)))], 1)
        tokens = torch.cat([tokens, tokens.new_zeros(1, *tokens.shape[1:])])  # the last is for no picture
        present = index >= 0
        count = present.sum(2)[..., None, None]
        x = tokens[torch.where(present, index, len(tokens) - 1)].sum(2) / count.clamp(min=1)
        return all_present(torch.where(count > 0, x, self.missing.to(x.dtype)).flatten(1, 2))


class OwnNumeric(torch.nn.Module):
    tokens_per_column = 1

    def __init__(self, n_columns: int, d_model: int) -> None:
        super().__init__()
        self.n_columns = n_columns
        self.weight = torch.nn.Parameter(torch.randn(n_columns, d_model))
        self.missing = torch.nn.Parameter(torch.randn(n_columns, d_model))

    def forward(self, table: TensorTable) -> Tokens:
        x = table.numeric.nan_to_num(0.0)[..., None] * self.weight
        return all_present(torch.where(table.numeric.isnan()[..., None], self.missing.to(x.dtype), x))


class OwnCategorical(torch.nn.Module):
    tokens_per_column = 1

    def __init__(self, n_ids: list[int], d_model: int) -> None:
        super().__init__()
        self.n_columns = len(n_ids)
        self.columns = torch.nn.ModuleList(torch.nn.Embedding(n, d_model) for n in n_ids)

    def forward(self, table: TensorTable) -> Tokens:
        return all_present(torch.stack([column(table.categorical[:, c]) for c, column in enumerate(self.columns)], 1))


def all_present(x: torch.Tensor) -> Tokens:
    return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))


OWN = {"text": OwnText, "image": OwnImage, "numeric": OwnNumeric, "categorical": OwnCategorical}
SETTINGS: dict[str, dict[str, Any]] = {"text": {"max_length": 32}, "image": {"size": 16, "brightness": 2.0}}
TINY: dict[str, Any] = {
    "d_model": 16,
    "fusion": {"d_hidden": 32},
    "trainer": {"max_epochs": 3, "batch_size": 16, "progress": False},
} | {name: {"_target_": f"{__name__}.{encoder.__name__}", **SETTINGS.get(name, {})} for name, encoder in OWN.items()}


@pytest.mark.parametrize("encoder", OWN.values(), ids=OWN.keys())
def test_own_encoders_have_no_more_than_the_protocol(encoder: type[torch.nn.Module]) -> None:
    methods = {name for name in vars(encoder) if not name.startswith("__")}
    assert methods == {"tokens_per_column", "forward"}


def test_kway_trains_and_predicts_with_own_encoders_of_every_type(tmp_path: Path, backbone: Path) -> None:
    folder = write_kway(tmp_path / "toys", n=90)
    settings = TINY | {"text": TINY["text"] | {"backbone": str(backbone)}}
    run = mmtab.fit(folder, output=tmp_path / "run", **settings)
    assert run.evaluate()["accuracy"] > 0.5
    rows = pd.read_parquet(folder / "test.parquet").drop(columns="label")
    predicted = run.predict(rows, image_root=folder)
    opened = mmtab.load_run(run.folder)
    assert len(predicted) == len(rows) and np.array_equal(opened.predict(rows, image_root=folder), predicted)
    model = open_run(run.folder).model
    assert {kind: type(encoder) for kind, encoder in model.tokenizer.encoders.items()} == OWN
    assert model.tokenizer.encoders["image"].brightness == 2.0


def test_matching_trains_and_predicts_with_own_encoders_of_every_type(tmp_path: Path, backbone: Path) -> None:
    folder = write_pairs(tmp_path / "toys", n=24)
    settings = TINY | {"text": TINY["text"] | {"backbone": str(backbone)}}
    settings |= {"pair_head": {"cross_text": True}, "trainer": TINY["trainer"] | {"max_epochs": 1}}
    run = mmtab.fit(folder, output=tmp_path / "run", **settings)
    assert "f1" in run.evaluate()
    left, right, pairs = (pd.read_parquet(folder / f"{name}.parquet") for name in ("left", "right", "pairs_test"))
    predicted = mmtab.load_run(run.folder).predict(
        pairs.drop(columns="label"), image_root=folder, left=left, right=right
    )
    assert len(predicted) == len(pairs) and set(predicted.tolist()) <= {0, 1}

"""Text: a Hugging Face transformer, pooled to one token a cell."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmtab.encoders.backbones import MINILM, text_backbone
from mmtab.errors import ConfigError
from mmtab.tensors import TensorTable, TextBatch, Tokens


class TextEncoder(nn.Module):
    """One token a text cell: the mean of the cell's hidden states, projected.

    How cells share sequences is the batch's matter (``layout``, ``max_length``, ``also`` and ``column_prefix`` are
    read by datamodule.py): ``joint`` puts a row's cells, or both rows of a pair, in one sequence in which they attend to
    each other; ``column`` gives each cell a sequence of its own. ``also`` names further column types to write out as
    text, such as ``[categorical]``.

    ``column_prefix`` stands before each cell, with the column's name in the place of {}; "COL {} VAL " is Ditto's.

    ``n_tuned_layers``: the top layers that learn; 0 freezes the backbone (its outputs are then computed once and
    stored), null tunes everything. ``dropout`` is the backbone's own, on hidden states.
    """

    tokens_per_column = 1

    def __init__(
        self,
        n_columns: int,
        d_model: int,
        backbone: str = MINILM,
        n_tuned_layers: int | None = None,
        layout: Literal["joint", "column"] = "joint",
        max_length: int = 128,
        also: Sequence[str] = (),
        column_prefix: str = "{}: ",
        dropout: float = 0.1,
        config_folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.n_columns, self.layout, self.max_length = n_columns, layout, max_length
        self.also, self.column_prefix, self.name = tuple(also), column_prefix, backbone
        self.backbone, self.tokenizer = text_backbone(backbone, config_folder)
        for module in self.backbone.modules():
            if isinstance(module, nn.Dropout) and module.p > 0:
                module.p = dropout
        limit = getattr(self.backbone.config, "max_position_embeddings", None) or max_length
        if max_length > limit:
            raise ConfigError(f"text.max_length={max_length}: {backbone} reads at most {limit} tokens")
        self.d_hidden = int(self.backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.knows_sides = getattr(self.backbone.config, "type_vocab_size", 1) > 1  # type: ignore[operator]
        self.frozen = n_tuned_layers == 0
        self._freeze(n_tuned_layers)
        self.project = nn.Sequential(nn.LayerNorm(self.d_hidden), nn.Linear(self.d_hidden, d_model))
        self.missing = nn.Parameter(torch.randn(n_columns, d_model) * 0.02)

    def forward(self, table: TensorTable) -> Tokens:
        assert table.text is not None
        x, present = self.cells(table.text, table.n_rows)
        x = self.project(x)
        x = torch.where(present[..., None], x, self.missing.to(x.dtype))
        return Tokens(x, torch.ones_like(present))

    def cells(self, text: TextBatch, n_rows: int) -> tuple[Float[Tensor, "b c f"], Bool[Tensor, "b c"]]:
        """The backbone's vector of each cell, and which cells there are."""
        if text.features is not None and text.present is not None:
            return text.features.float(), text.present
        x = torch.zeros(n_rows * self.n_columns, self.d_hidden, device=text.ids.device)
        present = torch.zeros(n_rows * self.n_columns, dtype=torch.bool, device=text.ids.device)
        if len(text.ids):
            with torch.no_grad() if self.frozen else contextlib.nullcontext():
                hidden = self._hidden(text.ids, text.mask, text.side)
                parts = self._pool(hidden, text.part, text.slot.shape[1])
            there = text.slot >= 0
            x = x.index_put((text.slot[there],), parts[there].to(x.dtype))
            present[text.slot[there]] = True
        return x.view(n_rows, self.n_columns, -1), present.view(n_rows, self.n_columns)

    def train(self, mode: bool = True) -> TextEncoder:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()  # no dropout in what does not learn
        return self

    def _hidden(
        self, ids: Int[Tensor, "s l"], mask: Bool[Tensor, "s l"], side: Int[Tensor, "s l"]
    ) -> Float[Tensor, "s l f"]:
        sides = {"token_type_ids": side} if self.knows_sides else {}
        return self.backbone(input_ids=ids, attention_mask=mask.long(), **sides).last_hidden_state

    @staticmethod
    def _pool(hidden: Float[Tensor, "s l f"], part: Int[Tensor, "s l"], n_parts: int) -> Float[Tensor, "s p f"]:
        member = (part[:, None, :] == torch.arange(n_parts, device=part.device)[:, None]).to(hidden.dtype)
        total = torch.bmm(member, hidden)
        return total / member.sum(-1, keepdim=True).clamp(min=1)

    def _freeze(self, n_tuned_layers: int | None) -> None:
        if n_tuned_layers is None:
            return
        layers = _layers(self.backbone)
        if not 0 <= n_tuned_layers <= len(layers):
            raise ConfigError(f"text.n_tuned_layers={n_tuned_layers}: {self.name} has {len(layers)} layers")
        self.backbone.requires_grad_(False)
        for layer in layers[len(layers) - n_tuned_layers :]:
            layer.requires_grad_(True)


def _layers(backbone: nn.Module) -> nn.ModuleList:
    """The transformer's blocks: the longest list of modules in it, whatever the architecture calls it."""
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=nn.ModuleList())

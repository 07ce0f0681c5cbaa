"""Text: a Hugging Face transformer, pooled to one token a cell."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmtab.features.backbones import MINILM, text_backbone
from mmtab.features.batches import TensorTable, TextBatch, Tokens
from mmtab.utils.errors import ConfigError


class TextEncoder(nn.Module):
    """One token a text cell: the mean of the cell's hidden states, projected.

    How cells share sequences is the batch's matter (``layout``, ``max_length``, ``also`` and ``column_prefix`` are
    read by datamodule.py): ``joint`` puts a row's cells, or both rows of a pair, in one sequence in which they attend to
    each other; ``column`` gives each cell a sequence of its own. ``also`` names further column types to write out as
    text, such as ``[categorical]``.

    ``column_prefix`` stands before each cell, with the column's name in the place of {}; "COL {} VAL " is Ditto's.

    ``n_tuned_layers``: the top layers that learn; 0 freezes the backbone, null tunes everything. What frozen layers give
    is computed once and stored: the cells' vectors, or the hidden states that enter the first layer that learns.
    ``dropout`` is the backbone's own, on hidden states, where it learns. ``checkpointing`` keeps no activations inside the
    layers and computes them again for the gradient (Chen et al. 2016): less memory, a third more time.
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
        checkpointing: bool = False,
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
        self.frozen, self.n_tuned_layers = n_tuned_layers == 0, n_tuned_layers
        self._freeze(n_tuned_layers)
        if checkpointing:
            self.backbone.config.use_cache = False  # type: ignore[union-attr]
            name = "activation_checkpointing_enable"  # transformers called it gradient_ before
            name = name if hasattr(self.backbone, name) else "gradient_checkpointing_enable"
            getattr(self.backbone, name)({"use_reentrant": False})
        self.n_frozen_layers = 0
        self._top: tuple[nn.Module, ...] = ()  # a tuple, for as a submodule it would have all its weights twice
        if n_tuned_layers and n_tuned_layers < len(_layers(self.backbone)):
            top = _without_lower(self.backbone, n_tuned_layers)
            if self._agrees(top):
                self.n_frozen_layers, self._top = len(_layers(self.backbone)) - n_tuned_layers, (top,)
        self._always = False
        self.project = nn.Sequential(nn.LayerNorm(self.d_hidden), nn.Linear(self.d_hidden, d_model))
        self.missing = nn.Parameter(torch.randn(n_columns, d_model) * 0.02)

    def run_whole(self) -> None:
        """Run all layers in every step, also those below the ones that learn, whatever is stored of them, and also where
        there is no text: to gather the weights of a layer takes all processes."""
        self._top, self._always = (), True

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
        if not len(text.ids) and self._always:
            some = torch.zeros(1, 1, dtype=torch.long, device=text.ids.device)
            hidden = self._hidden(TextBatch(some, some == 0, some, some - 1, some[:, :0]))
            x = x + 0 * hidden.float().sum()
        elif len(text.ids):
            with torch.no_grad() if self.frozen else contextlib.nullcontext():
                hidden = self._hidden(text)
                parts = self._pool(hidden, text.part, text.slot.shape[1])
            there = text.slot >= 0
            x = x.index_put((text.slot[there],), parts[there].to(x.dtype))
            present[text.slot[there]] = True
        return x.view(n_rows, self.n_columns, -1), present.view(n_rows, self.n_columns)

    def lower(self, text: TextBatch) -> Float[Tensor, "s l f"]:
        """The hidden states that enter the first layer that learns."""
        found: list[Tensor] = []

        def stop(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise _Enough

        first = _layers(self.backbone)[-(self.n_tuned_layers or 0)]
        handle = first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._run(self.backbone, text, input_ids=text.ids)
        except _Enough:
            pass
        finally:
            handle.remove()
        return found[0]

    def train(self, mode: bool = True) -> TextEncoder:
        super().train(mode)
        for module in self.backbone.modules() if mode else ():  # no dropout in what does not learn
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
        return self

    def _hidden(self, text: TextBatch) -> Float[Tensor, "s l f"]:
        if text.states is not None and self._top:
            return self._run(self._top[0], text, inputs_embeds=text.states.float())
        return self._run(self.backbone, text, input_ids=text.ids)

    def _run(self, backbone: nn.Module, text: TextBatch, **inputs: Tensor) -> Float[Tensor, "s l f"]:
        sides = {"token_type_ids": text.side} if self.knows_sides else {}
        return backbone(attention_mask=text.mask.long(), **inputs, **sides).last_hidden_state

    def _agrees(self, top: nn.Module) -> bool:
        """Whether the layers that learn, given what enters them, end where the whole backbone does. An architecture that
        this way of cutting it does not fit runs whole in every step."""
        n = min(8, self.max_length)
        ids = torch.arange(2 * n).view(2, n) % self.backbone.config.vocab_size  # type: ignore[union-attr, operator]
        mask = torch.arange(n) < torch.tensor([[n], [n - 1]])
        text = TextBatch(ids, mask, ids * 0, ids * 0 - 1, ids[:, :0])
        training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.no_grad():
                whole = self._run(self.backbone, text, input_ids=ids)
                cut = self._run(top, text, inputs_embeds=self.lower(text))
            return whole.shape == cut.shape and torch.allclose(whole[mask], cut[mask], atol=1e-4, rtol=1e-4)
        except Exception as error:  # whatever a foreign architecture makes of a stand-in for its embeddings
            warnings.warn(f"text.backbone={self.name}: all its layers run in every step ({error!r})", stacklevel=2)
            return False
        finally:
            self.backbone.train(training)

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


class _Enough(Exception):
    """Ends a forward pass that has come far enough."""


class _Given(nn.Module):
    """In the place of the embeddings: hidden states that are known already."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        given = (kwargs.get("inputs_embeds"), *args)  # DistilBERT does not name them
        return next(x for x in given if isinstance(x, Tensor) and x.is_floating_point())


def _without_lower(backbone: nn.Module, n_tuned: int) -> nn.Module:
    """The same network, sharing all weights, whose first layer is the first that learns, and whose ``inputs_embeds`` are
    the hidden states that enter it."""
    layers = _layers(backbone)
    embeddings: Any = backbone.get_input_embeddings()  # type: ignore[operator]

    def cut(module: nn.Module) -> nn.Module:
        if module is layers:
            return nn.ModuleList(list(layers)[len(layers) - n_tuned :])
        twin = copy.copy(module)
        twin._modules = {
            name: cut(child) if child is not None and any(m is layers for m in child.modules()) else child
            for name, child in module._modules.items()
        }
        return twin

    top = cut(backbone)
    for name, child in top.named_children():
        if any(module is embeddings for module in child.modules()):
            top._modules[name] = _Given()
    return top


def _layers(backbone: nn.Module) -> nn.ModuleList:
    """The transformer's blocks: the longest list of modules in it, whatever the architecture calls it."""
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=nn.ModuleList())

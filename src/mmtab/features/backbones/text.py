"""A pretrained text transformer: how cells become its token sequences, which layers learn, the vectors of cells."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn

from mmtab.features.backbones.pretrained import MINILM, text_network, text_tokenizer
from mmtab.features.batches import TextBatch
from mmtab.utils.errors import ConfigError

LEAST_LENGTH = 128  # of sequences that are cut: nothing is saved by cutting them shorter


@dataclass(frozen=True)
class TextSpec:
    """How cells become token sequences."""

    name: str
    tokenizer: Any
    layout: Literal["joint", "column"]
    max_length: int
    also: tuple[str, ...]
    column_prefix: str

    @staticmethod
    def load(
        backbone: str = MINILM,
        layout: Literal["joint", "column"] = "joint",
        max_length: int | Literal["auto"] = LEAST_LENGTH,
        also: Sequence[str] = (),
        column_prefix: str = "{}: ",
        folder: Path | None = None,
    ) -> TextSpec:
        """With the tokenizer of a backbone.

        backbone       ``minilm-l6``, a Hugging Face name, or a folder
        layout         ``joint``: a row's cells (or both rows' of a pair) in one sequence, in which they attend to each
                       other; ``column``: a sequence for each cell
        max_length     tokens a sequence, special ones too; ``auto``: LEAST_LENGTH, until a table says what it needs
        also           further column types to write out as text, such as ``[categorical]``
        column_prefix  before each cell, {} being its column's name; Ditto (Li et al. 2020) has "COL {} VAL "
        folder         a run folder's copy of the tokenizer, which is read instead
        """
        n_tokens = LEAST_LENGTH if max_length == "auto" else max_length
        return TextSpec(backbone, text_tokenizer(backbone, folder), layout, n_tokens, tuple(also), column_prefix)

    @functools.cached_property
    def rust(self) -> Tokenizer:
        """What cuts cells into tokens, by several threads: making it takes longer than a row does."""
        rust = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        rust.no_padding()
        rust.enable_truncation(self.max_length, direction=self.tokenizer.truncation_side)
        return rust

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


class TextBackbone(nn.Module):
    """A Hugging Face encoder, which makes a vector of each cell: the mean of its hidden states, of the last layer and,
    where all are frozen, of earlier ones too, which know more of words and less of what the text means as a whole.

    What frozen layers give is computed once and stored (see cache.py): the cells' vectors, or the hidden states that
    enter the first layer that learns.

    spec            how cells become its token sequences
    n_tuned_layers  the top layers that learn; 0 freezes all, None tunes all
    n_depths        layers, evenly spaced, whose hidden states make the vector where all are frozen: of six layers 2 are
                    the third and the last; at most all. None: 1
    dropout         of hidden states, in layers that learn
    checkpointing   keep no activations inside the layers and compute them again for the gradient (Chen et al. 2016):
                    less memory, a third more time
    apart           of a pair's sequence the frozen lower layers read each row by itself, so that what they make of it
                    is computed once a row and not once a pair; the layers that learn read both (DeFormer, Cao et al.
                    2020; PreTTR, MacAvaney et al. 2020). Not where all layers learn, or none
    folder          a run folder's copy of the architecture, where weights will come from a checkpoint
    """

    net: Any

    def __init__(
        self,
        spec: TextSpec,
        n_tuned_layers: int | None = None,
        n_depths: int | None = None,
        dropout: float = 0.1,
        checkpointing: bool = False,
        apart: bool = False,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.n_tuned_layers, self.frozen = spec, n_tuned_layers, n_tuned_layers == 0
        self.net = text_network(spec.name, folder)
        for module in self.net.modules():
            if isinstance(module, nn.Dropout) and module.p > 0:
                module.p = dropout
        limit = getattr(self.net.config, "max_position_embeddings", None) or spec.max_length
        if spec.max_length > limit:
            raise ConfigError(f"text.max_length={spec.max_length}: {spec.name} reads at most {limit} tokens")
        n_layers = len(_layers(self.net))
        n_depths = max(min(n_depths or 1, n_layers), 1) if self.frozen else 1
        self._depths = [n_layers * depth // n_depths for depth in range(1, n_depths)]  # below the last
        self.d_hidden = int(self.net.config.hidden_size) * n_depths
        self._takes_sides = getattr(self.net.config, "type_vocab_size", 1) > 1
        self._freeze(n_tuned_layers)
        if checkpointing:
            self.net.config.use_cache = False
            name = "activation_checkpointing_enable"  # transformers called it gradient_ before
            name = name if hasattr(self.net, name) else "gradient_checkpointing_enable"
            getattr(self.net, name)({"use_reentrant": False})
        self.n_frozen_layers = 0
        self._top: tuple[nn.Module, ...] = ()  # a tuple, for as a submodule it would have all its weights twice
        if n_tuned_layers and n_tuned_layers < len(_layers(self.net)):
            top = _without_lower(self.net, n_tuned_layers)
            if self._agrees(top):
                self.n_frozen_layers, self._top = len(_layers(self.net)) - n_tuned_layers, (top,)
        self.side: nn.Embedding | None = None
        if apart and self._top:  # the lower layers no longer tell the layers that learn which row a token is of
            self.side = nn.Embedding(2, int(self.net.config.hidden_size))
            nn.init.normal_(self.side.weight, std=0.1)
        self._always = False

    def run_all_layers(self) -> None:
        """In every step, also those below the ones that learn, whatever is stored of them, and also where there is no
        text: to gather the weights of a layer takes all processes. Raises ConfigError where those below read rows
        apart, as they then run by themselves."""
        if self.side is not None:
            raise ConfigError(
                "trainer=fsdp: its processes share the layers of a text network, which pair_head.cross.apart=true cuts "
                "in two; set pair_head.cross.apart=false, or trainer=ddp"
            )
        self._top, self._always = (), True

    def forward(
        self, text: TextBatch, n_rows: int, n_columns: int
    ) -> tuple[Float[Tensor, "b c f"], Bool[Tensor, "b c"]]:
        """The vector of each cell, stored or computed, and which cells there are."""
        if text.features is not None and text.present is not None:
            return text.features.float(), text.present
        if text.ids.shape[0] == 0 and self._always:
            x, present = self._cells(None, text, n_rows, n_columns)
            one = torch.zeros(1, 1, dtype=torch.long, device=text.ids.device)
            hidden = self._hidden(TextBatch(one, one == 0, one, one - 1, one[:, :0]))
            return x + 0 * hidden.float().sum(), present
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            return self._cells(self._hidden(text) if text.ids.shape[0] else None, text, n_rows, n_columns)

    def frozen_cells(
        self, text: TextBatch, n_rows: int, n_columns: int
    ) -> tuple[Float[Tensor, "b c f"], Bool[Tensor, "b c"]]:
        """The vector of each cell as the frozen layers see it, which no training changes, and which cells there are."""
        if self.frozen:
            return self(text, n_rows, n_columns)
        with torch.no_grad():
            states = text.states if text.states is not None or text.ids.shape[0] == 0 else self.lower(text)
            return self._cells(states, text, n_rows, n_columns)

    def _cells(
        self, hidden: Float[Tensor, "s l f"] | None, text: TextBatch, n_rows: int, n_columns: int
    ) -> tuple[Float[Tensor, "b c f"], Bool[Tensor, "b c"]]:
        """The mean of the hidden states of each cell, and which cells there are; ``hidden`` None: none."""
        n = n_rows * n_columns
        x = torch.zeros(n + 1, self.d_hidden, device=text.ids.device)  # the last is for parts that are no cell
        present = torch.zeros(n + 1, dtype=torch.bool, device=text.ids.device)
        if hidden is not None:
            slot = torch.where(text.slot < 0, n, text.slot)
            x = x.index_put((slot,), _mean_of_parts(hidden, text.part, slot.shape[1]).to(x.dtype))
            present[slot] = True
        return x[:n].view(n_rows, n_columns, self.d_hidden), present[:n].view(n_rows, n_columns)

    def lower(self, text: TextBatch) -> Float[Tensor, "s l f"]:
        """The hidden states that enter the first layer that learns."""
        states: list[Tensor] = []

        def stop(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states.append(args[0] if args else kwargs["hidden_states"])
            if not torch.compiler.is_exporting():  # of a graph what no output needs is left out anyway
                raise _Enough

        first = _layers(self.net)[-(self.n_tuned_layers or 0)]
        handle = first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._run(self.net, text, input_ids=text.ids)
        except _Enough:
            pass
        finally:
            handle.remove()
        return states[0]

    def _lower_apart(self, text: TextBatch) -> Float[Tensor, "s l f"]:
        """What ``lower`` makes of each row of a pair by itself, in the places that its tokens have in the pair's
        sequence; 0 for a row without text. The second row gets a first token, too, which the pair's does not have."""
        (n, width), second = text.ids.shape, text.side == 1
        n_first = (second.long().cumsum(1) == 0).sum(1, keepdim=True)  # tokens of the first row; ONNX has no product
        place = torch.arange(width, device=text.ids.device).expand(n, width)
        moved = torch.where(place == 0, 0, (n_first + place - 1).clamp(max=width - 1))
        inside = torch.cat([place < n_first, place <= second.sum(1, keepdim=True)])
        ids, mask = (torch.cat([x, x.gather(1, moved)]) for x in (text.ids, text.mask))
        rows = TextBatch(ids, mask & inside, ids * 0, ids * 0 - 1, ids[:, :0])
        of_rows = self.lower(rows)
        first, other = of_rows[:n], of_rows[n:]  # ONNX cannot divide what has any number of rows
        back = (place - n_first + 1).clamp(min=0)
        states = torch.where(second[..., None], other.gather(1, back[..., None].expand_as(other)), first)
        empty = torch.stack([~((text.part >= 0) & (text.side == k)).any(1) for k in (0, 1)], 1)
        return states.masked_fill(empty.gather(1, text.side)[..., None], 0.0)

    def train(self, mode: bool = True) -> TextBackbone:
        super().train(mode)
        for module in self.net.modules() if mode else ():  # no dropout in what does not learn
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
        return self

    def save(self, folder: Path) -> None:
        """What the same architecture is built from in another place."""
        self.net.config.save_pretrained(folder)
        self.spec.save(folder)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Also takes weights that were saved before the network stood under ``net``."""
        for name in [name for name in state_dict if name.startswith(prefix)]:
            if not name.startswith((f"{prefix}net.", f"{prefix}side.")):
                state_dict[f"{prefix}net.{name.removeprefix(prefix)}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _hidden(self, text: TextBatch) -> Float[Tensor, "s l f"]:
        if self.side is not None:
            states = text.states.float() if text.states is not None else self._lower_apart(text)
            return self._run(self._top[0], text, inputs_embeds=states + self.side(text.side))
        if text.states is not None and self._top:
            return self._run(self._top[0], text, inputs_embeds=text.states.float())
        return self._run(self.net, text, self._depths, input_ids=text.ids)

    def _run(
        self, net: nn.Module, text: TextBatch, depths: Sequence[int] = (), **inputs: Tensor
    ) -> Float[Tensor, "s l f"]:
        """Hidden states at some depths, normalised, as between layers they may be of any size, and of the last one."""
        options: dict[str, Any] = {"token_type_ids": text.side} if self._takes_sides else {}
        if depths:
            options["output_hidden_states"] = True
        output = net(attention_mask=text.mask.long(), **inputs, **options)
        last = output.last_hidden_state
        if not depths:
            return last
        return torch.cat([*(F.layer_norm(output.hidden_states[depth], last.shape[-1:]) for depth in depths), last], -1)

    def _agrees(self, top: nn.Module) -> bool:
        """Whether the layers that learn, given what enters them, end where the whole network does. An architecture that
        this way of cutting it does not fit runs whole in every step."""
        n = min(8, self.spec.max_length)
        ids = torch.arange(2 * n).view(2, n) % self.net.config.vocab_size
        mask = torch.arange(n) < torch.tensor([[n], [n - 1]])
        text = TextBatch(ids, mask, ids * 0, ids * 0 - 1, ids[:, :0])
        training = self.net.training
        self.net.eval()
        try:
            with torch.no_grad():
                uncut = self._run(self.net, text, input_ids=ids)
                cut = self._run(top, text, inputs_embeds=self.lower(text))
            return uncut.shape == cut.shape and torch.allclose(uncut[mask], cut[mask], atol=1e-4, rtol=1e-4)
        except Exception as error:  # whatever a foreign architecture makes of a stand-in for its embeddings
            warnings.warn(f"text.backbone={self.spec.name}: all its layers run in every step ({error!r})", stacklevel=2)
            return False
        finally:
            self.net.train(training)

    def _freeze(self, n_tuned_layers: int | None) -> None:
        if n_tuned_layers is None:
            return
        layers = _layers(self.net)
        if not 0 <= n_tuned_layers <= len(layers):
            raise ConfigError(f"text.n_tuned_layers={n_tuned_layers}: {self.spec.name} has {len(layers)} layers")
        self.net.requires_grad_(False)
        for layer in layers[len(layers) - n_tuned_layers :]:
            layer.requires_grad_(True)


class _Enough(Exception):
    """Ends a forward pass that has come far enough."""


class _PassThrough(nn.Module):
    """In the place of the embeddings: hands on hidden states that are known already."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        inputs = (kwargs.get("inputs_embeds"), *args)  # DistilBERT does not name them
        return next(x for x in inputs if isinstance(x, Tensor) and x.is_floating_point())


def _mean_of_parts(hidden: Float[Tensor, "s l f"], part: Int[Tensor, "s l"], n_parts: int) -> Float[Tensor, "s p f"]:
    member = (part[:, None, :] == torch.arange(n_parts, device=part.device)[:, None]).to(hidden.dtype)
    total = torch.bmm(member, hidden)
    return total / member.sum(-1, keepdim=True).clamp(min=1)


def _without_lower(net: nn.Module, n_tuned: int) -> nn.Module:
    """The same network, sharing all weights, whose first layer is the first that learns, and whose ``inputs_embeds``
    are the hidden states that enter it."""
    layers = _layers(net)
    embeddings: Any = net.get_input_embeddings()  # type: ignore[operator]

    def cut(module: nn.Module) -> nn.Module:
        if module is layers:
            return nn.ModuleList(list(layers)[len(layers) - n_tuned :])
        twin = copy.copy(module)
        twin._modules = {
            name: cut(child) if child is not None and any(m is layers for m in child.modules()) else child
            for name, child in module._modules.items()
        }
        return twin

    top = cut(net)
    for name, child in top.named_children():
        if any(module is embeddings for module in child.modules()):
            top._modules[name] = _PassThrough()
    return top


def _layers(net: nn.Module) -> nn.ModuleList:
    """The transformer's blocks: the longest list of modules in it, whatever the architecture calls it."""
    lists = [module for module in net.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=nn.ModuleList())

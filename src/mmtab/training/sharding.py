"""A model whose weights lie in parts on several processes (FSDP2, the successor of Zhao et al. 2023)."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from mmtab.features.backbones import TextBackbone
from mmtab.model.matcher import Matcher


def shard(model: nn.Module, mesh: Any) -> None:
    """Divide the weights of a model over the processes of ``mesh``: each layer's are gathered when it runs. Once done,
    nothing happens."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if is_sharded(model):
        return
    for module in model.modules():
        if isinstance(module, TextBackbone):
            module.run_all_layers()  # weights cannot be gathered for two networks at once
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and not any(isinstance(each, nn.ModuleList) for each in module):
            for layer in module:
                fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if isinstance(model, Matcher):
        for name in ("rows", "score"):  # are called besides forward
            register_fsdp_forward_method(model, name)


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(parameter, _divided()) for parameter in model.parameters())


def _divided() -> Any:
    """The type of tensors that lie in parts, where its module was imported, which takes two seconds: else there are
    none."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())


def whole(x: Tensor) -> Tensor:
    """A tensor that may lie in parts on several processes, as one; then all have to ask."""
    return x.full_tensor() if isinstance(x, _divided()) else x


def load_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load whole tensors, of which each process takes its part; raises RuntimeError where they do not fit."""
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, dict[str, Any](state), options=StateDictOptions(full_state_dict=True))

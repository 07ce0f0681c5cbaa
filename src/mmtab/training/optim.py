"""Parameter groups and the schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from mmtab.features.backbones import ImageBackbone, TextBackbone


def parameter_groups(model: nn.Module, lr: float, backbone_lr: float, weight_decay: float) -> list[dict[str, object]]:
    """Pretrained weights (of backbones, and of modules of that name) learn at ``backbone_lr``, all else at ``lr``.
    Vectors, such as biases and norms, and embeddings of categories do not decay."""
    backbones = [module for module in model.modules() if isinstance(module, TextBackbone | ImageBackbone)]
    pretrained_ids = {id(parameter) for backbone in backbones for parameter in backbone.parameters()}
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            pretrained = "backbone." in name or id(parameter) in pretrained_ids
            decays = parameter.ndim > 1 and id(parameter) not in embeddings
            groups.setdefault((pretrained, decays), []).append(parameter)
    return [
        {"params": parameters, "lr": backbone_lr if pretrained else lr, "weight_decay": weight_decay if decays else 0.0}
        for (pretrained, decays), parameters in groups.items()
    ]


def warmup_cosine(
    optimizer: torch.optim.Optimizer, n_steps: Callable[[], int], warmup_fraction: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear from 0 over the first ``warmup_fraction`` of the steps, then half a cosine down to 0. ``n_steps`` is asked
    at each step, for a limit of time may lower it."""

    def factor(step: int) -> float:
        n = n_steps()
        n_warmup = max(1, round(n * warmup_fraction))
        if step < n_warmup:
            return (step + 1) / n_warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - n_warmup) / max(1, n - n_warmup))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

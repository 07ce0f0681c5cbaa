"""Images: a timm network, pooled to one or a few tokens a cell."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mmtab.data.pictures import Fit, ImageSpec
from mmtab.features.backbones import EFFICIENTNET, image_backbone
from mmtab.features.batches import ImageBatch, TensorTable, Tokens
from mmtab.model.dropout import FeatureDropout
from mmtab.utils import distributed as ranks
from mmtab.utils.errors import ConfigError


class ImageBackbone(nn.Module):
    """Pixels to one long feature vector a picture, in groups that become tokens.

    ``late``: mean and spread over the picture of the last two stages' channels, and the mean of the final layer's.
    ``early``: mean and spread of the earlier stages' channels, which keep colour and texture that late ones forget.
    ``cell``: the mean of the early channels in each cell of a ``grid`` x ``grid`` raster (``grid`` > 1 only).
    """

    net: Any
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, grid: int, pretrained: bool) -> None:
        super().__init__()
        self.name, self.grid = name, grid
        self.net = image_backbone(name, pretrained)
        config = self.net.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1) * 255, persistent=False)
        self.net.eval()
        with torch.no_grad():
            late, early, cells = self._groups(torch.zeros(2, 3, 64, 64))
        self.groups = [late.shape[1], early.shape[1], *(cells.shape[2] for _ in range(cells.shape[1]))]

    def forward(self, pixels: UInt8[Tensor, "m 3 h w"]) -> Float[Tensor, "m f"]:
        return self.encode(self.normalise(pixels))

    def normalise(self, pixels: UInt8[Tensor, "m 3 h w"]) -> Float[Tensor, "m 3 h w"]:
        """As the weights want them."""
        return (pixels.float() - self.mean) / self.std

    def encode(self, x: Float[Tensor, "m 3 h w"]) -> Float[Tensor, "m f"]:
        """Normalised pixels to features."""
        late, early, cells = self._groups(x)
        return torch.cat([late, early, cells.flatten(1)], 1)

    def _groups(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        final, stages = self.net.forward_intermediates(x.contiguous(memory_format=torch.channels_last))
        final = final if final.ndim == 4 else final.mT[..., None]  # a vision transformer gives tokens, not a map
        stages = [stage.float() for stage in stages]
        moments = [_moments(stage) for stage in stages]
        late = torch.cat([*moments[-2:], final.float().mean((2, 3))], 1)
        early = torch.cat(moments[:-2] or moments[-1:], 1)
        if self.grid == 1:
            return late, early, early.new_zeros(len(x), 0, 0)
        return (
            late,
            early,
            torch.cat([F.adaptive_avg_pool2d(s, self.grid).flatten(2).mT for s in stages[:-2] or stages[-1:]], 2),
        )


def _moments(x: Float[Tensor, "m f h w"]) -> Float[Tensor, "m f2"]:
    """Mean and spread of each channel. On channels-last maps torch's own ``std`` takes half as long as the network."""
    mean = x.mean((2, 3))
    square = (x - mean[..., None, None]).square().mean((2, 3))
    return torch.cat([mean, square.clamp(min=1e-12).sqrt()], 1)  # of a flat map the root has no finite slope


class Standardise(nn.Module):
    """To zero mean and unit spread of what was seen in training so far, within ±6. (A batch of pictures is too small
    for batch statistics, and features of a frozen network do not drift.)"""

    n: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, d: int, n_max: int = 20_000) -> None:
        super().__init__()
        self.n_max = n_max
        self.register_buffer("n", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("square", torch.zeros(d))  # sum of squared distances to the mean

    def forward(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        if self.training and self.n < self.n_max:
            with torch.no_grad():
                mean = x.float().mean(0) if len(x) else self.mean
                seen = torch.stack([torch.full_like(mean, len(x)), mean, ((x - mean) ** 2).sum(0)])
                for n, mean, square in ranks.tensors_of_all(seen):  # Chan et al. 1983
                    shift, total = mean - self.mean, (self.n + n[0]).clamp(min=1)
                    self.square += square + shift**2 * (self.n * n / total)
                    self.mean += shift * (n / total)
                    self.n += n[0]
        spread = (self.square / self.n.clamp(min=1)).sqrt() + 1e-3
        return ((x - self.mean) / spread).clamp(-6, 6)


class ImageEncoder(nn.Module):
    """Two tokens a cell, of late and early stages of a CNN, and ``grid * grid`` more for its regions (``grid`` > 1).

    ``size`` in pixels, ``fit`` as in images.py; several pictures in one cell are averaged. ``tuned`` False freezes the
    backbone, whose features are then computed once and stored; ``augment`` (small flips, shifts, zooms and brightness
    changes, in training only) needs ``tuned``. ``checkpointing`` keeps no activations inside the stages and computes them
    again for the gradient (Chen et al. 2016).
    """

    def __init__(
        self,
        n_columns: int,
        d_model: int,
        backbone: str = EFFICIENTNET,
        size: int = 128,
        fit: Fit = "pad",
        grid: int = 3,
        tuned: bool = False,
        augment: bool = False,
        dropout: float = 0.1,
        checkpointing: bool = False,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        if augment and not tuned:
            raise ConfigError(
                "image.augment=true needs image.tuned=true: a frozen backbone's features are computed once"
            )
        self.n_columns = n_columns
        self.frozen, self.augment = not tuned, augment
        self.backbone = ImageBackbone(backbone, grid, pretrained)
        self.backbone.requires_grad_(tuned)
        self.backbone.net.set_grad_checkpointing(checkpointing)
        self.tokens_per_column = len(self.backbone.groups)
        config = self.backbone.net.pretrained_cfg
        self.spec = ImageSpec(size, fit, config["crop_pct"], config["interpolation"])
        late, early, *cells = self.backbone.groups
        self.standardise = Standardise(sum(self.backbone.groups))
        self.dropout = FeatureDropout(dropout)
        self.late, self.early = nn.Linear(late, d_model), nn.Linear(early, d_model)
        self.cell = nn.Linear(cells[0], d_model) if cells else None
        self.missing = nn.Parameter(torch.randn(n_columns, self.tokens_per_column, d_model) * 0.02)

    def forward(self, table: TensorTable) -> Tokens:
        images = table.image
        assert images is not None
        x = self._tokens(self.features(images))  # [m g d]
        there = images.index >= 0
        places = images.index.clamp(min=0).flatten()  # index_select, for the gradient of x[places] is slow on CPU
        cells = x.index_select(0, places) if len(x) else x.new_zeros(len(places), *x.shape[1:])
        cells = cells.view(*images.index.shape, *x.shape[1:])
        count = there.sum(2)[..., None, None]
        x = (cells * there[..., None, None]).sum(2) / count.clamp(min=1)  # [b c g d]
        x = torch.where(count > 0, x, self.missing.to(x.dtype))
        return Tokens(
            x.flatten(1, 2), torch.ones(x.shape[0], x.shape[1] * x.shape[2], dtype=torch.bool, device=x.device)
        )

    def features(self, images: ImageBatch) -> Float[Tensor, "m f"]:
        """Those stored, else those of the batch's distinct pictures."""
        if images.features is not None:
            return images.features.float()
        assert images.pixels is not None
        if len(images.pixels) == 0:
            return torch.zeros(0, sum(self.backbone.groups), device=images.pixels.device)
        if self.frozen:
            with torch.no_grad():
                return self.backbone(images.pixels)
        x = self.backbone.normalise(images.pixels)
        return self.backbone.encode(_augment(x) if self.augment and self.training else x)

    def _tokens(self, features: Float[Tensor, "m f"]) -> Float[Tensor, "m g d"]:
        late, early, *cells = self.dropout(self.standardise(features)).split(self.backbone.groups, 1)
        tokens = [self.late(late), self.early(early)]
        return torch.stack(tokens + [self.cell(c) for c in cells] if self.cell is not None else tokens, 1)

    def train(self, mode: bool = True) -> ImageEncoder:
        super().train(mode)
        # Batch statistics of a small batch of product pictures are worse than ImageNet's: keep them fixed.
        self.backbone.eval()
        return self


def _augment(x: Float[Tensor, "m 3 h w"]) -> Float[Tensor, "m 3 h w"]:
    """Each picture mirrored or not, shifted by up to 8 %, zoomed by up to 15 %, brightened or darkened by up to 20 %."""
    m = len(x)
    uniform = torch.rand(5, m, device=x.device) * 2 - 1
    zoom = 1 + 0.15 * uniform[0]
    affine = torch.zeros(m, 2, 3, device=x.device)
    affine[:, 0, 0] = zoom * torch.where(uniform[1] < 0, -1.0, 1.0)
    affine[:, 1, 1] = zoom
    affine[:, :, 2] = 0.16 * uniform[2:4].T
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return x * (1 + 0.2 * uniform[4])[:, None, None, None]

"""A pretrained network for pictures: how they become its input, whether it learns, their features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mmtab.data.pictures import Fit, ImageSpec
from mmtab.features.backbones.pretrained import EFFICIENTNET, image_network
from mmtab.features.batches import ImageBatch
from mmtab.utils.errors import ConfigError


class ImageBackbone(nn.Module):
    """A timm network, which makes one long feature vector of each picture, in ``groups`` that become tokens:

    late   mean and spread over the picture of the last two stages' channels, and the mean of the final layer's
    early  mean and spread of the earlier stages' channels, which keep colour and texture that late ones forget
    cells  the mean of the early channels in each field of a ``grid`` x ``grid`` raster (``grid`` > 1 only)

    backbone       ``efficientnet-lite0``, a timm name, or NAME@FILE with its weights
    size           of the input, in pixels
    fit            how a picture comes to be square: see ImageSpec
    grid           fields of the raster along a side; 1: none
    tuned          False freezes it: features are then computed once and stored (see cache.py)
    augment        in training pictures are flipped, shifted, zoomed and brightened a little; needs ``tuned``
    checkpointing  keep no activations inside the stages and compute them again for the gradient (Chen et al. 2016)
    pretrained     False where weights will come from a checkpoint
    """

    net: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = EFFICIENTNET,
        size: int = 128,
        fit: Fit = "pad",
        grid: int = 3,
        tuned: bool = False,
        augment: bool = False,
        checkpointing: bool = False,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        if augment and not tuned:
            raise ConfigError(
                "image.augment=true needs image.tuned=true: a frozen backbone's features are computed once"
            )
        self.name, self.grid, self.frozen, self.augment = backbone, grid, not tuned, augment
        self.net = image_network(backbone, pretrained)
        config = self.net.pretrained_cfg
        self.spec = ImageSpec(size, fit, config["crop_pct"], config["interpolation"])
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1) * 255, persistent=False)
        self.net.eval()
        with torch.no_grad():
            late, early, cells = self._groups(torch.zeros(2, 3, 64, 64))
        self.groups = [late.shape[1], early.shape[1], *(cells.shape[2] for _ in range(cells.shape[1]))]
        self.net.requires_grad_(tuned)
        self.net.set_grad_checkpointing(checkpointing)

    @property
    def d_hidden(self) -> int:
        return sum(self.groups)

    @property
    def last_mean(self) -> slice:
        """Where among the features the mean of the last layer is."""
        return slice(self.groups[0] - int(self.net.num_features), self.groups[0])

    def forward(self, images: ImageBatch) -> Float[Tensor, "m f"]:
        """Features of the batch's distinct pictures, stored or computed."""
        if images.features is not None:
            return images.features.float()
        assert images.pixels is not None
        if images.pixels.shape[0] == 0:
            return torch.zeros(0, self.d_hidden, device=images.pixels.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encode(images.pixels)

    def encode(self, pixels: UInt8[Tensor, "m 3 h w"]) -> Float[Tensor, "m f"]:
        x = self.normalise(pixels)
        late, early, cells = self._groups(_augment(x) if self.augment and self.training else x)
        return torch.cat([late, early, cells.flatten(1)], 1)

    def normalise(self, pixels: UInt8[Tensor, "m 3 h w"]) -> Float[Tensor, "m 3 h w"]:
        """As the weights want them."""
        return (pixels.float() - self.mean) / self.std

    def train(self, mode: bool = True) -> ImageBackbone:
        super().train(mode)
        # Batch statistics of a small batch of product pictures are worse than ImageNet's: keep them fixed.
        self.net.eval()
        return self

    def _groups(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        final, stages = self.net.forward_intermediates(x.contiguous(memory_format=torch.channels_last))
        final = final if final.ndim == 4 else final.mT[..., None]  # a vision transformer gives tokens, not a map
        stages = [stage.float() for stage in stages]
        moments = [_moments(stage) for stage in stages]
        late = torch.cat([*moments[-2:], final.float().mean((2, 3))], 1)
        early = torch.cat(moments[:-2] or moments[-1:], 1)
        if self.grid == 1:
            return late, early, early.new_zeros(x.shape[0], 0, 0)
        fields = [F.adaptive_avg_pool2d(stage, self.grid).flatten(2).mT for stage in stages[:-2] or stages[-1:]]
        return late, early, torch.cat(fields, 2)


def _moments(x: Float[Tensor, "m f h w"]) -> Float[Tensor, "m f2"]:
    """Mean and spread of each channel. On channels-last maps torch's own ``std`` takes half as long as the network."""
    mean = x.mean((2, 3))
    square = (x - mean[..., None, None]).square().mean((2, 3))
    return torch.cat([mean, square.clamp(min=1e-12).sqrt()], 1)  # of a flat map the root has no finite slope


def _augment(x: Float[Tensor, "m 3 h w"]) -> Float[Tensor, "m 3 h w"]:
    """Each picture mirrored or not, shifted by up to 8 %, zoomed by up to 15 %, its brightness by up to 20 %."""
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

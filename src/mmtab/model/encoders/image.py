"""Pictures: a vector of each, to a few tokens a cell."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmtab.features.backbones import ImageBackbone
from mmtab.features.batches import TensorTable, Tokens
from mmtab.model.dropout import FeatureDropout
from mmtab.utils import distributed


class ImageEncoder(nn.Module):
    """A token for each group of the backbone's features: of late and of early stages, and of each region. Several
    pictures in one cell are averaged.

    n_columns  columns of pictures
    d_model    width of a token
    backbone   what makes features of a picture
    dropout    of the backbone's features
    """

    def __init__(self, n_columns: int, d_model: int, backbone: ImageBackbone, dropout: float = 0.1) -> None:
        super().__init__()
        self.n_columns, self.backbone, self.tokens_per_column = n_columns, backbone, len(backbone.groups)
        late, early, *cells = backbone.groups
        self.standardise = Standardise(backbone.d_hidden)
        self.dropout = FeatureDropout(dropout)
        self.late, self.early = nn.Linear(late, d_model), nn.Linear(early, d_model)
        self.cell = nn.Linear(cells[0], d_model) if cells else None
        self.missing = nn.Parameter(torch.randn(n_columns, self.tokens_per_column, d_model) * 0.02)

    def forward(self, table: TensorTable) -> Tokens:
        images = table.image
        assert images is not None
        x = self._tokens(self.backbone(images))  # [m g d]
        count = (images.index >= 0).sum(2)[..., None, None]
        x = images.of_cells(x).sum(2) / count.clamp(min=1)  # [b c g d]
        x = torch.where(count > 0, x, self.missing.to(x.dtype)).flatten(1, 2)
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))

    def _tokens(self, features: Float[Tensor, "m f"]) -> Float[Tensor, "m g d"]:
        late, early, *cells = self.dropout(self.standardise(features)).split(self.backbone.groups, 1)
        tokens = [self.late(late), self.early(early)]
        return torch.stack(tokens + [self.cell(c) for c in cells] if self.cell is not None else tokens, 1)


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
                batch = torch.stack([torch.full_like(mean, len(x)), mean, ((x - mean) ** 2).sum(0)])
                for n, mean, square in distributed.tensors_of_all(batch):  # Chan et al. 1983
                    shift, total = mean - self.mean, (self.n + n[0]).clamp(min=1)
                    self.square += square + shift**2 * (self.n * n / total)
                    self.mean += shift * (n / total)
                    self.n += n[0]
        spread = (self.square / self.n.clamp(min=1)).sqrt() + 1e-3
        return ((x - self.mean) / spread).clamp(-6, 6)

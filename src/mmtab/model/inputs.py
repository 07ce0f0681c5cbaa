"""What a model reads of a row where no encoder stands between: vectors of frozen networks, numbers and categories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmtab.features.backbones import Backbones, ImageBackbone, TextBackbone
from mmtab.features.batches import TensorTable

LIMIT = 6.0  # standard deviations


class RowInputs(nn.Module):
    """Vectors of text and pictures, standardised on train; numbers by rank; categories as places among those of all
    columns; and what is missing.

    n_ids      ids of each categorical column
    n_texts    columns of text
    n_images   columns of pictures
    backbones  what makes vectors of text and pictures; only frozen layers are read
    length     of all vectors of a row together, which stand beside ones and zeros of categories
    """

    mean: Tensor
    spread: Tensor
    offset: Tensor

    def __init__(
        self, n_ids: Sequence[int], n_texts: int, n_images: int, backbones: Backbones, length: float = 3.0
    ) -> None:
        super().__init__()
        self.n_ids, self.length = list(n_ids), length
        self.n_texts = self.n_images = d_text = d_image = 0
        self._networks: tuple[TextBackbone | None, ImageBackbone | None] = (None, None)  # a tuple: not its submodules
        text, image = backbones.text, backbones.image
        if n_texts and isinstance(text, TextBackbone) and (text.frozen or text.n_frozen_layers):
            self.n_texts, self._networks, d_text = n_texts, (text, None), text.d_hidden
        if n_images and isinstance(image, ImageBackbone) and image.frozen:
            self.n_images, self._networks = n_images, (self._networks[0], image)
            d_image = image.last_mean.stop - image.last_mean.start
        self.vector_widths = [d_text] * self.n_texts + [d_image] * self.n_images
        d = sum(self.vector_widths)
        self._first_places = np.cumsum([0, *self.vector_widths])[:-1].tolist()
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("spread", torch.ones(d))
        self.register_buffer("offset", torch.tensor([0, *self.n_ids]).cumsum(0)[:-1], persistent=False)

    def to_network(self) -> None:
        """Move to where the frozen networks are."""
        network = self._networks[0] or self._networks[1]
        self.to(self.mean.device if network is None else next(network.parameters()).device)

    def standardise(self, raw: Float[Tensor, "b d"]) -> None:
        """Take mean and spread from these rows; missing vectors are NaN."""
        self.mean.copy_(raw.nanmean(0).nan_to_num(0.0))
        spread = (raw - self.mean).square().nanmean(0).sqrt().nan_to_num(0.0)
        self.spread.copy_(torch.where(spread > 1e-6, spread, 1.0))

    def raw_vectors(self, table: TensorTable) -> Float[Tensor, "b d"]:
        """Of text and pictures, NaN where there is none."""
        text, image = self._networks
        parts = [torch.zeros(table.n_rows, 0, device=self.mean.device)]
        if text is not None and table.text is not None:
            cells, present = text.frozen_cells(table.text, table.n_rows, self.n_texts)
            parts.append(cells.float().masked_fill(~present[..., None], torch.nan).flatten(1))
        if image is not None and table.image is not None:
            pictures = table.image.of_cells(image(table.image)[:, image.last_mean])
            count = (table.image.index >= 0).sum(2)[..., None]
            parts.append((pictures.sum(2) / count).flatten(1))  # 0/0 is NaN
        return torch.cat(parts, 1)

    def inputs(
        self, raw: Float[Tensor, "b d"], numeric: Float[Tensor, "b c"] | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b m"]]:
        """Standardised vectors, of which a missing one is the mean; and, with them, what all parts read: which vectors
        are missing, numbers by rank, and which of them are missing."""
        scale = self.length / max(len(self.mean), 1) ** 0.5
        vectors = ((raw - self.mean) / self.spread).clamp(-LIMIT, LIMIT).nan_to_num(0.0) * scale
        dense = [raw[:, self._first_places].isnan().float()]
        if numeric is not None:
            dense += [numeric.nan_to_num(0.0), numeric.isnan().float()]
        return vectors, torch.cat(dense, 1)

    def ids(self, table: TensorTable) -> Tensor:
        """[b, c] places of categories among those of all columns."""
        if table.categorical is None:
            return torch.zeros(table.n_rows, 0, dtype=torch.long, device=self.mean.device)
        return table.categorical + self.offset

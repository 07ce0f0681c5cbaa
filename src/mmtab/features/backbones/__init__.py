"""Pretrained networks, each with all that belongs to it: weights, how cells become its input, and what of it learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmtab.data.pictures import ImageSpec
from mmtab.features.backbones.image import ImageBackbone
from mmtab.features.backbones.text import TextBackbone, TextSpec

__all__ = ["Backbones", "ImageBackbone", "TextBackbone", "TextSpec"]


@dataclass(frozen=True)
class Backbones:
    """What reads text and pictures of a row, and (``cross``) text of both rows of a pair in one sequence; None where
    there is none to read, a mere spec where the encoder wraps no pretrained network."""

    text: TextBackbone | TextSpec | None = None
    image: ImageBackbone | ImageSpec | None = None
    cross: TextBackbone | TextSpec | None = None

    @property
    def text_spec(self) -> TextSpec | None:
        return self.text.spec if isinstance(self.text, TextBackbone) else self.text

    @property
    def image_spec(self) -> ImageSpec | None:
        return self.image.spec if isinstance(self.image, ImageBackbone) else self.image

    @property
    def cross_spec(self) -> TextSpec | None:
        return self.cross.spec if isinstance(self.cross, TextBackbone) else self.cross

    def save(self, folder: Path) -> None:
        """What it takes to build the same anew in another place: architectures and tokenizers."""
        for name, backbone in (("text_backbone", self.text), ("cross_backbone", self.cross)):
            if backbone is not None:
                backbone.save(folder / name)

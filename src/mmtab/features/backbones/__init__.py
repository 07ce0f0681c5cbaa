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
    """What reads the text and the pictures of a table, None where it has none; a mere spec where the encoder wraps no
    pretrained network.

    text   text of one row
    image  pictures
    cross  text of both rows of a pair, in one sequence
    """

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
        if self.text is not None:
            self.text.save(folder / "text_backbone")
        if self.cross is not None:
            self.cross.save(folder / "cross_backbone")

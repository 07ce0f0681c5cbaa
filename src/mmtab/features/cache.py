"""What the frozen parts of backbones make of a table: computed once, stored in half precision."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmtab.data.digests import digest_of
from mmtab.data.pictures import Pictures
from mmtab.features.backbones import ImageBackbone, TextBackbone
from mmtab.features.text import Ragged, Sequences
from mmtab.utils.cache import Arrays, Store
from mmtab.utils.machine import to_evaluate
from mmtab.utils.npy import MemoryFile, Scratch
from mmtab.utils.progress import steps

BATCH = 64  # rows, or pictures, that a network reads at once


@dataclass(frozen=True)
class FeatureCache:
    """Where features are stored, and in which precision and where networks compute them when they are not there yet."""

    store: Store
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    device: torch.device | str = "cpu"

    def images(self, backbone: ImageBackbone, pictures: Pictures) -> np.ndarray:
        """[m, f] float16 features of distinct pictures."""
        pixels = pictures.pixels

        def key() -> dict[str, Any]:
            return {
                "pixels": pictures.key(),
                "weights": frozen_digest(backbone),
                "grid": backbone.grid,
                "precision": self._precision,
            }

        def build(scratch: Scratch) -> Arrays:
            to_evaluate(backbone, self.device)
            out = _memory_map(scratch / "features.npy", np.float16, (len(pixels), backbone.d_hidden))
            with torch.inference_mode(), self.autocast():
                for rows in _steps(np.arange(len(pixels)), "image features"):
                    out[rows] = half(backbone.encode(torch.from_numpy(pixels[rows]).to(self.device))).cpu().numpy()
            return {"features": out}

        return self.store.arrays("image_features", key, build)["features"]

    def texts(self, backbone: TextBackbone, sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
        """[n, c, f] float16 vectors of cells, and [n, c] bool which cells there are."""

        def build(scratch: Scratch) -> Arrays:
            to_evaluate(backbone, self.device)
            n, c = sequences.n_rows, sequences.n_columns
            out = _memory_map(scratch / "features.npy", np.float16, (n, c, backbone.d_hidden))
            present = np.zeros((n, c), bool)
            with torch.inference_mode(), self.autocast():
                for rows in _steps(_longest_first(sequences), "text features"):
                    x, has_cell = backbone(sequences.single(rows).to(self.device), len(rows), c)
                    out[rows], present[rows] = half(x).cpu().numpy(), has_cell.cpu().numpy()
            return {"features": out, "present": present}

        arrays = self.store.arrays("text_features", lambda: self._text_key(backbone, sequences), build)
        return arrays["features"], arrays["present"]

    def has_texts(self, backbone: TextBackbone, sequences: Sequences) -> bool:
        """Whether ``texts`` has them stored."""
        return self.store.has("text_features", self._text_key(backbone, sequences))

    def lower_layers(self, backbone: TextBackbone, sequences: Sequences) -> Ragged | None:
        """The hidden states that enter the first layer that learns, for each sequence with its special tokens; None
        where they would not fit on disk."""
        lengths = np.where(sequences.lengths > 0, sequences.lengths.astype(np.int64) + 2, 0)
        n_bytes = int(lengths.sum()) * backbone.d_hidden * 2
        if not self.store.has_room(n_bytes):
            warnings.warn(
                f"text.n_tuned_layers={backbone.n_tuned_layers}: what the frozen layers make of this text would take "
                f"{n_bytes / 1e9:.1f} GB of the cache, more than there is (cache_gb, or disk): they run in every step",
                stacklevel=2,
            )
            return None

        def key() -> dict[str, Any]:
            return self._text_key(backbone, sequences) | {"n_frozen_layers": backbone.n_frozen_layers}

        def build(scratch: Scratch) -> Arrays:
            to_evaluate(backbone, self.device)
            offsets = np.concatenate([[0], lengths.cumsum()])
            out = _memory_map(scratch / "states.npy", np.float16, (int(offsets[-1]), backbone.d_hidden))
            with torch.inference_mode(), self.autocast():
                for rows in _steps(_longest_first(sequences), "frozen text layers"):
                    batch = sequences.single(rows)
                    if len(batch.ids):
                        mask = batch.mask.numpy()
                        places = sequences.state_places(rows, offsets, mask.shape[1])
                        out[places[mask]] = half(backbone.lower(batch.to(self.device))).cpu().numpy()[mask]
            return {"states": out, "offsets": offsets}

        arrays = self.store.arrays("text_states", key, build)
        return Ragged(arrays["states"], arrays["offsets"])

    def _text_key(self, backbone: TextBackbone, sequences: Sequences) -> dict[str, Any]:
        weights, width = frozen_digest(backbone.net), backbone.d_hidden
        return {"tokens": sequences.key(), "weights": weights, "width": width, "precision": self._precision}

    @property
    def _precision(self) -> str:
        with self.autocast():
            reduced = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
            return str(torch.get_autocast_dtype("cpu")) if reduced else "float32"


def _steps(rows: np.ndarray, title: str) -> Iterable[np.ndarray]:
    return steps((rows[i : i + BATCH] for i in range(0, len(rows), BATCH)), -(-len(rows) // BATCH), title)


def _longest_first(sequences: Sequences) -> np.ndarray:
    """Row numbers, by the longest sequence of each row."""
    longest = sequences.lengths.reshape(sequences.n_rows, -1).max(1, initial=0)
    return np.argsort(-longest, kind="stable")


def half(x: torch.Tensor) -> torch.Tensor:
    """As it is stored."""
    return x.float().clamp(-65504, 65504).half()


def _memory_map(path: Path | MemoryFile, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """To be filled in any order; what holds nothing cannot be mapped."""
    if isinstance(path, MemoryFile) or 0 in shape:
        return np.zeros(shape, dtype)
    return np.lib.format.open_memmap(path, "w+", dtype, shape)


def frozen_digest(module: torch.nn.Module) -> str:
    """A digest of what does not learn in a network: its output does not hang on the rest."""
    frozen = [p for p in module.parameters() if not p.requires_grad] + list(module.buffers())
    return digest_of("".join(digest_of(w.detach().cpu().float().numpy()) for w in frozen))

"""Multimodal tabular learning: tables whose rows mix text, numbers, categories and images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtab.datasets import Dataset, load_dataset

__version__ = "0.1.0"
__all__ = ["Dataset", "__version__", "load_dataset"]


def __getattr__(name: str) -> Any:
    """The doors for notebooks, opened when they are used: ``import mmtab`` alone loads nothing heavy."""
    if name in ("Dataset", "load_dataset"):
        from mmtab import datasets

        return getattr(datasets, name)
    raise AttributeError(f"module 'mmtab' has no attribute {name!r}")

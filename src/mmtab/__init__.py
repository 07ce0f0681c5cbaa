"""Multimodal tabular learning: tables whose rows mix text, numbers, categories and images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtab.datasets import Dataset, load_dataset
    from mmtab.door import Run, fit, load_run

__version__ = "0.1.0"
__all__ = ["Dataset", "Run", "__version__", "fit", "load_dataset", "load_run"]


def __getattr__(name: str) -> Any:
    """The doors for notebooks, opened when they are used: ``import mmtab`` alone loads nothing heavy."""
    if name in ("Dataset", "load_dataset"):
        from mmtab import datasets

        return getattr(datasets, name)
    if name in ("Run", "fit", "load_run"):
        from mmtab import door

        return getattr(door, name)
    raise AttributeError(f"module 'mmtab' has no attribute {name!r}")

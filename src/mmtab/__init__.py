"""Multimodal tabular learning: tables whose rows mix text, numbers, categories and images."""

from __future__ import annotations

import importlib
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtab.api import Dataset, Predictor, Run, fit, load_dataset, load_run
    from mmtab.api.estimators import Classifier, Matcher, Regressor
    from mmtab.utils.errors import MmtabError

__version__ = "0.1.0"
ELSEWHERE = dict.fromkeys(("Classifier", "Matcher", "Regressor"), "mmtab.api.estimators")  # need scikit-learn
ELSEWHERE["MmtabError"] = "mmtab.utils.errors"
__all__ = ["Classifier", "Dataset", "Matcher", "MmtabError", "Predictor", "Regressor", "Run", "__version__", "fit"]
__all__ += ["load_dataset", "load_run"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: ``import mmtab`` alone loads nothing heavy."""
    if name in __all__:
        state = random.getstate()  # rich draws from it when it is imported
        try:
            return getattr(importlib.import_module(ELSEWHERE.get(name, "mmtab.api")), name)
        finally:
            random.setstate(state)
    raise AttributeError(f"module 'mmtab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

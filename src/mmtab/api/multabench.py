"""mmtab as a model of MulTaBench, by the interface that its benchmark runs every model by.

>>> dataset = load_multabench_dataset(MulTaBenchDatasetID["REG_TEXT_BOOK_PRICE"])
>>> evaluate_on_loaded_dataset(Mmtab, dataset, fold=0, device=get_device())

Of its preparation nothing is used, for mmtab reads the columns as they are, texts and pictures themselves rather than
embeddings of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.preprocessing import LabelEncoder

from mmtab.api.estimators import Classifier, Regressor
from mmtab.utils.errors import ConfigError
from mmtab.utils.optional import require
from mmtab.utils.progress import say

try:
    models: Any = require("multabench.baselines.abstract_model", extra="multabench")
except ModuleNotFoundError as error:  # of what the package itself takes for models, but not for results
    raise ConfigError(f'models of multabench need {error.name}. Fix: pip install "mmtab[multabench]"') from error


class Mmtab(models.TabularModel):
    """``time_limit`` (seconds of training), ``recipe`` and ``settings`` are those of ``mmtab.Classifier``; a benchmark
    that names no arguments of a model takes them from the class, so that a subclass may have others."""

    MODEL_NAME = "mmtab"
    SHORT_NAME = "mmtab"
    USE_VAL_SPLIT = USE_MEDIAN_FILLING = USE_CATEGORICAL_ENCODING = USE_TEXT_EMBEDDINGS = False
    USE_TARGET_ENCODER = True
    recipe: str | None = "auto"
    time_limit: float | None = 600
    settings: Mapping[str, Any] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        for name in {"recipe", "time_limit", "settings"} & {*options}:
            setattr(self, name, options.pop(name))
        super().__init__(*args, **options)

    def initialize_model(self) -> Classifier | Regressor:
        return (Classifier if self.is_cls else Regressor)(
            recipe=self.recipe,
            time_limit=self.time_limit,
            types={self.image_column: "image"} if self.image_column else None,
            image_root=self.image_folder,
            settings={"trainer.accelerator": self.device.type} | dict(self.settings or {}),
        )

    def fit(self, x: Any, y: Any) -> None:
        """x: a frame; y: a series of the same rows."""
        self.d_output, self.target_transformer = 1, None
        if self.is_cls:
            self.target_transformer = labels = LabelEncoder().fit(y)  # by which the base class scores
            self.d_output, y = len(labels.classes_), labels.transform(y)
        self.model_.fit(self._with_pictures(x), y)

    def predict(self, x: Any) -> np.ndarray:
        """[n] numbers, or probabilities: [n] of the second of two classes, [n, k] of k."""
        return self.predict_from_processed(self._with_pictures(x))

    def _with_pictures(self, x: Any) -> Any:
        """Without the paths of pictures that are not there, which are missing cells."""
        column = self.image_column
        if column is None or column not in x.columns:
            return x
        if self.image_folder is None:
            raise ConfigError(f"column {column}: its pictures were not loaded. Fix: with_image_files=True")
        root = Path(self.image_folder)
        present = [isinstance(name, str) and (root / name).is_file() for name in x[column]]
        if n_absent := int(x[column].notna().sum()) - sum(present):
            say(f"{n_absent:,} pictures of column {column} are named but not there; their cells were left empty")
        return x.assign(**{column: x[column].where(present, None)})

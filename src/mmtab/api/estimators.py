"""Estimators as scikit-learn has them: ``mmtab.Classifier``, ``mmtab.Regressor`` and ``mmtab.Matcher``.

>>> cross_val_score(mmtab.Classifier(time_limit=60), X, y, cv=3)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.utils import assert_all_finite, check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from mmtab.api.fit import fit
from mmtab.api.run import Run
from mmtab.data import objects
from mmtab.data.spelling import spelling
from mmtab.runs.export import model_files
from mmtab.runs.manifest import verified
from mmtab.runs.predictions import PAIR_IDS, free_name
from mmtab.utils.errors import MmtabError

FRACTIONS = (0.85, 0.15, 0.0)  # of the rows that fit is given: test rows are kept back by whoever calls it


class InputError(MmtabError, ValueError):
    """What scikit-learn expects of an estimator that refuses its input."""


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except MmtabError as error:
        raise InputError(str(error)) from error


class _Estimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What all estimators share. ``fit`` trains a run on 85 % of the rows and chooses by the others.

    A fitted estimator has ``run_``, the ``mmtab.Run``. Its folder goes with the run unless ``output`` was given, and
    travels with the estimator: a pickled estimator holds the files that predict, weights included (some 100 MB with the
    default networks).

    recipe        name of configs/recipe/, such as frozen or auto; None: the defaults of ``mmtab train``
    time_limit    seconds after which training ends
    random_state  seed; None: 0
    types         types of columns, which overrule what is inferred
    image_root    folder of the pictures that image columns name
    output        folder in which each fit leaves a new run folder, ``run-…``; None: temporary ones
    settings      further settings of ``mmtab.fit``: ``{"trainer": {"max_epochs": 5}, "fusion": "mean"}``
    """

    TASK: ClassVar[Literal["kway", "regression", "matching"]]

    def __init__(
        self,
        *,
        recipe: str | None = None,
        time_limit: float | None = None,
        random_state: Any = None,
        types: Mapping[str, str] | None = None,
        image_root: str | Path | None = None,
        output: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe, self.time_limit, self.random_state, self.types = recipe, time_limit, random_state, types
        self.image_root, self.output, self.settings = image_root, output, settings

    def fit(self, X: Any, y: Any) -> Self:
        """X: any frame that ``mmtab.fit`` takes, or an array [n, c], whose columns are called x0 and so on; y: [n]."""
        self.__dict__.pop("run_", None)  # should this fit fail, nothing of the last one is left
        with _refusing(), contextlib.ExitStack() as unless_fitted:
            settings, own_types = self._of_names("settings"), self._of_names("types")
            if taken := sorted({*self.get_params(), "train", "label", "task", "fractions"} & {*settings}):
                raise InputError(f"settings={{{taken[0]!r}: …}}: {type(self).__name__} sets this itself")
            table, types = self._table(X, fitting=True)
            y = self._labels(y)
            check_consistent_length(table, y)
            if len(table) < 2:
                raise InputError(
                    f"Found n_samples={len(table)} (shape={table.shape}), while a minimum of 2 is required."
                )
            label = free_name("label", table.column_names)
            seed = self.random_state if self.random_state is not None else 0
            seed = int(seed) if isinstance(seed, Integral) else int(check_random_state(seed).randint(1 << 31))
            folder = self._folder()
            if self.output is None:
                unless_fitted.callback(_remove, folder, os.getpid())
            self.run_ = fit(
                table.append_column(label, pa.array(y)),
                label=label,
                task=self.TASK,
                types=types | own_types or None,
                recipe=self.recipe,
                output=folder / "run",
                time_limit=self.time_limit,
                image_root=self.image_root,
                fractions=FRACTIONS,
                **{"seed": seed} | self._sides() | settings,
            )
            unless_fitted.pop_all()
            if self.output is None:
                weakref.finalize(self.run_, _remove, folder, os.getpid())
        return self

    def transform(self, X: Any) -> np.ndarray:
        """[n, d] float32: ``Run.embed``."""
        table = self._seen(X)
        with _refusing():
            return self.run_.embed(table, image_root=self.image_root)

    @property
    def _n_features_out(self) -> int:
        """What scikit-learn numbers the columns of ``transform`` by."""
        return self.run_.width

    def _predicted(self, X: Any, **options: Any) -> np.ndarray:
        table = self._seen(X)
        with _refusing():
            return self.run_.predict(table, image_root=self.image_root, **options)

    def _seen(self, X: Any) -> pa.Table:
        """The rows, without ids: these tell rows of train apart, and new ones are numbered."""
        check_is_fitted(self, "run_")
        with _refusing():
            table, _ = self._table(X, fitting=False)
        schema = self.run_.schema
        features = {column.name for column in schema.columns}
        drop = [schema.id] if schema.of_rows and schema.id in table.column_names and schema.id not in features else []
        return table.drop_columns(drop)

    def _table(self, X: Any, fitting: bool) -> tuple[pa.Table, dict[str, str]]:
        """The rows, and types of columns that have no names; where ``fit`` or X has none, columns go by their place."""
        if (rows := objects.rows_in(X)) is not None:
            table = objects.as_table(rows, type(self).__name__, "X")
            validate_data(self, X if hasattr(X, "iloc") else table, reset=fitting, skip_check_array=True)
            if fitting:
                self._names, self._named = table.column_names, True
            named = self._named and {*table.column_names} == {*self._names}
            return table if named else table.rename_columns(self._names), {}
        array = validate_data(self, X, reset=fitting, dtype=None, ensure_all_finite=False, ensure_min_samples=0)
        if array.dtype.kind == "O":
            with contextlib.suppress(ValueError):
                array = check_array(array, dtype=np.float64, ensure_all_finite=False, ensure_min_samples=0)
        if fitting:
            self._names, self._named = [f"x{i}" for i in range(array.shape[1])], False
        columns = {name: pa.array(cells, from_pandas=True) for name, cells in zip(self._names, array.T, strict=True)}
        return pa.table(columns), dict.fromkeys(columns, "numeric") if array.dtype.kind in "biuf" else {}

    def _labels(self, y: Any) -> np.ndarray:
        raise NotImplementedError

    def _sides(self) -> dict[str, Any]:
        return {}

    def _of_names(self, name: str) -> dict[str, Any]:
        value = getattr(self, name) or {}
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value if name == "settings"):
            raise InputError(f"{name}={value!r}: expected a dict by {'column' if name == 'types' else 'setting'}")
        return dict(value)

    def _folder(self) -> Path:
        """A new folder; a temporary one goes when the run does."""
        if self.output is None:
            return Path(tempfile.mkdtemp(prefix="mmtab-"))
        try:
            Path(self.output).expanduser().mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix="run-", dir=Path(self.output).expanduser()))
        except (OSError, TypeError) as error:
            raise InputError(f"output={self.output!r}: {error}. Fix: give another folder, or None") from error

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "run_" in state:
            run = state.pop("run_")
            files = model_files(run.folder)
            state["_files"] = {name: verified(run.folder, name).read_bytes() for name in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        contents = state.pop("_files", None)
        super().__setstate__(state)
        if contents is not None:
            folder = Path(tempfile.mkdtemp(prefix="mmtab-"))
            self.run_ = Run(folder / "run")
            weakref.finalize(self.run_, _remove, folder, os.getpid())
            for name, data in contents.items():
                (folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / "run" / name).write_bytes(data)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = True
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _plain(y: Any) -> Any:
    """Labels of a type of pandas' own as numpy has them; scikit-learn would make floats of integers and truths. Of a
    frame of one column, that."""
    if getattr(y, "ndim", 1) == 2 and y.shape[1] == 1 and hasattr(y, "iloc"):
        y = y.iloc[:, 0]
    if not hasattr(y, "isna") or getattr(y, "ndim", 1) != 1 or isinstance(y.dtype, np.dtype):
        return y
    if getattr(y.dtype, "categories", y).dtype.kind not in "biuf":
        return y
    column = objects.from_columns(["y"], [y], "y", "y")["y"]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return y if column.null_count else column.to_numpy()


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a forked process, which has a copy of the estimator
        shutil.rmtree(folder, ignore_errors=True)


class Classifier(ClassifierMixin, _Estimator):
    """K-way classification. ``classes_`` are sorted; columns of ``predict_proba`` follow them."""

    __doc__ += _Estimator.__doc__ or ""
    TASK = "kway"

    def _labels(self, y: Any) -> np.ndarray:
        y = column_or_1d(_plain(y), warn=True)
        try:
            known = y.dtype.kind != "S" and pa.array(y) is not None
        except pa.ArrowException:
            known = False
        if not known:
            raise InputError(f"y: expected text, numbers or truths; found {y.dtype}. Fix: convert it, as y.astype(str)")
        if y.dtype.kind == "f":
            assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise InputError(f"Classifier can't train when only one class is present: {self.classes_.tolist()}")
        return y

    def predict(self, X: Any) -> np.ndarray:
        """[n] classes."""
        return self._predicted(X).astype(self.classes_.dtype)

    def predict_proba(self, X: Any) -> np.ndarray:
        """[n, k] in the order of ``classes_``. Raises InputError for more than 1,000 classes, of which a run gives the
        likeliest."""
        table = self._seen(X)
        with _refusing():
            frame = self.run_.predict_proba(table, image_root=self.image_root)
            names = spelling(pa.array(self.classes_)).to_pylist()
            if not set(names) <= set(frame.column_names):
                raise InputError(f"{len(names):,} classes are too many for a column each; use run_.predict_proba")
        p = np.stack([frame[name].to_numpy() for name in names], 1).astype(np.float64)
        return p / p.sum(1, keepdims=True)  # float32 sums to one less closely than scikit-learn expects


class Regressor(RegressorMixin, _Estimator):
    """Regression."""

    __doc__ += _Estimator.__doc__ or ""
    TASK = "regression"

    def _labels(self, y: Any) -> np.ndarray:
        y = column_or_1d(y, warn=True)
        if y.dtype.kind in "mM":
            raise InputError(f"y: expected numbers; found {y.dtype}. Fix: say in which unit, as (y - y.min()) / day")
        return check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")

    def predict(self, X: Any, interval: float | None = None) -> np.ndarray:
        """[n] numbers; with ``interval`` [n, 3], see ``Run.predict``."""
        return self._predicted(X, interval=interval).astype(np.float64)


class Matcher(ClassifierMixin, _Estimator):
    """Matching: X has left_id and right_id of each pair, y is 1 for a match and 0 for none, and the records that pairs
    name are ``left`` and ``right``, or ``records``. ``transform`` takes records."""

    __doc__ += _Estimator.__doc__ or ""
    TASK = "matching"

    def __init__(
        self,
        *,
        left: Any = None,
        right: Any = None,
        records: Any = None,
        recipe: str | None = None,
        time_limit: float | None = None,
        random_state: Any = None,
        types: Mapping[str, str] | None = None,
        image_root: str | Path | None = None,
        output: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            recipe=recipe,
            time_limit=time_limit,
            random_state=random_state,
            types=types,
            image_root=image_root,
            output=output,
            settings=settings,
        )
        self.left, self.right, self.records = left, right, records

    def _sides(self) -> dict[str, Any]:
        sides = {"left": self.left, "right": self.right, "records": self.records}
        return {name: frame for name, frame in sides.items() if frame is not None}

    def _labels(self, y: Any) -> np.ndarray:
        y, self.classes_ = column_or_1d(_plain(y), warn=True), np.array([0, 1])
        if strange := [label for label in y.tolist() if label not in (0, 1)]:
            raise InputError(f"y: expected 1 for a match and 0 for none; found {strange[0]!r}")
        return y.astype(np.int64)

    def _table(self, X: Any, fitting: bool) -> tuple[pa.Table, dict[str, str]]:
        table, types = super()._table(X, fitting)
        if missing := [name for name in PAIR_IDS if name not in table.column_names]:
            raise InputError(f"Matcher: X has no column {missing[0]}; expected left_id and right_id, a pair a row")
        return table.select(list(PAIR_IDS)), types

    def predict(self, X: Any, cost: float | None = None) -> np.ndarray:
        """[n] 1 for a match, else 0; ``cost`` as in ``Run.predict``."""
        return self._predicted(X, cost=cost, **self._sides()).astype(np.int64)

    def predict_proba(self, X: Any) -> np.ndarray:
        """[n, 2]: of no match, and of a match."""
        table = self._seen(X)
        with _refusing():
            p = self.run_.predict_proba(table, image_root=self.image_root, **self._sides())["label"].to_numpy()
        return np.stack([1 - p, p], 1)

    def transform(self, X: Any, side: str | None = None) -> np.ndarray:
        """[n, d] float32 vectors of records, of one table or the ``side`` left or right."""
        check_is_fitted(self, "run_")
        with _refusing():
            return self.run_.embed(X, side=side, image_root=self.image_root)

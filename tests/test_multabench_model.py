"""mmtab as a model of MulTaBench, by the interface of its models: its package where that is installed, and a double of
the interface, with the same arguments and attributes, where not."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score
from toy_data import NOUNS, draw_picture

from mmtab.utils.errors import ConfigError

NEEDED = ("multabench", "skrub", "peft", "dotenv", "psutil")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
MODULE = "mmtab.api.multabench"
DOUBLE = """
class TabularModel:
    def __init__(self, problem_type, device, dataset=None, verbose=False, image_folder=None, image_column=None,
                 text_encoder=None, image_encoder=None, fold=None, size=None, **kwargs):
        self.device, self.image_folder, self.image_column, self.fold = device, image_folder, image_column, fold
        self.is_cls, self.d_output, self.target_transformer = problem_type.name != "REGRESSION", 0, None
        assert not kwargs
        self.model_ = self.initialize_model()

    def predict_from_processed(self, x):
        if not self.is_cls:
            return self.model_.predict(x)
        p = self.model_.predict_proba(x)
        return p[:, 1] if self.d_output == 2 else p
"""


class Task(Enum):
    REGRESSION, BINARY, MULTICLASS = range(3)


TASKS = [(Task.BINARY, 2), (Task.REGRESSION, 3), pytest.param(Task.MULTICLASS, 3, marks=pytest.mark.slow)]


def forgotten() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "multabench" or name == MODULE]:
        del sys.modules[name]


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    folder = tmp_path / "site" / "multabench" / "baselines"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "abstract_model.py").write_text(DOUBLE)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    forgotten()
    yield importlib.import_module(MODULE).Mmtab
    forgotten()


@pytest.fixture
def options(backbone: Path) -> dict[str, Any]:
    trainer = {"max_epochs": 1, "progress": False, "precision": "fp32"}
    text = {"backbone": str(backbone), "max_length": 24}
    settings = {"trainer": trainer, "d_model": 16, "text": text, "image": {"size": 32}}
    return {"recipe": "frozen", "time_limit": 60, "settings": settings}


def rows_of(folder: Path, n: int, k: int) -> tuple[pd.DataFrame, pd.Series]:
    """A dataset as theirs come: typed columns, paths of pictures, rows of a split by their places."""
    kinds = np.random.default_rng(0).integers(k, size=n)
    for i, kind in enumerate(kinds):
        draw_picture(folder / "images" / f"{i}.png", int(kind), seed=i)
    (folder / "images" / "3.png").unlink()
    x = pd.DataFrame(
        {
            "title": [f"{NOUNS[kind]} number {i}" for i, kind in enumerate(kinds)],
            "size": np.where(np.arange(n) % 9, kinds + 0.5, np.nan),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(kinds, unit="D"),
            "colour": pd.Categorical([f"colour {kind}" for kind in kinds]),
            "photo": [f"images/{i}.png" for i in range(n)],
        }
    )
    return x.iloc[::-1], pd.Series(kinds, name="target").iloc[::-1]


@pytest.mark.parametrize(("task", "k"), TASKS)
def test_the_interface(
    double: Any, options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], task: Task, k: int
) -> None:
    x, y = rows_of(tmp_path, 80, k)
    y = y.map(lambda kind: f"kind {kind}") if task is not Task.REGRESSION else y * 10.0
    places = {"image_folder": str(tmp_path), "image_column": "photo", "fold": 0, "size": "10k"}
    model = double(problem_type=task, device=torch.device("cpu"), verbose=False, dataset=None, **places, **options)
    before = x.copy()
    assert model.fit(x.iloc[20:], y.iloc[20:]) is None and x.equals(before)
    schema = model.model_.run_.schema
    types = {column.name: str(column.type) for column in schema.columns}
    assert types == {"title": "text", "size": "numeric", "day": "datetime", "colour": "categorical", "photo": "image"}
    trainer = yaml.safe_load((model.model_.run_.folder / "config.yaml").read_text())["trainer"]
    assert (trainer["max_minutes"], trainer["accelerator"], model.model_.recipe) == (1, "cpu", "frozen")
    assert "1 pictures of column photo are named but not there" in capsys.readouterr().out
    p, truth = model.predict(x.iloc[:20]), y.iloc[:20]
    if task is Task.REGRESSION:
        assert p.shape == (20,) and np.corrcoef(p, truth)[0, 1] > 0.8
        return
    labels = model.target_transformer.transform(truth)
    assert model.d_output == k and list(model.target_transformer.classes_) == sorted(set(y))
    if task is Task.BINARY:
        assert p.shape == (20,) and roc_auc_score(labels, p) > 0.9
    else:
        assert p.shape == (20, 3) and np.allclose(p.sum(1), 1, atol=1e-5) and (p.argmax(1) == labels).mean() > 0.7


def test_defaults_are_those_of_the_class(double: Any, tmp_path: Path) -> None:
    class Quick(double):  # type: ignore[misc]
        time_limit = 5

    made = [each(problem_type=Task.BINARY, device=torch.device("cpu")).model_ for each in (double, Quick)]
    assert [(model.recipe, model.time_limit) for model in made] == [("auto", 600), ("auto", 5)]
    model = double(problem_type=Task.REGRESSION, device=torch.device("cpu"), image_column="photo")
    with pytest.raises(ConfigError, match=r"column photo: its pictures were not loaded\. Fix: with_image_files=True"):
        model.fit(pd.DataFrame({"photo": ["a.png"]}), pd.Series([1.0]))


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    for lacking, said in (("multabench", "this needs multabench"), ("skrub", "models of multabench need skrub")):
        (site / "multabench.py").write_text(f"raise ModuleNotFoundError('none', name='{lacking}')")
        forgotten()
        with pytest.raises(ConfigError, match=rf'{said}. Fix: pip install "mmtab\[multabench\]"'):
            importlib.import_module(MODULE)
    forgotten()


@pytest.mark.skipif(bool(MISSING), reason=f'no {", ".join(MISSING)}: pip install "mmtab[multabench]"')
@pytest.mark.parametrize("task", ["MULTICLASS", "REGRESSION"])
def test_the_benchmark_of_the_package(options: dict[str, Any], tmp_path: Path, task: str) -> None:
    """A fold of a dataset in their form, by their own function."""
    forgotten()
    from multabench.baselines.benchmarks.evaluate import evaluate_on_loaded_dataset
    from multabench.datasets.all_datasets import MulTaBenchDatasetID
    from multabench.datasets.objects import MultimodalDataset, SupervisedTask

    from mmtab.api.multabench import Mmtab

    x, y = rows_of(tmp_path, 90, 3)
    x, y = x.reset_index(drop=True), y.reset_index(drop=True)
    y = y * 10.0 if task == "REGRESSION" else y.map(lambda kind: f"kind {kind}")
    quick = type("Quick", (Mmtab,), options)
    name = MulTaBenchDatasetID[{"REGRESSION": "REG_IMAGE_MANGO_MASS"}.get(task, "MUL_IMAGE_PETFINDER")]
    dataset = MultimodalDataset(x, y, SupervisedTask[task], name, image_folder=str(tmp_path), image_column="photo")
    found = SimpleNamespace(**evaluate_on_loaded_dataset(quick, dataset, fold=4, device=torch.device("cpu")))
    assert (found.model, found.fold, found.n_train, found.n_test) == ("mmtab", 4, 60, 30)
    chance = np.log(3) if task == "MULTICLASS" else np.std(y)
    assert 0 < found.test_error < 0.8 * chance and found.test_score == -found.test_error

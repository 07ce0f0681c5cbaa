"""Very many classes: losses and metrics that never hold all logits equal those that do, and whole runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F
import yaml
from sklearn import metrics as sk
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics.functional.classification import multiclass_calibration_error
from toy_data import write_table

from mmtab.config.compose import compose
from mmtab.config.types import RunConfig
from mmtab.model.heads import ClassScores, KWayHead
from mmtab.prepare.check import check
from mmtab.prepare.check.leaks import by_number
from mmtab.runs.evaluate import evaluate
from mmtab.runs.predict import predict
from mmtab.runs.train import train
from mmtab.training import tasks
from mmtab.training.tasks import DENSE_CLASSES, N_BEST, KWayTask
from mmtab.utils.errors import ConfigError

B, D, K = 24, 4, 103


def scores(logits: Tensor) -> ClassScores:
    """Scores with these very logits."""
    k = logits.shape[1]
    return ClassScores(logits, torch.eye(k), torch.zeros(k))


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(tasks, "MAX_LOGITS", 400)
    return 400


class Largest(TorchDispatchMode):
    """The most elements of any tensor made."""

    n = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.n = max([self.n, *(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))])
        return made


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_loss_by_parts_is_the_loss(smoothing: float, weighted: bool, bf16: bool, few_at_once: int) -> None:
    torch.manual_seed(0)
    head, x, label = KWayHead(D, K).eval(), torch.randn(B, D, requires_grad=True), torch.randint(0, K, (B,))
    task = KWayTask(K, smoothing, np.random.default_rng(0).integers(0, 50, K) if weighted else None)
    inputs, found = [x, *head.parameters()], []
    for make in (lambda: task.loss(head(x).logits, label), lambda: task.loss_of(head(x), label)):
        with Largest() as largest:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = make()
            found.append((loss.detach(), *torch.autograd.grad(3 * loss, inputs)))
    assert largest.n <= max(few_at_once, K * D) < B * K
    near = {"rtol": 0.02, "atol": 3e-4} if bf16 else {"rtol": 1e-5, "atol": 1e-7}
    for plain, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, plain, **near)


def draws(k: int, n: int) -> Iterator[Tensor]:
    yield from (torch.tensor(drawn) for drawn in itertools.combinations(range(k), n))


@pytest.mark.parametrize("n", [1, 3, 6])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_over_drawn_classes_are_right_on_average(n: int, weighted: bool) -> None:
    """Over all possible draws: the sum of exponentials, and the weighted sum of logits that smoothing needs."""
    torch.manual_seed(0)
    logits, label = torch.randn(1, 7) * 2, torch.tensor([2])
    counts = np.array([1, 2, 3, 4, 5, 6, 7]) if weighted else None
    sharp, smooth = KWayTask(7, 0.0, counts), KWayTask(7, 1.0, counts)
    weight, own = sharp._weight(label.device), logits[0, 2]
    exponentials, totals = [], []
    for drawn in draws(7, n):
        log_sum = sharp._estimated(scores(logits), label, drawn) + own
        even = smooth._estimated(scores(logits), label, drawn)
        exponentials.append(log_sum.exp())
        totals.append(weight.sum() * log_sum - 7 * weight[2] * even)
    torch.testing.assert_close(torch.stack(exponentials).mean(), logits.exp().sum())
    torch.testing.assert_close(torch.stack(totals).mean(), (weight * logits).sum())


@pytest.mark.parametrize("weighted", [False, True])
def test_a_draw_of_all_classes_is_the_loss(weighted: bool) -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(B, K), torch.randint(0, K, (B,))
    task = KWayTask(K, 0.1, np.bincount(label, minlength=K) if weighted else None)
    torch.testing.assert_close(task._estimated(scores(logits), label, torch.randperm(K)), task.loss(logits, label))


def test_each_step_draws_anew_and_the_seed_holds() -> None:
    logits, label = torch.randn(B, K), torch.randint(0, K, (B,))
    task = KWayTask(K, n_sampled=10)
    torch.manual_seed(0)
    first, second = (task.loss_of(scores(logits), label) for _ in range(2))
    torch.manual_seed(0)
    assert task.loss_of(scores(logits), label) == first != second
    values = torch.stack([task.loss_of(scores(logits), label) for _ in range(400)])
    assert values.std() > 0 and abs(values.mean() - task.loss(logits, label)) < 0.1


def test_only_drawn_classes_and_labels_learn() -> None:
    torch.manual_seed(0)
    head, label = KWayHead(D, K), torch.randint(0, 5, (B,))
    KWayTask(K, 0.1, n_sampled=10).loss_of(head(torch.randn(B, D)), label).backward()
    touched = (head.layers[1].weight.grad != 0).any(1)  # type: ignore[union-attr, operator]
    assert touched[label].all() and len(label.unique()) <= touched.sum() <= 10 + len(label.unique())


# --- predictions and metrics -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 5, 7, 103, DENSE_CLASSES + 500])
@pytest.mark.parametrize("sharpness", [0.5, 5.0, 200.0])
def test_metrics_of_summaries_are_those_of_all_probabilities(k: int, sharpness: float, few_at_once: int) -> None:
    rng = np.random.default_rng(k)
    label = rng.integers(0, k, 240)
    logits = (sharpness * (rng.normal(0, 1, (240, k)) + np.eye(k)[label] * 2)).astype(np.float32)
    task = KWayTask(k)
    rows = torch.from_numpy(rng.permutation(240))
    batches = rows.split(50)
    parts = [task.predict(scores(torch.from_numpy(logits)[b]), torch.from_numpy(label)[b], b) for b in batches]
    predictions = tasks.gather(parts)
    assert np.array_equal(predictions.row, np.arange(240)) and np.array_equal(predictions.label, label)
    p, classes = task.probabilities(logits.astype(np.float64)), np.arange(k)
    found = task.metrics_of(predictions)
    assert found["accuracy"] == sk.accuracy_score(label, p.argmax(1))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(label, p.argmax(1), average="macro"), rel=1e-12)
    assert found["log_loss"] == pytest.approx(sk.log_loss(label, p, labels=classes), rel=1e-9)
    assert found["ece"] == multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(label), k, 15).item()
    assert ("top5" in found) == (k > 5)
    if k > 5:
        assert found["top5"] == sk.top_k_accuracy_score(label, p, k=5, labels=classes)
    assert task.metrics(p, label) == pytest.approx(found, rel=1e-9)
    assert predictions.best is not None and predictions.best_probability is not None
    order = np.argsort(-logits, 1, kind="stable")
    assert np.array_equal(predictions.best, order[:, :N_BEST])
    assert np.array_equal(predictions.rank, (order == label[:, None]).argmax(1))
    np.testing.assert_allclose(predictions.best_probability, np.take_along_axis(p, predictions.best, 1), rtol=1e-9)
    assert (predictions.probability is None) == (k > DENSE_CLASSES)
    if predictions.probability is not None:
        np.testing.assert_allclose(predictions.probability, p, rtol=1e-6, atol=1e-30)


def test_predicting_holds_few_logits_at_once(few_at_once: int) -> None:
    head = KWayHead(D, K).eval()
    with torch.no_grad(), Largest() as largest:
        predictions = KWayTask(K).predict(head(torch.randn(B, D)), torch.full((B,), -1), torch.arange(B))
    assert largest.n <= max(few_at_once, K * D) < B * K
    assert predictions.rank is not None and (predictions.rank == -1).all()  # no label is known
    assert predictions.label_probability is not None and np.isnan(predictions.label_probability).all()


def test_of_equal_logits_the_first_is_likeliest() -> None:
    label = torch.arange(B)
    predictions = KWayTask(K).predict(scores(torch.zeros(B, K)), label, torch.arange(B))
    assert np.array_equal(predictions.rank, label)
    assert np.array_equal(predictions.best, np.tile(np.arange(N_BEST), (B, 1)))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_told(bad: float) -> None:
    logits = torch.zeros(B, K)
    logits[3, 4] = bad
    predictions = KWayTask(K).predict(scores(logits), torch.zeros(B, dtype=torch.long), torch.arange(B))
    with pytest.raises(FloatingPointError, match="row 3"):
        KWayTask(K).metrics_of(predictions)


# --- whole runs ------------------------------------------------------------------------------------------------------

SIDE = 40


def write_many(folder: Path, k: int = 1_200, n: int = 6_000) -> Path:
    """Each class has its own place in a plane, and half of one coordinate is also told as a category."""
    rng = np.random.default_rng(0)
    sizes = {"train": n * 3 // 5, "valid": n // 5, "test": n // 5}
    for split, size in sizes.items():
        kinds = rng.permutation(np.arange(size) % k)
        x, y = kinds % SIDE, kinds // SIDE
        columns = {
            "id": [f"{split}-{i}" for i in range(size)],
            "x": x + rng.normal(0, 0.1, size),
            "y": y + rng.normal(0, 0.1, size),
            "half": [f"half {v // 2}" for v in x],
            "label": [f"class {kind}" for kind in kinds],
        }
        write_table(folder / f"{split}.parquet", pa.table(columns))
    types = {"x": "numeric", "y": "numeric", "half": "categorical"}
    entries = {"name": "many", "task": "kway", "id": "id", "label": "label", "columns": types}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    return folder


def configure(folder: Path, *overrides: str) -> RunConfig:
    return compose(
        "dataset=custom",
        f"dataset.path={folder}",
        "output=unused",
        "d_model=32",
        "fusion.d_hidden=64",
        "trainer.max_epochs=8",
        "trainer.progress=false",
        "trainer.lr=4e-3",
        *overrides,
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_many(tmp_path_factory.mktemp("many"))


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["kway_head.n_sampled=200"], [], ["kway_head.class_weights=true"]], ids=str)
def test_a_run_of_many_classes(
    tmp_path: Path, many: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(tasks, "MAX_LOGITS", 1 << 15)
    folder = tmp_path / "run"
    valid = train(configure(many, *overrides), folder)
    assert valid["top5"] > 0.3 and valid["log_loss"] < 4.5  # by chance 0.003 and 7.3
    tested = evaluate(folder, "test")
    assert not [w for w in recwarn if "sklearn" in w.filename]
    stored = pa.parquet.read_table(folder / "predictions_test.parquet")
    assert stored.column_names == ["id", "prediction", "probability", "top", "top_probability", "label"]
    top, p = np.array(stored["top"].to_pylist()), np.array(stored["top_probability"].to_pylist())
    label = np.array(stored["label"].to_pylist())
    assert top.shape == p.shape == (1_200, N_BEST) and (np.diff(p) <= 0).all()
    assert stored["prediction"].to_pylist() == top[:, 0].tolist()
    assert np.array_equal(stored["probability"], p[:, 0].astype(np.float32))
    assert tested["accuracy"] == pytest.approx((top[:, 0] == label).mean())
    assert tested["top5"] == pytest.approx((top[:, :5] == label[:, None]).any(1).mean())
    assert predict(folder, many / "test.parquet", tmp_path / "out.csv") == 1_200
    told = pa.csv.read_csv(tmp_path / "out.csv")
    assert told.column_names == stored.column_names[:-1]
    assert [row.split(";") for row in told["top"].to_pylist()] == top.tolist()
    in_csv = [[float(value) for value in row.split(";")] for row in told["top_probability"].to_pylist()]
    np.testing.assert_allclose(in_csv, p, rtol=1e-5)


@pytest.mark.parametrize("n", [0, 1_200])
def test_more_classes_drawn_than_there_are(n: int, tmp_path: Path, many: Path) -> None:
    with pytest.raises(ConfigError, match=rf"kway_head\.n_sampled={n}: expected (at least 1|null or 1 to 1199)"):
        train(configure(many, f"kway_head.n_sampled={n}"), tmp_path / "run")


def test_checking_many_classes(many: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert {alarm.kind for alarm in check(many)} == {"small_class"}
    assert not [w for w in recwarn if "sklearn" in w.filename]


def test_a_number_that_says_which_of_many_classes() -> None:
    label = np.random.default_rng(0).permutation(np.arange(6_000) % 2_000)
    held = [1_234.3, 17.0, -5.0, 1e9, math.nan]
    assert by_number(label.astype(float).tolist(), label, held, 3).tolist() == [1_234, 17, 0, 1_999, 3]


def test_a_linear_layer_learns_from_drawn_classes_what_it_learns_from_all() -> None:
    torch.manual_seed(0)
    centres = torch.randn(K, 16)
    losses = {}
    for n_sampled in (None, 20):
        torch.manual_seed(1)
        head, task = KWayHead(16, K, dropout=0), KWayTask(K, n_sampled=n_sampled)
        optimizer = torch.optim.AdamW(nn.ModuleList([head]).parameters(), lr=0.05)
        for _ in range(150):
            label = torch.randint(0, K, (64,))
            optimizer.zero_grad()
            task.loss_of(head(centres[label] + 0.3 * torch.randn(64, 16)), label).backward()
            optimizer.step()
        losses[n_sampled] = F.cross_entropy(head(centres).logits, torch.arange(K)).item()
    assert losses[None] < 0.1 and losses[20] < 0.2

"""Ways in for programs that hold tables in memory: an open run, which predicts and embeds without a file."""

from __future__ import annotations

import multiprocessing
import pickle
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

import mmtab
from mmtab.utils.errors import ConfigError, DataError, RunError


def table_of(folder: Path, stem: str = "test") -> pa.Table:
    return pa.parquet.read_table(folder / f"{stem}.parquet")


@pytest.fixture
def rows(kway_run: tuple[Path, Path]) -> pa.Table:
    return table_of(kway_run[0]).drop_columns(["label"])


def below(*folders: Path) -> set[str]:
    return {str(path) for folder in folders for path in folder.rglob("*")}


def test_a_predictor_gives_what_a_predictions_file_holds_and_writes_nothing(
    kway_run: tuple[Path, Path], rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = kway_run
    monkeypatch.chdir(tmp_path)
    for name in ("TMPDIR", "MMTAB_CACHE"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = below(folder, tmp_path)
    predictor = mmtab.load_run(folder).predictor(image_root=data)
    found = predictor(rows)
    stored = table_of(folder, "predictions_test").drop_columns(["label"])
    assert found.schema.equals(stored.schema) and found["id"].to_pylist() == rows["id"].to_pylist()
    assert found["prediction"].to_pylist() == stored["prediction"].to_pylist()
    for name in ("p_kind 0", "p_kind 1", "p_kind 2"):
        np.testing.assert_allclose(found[name].to_numpy(), stored[name].to_numpy(), atol=1e-6)
    batch = predictor(rows.to_batches()[0].slice(3, 1))
    assert isinstance(batch, pa.RecordBatch) and batch["id"].to_pylist() == rows["id"].to_pylist()[3:4]
    np.testing.assert_allclose(batch["p_kind 1"].to_numpy(), stored["p_kind 1"].to_numpy()[3:4], atol=1e-5)
    frame = predictor(rows.to_pandas().set_index(np.arange(50, 50 + len(rows))))
    assert isinstance(frame, pd.DataFrame) and frame.index[0] == 50
    assert frame["prediction"].tolist() == found["prediction"].to_pylist()
    assert predictor(pl.from_arrow(rows)).equals(pl.from_arrow(found))
    assert predictor(rows.slice(0, 0)).num_rows == 0
    assert below(folder, tmp_path) == before


def test_a_run_reads_its_model_once(kway_run: tuple[Path, Path], rows: pa.Table, tmp_path: Path) -> None:
    """So that it outlives its folder, once open; a pickled one reads it again."""
    data, folder = kway_run
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    run = mmtab.load_run(copy)
    first = run.predict(rows, image_root=data)
    sent = pickle.dumps(run.predictor(image_root=data))
    assert len(sent) < 10_000 and pickle.loads(sent)(rows)["prediction"].to_pylist() == first.tolist()
    (copy / "checkpoints" / "best.ckpt").unlink()
    assert run.predict(rows, image_root=data).tolist() == first.tolist()
    with pytest.raises(RunError):
        pickle.loads(sent)(rows)


def test_options_of_one_call_are_not_those_of_the_next(
    pairs_run: tuple[Path, Path], numbers_run: tuple[Path, Path], rows: pa.Table
) -> None:
    data, folder = pairs_run
    sides = {side: table_of(data, side) for side in ("left", "right")}
    pairs = table_of(data, "pairs_test")
    run = mmtab.load_run(folder)
    first = run.predict(pairs, image_root=data, **sides)
    assert (run.predict(pairs, image_root=data, cost=1e9, **sides) == 0).all()
    assert (run.predict(pairs, image_root=data, **sides) == first).all()
    predictor = run.predictor(image_root=data, cost=1e9)
    p = predictor(pairs, **sides)
    assert p["prediction"].to_pylist() == [0] * len(pairs)
    expected = run.predict_proba(pairs, image_root=data, **sides)["label"].to_pylist()
    assert p["probability"].to_pylist() == expected and p["left_id"].to_pylist() == pairs["left_id"].to_pylist()
    with pytest.raises(ConfigError, match="middle: no such table"):
        predictor(pairs, middle=pairs)
    data, folder = numbers_run
    run, rows = mmtab.load_run(folder), table_of(data)
    bounds = run.predict(rows, image_root=data, interval=0.5)
    found = run.predictor(image_root=data, interval=0.5)(rows)
    assert np.array_equal(np.stack([found[name].to_numpy() for name in ("prediction", "low", "high")], 1), bounds)
    with pytest.raises(RunError, match="cost is for matching"):
        run.predictor(image_root=data, cost=2)(rows)


def test_many_rows_are_predicted_a_slice_at_a_time(
    kway_run: tuple[Path, Path], rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one warning of columns that are unlike those of train, and ids that are unique among all."""
    data, folder = kway_run
    monkeypatch.setattr("mmtab.runs.session.SLICE", 9)
    predictor = mmtab.load_run(folder).predictor(image_root=data)
    expected = predictor(rows)
    many = pa.concat_tables([rows] * 2).drop_columns(["id"])
    found = predictor(many)
    assert found["prediction"].to_pylist() == expected["prediction"].to_pylist() * 2
    assert found["id"].to_pylist() == [str(i + 1) for i in range(len(many))]
    far = many.set_column(many.column_names.index("size"), "size", pa.array(np.full(len(many), 1e9)))
    with pytest.warns(UserWarning, match="column size: found 1e[+]09") as caught:
        predictor(far)
    assert len([each for each in caught if "unlike those of train" in str(each.message)]) == 1
    with pytest.raises(DataError, match="duplicate id"):
        predictor(pa.concat_tables([rows] * 2))
    with pytest.raises(DataError, match="column colour: the file lacks this column"):
        predictor(rows.drop_columns(["colour"]))


def test_threads_and_forked_processes_share_an_open_run(kway_run: tuple[Path, Path], rows: pa.Table) -> None:
    data, folder = kway_run
    predictor = mmtab.load_run(folder).predictor(image_root=data)
    with ThreadPoolExecutor(4) as pool:  # which also open it
        found = list(pool.map(lambda i: predictor(rows.slice(i, 4)), range(8)))
    assert all(part.equals(predictor(rows.slice(i, 4))) for i, part in enumerate(found))
    parent, child = multiprocessing.get_context("fork").Pipe(duplex=False)

    def send() -> None:
        child.send(predictor(rows.slice(0, 4))["prediction"].to_pylist())

    process = multiprocessing.get_context("fork").Process(target=send)
    process.start()
    assert parent.poll(60), "the forked process hangs"
    assert parent.recv() == found[0]["prediction"].to_pylist()
    process.join(10)


def test_text_as_labels_of_regression_is_refused(numbers_run: tuple[Path, Path]) -> None:
    data, folder = numbers_run
    run, rows = mmtab.load_run(folder), table_of(data)
    place = rows.column_names.index("label")
    words = pa.array(["cheap"] * len(rows))
    with pytest.raises(DataError, match=r"table test, row 1.* column label.*cheap") as caught:
        run.evaluate(rows.set_column(place, "label", words), image_root=data)
    assert "\n" not in str(caught.value)
    nothing = pa.nulls(len(rows), pa.string())
    with pytest.raises(DataError, match="no labels"):
        run.evaluate(rows.set_column(place, "label", nothing), image_root=data)


def test_embedded_rows_are_what_the_head_reads(kway_run: tuple[Path, Path], rows: pa.Table) -> None:
    data, folder = kway_run
    run = mmtab.load_run(folder)
    vectors = run.embed(rows, image_root=data)
    assert vectors.shape == (len(rows), 16) and vectors.dtype == np.float32
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_allclose(run.embed(rows.take(order), image_root=data), vectors[order], atol=1e-5)
    assert run.embed(rows.slice(0, 0)).shape == (0, 16)
    with pytest.raises(RunError, match="side=left: expected"):
        run.embed(rows, side="left", image_root=data)
    with pytest.raises(ConfigError, match="embed: no option sides"):
        run.embed(rows, sides="left", image_root=data)
    with pytest.raises(ConfigError, match="left: no such table"):
        run.evaluate(rows, left=rows, image_root=data)


def test_embedded_records_lie_near_their_matches(pairs_run: tuple[Path, Path]) -> None:
    data, folder = pairs_run
    run = mmtab.load_run(folder)
    left, right = (run.embed(table_of(data, side), side=side, image_root=data) for side in ("left", "right"))
    np.testing.assert_allclose(np.linalg.norm(left, axis=1), 1, atol=1e-5)
    near = left @ right.T  # record i of both sides is the same thing
    assert np.diag(near).mean() > near.mean() + 0.1
    assert run.embed(table_of(data, "left").drop_columns(["id"]), side="left", image_root=data) == pytest.approx(left)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_single_rows_leave_memory_flat(
    kway_run: tuple[Path, Path], rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = kway_run
    predictor = mmtab.load_run(folder).predictor(image_root=data)
    peaks: list[int] = []
    for name in ("TMPDIR", "MMTAB_CACHE"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", None)
    for _ in range(5):
        for i in range(100):
            predictor(rows.slice(i % len(rows), 1))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB
    assert peaks[-1] - peaks[0] < 8 << 10, peaks
    assert below(tmp_path) == {str(tmp_path / name) for name in ("TMPDIR", "MMTAB_CACHE")}

"""What wandb is told of a run, read back from its own files, and that no fault of it ends a run."""

from __future__ import annotations

import builtins
import json
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from toy_data import read_rows, write_kway, write_pairs

from mmtab.config.types import RunConfig
from mmtab.data.schema import Column, ColumnType, Schema, TaskKind
from mmtab.runs import wandb as wandb_log
from mmtab.runs.evaluate import evaluate
from mmtab.runs.scored import scored_pairs, scored_rows
from mmtab.runs.train import train
from mmtab.runs.wandb import group_of, mistake_rows, wandb_loggers
from mmtab.training.checkpoints import Checkpoints
from mmtab.utils import distributed

SMALL = ["dataset.drop=[text]", "trainer.max_epochs=2", "trainer.batch_size=8"]
QUICK = [*SMALL, "dataset.drop=[text,image]"]


@pytest.fixture(autouse=True)
def _own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings, keys or files of whoever runs the tests; each begins as a process does."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DIR", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    yield
    wandb_log._close()
    wandb_log._tear_down()


def parts(folder: Path) -> list[Path]:
    """What wandb wrote offline, the oldest first, once it is all written."""
    wandb_log._tear_down()
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"))


class Told:
    """All that is in one of wandb's own files, a LevelDB log of protobuf records."""

    def __init__(self, path: Path) -> None:
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.artifacts: dict[str, dict[str, Path]] = {}  # type and name to their files
        for record in _records(path):
            match record.WhichOneof("record_type"):
                case "run":
                    self.run = record.run
                    self.config = {each.key: json.loads(each.value_json) for each in record.run.config.update}
                case "history":
                    self.history.append(_items(record.history.item))
                case "summary":
                    self.summary |= _items(record.summary.update)
                case "artifact":
                    entries = {each.path: Path(each.local_path) for each in record.artifact.manifest.contents}
                    self.artifacts[f"{record.artifact.type}/{record.artifact.name}"] = entries
                case "exit":
                    self.exit_code = record.exit.exit_code

    def steps(self, metric: str) -> list[tuple[int, float]]:
        return [(row["_step"], row[metric]) for row in self.history if metric in row]

    def files_of(self, kind: str) -> dict[str, Path]:
        (found,) = [files for name, files in self.artifacts.items() if name.startswith(kind)]
        return found

    def table(self, name: str) -> tuple[list[dict[str, Any]], dict[str, Path]]:
        """The rows of a table, and the pictures beside it."""
        (files,) = [files for files in self.artifacts.values() if f"{name}.table.json" in files]
        raw = json.loads(files[f"{name}.table.json"].read_text())
        return [dict(zip(raw["columns"], row, strict=True)) for row in raw["data"]], files


def _records(path: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # too little for a head: the rest of a block
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # in one piece, or the last one
            yield Record.FromString(whole)
            whole = b""


def _items(items: Any) -> dict[str, Any]:
    return {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in items}


# --- what it is told -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_kway, write_pairs])
def test_an_offline_run_is_told_whole(
    tmp_path: Path, configure: Any, write: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    data, folder = write(tmp_path / "data"), tmp_path / "run"
    settings = ["wandb.mode=offline", "wandb.job_type=search", "trainer.keep=2", "base=none"]  # which makes mistakes
    config = configure(data, *SMALL, *settings)
    valid = train(config, folder)
    test = evaluate(folder, "test", wandb=config.wandb)
    output = capfd.readouterr()
    (path,) = parts(folder)  # of both
    own = ("epoch", "training: ")  # of every training
    lines = [line for line in output.out.splitlines() if "not fitted" not in line and not line.startswith(own)]
    assert lines == [f"wandb is offline; to send this run: wandb sync {path.parent}"]
    assert "wandb" not in output.err
    told = Told(path)
    assert told.exit_code == 0 and json.loads((folder / "wandb_run.json").read_text()) == {"id": told.run.run_id}
    assert (told.run.project, told.run.display_name, told.run.job_type) == ("mmtab", "custom-seed0", "search")
    assert told.run.run_group.startswith("custom-")
    assert told.config["trainer"]["batch_size"] == 8 and told.config["dataset"]["path"] == str(data)
    rows = read_rows_of_metrics(folder)
    for metric in rows[0] | rows[-1]:
        expected = {row["step"]: row[metric] for row in rows if metric in row}
        assert dict(told.steps(metric)) == expected or metric == "step"
    assert {name: told.summary[f"valid/{name}"] for name in valid} == pytest.approx(valid)
    assert {name: told.summary[f"test/{name}"] for name in test} == pytest.approx(test)
    assert sum(check_mistakes(told, data, folder, split, write is write_pairs) for split in ("valid", "test")) > 0
    sent = told.files_of("model")
    assert {
        "config.yaml",
        "schema.yaml",
        "fitted.json",
        "checkpoints/best.ckpt",
        "metrics.csv",
        "metrics.json",
        "predictions_valid.parquet",
        "predictions_test.parquet",
        "provenance.json",
        "task.json",
    } == set(sent)
    assert list((folder / "checkpoints").glob("epoch-*.ckpt"))
    assert all(path == folder / name for name, path in sent.items())  # not copied


def read_rows_of_metrics(folder: Path) -> list[dict[str, float]]:
    return [{name: float(x) for name, x in row.items() if x} for row in read_rows(folder / "metrics.csv")]


def check_mistakes(told: Told, data: Path, folder: Path, split: str, pairs: bool) -> int:
    """That the table of a split says what prediction file, tables and pictures say; how many mistakes it holds."""
    shown, files = told.table(f"{split}/mistakes")
    predicted = pa.parquet.read_table(folder / f"predictions_{split}.parquet").to_pylist()
    wrong = [row for row in predicted if row["prediction"] != row["label"]]
    ids = ["left_id", "right_id"] if pairs else ["id"]
    assert sorted([row[name] for name in ids] for row in shown) == sorted([row[name] for name in ids] for row in wrong)
    sure = [1 - row["probability"] if row["prediction"] == 0 else row["probability"] for row in shown]
    assert sure == sorted(sure, reverse=True)
    sides = {"left ": "left", "right ": "right"} if pairs else {"": split}
    rows = {side: {row["id"]: row for row in read_rows(data / f"{name}.parquet")} for side, name in sides.items()}
    for row in shown:
        for side, id in zip(sides, ids, strict=True):
            there = rows[side][row[id]]
            assert row[f"{side}size"] == there["size"] and row[f"{side}colour"] == there["colour"]
            assert row[f"{side}made"] == (there["made"] and there["made"].isoformat())
            n = len((there["photo"] or "").split(";")) if there["photo"] else 0
            assert (row[f"{side}photo"] is None) == (n == 0)
            if n:
                with Image.open(files[row[f"{side}photo"]["path"]]) as picture:
                    assert picture.size == (20 * n, 20)
    return len(shown)


def test_of_many_mistakes_the_surest_are_shown() -> None:
    ids = pa.array(["a", "b", "c", "d", "e"])
    kway = Schema("toys", TaskKind.KWAY, (Column("x", ColumnType.NUMERIC),), label="label")
    labels = {"prediction": ["x", "y", "x", "y", "x"], "label": ["y", "y", "y", "x", None]}
    few = pa.table({"id": ids, "p_x": [0.6, 0.1, 0.9, 0.2, 1.0], "p_y": [0.4, 0.9, 0.1, 0.8, 0.0], **labels})
    top = {"top": [["x", "y"], ["y", "x"]] * 2 + [["x", "y"]], "top_probability": [[0.6, 0.4]] * 5}
    many = pa.table({"id": ids, "probability": [0.6, 0.9, 0.9, 0.8, 1.0], **labels, **top})
    for table in (few, many):
        predictions = scored_rows(table, kway, "test", ["x", "y"], {})
        rows = mistake_rows(predictions, predictions.surest_mistakes(2))
        assert rows == [["c", "y", "x", 0.9], ["d", "x", "y", 0.8]]
    relations = {
        "left_id": ids,
        "right_id": ids,
        "probability_same": [0.9, 0.2, 0.1, 0.4, 0.5],
        "prediction_same": [1, 0, 0, 0, 1],
        "label_same": [0, 1, 1, 0, 0],
        "probability_like": [0.9] * 5,
        "prediction_like": [1] * 5,
        "label_like": [1] * 5,
    }
    pairs = Schema("toys", TaskKind.MATCHING, kway.columns, relations={"same": (), "like": ()})
    same, like = (
        scored_pairs(pa.table(relations), pairs, "test", r, {"thresholds": [0.5, 0.5]}) for r in ("same", "like")
    )
    worst = mistake_rows(same, same.surest_mistakes(3))
    assert [(right, y_pred, p) for _, right, _, y_pred, p in worst] == [("a", 1, 0.9), ("c", 0, 0.1), ("b", 0, 0.2)]
    assert not len(like.surest_mistakes(3))


def test_what_is_not_wanted_is_not_sent(tmp_path: Path, configure: Any) -> None:
    folder = tmp_path / "run"
    options = ["wandb.mode=offline", "wandb.mistakes=0", "wandb.artifact=false", "wandb.group=mine", "test=false"]
    metrics = train(configure(write_kway(tmp_path / "data"), *QUICK, *options), folder)
    told = Told(parts(folder)[0])
    assert told.exit_code == 0 and told.run.run_group == "mine" and not told.artifacts
    assert {name: told.summary[f"valid/{name}"] for name in metrics} == pytest.approx(metrics)
    with pytest.raises(Exception, match=r"wandb\.mistakes=-1"):
        configure(tmp_path, "wandb.mistakes=-1")


def test_seeds_share_a_group(tmp_path: Path, configure: Any) -> None:
    group = group_of(configure(tmp_path))
    for same in ("seed=1", "trainer.n_workers=1", "wandb.tags=[a]", "cache=elsewhere", "test=false", "output=there"):
        assert group_of(configure(tmp_path, same)) == group
    for other in ("trainer.lr=0.5", "dataset.drop=[image]", "d_model=32", f"dataset.path={tmp_path.parent}"):
        assert group_of(configure(tmp_path, other)) != group


def test_only_the_first_process_tells(tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    assert wandb_loggers(configure(tmp_path, "wandb.mode=offline"), tmp_path) == []


# --- opened again ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nobody catches it, as nobody catches kill -9."""


def train_and_die(config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Kill the run once it has saved itself ``n`` times."""
    save, n_saved = Checkpoints.save, 0

    def save_and_die(self: Checkpoints, *arguments: Any) -> None:
        nonlocal n_saved
        save(self, *arguments)
        n_saved += 1
        if n_saved == n:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "save", save_and_die)
        train(config, folder)


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last part is whole. One that begins anew in the folder is another one."""
    data, folder = write_kway(tmp_path / "data"), tmp_path / "run"
    config = configure(data, *QUICK, "wandb.mode=offline", "trainer.checkpoint_seconds=0", "test=false")
    train_and_die(config, folder, monkeypatch, 3)
    known = json.loads((folder / "wandb_run.json").read_text())["id"]
    time.sleep(1.1)  # wandb calls its folders by the second
    train(config, folder)
    first, last = map(Told, parts(folder))
    assert first.run.run_id == last.run.run_id == known and (first.exit_code, last.exit_code) == (1, 0)
    rows = read_rows_of_metrics(folder)
    steps = [row["_step"] for row in last.history]
    assert steps == sorted(set(steps))
    assert len(first.steps("train/loss_step")) < len(last.steps("train/loss_step"))
    assert dict(last.steps("train/loss_step")) == {
        r["step"]: r["train/loss_step"] for r in rows if "train/loss_step" in r
    }
    time.sleep(1.1)
    evaluate(folder, "test")  # whoever opens a run says whether and where it is logged
    assert len(parts(folder)) == 2
    evaluate(folder, "test", wandb=config.wandb)  # as from another process
    tested = Told(parts(folder)[-1])
    assert tested.run.run_id == known and len(parts(folder)) == 3
    assert {"valid/accuracy", "test/accuracy"} <= set(tested.summary) and tested.steps("train/loss_step") == last.steps(
        "train/loss_step"
    )
    assert {"predictions_valid.parquet", "predictions_test.parquet"} <= set(tested.files_of("model"))
    other = tmp_path / "other"
    train_and_die(config, other, monkeypatch, 3)
    before = json.loads((other / "wandb_run.json").read_text())
    train(configure(data, *QUICK, "wandb.mode=offline", "test=false", "resume=never"), other)
    assert json.loads((other / "wandb_run.json").read_text()) != before


def test_disabled_imports_no_wandb(tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """During a run; ``tests/test_api.py`` looks at what is imported before."""
    monkeypatch.setitem(sys.modules, "wandb", None)  # whoever imports it fails
    train(configure(write_kway(tmp_path / "data"), *QUICK), tmp_path / "run")
    evaluate(tmp_path / "run")
    assert not (tmp_path / "run" / "wandb").exists() and not (tmp_path / "run" / "wandb_run.json").exists()


# --- what goes wrong -------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """As much of wandb's server as it takes to begin a run, and errors from then on: after ``answers`` questions."""

    answers = 0

    def do_POST(self) -> None:
        question = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        answer: Any = {"data": {}}
        if "RunResumeStatus" in question:
            answer = {"data": {"model": {"bucket": None}}}
        elif "UpsertBucket" in question:
            known = {
                "id": "x",
                "name": json.loads(question)["variables"]["name"],
                "project": {"name": "p", "entity": {"name": "e"}},
            }
            answer = {"data": {"upsertBucket": {"bucket": known, "inserted": True}}}
        fine, type(self).answers = self.answers > 0, self.answers - 1
        body = json.dumps(answer if fine else {"error": "out of order"}).encode()
        self.send_response(200 if fine else 500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """An http server that wandb takes for its own, with a key that it would take."""
    handler = type("Handler", (Server,), {})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{http.server_address[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(wandb_log, "INIT_TIMEOUT", 2.0)
    monkeypatch.setattr(wandb_log, "FINISH_TIMEOUT", 2.0)
    yield handler
    http.shutdown()
    http.server_close()


def train_warned(config: RunConfig, folder: Path) -> list[str]:
    """What a run that ends as it should warns of wandb."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metrics = train(config, folder)
        evaluate(folder, "test", wandb=config.wandb)
    assert set(json.loads((folder / "metrics.json").read_text())) == {"valid", "test"} and "accuracy" in metrics
    return [str(each.message) for each in caught if "wandb" in str(each.message)]


def test_a_process_of_wandb_that_does_not_end_holds_up_no_training(
    tmp_path: Path, configure: Any, server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr("wandb.sdk.lib.service.service_process.ServiceProcess.join", lambda _: ended.wait())
    monkeypatch.setattr(wandb_log, "END_TIMEOUT", 0.2)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    try:
        (line,) = train_warned(configure(write_kway(tmp_path / "data"), *QUICK, "wandb.mode=online"), tmp_path / "run")
    finally:
        ended.set()
    assert "wandb is o" in line  # offline or off


@pytest.mark.parametrize("fault", ["errors", "closed", "no key"])
def test_a_server_out_of_reach_leaves_an_offline_run(
    tmp_path: Path, configure: Any, server: type[Server], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "closed":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    if fault == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("it asks"))
    folder, started = tmp_path / "run", time.monotonic()
    warned = train_warned(configure(write_kway(tmp_path / "data"), *QUICK, "wandb.mode=online"), folder)
    assert time.monotonic() - started < 30
    (line,) = warned
    assert "wandb is offline: " in line
    (path,) = parts(folder)
    assert "test/accuracy" in Told(path).summary


def test_a_server_that_fails_in_the_middle(tmp_path: Path, configure: Any, server: type[Server]) -> None:
    server.answers = 2
    options = ["wandb.mode=online", "wandb.mistakes=0", "wandb.artifact=false"]
    folder, started = tmp_path / "run", time.monotonic()
    (line,) = train_warned(configure(write_kway(tmp_path / "data"), *QUICK, *options), folder)
    assert time.monotonic() - started < 30
    (online,) = (folder / "wandb").glob("run-*")
    assert f"wandb is off (`wandb sync {online}` may send" in line
    assert not parts(folder)


def _broken(*arguments: Any, **options: Any) -> None:
    raise OSError("out of order")


@pytest.mark.parametrize("method", ["init", "log", "finish", "log_artifact", "Table"])
def test_whatever_wandb_raises_is_one_warning(
    tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    import wandb

    monkeypatch.setattr(wandb if method in ("init", "Table") else wandb.Run, method, _broken)
    (line,) = train_warned(configure(write_kway(tmp_path / "data"), *QUICK, "wandb.mode=offline"), tmp_path / "run")
    assert "wandb is off" in line and line.endswith("out of order")


def test_a_folder_that_wandb_cannot_write_to(tmp_path: Path, configure: Any) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "wandb").touch()
    (line,) = train_warned(configure(write_kway(tmp_path / "data"), *QUICK, "wandb.mode=offline"), folder)
    assert "wandb is off" in line


def test_wandb_itself_dies(tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process, after the first row."""
    import wandb
    from wandb.sdk.wandb_setup import singleton

    log = wandb.Run.log

    def log_and_die(self: Any, *arguments: Any, **options: Any) -> None:
        log(self, *arguments, **options)
        process = singleton()._connection._proc._process
        process.kill()
        process.wait()

    monkeypatch.setattr(wandb.Run, "log", log_and_die)
    (line,) = train_warned(configure(write_kway(tmp_path / "data"), *QUICK, "wandb.mode=offline"), tmp_path / "run")
    assert "wandb is off" in line

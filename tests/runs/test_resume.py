"""A run that is killed at any moment goes on, and ends as if it had not been killed."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from toy_data import write_kway, write_pairs

from mmtab.config.compose import compose
from mmtab.runs.evaluate import evaluate
from mmtab.runs.train import train
from mmtab.training.checkpoints import Checkpoints
from mmtab.utils.errors import RunError

SCRIPTS = Path(__file__).parents[2] / "scripts"


class Killed(BaseException):
    """Nobody catches it, as nobody catches kill -9."""


def result(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for times."""
    predictions = pyarrow.parquet.read_table(folder / "predictions_valid.parquet")
    weights = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return {
        "metrics": (folder / "metrics.json").read_text(),
        "epochs": (folder / "metrics.csv").read_text(),
        "predictions": predictions.to_pydict(),
        "weights": {name: hashlib.sha256(x.numpy().tobytes()).hexdigest() for name, x in weights.items()},
    }


def train_killed(config: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> int:
    """Kill the run after every ``after``-th checkpoint and start it again until it ends; returns how often."""
    save, n_saved, n_killed = Checkpoints.save, 0, 0

    def save_and_die(self: Checkpoints, *arguments: Any) -> None:
        nonlocal n_saved
        save(self, *arguments)
        n_saved += 1
        if n_saved % after == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        while True:
            try:
                train(config, folder)
                return n_killed
            except Killed:
                n_killed += 1
                assert n_killed < 100, "it does not get on"


VARIANTS = [
    (write_kway, 1, ["dataset.drop=[image,text]", "trainer.max_epochs=3"]),
    (write_kway, 4, ["dataset.drop=[image]", "trainer.n_workers=1", "kway_head.n_sampled=2"]),
    (
        write_pairs,
        5,
        [
            "dataset.drop=[image]",
            "text.n_tuned_layers=0",
            "pair_head.hard_negatives=0.5",
            "trainer.max_epochs=4",
            "pair_head.augment.cell_drop=0.3",
        ],
    ),
]
LONGER = [
    (
        write_kway,
        7,
        [
            "dataset.drop=[image]",
            "trainer.max_epochs=12",
            "trainer.patience=3",
            "text.n_tuned_layers=0",
            "trainer.keep=3",
        ],
    ),
    (write_pairs, 3, ["dataset.drop=[image]", "pair_head.cross_text=true", "pair_head.augment.span_deletion=0.5"]),
    (write_kway, 4, []),
    (
        write_kway,
        3,
        [
            "image.tuned=true",
            "image.augment=true",
            "trainer.batch_size=4",
            "trainer.accumulate=2",
            "dataset.drop=[text]",
        ],
    ),
]


@pytest.mark.parametrize(
    ("write", "after", "overrides"),
    [
        pytest.param(*each, id=f"{each[0].__name__},{','.join(each[2])}", marks=marks)
        for group, marks in ((VARIANTS, []), (LONGER, [pytest.mark.slow]))
        for each in group
    ],
)
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(
    tmp_path: Path,
    configure: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    write: Any,
    after: int,
    overrides: list[str],
) -> None:
    config = configure(write(tmp_path / "data"), "trainer.batch_size=8", *overrides)
    expected = train(config, tmp_path / "whole")
    config.trainer.checkpoint_seconds = 0
    folder = tmp_path / "killed"
    capsys.readouterr()
    n_killed = train_killed(config, folder, monkeypatch, after)
    said = re.findall(r"goes on where it was stopped: in epoch (\d+) of at most (\d+), after", capsys.readouterr().out)
    assert n_killed > 1 and len(said) == n_killed
    assert all(1 <= int(epoch) <= int(most) == config.trainer.max_epochs for epoch, most in said)
    assert result(folder) == result(tmp_path / "whole")
    assert evaluate(folder, "valid") == expected
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert len(kept) == config.trainer.keep and "best.ckpt" in kept


def test_the_disk_holds_no_more_than_what_is_kept(
    tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment: the kept epochs, where the run stands, and while that is replaced one file more of each."""
    seen: list[int] = []
    save = Checkpoints.save

    def look(self: Checkpoints, *arguments: Any) -> None:
        save(self, *arguments)
        seen.append(len(list(self.folder.iterdir())))

    monkeypatch.setattr(Checkpoints, "save", look)
    data = write_kway(tmp_path / "data")
    quick = ["dataset.drop=[image,text]", "trainer.checkpoint_seconds=0"]
    train(configure(data, *quick, "trainer.max_epochs=8", "trainer.keep=2"), tmp_path / "run")
    assert len(seen) > 8 and max(seen) <= 2 + 1


def test_an_unfinished_run_is_not_mixed_with_another(
    tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = write_kway(tmp_path / "data"), tmp_path / "run"
    quick = ["dataset.drop=[image,text]", "trainer.checkpoint_seconds=0", "trainer.batch_size=8"]

    def leave() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "finish", lambda *_: (_ for _ in ()).throw(Killed()))
            with pytest.raises(Killed):
                train(configure(data, *quick), folder)

    leave()
    with pytest.raises(RunError, match=r"unfinished run with other settings \(trainer\.lr=0\.0007 there, 0\.5 here\)"):
        train(configure(data, *quick, "trainer.lr=0.5"), folder)
    with pytest.raises(RunError, match=r"not a finished run.*train again with the same settings"):
        evaluate(folder, "valid")
    write_kway(data, seed=1)
    with pytest.raises(RunError, match="other data"):
        train(configure(data, *quick), folder)
    other = train(configure(data, *quick, "trainer.lr=0.5", "resume=never"), folder)
    assert other == train(configure(data, *quick, "trainer.lr=0.5"), tmp_path / "alone")
    with pytest.raises(RunError, match="already holds a finished run"):
        train(configure(data, *quick, "trainer.lr=0.5", "resume=never"), folder)
    with pytest.warns(UserWarning, match="nothing was trained"):
        assert train(configure(data, *quick, "trainer.lr=0.5"), folder) == other
    last = tmp_path / "alone" / "checkpoints" / "last.ckpt"
    (tmp_path / "alone" / "provenance.json").unlink()
    last.write_bytes(b"half of one")
    with pytest.raises(RunError, match=r"last\.ckpt is damaged.*resume=never"):
        train(configure(data, *quick, "trainer.lr=0.5"), tmp_path / "alone")


def settings(folder: Path, data: Path, backbone: Path) -> list[str]:
    small = [
        "text.max_length=16",
        "text.n_tuned_layers=1",
        "image.size=32",
        "d_model=16",
        "trainer.batch_size=8",
        "trainer.n_threads=1",
        "report=false",
    ]
    return ["dataset=custom", f"dataset.path={data}", f"text.backbone={backbone}", f"output={folder}", *small]


def start(folder: Path, data: Path, backbone: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / "train.py"), *settings(folder, data, backbone), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


LONG = ["trainer.max_epochs=8", "trainer.patience=8", "trainer.checkpoint_seconds=0.2", "test=false"]


@pytest.mark.slow
def test_kill_9_at_a_random_moment(tmp_path: Path, backbone: Path) -> None:
    data, rng = write_kway(tmp_path / "data"), random.Random(0)
    train(compose(*settings(tmp_path / "whole", data, backbone), *LONG), tmp_path / "whole")
    process = start(tmp_path / "killed", data, backbone, *LONG)
    wait_for_epochs(process, rng.randrange(1, 6))
    time.sleep(rng.uniform(0, 0.1))
    process.kill()
    process.wait()
    finish(start(tmp_path / "killed", data, backbone, *LONG))
    assert result(tmp_path / "killed") == result(tmp_path / "whole")


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output


def wait_for_epochs(process: subprocess.Popen[str], n: int) -> list[str]:
    """The lines of the next ``n`` epochs."""
    assert process.stdout is not None
    return list(itertools.islice((line for line in process.stdout if line.startswith("epoch")), n))


@pytest.mark.slow
def test_a_signal_saves_and_ends_cleanly(tmp_path: Path, backbone: Path) -> None:
    data, folder = write_kway(tmp_path / "data"), tmp_path / "run"
    overrides = ["trainer.max_epochs=400", "trainer.patience=400", "trainer.checkpoint_seconds=1000", "test=false"]
    reached = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start(folder, data, backbone, *overrides)
        first, *_, last = wait_for_epochs(process, 5)
        assert int(first.split()[1]) > reached  # not from the beginning
        if number == signal.SIGTERM:
            with pytest.raises(RunError, match="another process is writing to"):  # two never write into one folder
                train(compose(*settings(folder, data, backbone), *overrides), folder)
        process.send_signal(number)
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 128 + number
        assert "the same command goes on" in output and "Traceback" not in output
        assert (folder / "checkpoints" / "last.ckpt").is_file()
        reached = int(last.split()[1])

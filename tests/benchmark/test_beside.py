"""``mmtab benchmark beside=multabench``: what MulTaBench publishes beside a benchmark's own scores.

A double of its package stands in for it, with the same functions and far fewer results; where the package itself is
installed, its results are read too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import script
from toy_data import write_kway, write_numbers, write_pairs

from mmtab.benchmark import multabench
from mmtab.benchmark.plan import Source
from mmtab.benchmark.runner import run_benchmark
from mmtab.config.ranking import BenchmarkConfig, SystemConfig, TrackConfig
from mmtab.data.schema import Schema
from mmtab.prepare.importers.multabench import HUB, divide
from mmtab.utils.errors import ConfigError

INSTALLED = importlib.util.find_spec("multabench") is not None
LISTED = """
from types import SimpleNamespace as _N
def list_datasets():
    sets = {"REG_A": "core-text-reg-prices", "MUL_B": "core-img-cls-things", "BIN_C": "extended-text-cls-truths"}
    return [_N(id=_N(name=name), hf_repo=f"multabench/{repository}") for name, repository in sets.items()]
"""
EXPORT = """
import json, pathlib, pandas as pd
def load_entries():
    return pd.DataFrame(json.loads(pathlib.Path(__file__).with_name("runs.json").read_text()))
"""


def run(dataset: str, metric: str, entry: str, fold: int, error: float, **more: Any) -> dict[str, Any]:
    score = 1 - error if metric == "roc_auc" else -error
    same = {"status": "ok", "n_train": 80.0, "n_test": 20.0, "test_error": error, "test_score": score}
    return {"dataset": dataset, "metric": metric, "entry": entry, "fold": fold} | same | more


RUNS = [
    *(run("REG_A", "root_mean_squared_error", "Trees (TAR-S)", fold, 1.0 + fold / 2) for fold in range(2)),
    *(run("REG_A", "root_mean_squared_error", "Trees (Frozen-S)", fold, 1e6 + fold) for fold in range(2)),
    run("REG_A", "root_mean_squared_error", "Broken", 0, 0.0, status="error"),
    *(run("MUL_B", "log_loss", "Trees (TAR-S)", fold, 0.2 + fold) for fold in range(2)),
    *(run("BIN_C", "roc_auc", "Trees (TAR-S)", fold, 0.25) for fold in range(2)),
]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The double."""
    files = {
        "multabench/__init__.py": LISTED,
        "multabench/leaderboard/__init__.py": "",
        "multabench/leaderboard/export.py": EXPORT,
        "multabench/leaderboard/runs.json": json.dumps(RUNS),
        "multabench-0.1.9.dist-info/METADATA": "Metadata-Version: 2.4\nName: multabench\nVersion: 0.1.9\n",
    }
    for name, text in files.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(text)
    yield from _alone(monkeypatch, tmp_path / "site")


@pytest.fixture
def without_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "multabench.py").write_text("raise ModuleNotFoundError('none', name='multabench')")
    yield from _alone(monkeypatch, tmp_path / "site")


def _alone(monkeypatch: pytest.MonkeyPatch, site: Path) -> Iterator[Path]:
    def loaded() -> dict[str, Any]:
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] == "multabench"}

    before = loaded()
    for name in before:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    importlib.invalidate_caches()
    yield site
    for name in loaded():
        del sys.modules[name]
    sys.modules.update(before)


def imported(folder: Path, repository: str, fold: Any, **changes: Any) -> Path:
    """As ``mmtab prepare import multabench:REPOSITORY/FOLD`` notes it."""
    source = f"MulTaBench (Arazi et al., arXiv 2605.10616); {HUB}/{repository}; ranked by some metric"
    replace(Schema.read(folder), source=source, split={"method": "as published", "fold": fold}, **changes).write(folder)
    return folder


def system(**settings: Any) -> SystemConfig:
    return SystemConfig(**{"title": "a system", "deterministic": True} | settings)


def config_of(output: Path, folders: list[Path], **systems: SystemConfig) -> BenchmarkConfig:
    track = {"own": TrackConfig("Own", [str(folder) for folder in folders])}
    cache = os.environ["MMTAB_CACHE"]
    return BenchmarkConfig(output=str(output), track=track, system=systems, cache=cache, beside="multabench")


def table_of(page: Path) -> tuple[list[str], dict[str, list[str]], str]:
    """Head, lines by name in order, and what stands below."""
    text = page.read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return lines[0], {line[0]: line[1:] for line in lines[2:]}, text.rpartition("|\n")[2]


@pytest.mark.slow
def test_own_scores_and_published_ones_side_by_side(package: Path, tmp_path: Path) -> None:
    prices = imported(write_numbers(tmp_path / "prices", n=100, images=False), "core-text-reg-prices", 1)
    things = write_kway(tmp_path / "things", n=50, images=False)
    offers = write_pairs(tmp_path / "offers", n=30, images=False)
    rival = tmp_path / "rival.py"
    rival.write_text(
        "import sys, pathlib, pyarrow.parquet as pq\n"
        "for split in ('valid', 'test'):\n"
        "    table = pq.read_table(pathlib.Path(sys.argv[1]) / f'{split}.parquet').select(['id'])\n"
        "    table = table.append_column('prediction', [['kind 0'] * len(table)])\n"
        "    pq.write_table(table, pathlib.Path(sys.argv[2]) / f'predictions_{split}.parquet')\n"
    )
    systems = {
        "linear": system(title="words *and* ridge", baseline="tfidf_linear", tasks=["regression"]),
        "guess": system(title="guess", tasks=["kway"], command=["{python}", str(rival), "{data}", "{output}"]),
    }
    run_benchmark(config_of(tmp_path / "bench", [prices, things, offers], **systems))
    head, lines, notes = table_of(tmp_path / "bench" / "multabench.md")
    assert head == ["system", "average rank", "prices (rmse ↓)", "things (log_loss ↓)"]
    results = pd.read_parquet(tmp_path / "bench" / "results.parquet")
    (own,) = results.query("system == 'linear' and split == 'test' and metric == 'rmse'")["value"]
    assert lines == {
        "**words \\*and\\* ridge**": ["1.0", f"{own:.4g}", "–"],
        "Trees (TAR-S)": ["2.0", "1.5", "0.7"],  # of the fold; by name alone, the mean of folds
        "Trees (Frozen-S)": ["3.0", "1e+06", "–"],
        "**guess**": ["–", "–", "–"],
    }
    assert [line[0] for line in lines.values()] == ["1.0", "2.0", "3.0", "–"], "the best first"
    assert "number of rows: prices (core-text-reg-prices/1). Systems" in notes and "multabench 0.1.9" in notes
    assert "things beside core-img-cls-things; other rows" in notes and "another task there: offers" in notes
    assert "own scoreboard is by accuracy, r2" in notes
    assert "Without probabilities, which the metric takes: guess on things" in notes


def test_the_command_prints_it(package: Path, tmp_path: Path) -> None:
    folder = write_kway(tmp_path / "truths", n=50, k=2, images=False)
    track = ["track=kway", f"track.kway.datasets=[{folder}]", "system=majority"]
    done = script("benchmark", *track, "beside=multabench", f"output={tmp_path / 'bench'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bench" / "multabench.md").read_text() in done.stdout
    head, lines, notes = table_of(tmp_path / "bench" / "multabench.md")
    assert head[2] == "truths (roc_auc ↑)" and "nothing is ranked" in notes
    assert lines["Trees (TAR-S)"] == ["–", "0.75"] and list(lines.values())[1] == ["–", "0.5"]


def test_a_fold_of_other_rows(package: Path, tmp_path: Path) -> None:
    folder = imported(write_numbers(tmp_path / "prices", n=90, images=False), "core-text-reg-prices", 0)
    (twin,) = multabench.find_twins({"prices": Source("prices", [], folder, Schema.read(folder), "")})
    assert twin.other == "72 rows of train and 18 of test, where fold 0 has 80 and 20"
    assert twin.values == {"Trees (TAR-S)": 1, "Trees (Frozen-S)": 1e6}, "of what succeeded"


def test_what_cannot_be_put_beside(package: Path, tmp_path: Path) -> None:
    majority = system(baseline="majority")
    refused = [
        write_pairs(tmp_path / "offers", images=False),
        write_numbers(tmp_path / "things", images=False),  # published as classes
        imported(write_numbers(tmp_path / "more", images=False), "core-text-reg-prices", 5),  # of no published run
    ]
    with pytest.raises(ConfigError, match=r"beside=multabench: no dataset of the track .* mmtab prepare import"):
        run_benchmark(config_of(tmp_path / "bench", refused, majority=majority))
    (package / "multabench" / "leaderboard" / "runs.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"results of multabench 0\.1\.9 have another form .* pip install"):
        run_benchmark(config_of(tmp_path / "bench", refused, majority=majority))
    assert not (tmp_path / "bench").exists()


def test_without_the_package(without_package: Path, tmp_path: Path) -> None:
    folder = imported(write_numbers(tmp_path / "prices", images=False), "core-text-reg-prices", 1)
    track = ["track=regression", f"track.regression.datasets=[{folder}]", "system=majority"]
    done = script("benchmark", *track, "beside=multabench", f"output={tmp_path / 'bench'}")
    assert done.returncode == 1 and 'this needs multabench. Fix: pip install "mmtab[multabench]"' in done.stderr
    done = script("benchmark", *track, "beside=tabarena", f"output={tmp_path / 'bench'}")
    assert done.returncode == 1 and "beside=tabarena: expected one of multabench" in done.stderr


@pytest.mark.skipif(not INSTALLED, reason='no multabench: pip install "mmtab[multabench]"')
def test_the_package_itself(tmp_path: Path) -> None:
    from multabench.benchmark.splits import get_split

    rng = np.random.default_rng(0)
    for label, is_cls in ((rng.integers(4, size=500), True), (rng.normal(size=16_000), False)):
        for fold in (0, 4):
            pairs = zip(divide(label, fold, is_cls), get_split(label, is_cls, fold), strict=True)
            assert all(np.array_equal(own, theirs) for own, theirs in pairs)
    repository = "core-text-reg-book-price"
    folder = imported(write_numbers(tmp_path / "books", images=False), repository, 3)
    (twin,) = multabench.find_twins({"books": Source("books", [], folder, Schema.read(folder), "")})
    assert (twin.repository, twin.fold, twin.metric) == (repository, 3, "rmse") and "where fold 3 has" in twin.other
    assert len(twin.values) > 50 and all(0 < value < 10 for value in twin.values.values())

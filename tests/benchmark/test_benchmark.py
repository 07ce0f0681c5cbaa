"""The benchmark: systems on the datasets of tracks, resumed, collected and ranked; and checks on whoever checks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from damage import damage_at_random
from sklearn import metrics as sklearn_metrics
from toy_data import write_kway, write_pairs, write_table

from mmtab.benchmark.ensemble import average
from mmtab.benchmark.handout import without_labels
from mmtab.benchmark.plan import applies, check_system, check_systems, find_datasets, plan_jobs, seeds_of, with_members
from mmtab.benchmark.results import read_results
from mmtab.benchmark.runner import Work, _n_train, run_benchmark
from mmtab.benchmark.scoring import CheckedPredictions, metrics, read_predictions, write_predictions
from mmtab.benchmark.truth import Truth
from mmtab.benchmark.types import Board
from mmtab.config.compose import compose, register
from mmtab.config.ranking import BenchmarkConfig, SystemConfig, TrackConfig
from mmtab.config.types import CONFIGS
from mmtab.data import files
from mmtab.data.schema import Schema
from mmtab.utils import manifest
from mmtab.utils.errors import ConfigError, DataError, MmtabError, RunError
from mmtab.utils.progress import duration

SCRIPT = CONFIGS.parent / "scripts" / "benchmark.py"
# A rival: a program that knows nothing of mmtab. It answers with its favourite class, or with a sleep before that.
RIVAL = """
import json, os, pathlib, sys, time
import pyarrow as pa, pyarrow.parquet as pq
data, output, seed = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
(pathlib.Path(__file__).parent / "pids").open("a").write(f"{os.getpid()} {data.name}\\n")
time.sleep(float(os.environ.get("RIVAL_SECONDS", 0)))
if data.name.startswith(os.environ.get("RIVAL_FAILS", "nobody")):
    sys.exit("error: I cannot do this")
train = pq.read_table(data / "train.parquet")
assert "label" not in pq.read_table(data / "test.parquet").column_names
favourite = sorted(set(train["label"].to_pylist()))[seed % 2]
for split in ("valid", "test"):
    ids = pq.read_table(data / f"{split}.parquet")["id"]
    p = {f"p_{name}": [float(name == favourite)] * len(ids) for name in set(train["label"].to_pylist())}
    table = pa.table({"id": ids, "prediction": [favourite] * len(ids)} | p)
    pq.write_table(table, output / f"predictions_{split}.parquet")
(output / "facts.json").write_text(json.dumps({"train_seconds": 1.5, "predict_rows_per_second": 100.0}))
"""


def system(**settings: Any) -> SystemConfig:
    return SystemConfig(**{"title": "a system"} | settings)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_kway(root / "things", n=90)
    write_pairs(root / "offers", n=60)
    return root


@pytest.fixture
def rival(tmp_path: Path) -> Path:
    (tmp_path / "rival.py").write_text(RIVAL)
    return tmp_path / "rival.py"


def called(rival: Path) -> SystemConfig:
    return system(kind="rival", tasks=["kway"], command=["{python}", str(rival), "{data}", "{output}", "{seed}"])


def config_of(output: Path, tables: Path, systems: dict[str, SystemConfig], **settings: Any) -> BenchmarkConfig:
    tracks = {
        "kway": TrackConfig("K-way", [str(tables / "things")]),
        "matching": TrackConfig("Matching", [str(tables / "offers")]),
    }
    cache = os.environ["MMTAB_CACHE"]
    return BenchmarkConfig(**{"output": str(output), "track": tracks, "system": systems, "cache": cache} | settings)


def results_of(output: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    return {(r["system"], r["dataset"], r["seed"]): r for _, r in read_results(output)}


# --- running ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_system_on_every_dataset(tables: Path, rival: Path, backbone: Path, tmp_path: Path) -> None:
    systems = {
        "majority": system(deterministic=True, baseline="majority"),
        "linear": system(deterministic=True, baseline="tfidf_linear"),
        "ours": system(
            kind="mmtab",
            deterministic=True,  # it is not, but one training shows as much as two
            tasks=["kway"],
            keep=["text", "numeric"],
            train=["recipe=frozen", "trainer.max_epochs=1"],
        ),
        "rival": called(rival),
        "both": system(kind="mmtab", members=["linear", "majority"]),
    }
    output = tmp_path / "bench"
    config = config_of(output, tables, systems, seeds=2, n_jobs=2, overrides=[f"text.backbone={backbone}"])
    board = run_benchmark(config)
    found = results_of(output)
    assert not board.failures and {entry.name for entry in board.entries} == set(systems)
    expected = {(name, data, 0) for name in ("majority", "linear", "both") for data in ("things", "offers")}
    expected |= {("both", data, 1) for data in ("things", "offers")}
    expected |= {("ours", "things", 0), ("rival", "things", 0), ("rival", "things", 1)}
    assert set(found) == expected, "deterministic systems have one seed; each does the tasks that it can"

    table = files.read(output / "results.parquet", "results").to_pylist()
    assert {(row["system"], row["dataset"], row["seed"]) for row in table} == expected
    ranked = [row for row in table if row["ranked_by"] and row["split"] == "test"]
    assert {(r["system"], r["dataset"], r["seed"]): r["value"] for r in ranked} == {
        k: r["value"] for k, r in found.items()
    }
    for row in ranked:
        assert row["train_seconds"] > 0 and row["predict_rows_per_second"] > 0 and row["peak_memory_mib"] > 0
        assert row["git_commit"] and len(row["data_fingerprint"]) == 32
    assert found["rival", "things", 0]["train_seconds"] == 1.5, "what it says of itself counts"

    # One door for all scores, which agrees with scikit-learn and with what mmtab says of its own runs.
    for (name, dataset, seed), result in found.items():
        answers = files.read(output / "jobs" / name / dataset / f"seed{seed}" / "scored_test.parquet", dataset)
        label, said = (np.asarray(answers[f"{column}_0"]) for column in ("label", "prediction"))
        check = sklearn_metrics.accuracy_score if dataset == "things" else sklearn_metrics.f1_score
        assert result["value"] == pytest.approx(check(label, said), abs=1e-12)
    own = json.loads((output / "jobs" / "ours" / "things" / "seed0" / "run" / "metrics.json").read_text())
    for split in ("valid", "test"):
        for metric, value in found["ours", "things", 0]["metrics"][split].items():
            assert own[split][metric] == pytest.approx(value, abs=1e-6), f"{split} {metric}"
    schema = yaml.safe_load((output / "jobs" / "ours" / "things" / "seed0" / "run" / "schema.yaml").read_text())
    assert set(schema["columns"].values()) == {"text", "numeric"}
    assert not (output / "jobs" / "ours" / "things" / "seed0" / "run" / "checkpoints").exists()

    for suffix in ("html", "md", "csv"):
        assert "majority" in (output / f"scoreboard.{suffix}").read_text() or suffix == "md"
    before = {path: path.stat().st_mtime_ns for path in output.rglob("result.json")}
    run_benchmark(config)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("result.json")} == before, "nothing was run again"

    # It grows: a further seed of one system, with another one left out, shows what was there too.
    (output / "jobs").rename(output / "cells")  # as earlier versions called them
    for path in output.rglob("scored_test.parquet"):
        path.rename(path.with_name("answers_test.parquet"))
        result = json.loads((path.parent / "result.json").read_text())  # which had no digests then
        kept = {name: value for name, value in result.items() if name not in ("files", "digest")}
        (path.parent / "result.json").write_text(json.dumps(kept))
    grown = run_benchmark(config_of(output, tables, {"rival": called(rival)}, seeds=[2]))
    assert {entry.name for entry in grown.entries} == set(systems) and ("rival", "things", 2) in results_of(output)
    other = called(rival)
    other.command = [*(other.command or []), "--more"]
    with pytest.raises(ConfigError, match=r"seed2 was run with another command .* give another output"):
        run_benchmark(config_of(output, tables, {"rival": other}, seeds=[2]))


@pytest.fixture(scope="module")
def finished(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A finished benchmark, and what its board says."""
    output = tmp_path_factory.mktemp("finished") / "bench"
    return output, _numbers(run_benchmark(smallest(output, tables)))


def smallest(output: Path, tables: Path) -> BenchmarkConfig:
    """Of one job, for each starts a process."""
    track = {"kway": TrackConfig("K-way", [str(tables / "things")])}
    return config_of(output, tables, {"majority": system(baseline="majority")}, track=track)


def _numbers(board: Board) -> Any:
    scores = [(entry.name, vars(score)) for entry in board.entries for score in entry.scores]
    return [(name, score | {"prediction": score["prediction"].tolist()}) for name, score in scores]


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(s, marks=pytest.mark.slow) for s in range(6, 24))])
def test_a_damaged_benchmark_has_the_same_numbers_or_says_what_is_damaged(
    seed: int, finished: tuple[Path, Any], tables: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bench"
    shutil.copytree(finished[0], output)
    done = damage_at_random(output, seed)
    try:
        board = run_benchmark(smallest(output, tables))
    except MmtabError as error:
        assert "\n" not in str(error) and done.split()[3].rsplit("/")[-1] in str(error), (done, error)
    else:
        assert _numbers(board) == finished[1], done


def test_a_result_that_lost_its_digest_is_not_believed(
    finished: tuple[Path, Any], tables: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(finished[0], tmp_path / "bench"))
    path = next(output.rglob("result.json"))
    path.write_text(path.read_text().replace('"digest"', '"digesu"'))
    with pytest.raises(MmtabError, match=r"result\.json is damaged \(it has other bytes.*Fix: remove "):
        run_benchmark(smallest(output, tables))


def changed(output: Path, pattern: str, **values: Any) -> None:
    """One of the files of a benchmark, sealed as the benchmark seals it."""
    path = next(output.rglob(pattern))
    content = {name: value for name, value in json.loads(path.read_text()).items() if name != "digest"}
    path.write_text(json.dumps(manifest.sealed(content | values)))


def linked(output: Path, name: str) -> None:
    """A folder of a finished job leads elsewhere."""
    job = next(output.rglob("result.json")).parent
    shutil.rmtree(job / name, ignore_errors=True)
    (job / name).symlink_to(output.parent)


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a value that is text": (lambda o: changed(o, "result.json", value="x"), r"result\.json, value: expected a finite"),
    "a value that is none": (lambda o: changed(o, "result.json", value=float("nan")), r"result\.json, value: expected"),
    "metrics that are a list": (lambda o: changed(o, "result.json", metrics=[1]), r"result\.json, metrics: expected a"),
    "no hardware": (lambda o: changed(o, "result.json", hardware=None), r"result\.json, hardware: expected a mapping"),
    "files that are none": (lambda o: changed(o, "result.json", files={"a": 1}), r"result\.json, files\.a: expected"),
    "another system": (lambda o: changed(o, "result.json", system="<b>"), r"result\.json, system: expected that of"),
    "a name for a terminal": (lambda o: changed(o, "systems.json", majority={"title": "a\x1b[31m"}), "title: expected"),
    "a system of other settings": (lambda o: changed(o, "systems.json", other={"x": 1}), r"systems\.json does not fit"),
    "a run elsewhere": (lambda o: linked(o, "run"), "which is outside"),
    "predictions elsewhere": (lambda o: linked(o, "predictions"), "which is outside"),
}


@pytest.mark.parametrize(("change", "problem"), STRANGE.values(), ids=STRANGE)
def test_what_does_not_fit_in_a_benchmark_is_named(
    change: Callable[[Path], object], problem: str, finished: tuple[Path, Any], tables: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(finished[0], tmp_path / "bench"))
    change(output)
    with pytest.raises(RunError, match=problem) as caught:
        run_benchmark(smallest(output, tables))
    assert str(output) in str(caught.value) and "\n" not in str(caught.value)


def test_labels_of_other_jobs_are_not_believed(finished: tuple[Path, Any], tables: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(finished[0], tmp_path / "bench"))
    job = next(output.rglob("things/*/result.json")).parent
    other = Path(shutil.copytree(job, output / "jobs" / "zero" / "things" / job.name))
    scored = files.read(other / "scored_test.parquet", "things")
    turned = pa.array(np.roll(np.asarray(scored["label_0"]), 1))
    files.write_table(other / "scored_test.parquet", scored.set_column(0, "label_0", turned))
    changed(output, "zero/things/*/result.json", system="zero", files={})
    changed(output, "systems.json", zero={"title": "zero"})
    with pytest.raises(RunError, match=r"zero/things/.* has other labels of things"):
        run_benchmark(smallest(output, tables))


def test_a_log_is_not_written_elsewhere(tables: Path, tmp_path: Path) -> None:
    job = tmp_path / "bench" / "jobs" / "majority" / "things" / "seed0"
    job.mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    (job / "log.txt").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match=r"log\.txt is a link"):
        run_benchmark(config_of(tmp_path / "bench", tables, {"majority": system(baseline="majority")}))
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.slow
def test_a_failure_is_named_and_the_rest_goes_on(
    tables: Path, rival: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RIVAL_FAILS", "things")
    systems = {
        "rival": called(rival),
        "both": system(members=["rival", "majority"]),
        "majority": system(baseline="majority"),
    }
    board = run_benchmark(config_of(tmp_path / "bench", tables, systems, n_jobs=2))
    said = {(failure.entry, failure.dataset): failure.error for failure in board.failures}
    assert set(said) == {("rival", "things"), ("both", "things")}
    assert said["rival", "things"].endswith("rival on things ended with status 1: error: I cannot do this")
    assert said["both", "things"] == "its member rival failed"
    assert set(results_of(tmp_path / "bench")) == {
        ("majority", "things", 0),
        ("majority", "offers", 0),
        ("both", "offers", 0),
    }
    lines = capsys.readouterr().out
    assert "I cannot do this; once more" in lines and lines.count("I cannot do this") == 1, "said once"
    assert "rival  things  seed 0  FAILED again, for the same reason" in lines
    assert "I cannot do this" in (tmp_path / "bench/jobs/rival/things/seed0/log.txt").read_text()
    monkeypatch.delenv("RIVAL_FAILS")
    assert not run_benchmark(config_of(tmp_path / "bench", tables, systems)).failures, "what failed is tried again"


@pytest.mark.slow
def test_a_killed_benchmark_takes_everything_with_it_and_goes_on(tables: Path, rival: Path, tmp_path: Path) -> None:
    for group, name, content in (
        (
            "system",
            "slow",
            {"slow": {"title": "slow", "kind": "rival", "tasks": ["kway"], "command": called(rival).command}},
        ),
        ("track", "mine", {"mine": {"title": "mine", "datasets": [str(tables / "things")]}}),
    ):  # what CONTRIBUTING calls one yaml, and one line
        (tmp_path / "more" / group).mkdir(parents=True)
        (tmp_path / "more" / group / f"{name}.yaml").write_text(yaml.safe_dump(content))
    command = [
        sys.executable,
        str(SCRIPT),
        "--config-dir",
        str(tmp_path / "more"),
        "track=mine",
        "system=[majority,slow]",
        f"output={tmp_path / 'bench'}",
        "seeds=2",
    ]
    environment = os.environ | {"RIVAL_SECONDS": "300"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for((tmp_path / "pids").exists)
    number = int((tmp_path / "pids").read_text().split()[0])
    first = results_of(tmp_path / "bench")
    assert set(first) == {("majority", "things", 0)}
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for(lambda: not Path(f"/proc/{number}").exists())
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "scoreboard:" in done.stdout and "| slow |" in done.stdout
    then = results_of(tmp_path / "bench")
    assert set(then) == {("majority", "things", 0), ("slow", "things", 0), ("slow", "things", 1)}
    assert then["majority", "things", 0] == first["majority", "things", 0], "what was finished was not run again"


def _wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


# --- configuration ---------------------------------------------------------------------------------------------------


def composed(*overrides: str) -> BenchmarkConfig:
    import hydra
    from omegaconf import OmegaConf

    register()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        raw = OmegaConf.to_container(hydra.compose("benchmark", list(overrides)), resolve=True)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BenchmarkConfig), raw))
    assert isinstance(config, BenchmarkConfig)
    return config


def test_every_system_file_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MMTAB_AUTOGLUON", "MMTAB_SPLINK"):
        monkeypatch.setenv(name, sys.executable)
    names = sorted(path.stem for path in (CONFIGS / "system").glob("*.yaml"))
    config = composed(f"system=[{','.join(names)}]")
    assert set(names) - {"cheap"} <= set(config.system)
    for name, each in config.system.items():
        check_system(name, each, config)
        assert each.about and each.title


def test_an_ensemble_brings_its_members(tmp_path: Path) -> None:
    chosen = composed("system=[frozen,best]", "track=matching")
    config = with_members(chosen)
    check_systems(config)
    assert set(config.system) == {"frozen", "best", *config.system["best"].members} and set(chosen.system) < set(
        config.system
    )
    assert config.system["tuned"].train == ["recipe=tuned"]
    assert with_members(config) == config


@pytest.mark.parametrize("path", sorted((CONFIGS / "track").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_track_lists_known_datasets(path: Path) -> None:
    for track in composed(f"track={path.stem}").track.values():
        assert track.title and track.datasets
        assert all((CONFIGS / "dataset" / f"{name}.yaml").exists() for name in track.datasets)


@pytest.mark.parametrize("path", sorted((CONFIGS / "recipe").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_a_setting_of_train(path: Path) -> None:
    assert compose(f"recipe={path.stem}", "output=unused") is not None
    assert compose("recipe=frozen", "output=unused").text["n_tuned_layers"] == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"baseline": "majority", "train": []},
            "expected one of train, baseline, command, members; found train, baseline",
        ),
        ({}, "found none"),
        ({"baseline": "magic"}, "baseline=magic: expected one of .*majority"),
        ({"baseline": "majority", "kind": "friend"}, "kind=friend: expected one of mmtab, control, rival"),
        ({"baseline": "majority", "tasks": ["ranking"]}, "tasks=ranking: expected one of kway, regression, matching"),
        ({"command": ["$MMTAB_NOWHERE", "x"]}, "the environment variable MMTAB_NOWHERE is not set"),
        ({"members": ["nobody"]}, "its member nobody is not among the systems"),
        ({"train": ["recipe=frozn"]}, "system.x: .*frozn"),
        ({"train": ["trainer.max_epoch=1"]}, "no setting trainer.max_epoch; did you mean trainer.max_epochs"),
    ],
)
def test_a_system_that_cannot_be_run_is_refused_at_once(
    wrong: dict[str, Any], said: str, tables: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        run_benchmark(config_of(tmp_path / "bench", tables, {"x": system(**wrong)}))
    assert not (tmp_path / "bench").exists()


def test_settings_and_datasets_that_fit_nothing(tables: Path, tmp_path: Path) -> None:
    assert seeds_of(3) == [0, 1, 2] and seeds_of([4, 7]) == [4, 7]
    for wrong in (0, [], [1, 1], [-1], "three", True):
        with pytest.raises(ConfigError, match="seeds="):
            seeds_of(wrong)
    majority = {"majority": system(baseline="majority")}
    for settings, said in (
        ({"system": {}}, "system: none is chosen"),
        ({"track": {}}, "track: none is chosen"),
        ({"n_jobs": 0}, "n_jobs=0"),
        ({"weights": "some"}, "weights=some"),
        ({"track": {"a": TrackConfig("a", ["nothing_like_it"])}}, "track.a: nothing_like_it is neither"),
    ):
        with pytest.raises(ConfigError, match=said):
            run_benchmark(config_of(tmp_path / "bench", tables, **{"systems": majority} | settings))  # type: ignore[arg-type]
    without_labels(tables / "things", tmp_path / "unlabelled")
    config = config_of(
        tmp_path / "bench", tables, majority, track={"a": TrackConfig("a", [str(tmp_path / "unlabelled")])}
    )
    with pytest.raises(ConfigError, match="no labelled test split"):
        run_benchmark(config)


def test_the_time_to_go_is_by_system_and_size(tables: Path, tmp_path: Path) -> None:
    systems = {"quick": system(baseline="majority"), "slow": system(baseline="majority")}
    config = config_of(tmp_path / "bench", tables, systems, seeds=2)
    work = Work(config, plan_jobs(config, find_datasets(config)[0]))
    assert work._time_left() == "; no time is known yet of quick, slow"
    n = {job.data: _n_train(job.data) for job in work.jobs.values()}
    work.took["quick"] = 1.0, 100
    assert work._time_left() == "; no time is known yet of slow"
    work.took["slow"] = 6000.0, 100
    rows = sum(n[job.data] for job in work.jobs.values()) / 2
    assert work._time_left() == f", about {duration(rows * 60.01)} to go"
    work.waiting.clear()
    assert work._time_left() == ""


def test_which_datasets_a_system_is_for(tables: Path, tmp_path: Path) -> None:
    schema, pairs = Schema.read(tables / "things"), Schema.read(tables / "offers")
    numbers = Schema.read(write_kway(tmp_path / "plain", images=False, columns={"size": "numeric"}))
    assert applies(system(), schema) and applies(system(), pairs) and applies(system(keep=["text"]), schema)
    assert not applies(system(tasks=["matching"]), schema) and applies(system(tasks=["matching"]), pairs)
    assert not applies(system(keep=["text"]), numbers), "it has no text"
    assert not applies(system(keep=["numeric"]), numbers), "that is all it has, so it is no control"
    assert not applies(system(needs=["image"]), numbers) and applies(system(needs=["image"]), schema)
    config = config_of(tmp_path / "bench", tables, {"x": system(keep=["image"], baseline="majority")}, seeds=2)

    assert len(plan_jobs(config, find_datasets(config)[0])) == 4


# --- the door to scores ----------------------------------------------------------------------------------------------


def test_the_handout_tells_no_answers(tmp_path: Path) -> None:
    for folder, stem in ((write_kway(tmp_path / "things"), "test"), (write_pairs(tmp_path / "offers"), "pairs_test")):
        schema = Schema.read(folder)
        write_table(folder / f"{stem}_llm.parquet", files.read(folder / f"{stem}.parquet", "x"))
        (folder / "notes").mkdir()
        (folder / "notes" / "answers.txt").write_text("kind 0")
        without_labels(folder, tmp_path / f"{folder.name}-handout")
        there = tmp_path / f"{folder.name}-handout"
        names = {path.name for path in there.iterdir()}
        assert f"{stem}_llm.parquet" not in names and "notes" not in names
        assert "label" not in files.header(there / f"{stem}.parquet", "x").names
        assert not any(path.is_symlink() for path in there.rglob("*")), "a link leads to the folder with the answers"
        images = {p.relative_to(folder) for p in folder.rglob("*.png")}
        assert images and images == {p.relative_to(there) for p in there.rglob("*.png")}
        assert Schema.read(there) == schema
        with pytest.raises(DataError, match="no labels"):
            Truth.read(there, "test")
        assert Truth.read(there, "test", labelled=False).ids == Truth.read(folder, "test").ids


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_true_labels_are_perfect_and_shuffled_ones_are_chance(tables: Path, tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    for name, metric in (("things", "accuracy"), ("offers", "f1")):
        truth = Truth.read(tables / name, "test")
        order = rng.permutation(len(truth))
        said = [truth.classes[i] if truth.classes else int(i) for i in truth.label[:, 0]]
        path = tmp_path / f"{name}{suffix}"
        columns = {key: [ids[i] for i in order] for key, ids in truth.ids.items()}
        write_table(path, pa.table(columns | {"prediction": [said[i] for i in order]}))
        assert metrics(truth, read_predictions(path, truth))[metric] == 1, "whatever the order of the rows"
    truth = Truth.read(write_kway(tmp_path / "many", n=3000, images=False), "test")
    shares = np.bincount(truth.label[:, 0]) / len(truth)
    answers = CheckedPredictions(rng.permutation(truth.label), None)
    assert metrics(truth, answers)["accuracy"] == pytest.approx((shares**2).sum(), abs=0.06)


def test_scores_are_those_of_the_tasks(tables: Path, tmp_path: Path) -> None:
    from mmtab.training.tasks import KWayTask, PairTask

    rng = np.random.default_rng(0)
    truth = Truth.read(tables / "things", "test")
    p = rng.dirichlet(np.ones(len(truth.classes)), len(truth))
    write_predictions(tmp_path / "p.parquet", truth, p)
    ours, task = metrics(truth, read_predictions(tmp_path / "p.parquet", truth)), KWayTask(len(truth.classes))
    theirs = task.metrics(p, truth.label[:, 0])
    assert {name: theirs[name] for name in ours} == pytest.approx(ours)
    pairs = Truth.read(tables / "offers", "test")
    p = rng.random((len(pairs), 1))
    write_predictions(tmp_path / "q.parquet", pairs, p, [0.5])
    ours = metrics(pairs, read_predictions(tmp_path / "q.parquet", pairs))
    assert PairTask().metrics(p, pairs.label) == pytest.approx(ours)


def test_what_is_refused(tables: Path, tmp_path: Path) -> None:
    truth = Truth.read(tables / "things", "test")
    good: dict[str, list[Any]] = {
        "id": list(truth.ids["id"]),
        "prediction": [truth.classes[i] for i in truth.label[:, 0]],
    }
    p = {f"p_{name}": [1 / len(truth.classes)] * len(truth) for name in truth.classes}
    first = next(iter(p))
    wrong: list[tuple[dict[str, list[Any]], str]] = [
        ({"id": [good["id"][1], *good["id"][1:]]}, "row 2: an id that was answered before; found"),
        ({"id": ["nobody", *good["id"][1:]]}, "row 1: an id that is not in test; found nobody"),
        ({"id": [None, *good["id"][1:]]}, "row 1, column id: an id is missing"),
        ({"prediction": ["kind 9", *good["prediction"][1:]]}, "row 1, column prediction: not a class of train"),
        (p | {first: [2.0, *p[first][1:]]}, f"row 1, column {first}: not a probability; expected a number from 0 to 1"),
        (p | {first: [float("nan"), *p[first][1:]]}, "not a probability"),
        (p | {first: [0.1, *p[first][1:]]}, "row 1: the probabilities of a row do not add up to 1"),
        ({first: p[first]}, "probabilities of some classes are missing"),
        (p | {"p_kind 9": p[first]}, "probabilities of unknown classes"),
    ]
    for changes, said in wrong:
        with pytest.raises(DataError, match=said):
            read_predictions(write_table(tmp_path / "x.parquet", pa.table(good | changes)), truth)
    short = pa.table(good).slice(1)
    with pytest.raises(DataError, match="not one row for each of the split; expected 18 rows; found 17 rows"):
        read_predictions(write_table(tmp_path / "x.parquet", short), truth)
    for columns, said in (
        ({"id": good["id"]}, "the file answers nothing"),
        ({"prediction": good["prediction"]}, "lacks this column"),
    ):
        with pytest.raises(DataError, match=said):
            read_predictions(write_table(tmp_path / "x.csv", pa.table(columns)), truth)


def test_an_ensemble_prefers_who_knows(tables: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("things", "offers"):
        valid, test = (Truth.read(tables / name, split) for split in ("valid", "test"))
        answers: dict[str, dict[str, CheckedPredictions]] = {"knows": {}, "guesses": {}}
        for truth in (valid, test):
            k = max(len(truth.classes), 1)
            right = np.eye(k)[truth.label[:, 0]] if truth.classes else truth.label.astype(float)
            for who, sharp in (("knows", 0.8), ("guesses", 0.0)):
                noise = rng.dirichlet(np.ones(k), len(truth)) if truth.classes else rng.random((len(truth), 1))
                answers[who][truth.split] = CheckedPredictions(truth.label, sharp * right + (1 - sharp) * noise)
        weights = average(valid, test, answers, tmp_path)
        assert sum(weights.values()) == pytest.approx(1) and weights["knows"] > 0.9
        found = metrics(test, read_predictions(tmp_path / "predictions_test.parquet", test))
        assert found[test.schema.metric] == 1
    # Who ranks all pairs right is told from another by the log-loss, not by the order of the members
    sure: dict[str, dict[str, CheckedPredictions]] = {"doubts": {}, "knows": {}}
    for truth in (valid, test):
        for who, p in (("doubts", 0.52), ("knows", 0.99)):
            sure[who][truth.split] = CheckedPredictions(truth.label, np.where(truth.label > 0, p, 1 - p))
    assert average(valid, test, sure, tmp_path)["knows"] == 1
    nothing = {who: {s: CheckedPredictions(a.prediction, None) for s, a in of.items()} for who, of in answers.items()}
    with pytest.raises(MmtabError, match="knows wrote no probabilities"):
        average(valid, test, nothing, tmp_path)

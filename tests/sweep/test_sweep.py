"""Sweeps: spaces, draws, the work of several processes, kills at any moment, and what is told in the end.

Where many runs are needed, a program of a few lines stands in for scripts/train.py; it scores by its settings alone.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from damage import damage_at_random
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console
from toy_data import write_kway, write_numbers, write_pairs

from mmtab.config.compose import compose_run
from mmtab.config.overrides import split_overrides, written
from mmtab.config.types import RunConfig, SweepConfig
from mmtab.sweep import plan as plan_module
from mmtab.sweep import runner as runner_module
from mmtab.sweep import study as study_module
from mmtab.sweep.display import progress
from mmtab.sweep.draws import draw, should_prune
from mmtab.sweep.plan import OBJECTIVES, Plan, read_plan
from mmtab.sweep.runner import run_sweep
from mmtab.sweep.space import SPACES, read_space, settings_of
from mmtab.sweep.study import Result, Study, results_of
from mmtab.utils.errors import ConfigError, MmtabError, RunError

SWEEP = Path(__file__).parents[2] / "scripts" / "sweep.py"
STAND_IN = """
import json, os, signal, sys, time
settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder, dataset = settings["output"], settings["dataset.path"].rsplit("/", 1)[-1]
started = os.path.join(os.path.dirname(__file__), "started.txt")
with open(started, "a") as file:
    file.write(settings["wandb.job_type"] + "/" + folder.split("/")[-1] + "\\n")
time.sleep(float(os.environ.get("STAND_IN_SECONDS", 0)))
rate, size = float(settings.get("trainer.lr", 1)), settings.get("trainer.batch_size", "32")
if size == "48":
    print("a word before", flush=True)
    sys.exit("error: no room for batches of 48")
if size == "56":
    print("about to die", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
score = 0.35 + 0.6 / (1 + abs(rate - 0.01) * 50) + int(settings["seed"]) * 0.001 - 0.3 * (dataset == "hard")
def write(name, value):
    with open(folder + "/" + name + ".part", "w") as file:
        json.dump(value, file)
    os.rename(folder + "/" + name + ".part", folder + "/" + name)
write("metrics.json", {"valid": {"accuracy": score, "log_loss": 1.0}})
write("schema.yaml", {"metric": "accuracy", "task": "kway"})
os.makedirs(folder + "/checkpoints", exist_ok=True)
write("checkpoints/best.ckpt", [])
FACTS = "n_trained_parameters train_rows_per_second n_train n_epochs seed".split()
TEXTS = "time device precision data_fingerprint".split()
SPENT = {"prepare": 0.1, "train": rate, "total": 1.0}
write("provenance.json", dict.fromkeys(FACTS, 1) | dict.fromkeys(TEXTS, "") | {"format": 3, "seconds": SPENT,
      "n_parameters": int(1e6 * rate), "peak_memory_mib": 100.0, "predict_rows_per_second": 10.0})
"""
SPACE = "trainer.lr: {low: 0.001, high: 0.1, log: true}\n"


class Bench:
    """A folder for sweeps over stand-ins: toy datasets without a file, and the program in place of train.py."""

    def __init__(self, folder: Path, toys: Path) -> None:
        self.folder, self.toys = folder, toys
        (folder / "stand_in.py").write_text(STAND_IN)
        (folder / "default.yaml").write_text(SPACE)
        self.train = [sys.executable, "-S", "-E", str(folder / "stand_in.py")]

    def space(self, text: str) -> str:
        path = self.folder / "space.yaml"
        path.write_text(text)
        return str(path)

    def datasets(self, *names: str) -> list[str]:
        return [str(self.toys / name) for name in names]

    def config(self, **changes: Any) -> SweepConfig:
        given: dict[str, Any] = {
            "output": str(self.folder / "out"),
            "datasets": self.datasets("easy"),
            "space": str(self.folder / "default.yaml"),
            "test": "none",
            "n_trials": 4,
        }
        return SweepConfig(**(given | changes))

    def run(self, **changes: Any) -> str:
        return run_sweep(self.config(**changes), train=self.train)

    def begin(self, **changes: Any) -> subprocess.Popen[str]:
        """The same in a process of its own."""
        path = self.folder / "begin.py"
        path.write_text(
            "import json, sys\nfrom mmtab.sweep.runner import run_sweep\nfrom mmtab.config.types import SweepConfig\n"
            "from mmtab.cli.main import friendly\nwith friendly():\n"
            "    run_sweep(SweepConfig(**json.loads(sys.argv[1])), train=json.loads(sys.argv[2]))\n"
        )
        arguments = [json.dumps(vars(self.config(**changes))), json.dumps(self.train)]
        return subprocess.Popen(
            [sys.executable, str(path), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def started(self) -> Counter[str]:
        """How often each run was started."""
        path = self.folder / "started.txt"
        return Counter(path.read_text().splitlines()) if path.exists() else Counter()

    def trials(self, output: str = "out") -> list[dict[str, Any]]:
        """What is known of each trial, without what hangs on the clock."""
        trials = json.loads((self.folder / output / "summary.json").read_text())["trials"]
        return sorted(
            ({k: v for k, v in t.items() if k != "seconds"} for t in trials), key=lambda trial: trial["trial"]
        )


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place of their own for all tests, so that they compose the same settings, which takes a while, once."""
    folder = tmp_path_factory.mktemp("toys")
    for name in ("easy", "mild", "hard"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module", autouse=True)
def _composed_once() -> Iterator[None]:
    composed: dict[tuple[tuple[str, ...], ...], RunConfig] = {}

    def once(where: str, place: Sequence[str], overrides: Sequence[str]) -> RunConfig:
        key = (tuple(place), tuple(overrides))
        if key not in composed:
            composed[key] = compose_run(where, place, overrides)
        return composed[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "compose_run", once)
        yield


@pytest.fixture
def bench(tmp_path: Path, toys: Path) -> Bench:
    return Bench(tmp_path, toys)


# --- spaces and settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_spaces_fit_every_kind_of_dataset(bench: Bench, path: Path) -> None:
    plan = read_plan(bench.config(datasets=["catalogue", "catalogue_duplicates"], space=path.stem))
    assert plan.settings and path.read_text().startswith("# ") and "mmtab sweep" in path.read_text()
    params, _ = draw(plan, 0, [])
    assert plan.overrides(params) == [setting.override(params[setting.name]) for setting in plan.settings]


BAD_SPACES = {
    "trainer.lrr: [1e-3]": r"trainer\.lrr=0\.001: no setting trainer\.lrr; did you mean trainer\.lr",
    "fusion.n_layrs: {low: 1, high: 2}": r"no setting fusion\.n_layrs; did you mean fusion\.n_layers",
    "trainer.lr: [abc]": r"trainer\.lr=abc: .*expected a number",
    "fusion: [meen]": r"fusion=meen: configs/fusion/ has no meen; did you mean mean",
    "trainer.precision: [fp32, fp61]": r"trainer\.precision=fp61: .*expected one of",
    "trainer.batch_size: {low: 0, high: 64}": r"trainer\.batch_size=0: .*at least 1",
    "trainer.lr: 3": r"trainer\.lr: expected a list of choices, or .*found 3",
    "trainer.lr: {low: 1}": "expected a list of choices",
    "trainer.lr: {low: 1, high: 2, lgo: true}": "expected a list of choices",
    "trainer.lr: []": "expected choices",
    "trainer.lr: [1, 1]": "each once",
    "trainer.lr: {low: a, high: 2}": "low=a is no number",
    "trainer.lr: {low: 2, high: 1}": "not below",
    "trainer.lr: {low: 0, high: 1, log: true}": "log wants low above 0",
    "trainer.lr: {low: 0, high: 1, step: 0.3}": "step=0.3 does not lead",
    "trainer.lr: {low: 0, high: 1, log: 3}": "expected true or false",
    "seed: [0, 1]": "space, seed: the sweep sets it",
    "dataset.path: [a]": r"space, dataset\.path: the sweep sets it",
    "trainer.max_epochs: [1, 2]": r"space, trainer\.max_epochs: overrides set it as well",
    "[1, 2]": "expected settings by name",
    "a: [": "cannot be read as yaml",
}


@pytest.mark.parametrize(("text", "message"), BAD_SPACES.items(), ids=list(BAD_SPACES))
def test_a_bad_space_is_refused_before_any_run(bench: Bench, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.run(space=bench.space(text), overrides=["trainer.max_epochs=1"])
    assert not (bench.folder / "out").exists()


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"space": "nope"}, r"space=nope: .*optimiser"),
    ({"datasets": ["nope"]}, r"datasets: nope is neither .*fashion"),
    ({"datasets": ["fashion"], "overrides": ["data_root=/nowhere"]}, "no folder /nowhere/kway/fashion"),
    ({"datasets": []}, r"datasets=\[\]: expected at least one"),
    ({"seeds": [1, 1]}, "each once"),
    ({"overrides": ["trainer.lrr=1"]}, r"overrides: no setting trainer\.lrr; did you mean trainer\.lr"),
    ({"overrides": ["output=here"]}, "overrides, output: the sweep sets it"),
    ({"sampler": "magic"}, "sampler=magic: expected one of tpe"),
    ({"sampler": "grid"}, r"sampler=grid: trainer\.lr has no end of values"),
    ({"objectives": ["score", "beauty"]}, "objectives=beauty: expected one of score"),
    ({"objectives": ["score", "n_parameters"], "pruner": "median"}, "with several objectives"),
    ({"datasets": ["catalogue"], "pruner": "median"}, "a trial is one run"),
    ({"test": "all", "weights": "best"}, "weights=all"),
    ({"n_jobs": 0}, "n_jobs=0: expected at least 1"),
    ({"storage": "sqlite:////nowhere/study.db"}, "storage: the database cannot be used"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_SETTINGS, ids=lambda value: str(value)[:40])
def test_bad_settings_are_named(bench: Bench, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MmtabError, match=message):
        bench.run(**changes)
    assert not bench.started()


def test_two_datasets_of_one_name_are_refused(bench: Bench) -> None:
    (bench.folder / "other" / "easy").mkdir(parents=True)
    with pytest.raises(ConfigError, match="two are called easy"):
        bench.run(datasets=[*bench.datasets("easy"), str(bench.folder / "other" / "easy")])


def test_values_of_a_setting() -> None:
    text = (
        "a: {low: 1, high: 4}\nb: {low: 0.0, high: 0.3, step: 0.1}\nc: [0, 2, null, [x, y]]\n"
        "d: {low: 1e-4, high: 1e-2, log: true}\n"
    )
    whole, stepped, choice, log = settings_of(yaml.safe_load(text.replace("1e-", "1.0e-")))
    places = np.linspace(0, 1, 1000, endpoint=False)
    assert Counter(whole.at(place) for place in places) == dict.fromkeys([1, 2, 3, 4], 250)
    assert stepped.values() == [0.0, 0.1, 0.2, 0.3] == sorted({stepped.at(place) for place in places})
    assert choice.values() == ["0", "2", "null", "[x,y]"]
    assert log.values() is None and np.median([float(log.at(place)) for place in places]) == pytest.approx(
        1e-3, rel=0.02
    )
    assert choice.override("[x,y]") == "c=[x,y]" and log.override(1e-05) == "d=1e-05"


def test_values_come_through_the_command_line() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    for value in (
        None,
        True,
        3,
        1e-5,
        "plain",
        "/a/b-c.d",
        "two words",
        "it's",
        "null",
        "a=b",
        [1, "x, y"],
        {"a": [1]},
        "COL {} \\ '",
    ):
        assert parser.parse_override(f"key={written(value)}").value() == value
    overrides = ["a.b=1", "dataset.drop=[image,text]", "c='x, y'", "d={e: 1, f: 2}"]
    assert parser.parse_override(split_overrides(f"overrides=[{', '.join(overrides)}]")).value() == overrides
    assert split_overrides("overrides=['a=1',\"b=2\"]") == "overrides=['a=1',\"b=2\"]"
    assert split_overrides("datasets=[a,b]") == "datasets=[a,b]" and split_overrides("overrides=[]") == "overrides=[]"
    assert read_space(None) == {}


# --- draws -----------------------------------------------------------------------------------------------------------


def history(plan: Plan, n: int) -> list[FrozenTrial]:
    """The first trials of a sweep whose score is the better the nearer trainer.lr is to 0.01."""
    trials: list[FrozenTrial] = []
    for number in range(n):
        params, system = draw(plan, number, trials)
        assert (params, system) == draw(plan, number, trials)
        trials.append(
            create_trial(
                value=-abs(np.log(float(params["trainer.lr"]) / 0.01)),
                params=params,
                distributions={setting.name: setting.distribution for setting in plan.settings},
                user_attrs={"drawn": {"params": params, "system": system}},
            )
        )
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "nsgaii", "grid"])
def test_draws_hang_on_seed_number_and_history_alone(bench: Bench, sampler: str) -> None:
    """Not on how many there will be, nor on what the same process drew before."""
    space = bench.space("trainer.lr: {low: 0.002, high: 0.05, step: 0.002}\n")
    plans = [
        read_plan(bench.config(sampler=sampler, space=space, n_trials=n, seed=s)) for n, s in ((25, 0), (7, 0), (25, 1))
    ]
    whole, short, other = ([trial.params["trainer.lr"] for trial in history(plan, plan.n_trials)] for plan in plans)
    assert whole[:7] == short
    assert len(set(whole)) == 25 if sampler == "grid" else (len(set(whole)) > 8 and whole != other)
    if sampler == "tpe":  # it learns from the first ten, which are random
        distance = np.abs(np.log(np.array(whole) / 0.01))
        assert np.median(distance[10:]) < np.median(distance[:10]) / 1.5


@pytest.mark.parametrize(("pruner", "least"), [("median", 6), ("halving", 6), ("hyperband", 1)])
def test_a_pruner_ends_what_promises_little(bench: Bench, pruner: str, least: int) -> None:
    """18 trials whose mean after two of nine runs is known to be ever worse; the first always goes on."""
    plan = read_plan(bench.config(pruner=pruner, seeds=[0, 1, 2], datasets=bench.datasets("easy", "mild", "hard")))
    trials: list[FrozenTrial] = []
    ended = []
    for number in range(18):
        value = 0.9 - 0.01 * number
        running = create_trial(state=TrialState.RUNNING, intermediate_values={1: 0.99, 2: value})
        over, system = should_prune(plan, [*trials, running], number, 2, value)
        assert (over, system) == should_prune(plan, [*trials, running], number, 2, value)
        ended.append(over)
        trials.append(
            create_trial(
                value=value, intermediate_values={1: 0.99, 2: value}, user_attrs={"pruning": {"system": system}}
            )
        )
    assert not ended[0] and sum(ended) >= least


# --- work ------------------------------------------------------------------------------------------------------------


def test_an_empty_space_is_one_trial(bench: Bench) -> None:
    text = bench.run(space=None, datasets=bench.datasets("easy", "mild", "hard"), seeds=[0, 1], n_jobs=2)
    (trial,) = bench.trials()
    assert trial["settings"] == {} and len(bench.started()) == 6
    assert trial["valid"]["easy"]["std"] > 0 and trial["valid"]["hard"]["mean"] < trial["valid"]["easy"]["mean"]
    means = [found["mean"] for found in trial["valid"].values()]
    assert trial["values"]["score"] == pytest.approx(sum(means) / 3)
    assert "Best: trial 0" in text and "Left out: 1 finished trials" in text


def test_failures_are_named_and_the_rest_goes_on(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    """20 configurations on three datasets, two of which always fail: one says why, one is killed."""
    sizes = bench.space("trainer.batch_size: {low: 4, high: 80, step: 4}\n")
    changes = {"space": sizes, "sampler": "grid", "n_trials": None, "datasets": bench.datasets("easy", "mild", "hard")}
    text = bench.run(**changes, n_jobs=2, retries=2)
    assert Counter(trial["state"] for trial in bench.trials()) == {"finished": 18, "failed": 2}
    failures = json.loads((bench.folder / "out" / "summary.json").read_text())["failures"]
    said, killed = failures
    assert (said["trial"], said["run"], said["attempts"]) == (11, "easy-seed0", 3)
    assert said["error"] == "exit status 1: error: no room for batches of 48"
    assert (killed["trial"], killed["error"]) == (13, "ended by SIGKILL (out of memory?): about to die")
    assert all(f"| {failure['trial']} | easy-seed0 | 3 | {failure['error']} |" in text for failure in failures)
    started = bench.started()
    assert all(n == 1 for name, n in started.items() if not name.startswith(("trial-0011", "trial-0013")))
    for trial in ("trial-0011", "trial-0013"):  # the other worker may be on its way with the trial's other runs,
        assert started[f"{trial}/easy-seed0"] == 3
        assert all(started[f"{trial}/{name}-seed0"] < 3 for name in ("mild", "hard"))  # which then are not tried again
    bench.run(**changes)
    assert bench.started() == started, "a failed trial stays so"
    lines = capfd.readouterr().out
    failed = [line for line in lines.splitlines() if line.startswith("trial 11  easy seed 0  FAILED")]
    assert [line.split("seed 0  ")[1] for line in failed] == [
        "FAILED: exit status 1: error: no room for batches of 48; once more",
        "FAILED again, for the same reason; once more",
        "FAILED again, for the same reason; given up after 3 attempts",
    ]
    assert Path(said["log"]).read_text().count("a word before") == 3


def test_after_a_failure_the_rest_of_a_trial_is_left_out(bench: Bench) -> None:
    with pytest.raises(RunError, match="every trial failed"):
        bench.run(overrides=["trainer.batch_size=48"], retries=0, n_trials=2, seeds=[0, 1])
    assert bench.started() == {"trial-0000/easy-seed0": 1, "trial-0001/easy-seed0": 1}


def test_a_sweep_stays_what_it_is(bench: Bench) -> None:
    bench.run(n_trials=2)
    started = bench.started()
    for changes, message in (
        ({"datasets": bench.datasets("easy", "mild")}, "datasets: "),
        ({"seeds": [0, 1]}, r"seeds: \[0\] there, \[0,1\] here"),
        (
            {"overrides": ["trainer.max_epochs=1"], "sampler": "random"},
            r"overrides: \[\] there, .*; sampler: tpe there, random here",
        ),
        ({"objectives": ["train_seconds"]}, "objectives: "),
        ({"space": bench.space(SPACE.replace("0.1,", "0.2,"))}, r"space, trainer\.lr: .*0\.1.* there, .*0\.2"),
    ):
        with pytest.raises(ConfigError, match=f"study out in .* is another sweep: {message}"):
            bench.run(**changes)
    bench.run(n_trials=2, n_jobs=2, retries=3, weights="best")
    assert bench.started() == started
    bench.run(n_trials=3)
    assert len(bench.started()) == 3
    with pytest.raises(ConfigError, match=r"study out in .* is another sweep: seeds"):
        bench.run(
            output=str(bench.folder / "other" / "out"), storage=f"sqlite:///{bench.folder}/out/study.db", seeds=[5]
        )


def test_a_folder_outlives_its_database(bench: Bench) -> None:
    """Runs are found by what they depend on, also by another storage; other draws have other folders."""
    bench.run(n_trials=3)
    before, started = bench.trials(), bench.started()
    (bench.folder / "out" / "study.db").unlink()
    bench.run(n_trials=3)
    assert bench.trials() == before and bench.started() == started
    study = Study(read_plan(bench.config(storage=f"sqlite:///{bench.folder}/other.db")))
    study.enqueue()
    trial_id = study.claim(0)
    assert trial_id is not None
    params, folder = study.draw(0, trial_id)
    assert params == before[0]["settings"] and folder.name == before[0]["folder"]
    assert study.plan.digest({"trainer.lr": 0.05}) not in {trial["folder"] for trial in before}


def test_the_display_counts_runs(bench: Bench) -> None:
    bench.run(n_trials=2, seeds=[0, 1])
    plan = read_plan(bench.config(n_trials=3, seeds=[0, 1], n_jobs=2))
    study = Study(plan)
    study.enqueue()
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(progress(plan, study.trials(), {}))
    text = console.export_text()
    assert "4 of 6 runs, time to go: 1 s" in text  # a stand-in says that it took a second
    assert text.count("finished") == 2 and text.count("2 of 2") == 2


def test_equal_draws_have_folders_of_their_own(bench: Bench) -> None:
    bench.run(space=bench.space("trainer.lr: [0.01]\n"), sampler="random", n_trials=3)
    first, second, third = (trial["folder"] for trial in bench.trials())
    assert (second, third) == (f"{first}-2", f"{first}-3") and len(bench.started()) == 3


def test_weights_of_the_best_are_kept(bench: Bench) -> None:
    bench.run(n_trials=5, weights="best")
    (best,) = json.loads((bench.folder / "out" / "summary.json").read_text())["best"]
    folders = {path.parents[2].name for path in (bench.folder / "out").glob("trial-*/*/checkpoints/best.ckpt")}
    assert folders == {bench.trials()[best]["folder"]}
    assert len(list((bench.folder / "out").glob("trial-*/*/provenance.json"))) == 5


EVALUATE = """
import json, os, sys
run = sys.argv[1].split("=", 1)[1]
with open(run + "/metrics.json") as file:
    metrics = json.load(file)
with open(run + "/metrics.json", "w") as file:
    json.dump(metrics | {"test": {"accuracy": 0.5}}, file)
if not os.path.exists(run + "/killed"):
    open(run + "/killed", "w").close()
    os.kill(os.getpid(), 9)
os.makedirs(run + "/report", exist_ok=True)
open(run + "/report/report.html", "w").close()
"""


def test_a_sweep_killed_while_the_report_is_written_ends_with_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.folder / "evaluate.py").write_text(EVALUATE)
    monkeypatch.setattr(runner_module, "_has_labelled_test", lambda *_: True)
    config, evaluate = bench.config(test="best", n_trials=2), [sys.executable, str(bench.folder / "evaluate.py")]
    first = run_sweep(config, bench.train, evaluate)
    assert "without a report" in first and "its report: ended by SIGKILL" in first
    best = next(trial for trial in bench.trials() if trial["test"])
    page = bench.folder / "out" / best["folder"] / "easy-seed0" / "report" / "report.html"
    assert not page.exists()
    assert "without a report" not in run_sweep(config, bench.train, evaluate) and page.exists()
    before = _times(bench.folder / "out" / best["folder"])
    run_sweep(config, bench.train, evaluate)
    assert _times(bench.folder / "out" / best["folder"]) == before


def test_losers_keep_no_weights_though_a_sweep_was_killed(bench: Bench) -> None:
    bench.run(weights="best")
    folders = [bench.folder / "out" / trial["folder"] / "easy-seed0" / "checkpoints" for trial in bench.trials()]
    kept = [folder for folder in folders if folder.exists()]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    bench.run(weights="best")
    assert [folder for folder in folders if folder.exists()] == kept and len(kept) == 1


@pytest.fixture(scope="module")
def finished(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("finished"), toys)
    bench.run(n_trials=3)
    return bench


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(s, marks=pytest.mark.slow) for s in range(6, 36))])
def test_a_damaged_sweep_has_the_same_numbers_or_says_what_is_damaged(seed: int, finished: Bench, bench: Bench) -> None:
    shutil.copytree(finished.folder / "out", bench.folder / "out")
    done = damage_at_random(bench.folder / "out", seed)
    try:
        bench.run(n_trials=3)
    except MmtabError as error:
        assert "\n" not in str(error) and done.split()[3].rsplit("/")[-1] in str(error), (done, error)
    else:
        assert bench.trials() == finished.trials(), done


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "update study_user_attributes set value_json = replace(value_json, '[', '[ 7, ') where key = 'definition'",
            "Expecting value",
        ),
        (
            "update study_user_attributes set value_json = replace(value_json, 'median', 'Median')",
            "definition has other bytes",
        ),
        ("update trial_intermediate_values set intermediate_value = intermediate_value + 0.25", "other means"),
    ],
)
def test_what_a_sweep_has_noted_is_not_believed_when_it_was_changed(bench: Bench, change: str, says: str) -> None:
    bench.run(n_trials=3, pruner="median", seeds=[0, 1])
    with sqlite3.connect(bench.folder / "out" / "study.db") as database:
        assert database.execute(change).rowcount
    with pytest.raises(RunError, match=rf"study\.db is damaged \(.*{says}.*Fix: "):
        bench.run(n_trials=4, pruner="median", seeds=[0, 1])


def test_several_objectives(bench: Bench) -> None:
    text = bench.run(objectives=["score", "n_parameters"], sampler="nsgaii", n_trials=12, n_jobs=2)
    summary = json.loads((bench.folder / "out" / "summary.json").read_text())
    values = {t["trial"]: (t["values"]["score"], -t["values"]["n_parameters"]) for t in summary["trials"]}
    front = [n for n, v in values.items() if not any(o != v and o[0] >= v[0] and o[1] >= v[1] for o in values.values())]
    assert summary["best"] == sorted(front)
    assert {path.name for path in (bench.folder / "out").glob("*.png")} == {
        "history.png",
        "importances.png",
        "pareto.png",
    }
    assert all(f"front: trial {number}, score " in text for number in front)


@pytest.mark.slow
def test_processes_that_begin_at_once_share_a_sweep(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run is done once, and there are as many trials as were asked for."""
    monkeypatch.setenv("STAND_IN_SECONDS", "0.2")
    processes = [bench.begin(n_trials=8, seeds=[0, 1]) for _ in range(3)]
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len(bench.started()) == 16 and set(bench.started().values()) == {1}
    assert Counter(trial["state"] for trial in bench.trials()) == {"finished": 8}
    assert sum("(2 of 2)" in output for output in outputs) >= 2, "the work was shared"


def test_no_trial_is_claimed_twice(bench: Bench) -> None:
    """Workers without a common lock, as on machines that share only the database, all after the same trials."""
    code = (
        "import json, sys\nfrom mmtab.config.types import SweepConfig\nfrom mmtab.sweep.plan import read_plan\n"
        "from mmtab.sweep.study import Study\n"
        "study = Study(read_plan(SweepConfig(**json.loads(sys.argv[1]))))\nprint('ready', flush=True)\ninput()\n"
        "study.enqueue()\nprint([n for n in range(40) if study.claim(n) is not None])\n"
    )
    storage = f"sqlite:///{bench.folder}/shared.db"
    workers = []
    for name in ("a", "b", "c"):
        config = bench.config(n_trials=40, output=str(bench.folder / name), storage=storage, study="one")
        command = [sys.executable, "-c", code, json.dumps(vars(config))]
        workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    claimed = [number for worker in workers for number in json.loads(worker.communicate(timeout=500)[0])]
    assert sorted(claimed) == list(range(40))


def test_a_machine_that_shares_only_the_database_takes_what_is_dead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own folder has none of the runs; scores of those that had finished are in the storage."""
    storage = f"sqlite:///{bench.folder}/shared.db"
    changes = {"n_trials": 2, "seeds": [0, 1], "storage": storage, "study": "one"}
    here = Study(read_plan(bench.config(**changes)))
    there = Study(read_plan(bench.config(**changes, output=str(bench.folder / "other"))))
    here.enqueue()
    trial_id = here.claim(0)
    assert trial_id is not None and here.claim(0) == trial_id and there.claim(0) is None
    params, _ = here.draw(0, trial_id)
    here.record(trial_id, here.plan.runs[0], Result("", 0, 1.0, "accuracy", dict.fromkeys(OBJECTIVES, 0.5)))
    there.enqueue()
    assert there.claim(0) is None, "its last sign of life is recent"
    monkeypatch.setattr(study_module, "STALE", 1)
    time.sleep(2.5)
    bench.run(**changes, output=str(bench.folder / "other"))
    first, second = bench.trials("other")
    assert first["settings"] == params and first["valid"]["easy"]["values"][0] == 0.5
    assert (first["trial"], second["trial"]) == (0, 1) and {first["state"], second["state"]} == {"finished"}
    assert bench.started() == {"trial-0000/easy-seed1": 1, "trial-0001/easy-seed0": 1, "trial-0001/easy-seed1": 1}
    with pytest.raises(UpdateFinishedTrialError):
        here.record(trial_id, here.plan.runs[1], Result("late"))


# --- kills and signals -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_killed_again_and_again_ends_the_same(bench: Bench) -> None:
    changes = {"sampler": "tpe", "pruner": "halving", "seeds": [0, 1, 2], "n_trials": 13, "study": "same"}
    bench.run(**changes, output=str(bench.folder / "whole"))
    whole = bench.trials("whole")
    assert Counter(trial["state"] for trial in whole).keys() == {"finished", "pruned"}
    (bench.folder / "started.txt").unlink()
    rng = random.Random(0)
    for _ in range(4):
        process, n = bench.begin(**changes), sum(bench.started().values()) + rng.randint(2, 5)
        _wait_for(lambda p=process, n=n: sum(bench.started().values()) >= n or p.poll() is not None)
        time.sleep(rng.random() * 0.1)
        process.kill()
        process.wait()
    bench.run(**changes)
    assert bench.trials() == whole
    assert sum(bench.started().values()) <= sum(len(t["valid"]["easy"]["values"]) for t in whole) + 4


@pytest.mark.parametrize("steps", [0, 1, 2], ids=["no settings", "settings", "one of two for Optuna"])
def test_half_a_draw_is_completed(bench: Bench, steps: int) -> None:
    """Killed between the steps of asking Optuna."""
    space = bench.space(f"{SPACE}trainer.weight_decay: {{low: 0.0, high: 0.1}}\n")
    plan = read_plan(bench.config(space=space, n_trials=1, study="same"))
    study = Study(plan)
    study.enqueue()
    trial_id = study.claim(0)
    assert trial_id is not None
    params, system = draw(plan, 0, [])
    if steps:
        drawn = {"params": params, "folder": f"trial-{plan.digest(params)}", "system": system}
        study.note(trial_id, "drawn", drawn)
    if steps > 1:
        setting = plan.settings[1]
        study.storage.set_trial_param(trial_id, setting.name, float(params[setting.name]), setting.distribution)
    for output in ("out", "whole"):
        bench.run(space=space, n_trials=1, study="same", output=str(bench.folder / output))
    assert bench.trials() == bench.trials("whole")
    assert study.storage.get_trial(trial_id).params == params and bench.trials()[0]["settings"] == params


def test_a_signal_stops_in_order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "30")
    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = bench.begin(n_jobs=2)
        _wait_for(lambda: sum(bench.started().values()) >= 2)
        process.send_signal(signum)
        said = process.communicate(timeout=500)[0]
        assert process.returncode == code and "the same command goes on" in said
        (bench.folder / "started.txt").unlink()
    trials = Study(read_plan(bench.config())).trials()
    states = [trial.state.name for trial in trials]
    assert states == ["RUNNING", "RUNNING", "WAITING", "WAITING"]
    assert not any(map(results_of, trials)), "what the sweep stopped itself is no failure"
    monkeypatch.setenv("STAND_IN_SECONDS", "0")
    bench.run()
    assert Counter(trial["state"] for trial in bench.trials()) == {"finished": 4}


# --- with real runs --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_sweep_killed_while_a_run_trains(tmp_path: Path, backbone: Path) -> None:
    """Both kinds of dataset, and a choice that cannot be trained; afterwards nothing is left to do."""
    write_kway(tmp_path / "toys", images=False)
    write_pairs(tmp_path / "twins", images=False)
    (tmp_path / "space.yaml").write_text("d_model: [16, 15]\n")
    small = "overrides=[trainer.max_epochs=6,trainer.patience=6,dataset.drop=[text],fusion.d_hidden=32]"
    datasets = f"datasets=[{tmp_path / 'toys'},{tmp_path / 'twins'}]"

    def begin(output: str, *more: str) -> subprocess.Popen[str]:
        given = [
            f"output={tmp_path / output}",
            datasets,
            f"space={tmp_path / 'space.yaml'}",
            "sampler=grid",
            "retries=0",
        ]
        command = [sys.executable, str(SWEEP), *given, small, *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)

    killed = begin("killed")

    def log() -> str:
        return "".join(path.read_text() for path in (tmp_path / "killed").glob("trial-*/toys-seed0/log.txt"))

    _wait_for(lambda: "epoch   2" in log(), 300)
    killed.kill()
    killed.communicate()
    both = {"killed": begin("killed", "n_trials=1", "test=none"), "whole": begin("whole")}
    said = {name: process.communicate(timeout=400)[0] for name, process in both.items()}
    assert [process.returncode for process in both.values()] == [0, 0], said
    assert log().count("epoch   1 ") == 1, "it went on where it was killed"
    found = {name: json.loads((tmp_path / name / "summary.json").read_text()) for name in said}
    best, failed = found["whole"]["trials"]
    assert found["whole"]["best"] == [0] and set(best["valid"]) == set(best["test"]) == {"toys", "twins"}
    assert found["killed"]["trials"][0]["valid"] == best["valid"] and found["killed"]["trials"][0]["test"] == {}
    assert [found["metric"] for found in best["test"].values()] == ["accuracy", "f1"] and failed["test"] == {}
    (failure,) = found["whole"]["failures"]
    assert failure["run"] == "toys-seed0" and failure["error"].startswith("exit status 1: error: "), failure
    before = _times(tmp_path)
    again = begin("whole").communicate(timeout=500)[0]
    begins, _, rest = again.partition("\n")
    assert begins == "2 trials of 2 runs: toys-seed0, twins-seed0"
    assert rest == (tmp_path / "whole" / "summary.md").read_text() + "\n"
    assert _times(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"toys", "twins", "space.yaml", "killed", "whole"}


@pytest.mark.slow
def test_a_real_sweep_of_regression(tmp_path: Path) -> None:
    data = write_numbers(tmp_path / "prices", images=False)
    (tmp_path / "space.yaml").write_text("trainer.lr: [1.0e-3, 1.0e-4]\n")
    small = ["trainer.max_epochs=2", "dataset.drop=[text]", "d_model=16", "fusion.d_hidden=32", "base=none"]
    settings: dict[str, Any] = {"datasets": [str(data)], "space": str(tmp_path / "space.yaml"), "overrides": small}
    told = run_sweep(SweepConfig(output=str(tmp_path / "out"), sampler="grid", **settings))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    trials = summary["trials"]
    assert len(trials) == 2 and not summary["failures"]
    best = max(trials, key=lambda trial: trial["valid"]["prices"]["mean"])
    assert summary["best"] == [best["trial"]] and best["settings"] == {"trainer.lr": "0.001"}, "the other hardly learns"
    assert best["test"]["prices"]["metric"] == "r2" and "| prices | r2 |" in told
    (run,) = (tmp_path / "out" / best["folder"]).glob("*/metrics.json")
    scores = json.loads(run.read_text())
    assert best["valid"]["prices"]["mean"] == pytest.approx(scores["valid"]["r2"])
    assert best["test"]["prices"]["mean"] == pytest.approx(scores["test"]["r2"])


def test_the_sweep_itself_needs_no_torch() -> None:
    heavy = ["torch", "pytorch_lightning", "transformers", "sklearn", "matplotlib", "scipy"]
    code = f"import sys, mmtab.sweep.runner\nprint([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def _wait_for(condition: Any, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)

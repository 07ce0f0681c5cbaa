"""Campaigns: spaces, draws, the work of several processes, kills at any moment, and what is told in the end.

Where many runs are needed, a program of a few lines stands in for scripts/train.py; it scores by its settings alone.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState, create_trial
from toy_data import write_kway, write_pairs

from mmtab.config.overrides import split_overrides, written
from mmtab.config.types import SweepConfig
from mmtab.sweep import ledger as ledgers
from mmtab.sweep.choose import draw, hopeless
from mmtab.sweep.ledger import Ledger, records_of
from mmtab.sweep.plan import Plan, read_plan
from mmtab.sweep.space import SPACES, read_space, settings_of
from mmtab.sweep.work import run_campaign
from mmtab.utils.errors import ConfigError, MmtabError, RunError

SWEEP = Path(__file__).parents[2] / "scripts" / "sweep.py"
STAND_IN = """
import json, os, signal, sys, time
settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder, dataset = settings["output"], settings["dataset.path"].rsplit("/", 1)[-1]
started = os.path.join(os.path.dirname(__file__), "started.txt")
with open(started, "a") as file:
    file.write("/".join(folder.split("/")[-2:]) + "\\n")
time.sleep(float(os.environ.get("STAND_IN_SECONDS", 0)))
rate, size = float(settings.get("trainer.lr", 1)), settings.get("trainer.batch_size", "32")
if size == "48":
    print("a word before", flush=True)
    sys.exit("error: no room for batches of 48")
if size == "56":
    print("about to die", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
score = 1 / (1 + abs(rate - 0.01) * 50) + int(settings["seed"]) * 0.001 - 0.3 * (dataset == "hard")
def write(name, value):
    with open(folder + "/" + name + ".part", "w") as file:
        json.dump(value, file)
    os.rename(folder + "/" + name + ".part", folder + "/" + name)
write("metrics.json", {"valid": {"accuracy": score, "log_loss": 1.0}})
write("schema.yaml", {"metric": "accuracy", "task": "kway"})
os.makedirs(folder + "/checkpoints", exist_ok=True)
write("checkpoints/best.ckpt", [])
write("provenance.json", {"seconds": {"prepare": 0.1, "train": rate, "total": 1.0}, "n_parameters": int(1e6 * rate),
      "peak_memory_mib": 100.0, "predict_rows_per_second": 10.0})
"""
SPACE = "trainer.lr: {low: 0.001, high: 0.1, log: true}\n"


class Bench:
    """A folder for campaigns over stand-ins: toy datasets without a file, and the program in place of train.py."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("easy", "mild", "hard"):
            (folder / name).mkdir()
        (folder / "stand_in.py").write_text(STAND_IN)
        (folder / "default.yaml").write_text(SPACE)
        self.train = [sys.executable, "-S", "-E", str(folder / "stand_in.py")]

    def space(self, text: str) -> str:
        path = self.folder / "space.yaml"
        path.write_text(text)
        return str(path)

    def datasets(self, *names: str) -> list[str]:
        return [str(self.folder / name) for name in names]

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
        return run_campaign(self.config(**changes), train=self.train)

    def begin(self, **changes: Any) -> subprocess.Popen[str]:
        """The same in a process of its own."""
        path = self.folder / "begin.py"
        path.write_text(
            "import json, sys\nfrom mmtab.sweep.work import run_campaign\nfrom mmtab.config.types import SweepConfig\n"
            "from mmtab.cli.main import friendly\nwith friendly():\n"
            "    run_campaign(SweepConfig(**json.loads(sys.argv[1])), train=json.loads(sys.argv[2]))\n"
        )
        arguments = [json.dumps(vars(self.config(**changes))), json.dumps(self.train)]
        return subprocess.Popen(
            [sys.executable, str(path), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def started(self) -> Counter[str]:
        """How often each run was started."""
        path = self.folder / "started.txt"
        return Counter(path.read_text().splitlines()) if path.exists() else Counter()

    def findings(self, output: str = "out") -> list[dict[str, Any]]:
        """What is known of each trial, without what hangs on the clock."""
        trials = json.loads((self.folder / output / "summary.json").read_text())["trials"]
        return sorted(
            ({k: v for k, v in t.items() if k != "seconds"} for t in trials), key=lambda trial: trial["trial"]
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# --- spaces and settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_spaces_fit_every_kind_of_dataset(bench: Bench, path: Path) -> None:
    plan = read_plan(bench.config(datasets=["catalogue", "catalogue_duplicates"], space=path.stem))
    assert plan.settings and path.read_text().startswith("# ") and "python scripts/sweep.py" in path.read_text()
    params, _ = draw(plan, 0, [])
    assert plan.overrides(params) == [setting.override(params[setting.name]) for setting in plan.settings]


BAD_SPACES = {
    "trainer.lrr: [1e-3]": r"trainer\.lrr=0\.001: no setting trainer\.lrr; did you mean trainer\.lr",
    "fusion.n_layrs: {low: 1, high: 2}": r"no setting fusion\.n_layrs; did you mean fusion\.n_layers",
    "trainer.lr: [abc]": r"trainer\.lr=abc: .*Float",
    "fusion: [meen]": r"fusion=meen: .*fusion/meen.*transformer",
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
    "seed: [0, 1]": "space, seed: the campaign says it",
    "dataset.path: [a]": r"space, dataset\.path: the campaign says it",
    "trainer.max_epochs: [1, 2]": r"space, trainer\.max_epochs: overrides say it as well",
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
    ({"overrides": ["output=here"]}, "overrides, output: the campaign says it"),
    ({"sampler": "magic"}, "sampler=magic: expected one of tpe"),
    ({"sampler": "grid"}, r"sampler=grid: trainer\.lr has no end of values"),
    ({"objectives": ["score", "beauty"]}, "objectives=beauty: expected one of score"),
    ({"objectives": ["score", "n_parameters"], "pruner": "median"}, "with several objectives"),
    ({"datasets": ["catalogue"], "pruner": "median"}, "a trial is one run"),
    ({"test": "all", "weights": "best"}, "weights=all"),
    ({"n_jobs": 0}, "n_jobs=0: expected at least 1"),
    ({"storage": "sqlite:////nowhere/study.db"}, "storage: the database cannot be used"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD_SETTINGS, ids=lambda value: str(value)[:40])
def test_bad_settings_are_named(bench: Bench, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MmtabError, match=message):
        bench.run(**changes)
    assert not bench.started()


def test_two_datasets_of_one_name_are_refused(bench: Bench) -> None:
    (bench.folder / "other" / "easy").mkdir(parents=True)
    with pytest.raises(ConfigError, match="two are called easy"):
        bench.run(datasets=[str(bench.folder / "easy"), str(bench.folder / "other" / "easy")])


def test_values_of_a_setting() -> None:
    text = "a: {low: 1, high: 4}\nb: {low: 0.0, high: 0.3, step: 0.1}\nc: [0, 2, null, [x, y]]\nd: {low: 1e-4, high: 1e-2, log: true}\n"
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
    """The first trials of a campaign whose score is the better the nearer trainer.lr is to 0.01."""
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
        over, system = hopeless(plan, [*trials, running], number, 2, value)
        assert (over, system) == hopeless(plan, [*trials, running], number, 2, value)
        ended.append(over)
        trials.append(
            create_trial(
                value=value, intermediate_values={1: 0.99, 2: value}, user_attrs={"judged": {"system": system}}
            )
        )
    assert not ended[0] and sum(ended) >= least


# --- work ------------------------------------------------------------------------------------------------------------


def test_an_empty_space_is_one_trial(bench: Bench) -> None:
    text = bench.run(space=None, datasets=bench.datasets("easy", "mild", "hard"), seeds=[0, 1], n_jobs=2)
    (trial,) = bench.findings()
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
    assert Counter(trial["state"] for trial in bench.findings()) == {"finished": 18, "failed": 2}
    failures = json.loads((bench.folder / "out" / "summary.json").read_text())["failures"]
    said, killed = failures
    assert (said["trial"], said["run"], said["attempts"]) == (11, "easy-seed0", 3)
    assert said["error"] == "exit status 1: error: no room for batches of 48"
    assert (killed["trial"], killed["error"]) == (13, "ended by SIGKILL (out of memory?): about to die")
    assert all(f"| {failure['trial']} | easy-seed0 | 3 | {failure['error']} |" in text for failure in failures)
    started = bench.started()
    assert all(n == 1 for name, n in started.items() if not name.startswith(("trial-0011", "trial-0013")))
    for trial in ("trial-0011", "trial-0013"):  # others may have been on their way when the first one failed
        assert [started[f"{trial}/{name}-seed0"] for name in ("easy", "mild", "hard")] in ([3, 0, 0], [3, 1, 0])
    bench.run(**changes)
    assert bench.started() == started, "a failed trial stays so"
    lines = capfd.readouterr().out
    assert "FAILED: exit status 1: error: no room for batches of 48; once more" in lines
    assert (bench.folder / "out/trial-0011/easy-seed0/log.txt").read_text().count("a word before") == 3


def test_after_a_failure_the_rest_of_a_trial_is_left_out(bench: Bench) -> None:
    with pytest.raises(RunError, match="every trial failed"):
        bench.run(overrides=["trainer.batch_size=48"], retries=0, n_trials=2, seeds=[0, 1])
    assert bench.started() == {"trial-0000/easy-seed0": 1, "trial-0001/easy-seed0": 1}


def test_a_campaign_stays_what_it_is(bench: Bench) -> None:
    bench.run(n_trials=2)
    started = bench.started()
    for changes, message in (
        ({"datasets": bench.datasets("easy", "mild")}, "datasets: "),
        ({"seeds": [0, 1]}, r"seeds: \[0\] there, \[0,1\] here"),
        ({"overrides": ["trainer.max_epochs=1"], "sampler": "random"}, r"overrides: \[\] there, .*; sampler: tpe there, random here"),
        ({"objectives": ["train_seconds"]}, "objectives: "),
        ({"space": bench.space(SPACE.replace("0.1,", "0.2,"))}, r"space, trainer\.lr: .*0\.1.* there, .*0\.2"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"out holds another campaign: {message}"):
            bench.run(**changes)
    bench.run(n_trials=2, n_jobs=2, retries=3, weights="best")
    assert bench.started() == started
    bench.run(n_trials=3)
    assert len(bench.started()) == 3
    with pytest.raises(ConfigError, match="study out is another campaign: seeds"):
        bench.run(
            output=str(bench.folder / "other" / "out"), storage=f"sqlite:///{bench.folder}/out/study.db", seeds=[5]
        )


def test_a_folder_outlives_its_database(bench: Bench) -> None:
    bench.run(n_trials=3)
    before, started = bench.findings(), bench.started()
    (bench.folder / "out" / "study.db").unlink()
    bench.run(n_trials=3)
    assert bench.findings() == before and bench.started() == started
    storage = f"sqlite:///{bench.folder}/other.db"
    ledger = Ledger(read_plan(bench.config(storage=storage)))
    ledger.settle(ledger.create(), {"trainer.lr": 0.05}, {})
    with pytest.raises(ConfigError, match=r"trial-0000 holds runs of .*two campaigns"):
        bench.run(storage=storage)


def test_weights_of_the_best_are_kept(bench: Bench) -> None:
    bench.run(n_trials=5, weights="best")
    (best,) = json.loads((bench.folder / "out" / "summary.json").read_text())["best"]
    kept = {path.parents[2].name for path in (bench.folder / "out").glob("trial-*/*/checkpoints/best.ckpt")}
    assert kept == {f"trial-{best:04}"}
    assert len(list((bench.folder / "out").glob("trial-*/*/provenance.json"))) == 5


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


def test_two_processes_share_a_campaign(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "0.2")
    both = [bench.begin(n_trials=8, seeds=[0, 1]) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(bench.started()) == 16 and set(bench.started().values()) == {1}
    assert Counter(trial["state"] for trial in bench.findings()) == {"finished": 8}
    assert all("(2 of 2)" in text for text in said), "both had a share"


def test_a_machine_that_shares_only_the_database_takes_what_is_dead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"output": str(bench.folder / "other" / "out"), "storage": f"sqlite:///{bench.folder}/out/study.db"}
    ledger, elsewhere = (
        Ledger(read_plan(bench.config(n_trials=1))),
        Ledger(read_plan(bench.config(n_trials=1, **there))),
    )
    number = ledger.create()
    assert ledger.own(number) and not elsewhere.own(number)
    monkeypatch.setattr(ledgers, "STALE", 0.0)
    monkeypatch.setattr(ledgers, "CONTEST", 0.0)
    assert elsewhere.own(number)
    ledger.settle(number, {"trainer.lr": 0.05}, {})
    bench.run(n_trials=1, **there)
    assert bench.findings("other/out")[0]["settings"] == {"trainer.lr": 0.05}


# --- kills and signals -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_campaign_killed_again_and_again_ends_the_same(bench: Bench) -> None:
    changes = {"sampler": "tpe", "pruner": "halving", "seeds": [0, 1, 2], "n_trials": 13, "study": "same"}
    bench.run(**changes, output=str(bench.folder / "whole"))
    whole = bench.findings("whole")
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
    assert bench.findings() == whole
    assert sum(bench.started().values()) <= sum(len(t["valid"]["easy"]["values"]) for t in whole) + 4


@pytest.mark.parametrize("steps", [0, 1, 2], ids=["no settings", "settings", "one of two for Optuna"])
def test_half_a_draw_is_completed(bench: Bench, steps: int) -> None:
    """Killed between the steps of asking Optuna."""
    space = bench.space(f"{SPACE}trainer.weight_decay: {{low: 0.0, high: 0.1}}\n")
    plan = read_plan(bench.config(space=space, n_trials=1, study="same"))
    ledger = Ledger(plan)
    number = ledger.create()
    params, system = draw(plan, number, [])
    if steps:
        ledger.note(number, "drawn", {"params": params, "system": system})
    if steps > 1:
        trial = ledger.storage.get_trial_id_from_study_id_trial_number(ledger.id, number)
        setting = plan.settings[1]
        ledger.storage.set_trial_param(trial, setting.name, float(params[setting.name]), setting.distribution)
    for output in ("out", "whole"):
        bench.run(space=space, n_trials=1, study="same", output=str(bench.folder / output))
    assert bench.findings() == bench.findings("whole")
    assert ledger.trial(number).params == params and bench.findings()[0]["settings"] == params


def test_a_signal_stops_in_order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "30")
    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = bench.begin(n_jobs=2)
        _wait_for(lambda: sum(bench.started().values()) >= 2)
        process.send_signal(signum)
        said = process.communicate(timeout=20)[0]
        assert process.returncode == code and "the same command goes on" in said
        (bench.folder / "started.txt").unlink()
    records = [records_of(trial)["easy-seed0"] for trial in Ledger(read_plan(bench.config())).trials()]
    assert [record.attempts for record in records] == [0, 0], "what the campaign stopped itself is no failure"
    monkeypatch.setenv("STAND_IN_SECONDS", "0")
    bench.run()
    assert Counter(trial["state"] for trial in bench.findings()) == {"finished": 4}


# --- with real runs --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_campaign_killed_while_a_run_trains(tmp_path: Path, backbone: Path) -> None:
    """Both kinds of dataset, and a choice that cannot be trained; afterwards nothing is left to do."""
    write_kway(tmp_path / "toys", images=False)
    write_pairs(tmp_path / "twins", images=False)
    (tmp_path / "space.yaml").write_text("d_model: [16, 15]\n")
    small = "overrides=[trainer.max_epochs=40,trainer.patience=40,dataset.drop=[text],fusion.d_hidden=32]"
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

    killed, log = begin("killed"), tmp_path / "killed/trial-0000/toys-seed0/log.txt"
    _wait_for(lambda: log.exists() and "epoch   2" in log.read_text(), 60)
    killed.kill()
    killed.communicate()
    both = {"killed": begin("killed", "n_trials=1", "test=none"), "whole": begin("whole")}
    said = {name: process.communicate(timeout=200)[0] for name, process in both.items()}
    assert [process.returncode for process in both.values()] == [0, 0], said
    assert log.read_text().count("epoch   1 ") == 1, "it went on where it was killed"
    found = {name: json.loads((tmp_path / name / "summary.json").read_text()) for name in said}
    best, failed = found["whole"]["trials"]
    assert found["whole"]["best"] == [0] and set(best["valid"]) == set(best["test"]) == {"toys", "twins"}
    assert found["killed"]["trials"][0]["valid"] == best["valid"] and found["killed"]["trials"][0]["test"] == {}
    assert [found["metric"] for found in best["test"].values()] == ["accuracy", "f1"] and failed["test"] == {}
    (failure,) = found["whole"]["failures"]
    assert failure["run"] == "toys-seed0" and failure["error"].startswith("exit status 1: error: "), failure
    before = _times(tmp_path)
    again = begin("whole").communicate(timeout=60)[0]
    assert again == (tmp_path / "whole" / "summary.md").read_text() + "\n"
    assert _times(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"toys", "twins", "space.yaml", "killed", "whole"}


def test_the_campaign_itself_needs_no_torch() -> None:
    heavy = ["torch", "pytorch_lightning", "transformers", "sklearn", "matplotlib", "scipy"]
    code = f"import sys, mmtab.sweep.work\nprint([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def _wait_for(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)

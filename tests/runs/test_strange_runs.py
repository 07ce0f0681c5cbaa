"""A run folder may come from anybody, and its bytes may be damaged: nothing of it runs, writes elsewhere or lies."""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy_data import write_kway

import mmtab
from mmtab.cli.main import run as command
from mmtab.config import parts
from mmtab.config.types import LocalSettings, ReproduceConfig
from mmtab.features.backbones.pretrained import image_network
from mmtab.reports.ablation import ablate
from mmtab.reports.results import collect, markdown
from mmtab.reports.run_page import read_ablation, write_report
from mmtab.runs import manifest
from mmtab.runs.evaluate import evaluate
from mmtab.runs.folder import open_config, read_facts, read_run_file
from mmtab.runs.predict import predict
from mmtab.runs.reproduce import reproduce
from mmtab.runs.scored import read_scored
from mmtab.runs.session import open_run
from mmtab.runs.train import train
from mmtab.training.checkpoints import Checkpoints
from mmtab.utils.errors import ConfigError, MmtabError, RunError

Run = tuple[Path, Path]


@pytest.fixture
def strange(kway_run: Run, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a run, of which config.yaml is changed by a function; what changed is no damage."""

    def make(change: Callable[[dict[str, Any]], object], name: str = "config.yaml") -> Path:
        folder = shutil.copytree(kway_run[1], tmp_path / "strange", dirs_exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        path = folder / name
        in_order = partial(yaml.safe_dump, sort_keys=False)
        read, write = (yaml.safe_load, in_order) if path.suffix == ".yaml" else (json.loads, json.dumps)
        change(content := read(path.read_text(encoding="utf-8")))
        path.write_text(write(content), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def untrusting() -> Iterator[None]:
    """Without the modules that a test trusts."""
    trusted, composed = set(parts._trusted), set(parts._composed)
    yield
    parts._trusted.clear()
    parts._composed.clear()
    parts._trusted.update(trusted)
    parts._composed.update(composed)


# --- nothing runs ----------------------------------------------------------------------------------------------------

SPAWN = {"_target_": "setuptools._distutils.spawn.spawn", "cmd": ["touch", "MARKER"]}


def at(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


PAYLOADS = {
    "a part": at("fusion", value=SPAWN),
    "a part that this run does not need": at("pair_head", "tower", value=SPAWN),
    "within a part": at("fusion", "n_layers", value={"a": [SPAWN]}),
    "half a call": at("numeric", value=SPAWN | {"_partial_": True, "_args_": [["touch", "MARKER"]]}),
    "the system": at("text", "_target_", value="os.system"),
    "through a part of mmtab": at("fusion", "_target_", value="mmtab.model.fusion.torch.hub.load"),
    "through a former name": at("fusion", "_target_", value="mmtab.fusion.os.system"),
    "a function of mmtab": at("image", "_target_", value="mmtab.utils.atomic.write_text"),
    "a module in the folder": at("base", "_target_", value="stranger.Fusion"),
    "no name": at("kway_head", "head", "_target_", value=["os.system"]),
    "nothing": at("fusion", "_target_", value=""),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_a_part_of_others_is_refused_before_anything_is_imported(
    strange: Callable[..., Path], payload: Any, kway_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = strange(payload), kway_run[0]
    (folder / "stranger.py").write_text("from pathlib import Path\nPath('MARKER').touch()\n")
    monkeypatch.chdir(folder)
    modules = set(sys.modules)
    ways: list[Callable[[], object]] = [
        lambda: open_run(folder),
        lambda: evaluate(folder, "test"),
        lambda: predict(folder, data / "test.parquet", folder.parent / "out.csv"),
        lambda: write_report(folder),
        lambda: reproduce(ReproduceConfig(run=str(folder), output="again"), folder / "again"),
        lambda: mmtab.load_run(folder).predict(data / "test.parquet"),
        lambda: mmtab.load_run(folder).dataset,
    ]
    for way in ways:
        with pytest.raises(RunError, match=r"config\.yaml, .*(trust=\[|expected the name of a class)"):
            way()
    assert not {"stranger", "setuptools._distutils.spawn"} & (set(sys.modules) - modules)
    assert not (folder / "MARKER").exists() and not (folder / "again").exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("evaluate", ["run=RUN"]),
        ("predict", ["run=RUN", "input=DATA/test.parquet", "output=RUN/../out.csv"]),
        ("report", ["run=RUN"]),
        ("match", ["run=RUN", "left=DATA/test.parquet", "right=DATA/test.parquet", "output=RUN/../out.csv"]),
        ("reproduce", ["run=RUN", "output=RUN/again"]),
    ],
)
def test_every_command_says_how_to_trust(
    strange: Callable[..., Path],
    kway_run: Run,
    name: str,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    untrusting: None,
) -> None:
    folder = strange(PAYLOADS["a module in the folder"])
    (folder / "own").mkdir()
    (folder / "own" / "stranger.py").write_text("class Fusion: pass\nimport os\n")
    monkeypatch.setattr(sys, "path", [str(folder / "own"), *sys.path])
    filled = [a.replace("RUN", str(folder)).replace("DATA", str(kway_run[0])) for a in arguments]
    with pytest.raises(SystemExit, match="1"):
        command(name, filled)
    assert "trust=[stranger]" in capsys.readouterr().err and "stranger" not in sys.modules
    with pytest.raises(SystemExit, match="1"):
        command(name, [*filled, "trust=[no_such_module]"])
    assert "trust=no_such_module: it cannot be imported" in capsys.readouterr().err
    with contextlib.suppress(SystemExit, TypeError):
        command(name, [*filled, "trust=[stranger]"])
    assert "trust=" not in capsys.readouterr().err and sys.modules.pop("stranger")


def test_trust_is_of_what_a_module_defines(
    strange: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untrusting: None
) -> None:
    (tmp_path / "trusted_parts.py").write_text("import os\nfrom subprocess import run\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("trusted_parts.os.system", "trusted_parts.run", "trusted_parts_too.Fusion"):
        folder = strange(at("fusion", value={"_target_": name}))
        with pytest.raises(RunError, match=f"_target_={name}.*no part of mmtab"):
            mmtab.load_run(folder, trust=["trusted_parts"]).evaluate()
    with pytest.raises(ConfigError, match="expected names of modules"):
        mmtab.load_run(folder, trust=["../trusted_parts"])


def test_settings_are_data(strange: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "do not tell")
    folder = strange(at("text", "column_prefix", value="${oc.env:SECRET} {}: "))
    assert open_config(folder).text["column_prefix"] == "${oc.env:SECRET} {}: "
    assert "do not tell" not in write_report(folder, ablation=False).read_text(encoding="utf-8")
    (folder / "config.yaml").write_text("a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]\n")
    with pytest.raises(RunError, match=r"config\.yaml is damaged \(it has aliases\)"):
        open_config(folder)
    (folder / "config.yaml").write_text("a: !!python/object/apply:os.system ['touch MARKER']\n")
    with pytest.raises(RunError, match=r"config\.yaml is damaged"):
        open_config(folder)
    (folder / "config.yaml").write_text("a: " + "[" * 20_000)
    with pytest.raises(RunError, match=r"config\.yaml is damaged"):
        open_config(folder)


# --- it does not say where this machine writes -----------------------------------------------------------------------


def test_where_this_machine_writes_is_not_for_a_run_to_say(
    strange: Callable[..., Path], kway_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmtab.api.run.SLICE", 1)  # fewer rows are not kept in the cache
    theirs = {"cache": str(tmp_path / "theirs"), "cache_gb": 0.0, "output": str(tmp_path / "theirs")}
    theirs |= {"data_root": str(tmp_path / "theirs"), "wandb": {"mode": "online", "project": "theirs"}}
    theirs["logger"] = ["tensorboard"]
    folder = strange(lambda config: config.update(theirs))
    config = open_config(folder, LocalSettings(str(tmp_path), str(tmp_path / "mine"), None))
    assert (config.data_root, config.cache, config.cache_gb) == (str(tmp_path), str(tmp_path / "mine"), None)
    assert (config.output, config.wandb.mode, config.logger) == (str(folder), "disabled", ["csv"])
    evaluate(folder, "test")
    mmtab.load_run(folder, cache=tmp_path / "mine").predict(kway_run[0] / "test.parquet")
    assert not (tmp_path / "theirs").exists() and (tmp_path / "mine").is_dir()


@pytest.mark.parametrize("name", ["checkpoints", "report", "metrics.json", "checkpoints/best.ckpt"])
def test_links_lead_nowhere_else(kway_run: Run, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(kway_run[1], tmp_path / "run")
    (folder / "manifest.json").unlink()
    target = tmp_path / "elsewhere"
    if (folder / name).exists():
        shutil.move(folder / name, target)
    else:
        target.mkdir()
    (folder / name).symlink_to(target)
    before = {path: path.read_bytes() for path in tmp_path.glob("elsewhere/**/*") if path.is_file()}
    with pytest.raises(RunError, match=r"is a link to .*outside the run"):
        write_report(folder, ablation=name.endswith("ckpt"))
        open_run(folder)
    assert before == {path: path.read_bytes() for path in tmp_path.glob("elsewhere/**/*") if path.is_file()}


def test_a_ladder_moves_its_own_steps_alone(kway_run: Run, tmp_path: Path, configure: Any) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "thesis.txt").write_text("mine")
    (folder := tmp_path / "run").mkdir()
    said = {"chosen": "../../elsewhere", "chosen_by": "log_loss", "valid": {"../../elsewhere": {"log_loss": 0.1}}}
    (folder / "ladder.json").write_text(json.dumps(said))
    with pytest.raises(RunError, match=r"ladder\.json, chosen: expected one of frozen, tuned"):
        train(configure(kway_run[0], "ladder=[frozen,tuned]"), folder)
    assert (elsewhere / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("link", ["steps", "steps/frozen"])
def test_a_ladder_moves_nothing_through_a_link(tmp_path: Path, configure: Any, link: str) -> None:
    (elsewhere := tmp_path / "elsewhere" / "frozen").mkdir(parents=True)
    (elsewhere / "keep.txt").write_text("keep")
    path = tmp_path / "run" / link
    path.parent.mkdir(parents=True)
    path.symlink_to(elsewhere.parent if link == "steps" else elsewhere)
    config = configure(write_kway(tmp_path / "data"), "recipe=auto", "trainer.max_epochs=1")
    with pytest.raises(RunError, match="is a link, and what it leads to would be moved"):
        train(config, tmp_path / "run")
    assert (elsewhere / "keep.txt").read_text() == "keep"


@pytest.mark.parametrize("name", ["hf-hub:stranger/net", "local-dir:/etc", "stranger/net", "hf_hub:a@/etc/passwd"])
def test_no_network_is_asked_for_what_a_run_names(strange: Callable[..., Path], name: str) -> None:
    with pytest.raises(MmtabError, match=r"image\.backbone=.*: expected a timm name"):
        open_run(strange(at("image", "backbone", value=name)))


def test_weights_that_a_file_names_are_plain_tensors(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "MARKER",)

    torch.save({"state_dict": {"x": torch.zeros(1)}, "touch": Touch()}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"image\.backbone"):
        image_network(f"resnet10t@{tmp_path / 'w.pth'}")
    assert not (tmp_path / "MARKER").exists()


def test_names_of_a_run_are_no_code_of_a_terminal(strange: Callable[..., Path]) -> None:
    folder = strange(at("name", value="x\x1b]0;owned\x07<b>"), "schema.yaml")
    text = markdown(collect([folder], "test"))
    assert "\x1b" not in text and "\x07" not in text and "\\<b" in text


ABLATIONS: list[tuple[tuple[Any, ...], Any, str]] = [
    (("columns", "size", "modality"), "sound", r"columns\.size\.modality: expected one of .*numeric"),
    (("columns", "size", "nats"), None, r"columns\.size\.nats: expected a finite number"),
    (("modalities",), {}, r".*modality: expected one of"),
    (("missingness", "scores", "text"), [0.5], r"missingness\.scores\.text: expected a score for each share"),
    (("metric",), "f1\x1b]0;owned", r"metric: expected a line"),
    (("subsets",), [], r"subsets: expected a mapping"),
]


def test_an_ablation_that_does_not_fit_is_named(strange: Callable[..., Path], kway_run: Run) -> None:
    folder = strange(lambda content: None)
    whole = ablate(open_run(folder), kway_run[0], n_rows=20)
    (folder / "report").mkdir(exist_ok=True)
    for keys, value, problem in [((), None, ""), *ABLATIONS]:
        content = json.loads(json.dumps(whole))
        if keys:
            at(*keys, value=value)(content)
        (folder / "report" / "ablation.json").write_text(json.dumps(content))
        if not keys:
            assert read_ablation(folder) == content
            continue
        with pytest.raises(RunError, match=rf"ablation\.json, {problem}"):
            read_ablation(folder)


@pytest.mark.parametrize("use", ["evaluate", "reproduce", "report", "predict"])
def test_a_name_of_the_hub_on_the_command_line_says_where_its_folder_is(
    use: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("a\n1\n")
    more = {"predict": ["input=rows.csv", "output=out.csv"]}.get(use, [])
    with pytest.raises(SystemExit):
        command(use, ["run=alice/model", *more])
    said = capsys.readouterr().err
    assert "run=alice/model: no such file or folder. Fix: " in said and "mmtab.load_run('alice/model').folder" in said
    assert said.count("\n") == 1


def test_a_name_without_an_owner_is_no_name_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmtab.runs.hub.download", lambda *_: pytest.fail("the hub is asked"))
    with pytest.raises(RunError, match="there is no run missing: no such folder"):
        mmtab.load_run("missing")


# --- what it says is looked at ---------------------------------------------------------------------------------------

MISFITS: list[tuple[str, tuple[Any, ...], Any, str]] = [
    ("config.yaml", ("d_model",), 10**9, "d_model=1000000000: expected at least 1"),
    ("config.yaml", ("d_model",), 8192, "cannot be loaded"),
    ("config.yaml", ("fusion", "d_hidden"), 10**9, "larger than its weights|allocate"),
    ("config.yaml", ("fusion", "dropout"), math.nan, "fusion.dropout: expected a finite number"),
    ("config.yaml", ("seed",), "zero", "seed: expected a whole number"),
    ("config.yaml", ("trainer",), [1], "trainer: expected a group of settings"),
    ("config.yaml", ("mystery",), 1, "mystery: expected a setting"),
    ("config.yaml", ("dataset", "drop"), {"a": 1}, "dataset.drop: expected a list"),
    ("config.yaml", ("fusion", "mystery"), 1, "fusion.mystery: no such setting"),
    ("schema.yaml", ("columns",), ["title"], "columns: expected a mapping"),
    ("schema.yaml", ("task",), ["kway"], "task: expected text"),
    ("schema.yaml", ("columns", "size"), "categorical", "scalers_"),
    ("schema.yaml", ("storage",), {"label": "no type"}, "label"),
    ("fitted.json", ("preprocessor", "scalers_", "size", "quantiles_"), [1.0, math.nan], "quantiles_: expected finite"),
    ("fitted.json", ("preprocessor", "scalers_", "size", "quantiles_"), [2.0, 1.0], "quantiles_: expected ascending"),
    (
        "fitted.json",
        ("preprocessor", "coders_", "colour", "n_hash_"),
        10**12,
        "n_hash_: expected a whole number from 0",
    ),
    ("fitted.json", ("preprocessor", "coders_", "colour", "n_hash_"), 10**7, "larger than its weights"),
    ("fitted.json", ("preprocessor", "labels_", "classes_"), ["a", "a"], "classes_: expected texts that differ"),
    ("fitted.json", ("preprocessor", "labels_"), None, "labels_|does not fit"),
    ("fitted.json", ("preprocessor",), None, "preprocessor: expected a mapping"),
    ("fitted.json", ("lexicon", "buckets_"), [[1]], "lexicon"),
    ("fitted.json", ("relations",), ["same"], "relations: they are not those of schema.yaml"),
    ("task.json", ("temperatures",), [math.nan], "temperatures: expected finite numbers"),
    ("task.json", ("temperatures",), [1.0, 1.0], "temperatures: expected an array"),
    ("task.json", ("temperatures",), "hot", "temperatures: expected a list"),
    ("provenance.json", ("seconds",), None, "seconds: expected a mapping"),
    ("provenance.json", ("n_parameters",), "many", "n_parameters: expected a finite number"),
    ("metrics.json", ("test", "accuracy"), 7.5, "test.accuracy: expected a finite number from 0 to 1"),
    ("metrics.json", ("test",), [0.5], "test: expected a mapping"),
    ("metrics.json", ("test", "accuracy"), 0.987, "does not fit metrics.json"),
]


@pytest.mark.parametrize("swapped", [("title", "photo"), ("size", "made")])
def test_columns_in_another_order_are_named(strange: Callable[..., Path], swapped: tuple[str, str]) -> None:
    """Weights know a column by its place, and nothing else tells where the folder has no manifest."""

    def swap(schema: dict[str, Any]) -> None:
        places = dict(zip(swapped, reversed(swapped), strict=True))
        schema["columns"] = {(at := places.get(name, name)): schema["columns"][at] for name in schema["columns"]}

    with pytest.raises(RunError, match=r"fitted.json .*schema.yaml, in its order"):
        open_run(strange(swap, "schema.yaml"))


def test_columns_of_the_first_versions_in_another_order_are_named(strange: Callable[..., Path]) -> None:
    folder = strange(lambda fitted: [fitted.pop("columns"), fitted.pop("relations")], "fitted.json")
    open_run(folder)
    schema = yaml.safe_load((folder / "schema.yaml").read_text())
    schema["columns"] = dict(reversed(schema["columns"].items()))
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    with pytest.raises(RunError, match=r"scalers_ and coders_ are not those of schema\.yaml, in its order"):
        open_run(folder)


@pytest.mark.parametrize(("name", "keys", "value", "problem"), MISFITS, ids=[f"{m[0]} {m[1][-1]}" for m in MISFITS])
def test_a_value_that_does_not_fit_is_named(
    strange: Callable[..., Path], name: str, keys: tuple[Any, ...], value: Any, problem: str
) -> None:
    folder = strange(at(*keys, value=value), name)
    with pytest.raises(RunError, match=problem) as caught:
        read_facts(folder)
        collect([folder], "test")
        read_scored(folder, "test")
        open_run(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000


# --- damage ----------------------------------------------------------------------------------------------------------


def numbers_of(folder: Path, data: Path) -> Any:
    """What a run says and predicts."""
    run = mmtab.load_run(folder)
    scores = {split: read_scored(folder, split)[0].score() for split in ("valid", "test")}
    table = str(collect([folder], "test"))
    return run.metrics, scores, table, run.evaluate(), run.predict_proba(data / "test.parquet").to_pylist()


def damaged(folder: Path, target: Path, seed: int) -> Path:
    """A copy with some bytes flipped, zeroed or cut off of one file, which is returned."""
    rng = random.Random(seed)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    files = sorted(path for path in target.rglob("*") if path.is_file() and path.stat().st_size and path.suffix)
    path = rng.choice(files)
    content = bytearray(path.read_bytes())
    kind, start = rng.choice(["flip", "zeros", "cut"]), rng.randrange(len(content))
    if kind == "cut":
        del content[start:]
    else:
        end = min(start + rng.choice([1, 64, 4096]), len(content))
        content[start:end] = bytes(end - start) if kind == "zeros" else bytes(255 - byte for byte in content[start:end])
    path.write_bytes(content)
    return path


def check_damage(folder: Path, scratch: Path, seeds: range, use: Callable[[Path], Any]) -> dict[str, int]:
    """Every damage ends in a line that names the file, or in the numbers of the folder. How often each was."""
    shutil.copytree(folder, scratch / "whole")
    expected, counts = use(scratch / "whole"), {"named": 0, "unchanged": 0}
    for seed in seeds:
        path = damaged(folder, scratch / "damaged", seed)
        manifest._verified.clear()  # as a new process
        try:
            found = use(scratch / "damaged")
        except MmtabError as error:
            assert path.name in str(error) and "\n" not in str(error), (seed, path, error)
            counts["named"] += 1
        else:
            assert found == expected, (seed, path)
            counts["unchanged"] += 1
    return counts


def test_damage_is_named_or_harmless(kway_run: Run, tmp_path: Path) -> None:
    counts = check_damage(kway_run[1], tmp_path, range(12), lambda folder: numbers_of(folder, kway_run[0]))
    assert counts["named"] >= 6


@pytest.mark.slow
def test_much_damage_is_named_or_harmless(kway_run: Run, tmp_path: Path) -> None:
    counts = check_damage(kway_run[1], tmp_path, range(100, 160), lambda folder: numbers_of(folder, kway_run[0]))
    print(counts)
    assert counts["named"] >= 40, counts


class Died(BaseException):
    """In the place of a kill."""


def stopped(configure: Any, data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The settings of a run that was killed after its second checkpoint."""
    config = configure(data, "trainer.max_epochs=2", "trainer.checkpoint_seconds=0", "dataset.drop=[image,text]")
    save, times = Checkpoints.save, iter(range(10))

    def save_and_die(self: Checkpoints, *arguments: Any) -> None:
        save(self, *arguments)
        if next(times) == 5:
            raise Died

    with monkeypatch.context() as patch, contextlib.suppress(Died):
        patch.setattr(Checkpoints, "save", save_and_die)
        train(config, folder)
    assert (folder / "checkpoints" / "last.ckpt").exists()
    return config


def damage_of_stopped(kway_run: Run, tmp_path: Path, configure: Any, patch: Any, seeds: range) -> dict[str, int]:
    config = stopped(configure, kway_run[0], tmp_path / "stopped", patch)

    def finish(folder: Path) -> Any:
        return train(config, folder), read_run_file(folder, "fitted.json"), evaluate(folder)

    return check_damage(tmp_path / "stopped", tmp_path, seeds, finish)


def test_damage_of_a_stopped_run_is_named_or_harmless(
    kway_run: Run, tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert damage_of_stopped(kway_run, tmp_path, configure, monkeypatch, range(4))["named"]


OLDER: dict[str, Callable[[dict[str, Any]], object]] = {
    "a setting less": lambda config: config["trainer"].pop("keep"),
    "a part less": lambda config: config.pop("base"),
    "a setting that is gone": lambda config: config.update(former=1),
    "another default": lambda config: config["trainer"].update(patience=77),
}


@pytest.mark.parametrize("change", OLDER)
def test_a_stopped_run_of_an_older_version_goes_on_or_says_what_to_do(
    kway_run: Run, tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    config = stopped(configure, kway_run[0], tmp_path / "stopped", monkeypatch)
    (tmp_path / "stopped" / "manifest.json").unlink(missing_ok=True)
    path = tmp_path / "stopped" / "config.yaml"
    OLDER[change](content := yaml.safe_load(path.read_text()))
    path.write_text(yaml.safe_dump(content))
    try:
        train(config, tmp_path / "stopped")
    except RunError as error:
        assert str(tmp_path / "stopped") in str(error) and "resume=never" in str(error) and "\n" not in str(error), (
            error
        )


@pytest.mark.slow
def test_much_damage_of_a_stopped_run_is_named_or_harmless(
    kway_run: Run, tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = damage_of_stopped(kway_run, tmp_path, configure, monkeypatch, range(100, 140))
    print(counts)
    assert counts["named"] >= 15, counts


@pytest.mark.parametrize("name", ["last.ckpt", "best"])
def test_64_bytes_of_a_checkpoint_without_manifest(
    kway_run: Run, tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As in folders of earlier versions, and while a run trains."""
    if name == "best":
        folder = shutil.copytree(kway_run[1], tmp_path / "run")
        (folder / "manifest.json").unlink()
        path = folder / "checkpoints" / "best.ckpt"
    else:
        config = stopped(configure, kway_run[0], folder := tmp_path / "run", monkeypatch)
        path = folder / "checkpoints" / "last.ckpt"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - byte for byte in content[middle : middle + 64])  # zeros may be there
    path.write_bytes(content)
    with pytest.raises(RunError, match=rf"{path.name} is damaged"):
        open_run(folder) if name == "best" else train(config, folder)

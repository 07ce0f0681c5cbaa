"""Every file under configs/ fits the code, and every mistake on a command line ends in one clear message."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from commands import script
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from toy_data import write_kway, write_pairs

from mmtab.cli import composed, main
from mmtab.config.compose import compose
from mmtab.config.parts import allow_targets
from mmtab.config.types import CONFIGS, RunConfig
from mmtab.runs.train import train
from mmtab.training.build import knobs, part
from mmtab.utils.errors import ConfigError, MmtabError

# What build.py adds to the settings of a leaf, by the leaf's place.
ADDED = {
    "text": {"n_columns", "apart"},  # the latter of pair_head.cross
    "image": {"n_columns"},
    "numeric": {"n_columns"},
    "categorical": {"n_ids"},
    "fusion": set(),
    "search": {"n_ids", "backbones", "hidden", "two_sides"},
    "kway_head.head": {"n_classes"},
    "pair_head.model": {"tokenizer", "fusion", "relations", "parts", "others"},
    "pair_head.tower": {"n_relations"},
    "pair_head.joint": {"n_relations"},
    "pair_head.compare": {"groups", "n_relations"},
    "pair_head.base": {"reads"},
}
PARTS = sorted({place.split(".")[0] for place in ADDED})
DATASETS = sorted(path.stem for path in (CONFIGS / "dataset").glob("*.yaml"))


def parts() -> Iterator[Any]:
    """(place, settings) of everything with a ``_target_``."""
    for group in PARTS:
        for path in sorted((CONFIGS / group).glob("*.yaml")):
            whole = OmegaConf.create({"d_model": 16, "leaf": OmegaConf.load(path)})
            settings: Any = OmegaConf.to_container(whole, resolve=True)
            inner = settings["leaf"]
            found = {group: inner} if "_target_" in inner else {f"{group}.{k}": v for k, v in inner.items()}
            for place, leaf in found.items():
                if isinstance(leaf, dict) and "_target_" in leaf:
                    # "auto" is a choice that config.py settles before anything is built
                    leaf = {key: None if value == "auto" else value for key, value in leaf.items()}
                    yield pytest.param(place, leaf, id=f"{path.parent.name}/{path.stem}:{place}")


ALL_PARTS = list(parts())


def configure(*overrides: str) -> RunConfig:
    return compose("output=unused", *overrides)


def target_of(leaf: dict[str, Any]) -> Any:
    module, _, name = leaf["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


# --- leaves ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "leaf"), ALL_PARTS)
def test_a_leaf_names_a_public_symbol_where_it_is_defined(place: str, leaf: dict[str, Any]) -> None:
    assert leaf["_partial_"] is True
    names = leaf["_target_"].split(".")
    assert names[0] == "mmtab" and not any(name.startswith("_") for name in names)
    target = target_of(leaf)
    assert f"{target.__module__}.{target.__qualname__}" == leaf["_target_"]


@pytest.mark.parametrize(("place", "leaf"), ALL_PARTS)
def test_a_leaf_lists_every_knob_of_its_target(place: str, leaf: dict[str, Any]) -> None:
    listed = {key for key in leaf if not key.startswith("_")}
    assert listed | ADDED[place] == set(knobs(target_of(leaf), place))
    assert not listed & ADDED[place]


@pytest.mark.parametrize(("place", "leaf"), ALL_PARTS)
def test_a_leaf_binds_to_its_target(place: str, leaf: dict[str, Any]) -> None:
    made: Any = part(leaf, place)
    signature = inspect.signature(target_of(leaf))
    added = {name: None for name in {*ADDED[place], "backbone"} if name in signature.parameters}
    signature.bind(**made.keywords, **added)


@pytest.mark.parametrize(("place", "leaf"), ALL_PARTS)
def test_a_misspelt_setting_of_a_leaf_is_named(place: str, leaf: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{place}\.misspelt: no such setting; .* has .*"):
        part({**leaf, "misspelt": 1}, place)


def scalar_settings() -> Iterator[Any]:
    """(place, leaf, key, type) of every number, switch and choice."""
    for parameter in ALL_PARTS:
        place, leaf = parameter.values
        hints = knobs(target_of(leaf), place)
        for key in leaf:
            kind = hints.get(key)
            if kind in (int, float, bool) or get_origin(kind) is Literal:
                yield pytest.param(place, leaf, key, kind, id=f"{parameter.id}.{key}")


@pytest.mark.parametrize(("place", "leaf", "key", "kind"), list(scalar_settings()))
def test_a_setting_of_the_wrong_kind_is_named(place: str, leaf: dict[str, Any], key: str, kind: Any) -> None:
    """``text.layout=banana``, ``fusion.n_layers=banana``."""
    with pytest.raises(ConfigError, match=rf"{place}\.{key}.*banana"):
        part({**leaf, key: "banana"}, place)
    for choice in get_args(kind):
        part({**leaf, key: choice}, place)


@pytest.mark.parametrize(
    "target", ["mmtab.model.fusion.NoSuchFusion", "mmtab.no_such_module.Fusion", "no_such_package.Fusion", "", None]
)
def test_a_target_that_does_not_exist_is_named(target: str | None) -> None:
    leaf = {} if target is None else {"_target_": target}
    allow_targets(leaf)  # as composing settings does
    problem = f"_target_: cannot find {target}" if target else "_target_=.*: expected the name of a class"
    with pytest.raises(ConfigError, match=rf"fusion\.{problem}"):
        part(leaf, "fusion")


# --- datasets and the whole ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_dataset_file_is_data_alone(dataset: str) -> None:
    raw: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "dataset" / f"{dataset}.yaml"))
    assert "_target_" not in raw and raw["name"] == dataset
    config = configure(f"dataset={dataset}")
    assert config.dataset.name == dataset
    assert (config.dataset.path is None) == (dataset == "custom" or config.dataset.generate is not None)


@pytest.mark.parametrize("group", PARTS)
def test_every_leaf_can_be_chosen(group: str) -> None:
    for path in sorted((CONFIGS / group).glob("*.yaml")):
        chosen = getattr(configure(f"{group}={path.stem}"), group)
        if path.stem == "none":
            assert chosen is None
            continue
        keys = set(chosen) if isinstance(chosen, dict) else {f.name for f in dataclasses.fields(chosen)}
        assert keys == set(OmegaConf.load(path))


@pytest.mark.parametrize(
    "override",
    [
        "trainer.precision=banana",
        "dataset.bad_cells=banana",
        "wandb.mode=banana",
        "trainer.max_epochs=0",
        "trainer.batch_size=0",
        "trainer.eval_batch_size=-1",
        "trainer.accumulate=0",
        "trainer.patience=0",
    ],
)
def test_a_value_that_cannot_be_is_named(override: str) -> None:
    with pytest.raises(ConfigError, match=f"{override}: expected"):
        configure(override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pair_head.augment.cell_drop=1"], "pair_head.augment.cell_drop=1.0: expected at least 0, and below 1"),
        (["pair_head.hard_negatives=-1"], "pair_head.hard_negatives=-1.0: expected at least 0"),
        (["pair_head=fusion", "pair_head.hard_negatives=0.5"], "set pair_head.model.towers=true"),
        (["pair_head=two_tower", "pair_head.tower=null"], "tower, joint and compare are all null"),
        (["pair_head=two_tower", "pair_head.cross_text=true"], "set pair_head.joint"),
        (["pair_head=two_tower", "pair_head.model.towers=false"], "set pair_head.model.towers=true"),
    ],
)
def test_parts_of_a_pair_model_that_do_not_fit_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure(*overrides)


# --- mistakes --------------------------------------------------------------------------------------------------------

GROUPS = ["dataset", "categories", "trainer", "wandb", *PARTS]


@pytest.mark.parametrize("group", GROUPS)
def test_a_misspelt_key_of_a_group_is_named(group: str) -> None:
    with pytest.raises(ConfigCompositionException, match=rf"{group}\.misspelt"):
        configure(f"{group}.misspelt=1")


@pytest.mark.parametrize("group", GROUPS)
def test_a_misspelt_key_is_named_even_when_added_by_force(group: str, tmp_path: Path) -> None:
    write = write_pairs if group == "pair_head" else write_kway
    data = write(tmp_path / "data")
    drop = ",".join(sorted({"text", "image"} - {group}))
    small = ["d_model=16", "trainer.max_epochs=1", "trainer.n_threads=1", f"cache={tmp_path}", "trainer.progress=false"]
    with pytest.raises((ConfigCompositionException, MmtabError), match="misspelt"):
        train(
            configure(
                "dataset=custom", f"dataset.path={data}", f"dataset.drop=[{drop}]", f"+{group}.misspelt=1", *small
            ),
            tmp_path / "run",
        )


@pytest.fixture(autouse=True)
def _arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # which a command sets for its process


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epoch=3", "trainer.max_epoch"),
        ("text=banana", "error: text=banana: configs/text/ has no banana; expected one of transformer"),
        ("dataset=banana", "error: dataset: banana is neither a dataset folder nor a name"),
        ("trainer.max_epochs=banana", "trainer.max_epochs"),
        ("trainer.precision=banana", "error: trainer.precision=banana: expected one of"),
        ("text.d_model=${banana}", "error: text.d_model: Interpolation key 'banana' not found"),
        ("+text.misspelt=1", "error: text.misspelt: no such setting"),
        ("data_root=nowhere_at_all", "error: dataset toy: no folder"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(
    override: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_kway(tmp_path / "data" / "toy", images=False)
    where = ["dataset=custom", "dataset.path=toy", f"data_root={data.parent}", f"output={tmp_path / 'run'}"]
    if override.startswith(("dataset=", "data_root=")):
        where = [setting for setting in where if setting.split("=")[0] != override.split("=")[0]]
    with pytest.raises(SystemExit) as ended:
        main.run("train", [*where, override])
    output = "".join(capsys.readouterr())
    assert ended.value.code == 1
    assert message in " ".join(output.split())
    assert "Traceback" not in output
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_that_is_not_given_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = script("evaluate")
    assert done.returncode == 1 and done.stderr == "error: run is not given. Fix: add run=…\n"


# --- paths on a command line -----------------------------------------------------------------------------------------

ODD = [
    "new (1).csv",
    "a [b] {c}.csv",
    "é ü ☂.csv",
    "k=v, w=x.csv",
    'it\'s "so".csv',
    "back\\slash\\'.csv",
    "$x %y #z.csv",
    "${x} $HOME.csv",
    "back\\${x}.csv",
]
OF_TRAIN = ODD[3:6] + ODD[7:]  # which has many files to compose, and reads a path as the others do


def seen_settings(arguments: list[str], command: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The settings with which a command would run."""
    seen: list[Any] = []
    monkeypatch.setattr(main.Command, "load", lambda self: seen.append)
    monkeypatch.setattr(composed, "check_place", lambda settings: None)
    main.run(command, arguments)
    return seen[0]


@pytest.mark.parametrize("name", ODD)
def test_a_path_on_the_command_line_means_itself(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    given = {key: f"{tmp_path}/{prefix}{name}" for key, prefix in [("run", ""), ("input", ""), ("output", "new ")]}
    settings = seen_settings([f"{key}={value}" for key, value in given.items()], "predict", monkeypatch)
    assert {key: getattr(settings, key) for key in given} == given
    folders = [tmp_path / f"{n} {name}" for n in "xy"]
    for folder in folders:
        folder.mkdir()
    entries = ",".join(map(str, folders))
    settings = seen_settings([f"datasets=[{entries}, fashion]", f"output={name}"], "sweep", monkeypatch)
    assert settings.datasets == [*map(str, folders), "fashion"] and settings.output == name
    assert compose("dataset=custom", f"dataset.path={name}", "output=o").dataset.path == name
    if name not in OF_TRAIN:
        return
    train = seen_settings(
        ["dataset=custom", f"dataset.path={name}", f"output={tmp_path}/run {name}"], "train", monkeypatch
    )
    assert (train.dataset.path, train.output) == (name, f"{tmp_path}/run {name}")
    train = seen_settings([f"dataset={folders[0]}", "output=o"], "train", monkeypatch)
    assert train.dataset.path == str(folders[0])


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("datasets=fashion", ["fashion"]),
        ("datasets=fashion,music", ["fashion", "music"]),
        ("datasets=[fashion, music]", ["fashion", "music"]),
        ("seeds=3", [3]),
        ("seeds=0,1", [0, 1]),
        ("seeds=[0,1]", [0, 1]),
        ("objectives=score,train_seconds", ["score", "train_seconds"]),
        ("overrides=trainer.lr=0.1", ["trainer.lr=0.1"]),
        ("overrides=[trainer.lr=0.1,dataset.drop=[a,b]]", ["trainer.lr=0.1", "dataset.drop=[a,b]"]),
    ],
)
def test_a_list_may_lack_its_brackets(argument: str, expected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = seen_settings(["datasets=openmoji", "output=o", argument], "sweep", monkeypatch)
    assert getattr(settings, argument.partition("=")[0]) == expected


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("image_root=~/my run", str(Path.home() / "my run")),
        ("image_root='my run'", "my run"),
        ('image_root="my run"', "my run"),
        ("image_root=${oc.env:HOME}/my run", f"{Path.home()}/my run"),
        ("image_root=${input}-out", "i-out"),
        ("image_root=there ${input}/out", "there ${input}/out"),
        ("image_root=2021", "2021"),
        ("+image_root=a b", "a b"),
    ],
)
def test_what_a_path_may_say_besides_itself(
    argument: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there ${input}").mkdir()
    settings = seen_settings(["run=r", "input=i", "output=o.csv", argument, "left=null"], "predict", monkeypatch)
    assert (settings.image_root, settings.left) == (expected, None)

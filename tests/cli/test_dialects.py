"""An argument may be written ``name=VALUE`` or ``--name VALUE``, of every command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from mmtab.cli import main
from mmtab.cli.dialects import as_settings
from mmtab.config.types import MatchConfig, PredictConfig, ReportConfig

ROWS = "label,colour,price\n" + "".join(f"{'ab'[i % 2]},{['red', 'blue'][i % 2]},{i}.5\n" for i in range(40))


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".csv", ".parquet")}


@pytest.mark.parametrize(
    "line",
    [
        "all TABLE label=label output=OUT seed=3 fractions=.5,.2,.3 type=price=categorical",
        "all inputs=TABLE --label label -o OUT --seed=3 fractions=[.5,.2,.3] --type price=categorical",
        "all output=OUT --fractions .5 .2 .3 --seed 3 type=[price=categorical] inputs=[TABLE] --label=label",
    ],
)
def test_commands_with_options_take_settings(line: str, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text(ROWS)
    wanted = "all TABLE --label label --output OUT --seed 3 --fractions .5 .2 .3 --type price=categorical"
    for text, folder in ((line, "one"), (wanted, "two")):
        words = text.replace("TABLE", str(table)).replace("OUT", str(tmp_path / folder)).split()
        with pytest.raises(SystemExit, match="0"):
            main.run("prepare", words)
    assert yaml.safe_load((tmp_path / "one" / "dataset.yaml").read_text())["columns"]["price"] == "categorical"
    assert made(tmp_path / "one") == made(tmp_path / "two") != {}


def test_flags_are_true_or_false(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["dry_run=true", "all=true"], ["--dry-run", "--all"], ["dry_run=false", "--all", "--dry-run"]):
        with pytest.raises(SystemExit, match="0"):
            main.run("cache", ["clean", f"cache={tmp_path / 'cache'}", *words])
    first, *others = capsys.readouterr().out.splitlines()
    assert others == [first, first]


def test_a_file_whose_name_looks_like_a_setting_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("label=1.csv").write_text(ROWS)
    with pytest.raises(SystemExit, match="0"):
        main.run("prepare", ["infer", "label=1.csv", "-o", "data"])
    assert (tmp_path / "data" / "dataset.yaml").is_file()


def test_commands_with_settings_take_options(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = kway_run
    output = tmp_path / "a=b.parquet"
    main.run("predict", ["--input", str(data / "valid.parquet"), f"--run={run}", "-o", str(output)])
    assert pq.read_table(output).num_rows == pq.read_table(data / "valid.parquet").num_rows


def test_evaluate_writes_its_metrics_to_a_file_too(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    run = shutil.copytree(kway_run[1], tmp_path / "run")
    main.run("evaluate", [str(run), "split=valid", "report=false", "-o", str(tmp_path / "metrics.json")])
    written, own = (json.loads(path.read_text())["valid"] for path in (tmp_path / "metrics.json", run / "metrics.json"))
    assert written.items() <= own.items() and "accuracy" in written


def test_words_after_the_run_are_its_tables() -> None:
    assert as_settings(["a", "rows.csv", "-o", "o.csv"], PredictConfig) == ["output=o.csv", "run=a", "input=rows.csv"]
    assert as_settings(["b.csv", "run=a"], PredictConfig) == ["run=a", "input=b.csv"]
    assert as_settings(["a", "l", "r"], MatchConfig) == ["run=a", "left=l", "right=r"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["runs/a", "runs/b", "-o", "x.html"], ["output=x.html", "run=[runs/a,runs/b]"]),
        (["--run", "runs/a", "--split=valid"], ["run=runs/a", "split=valid"]),
        (["-c", "job", "run=a"], ["-c", "job", "run=a"]),
        (["--cfg=job", "-i", "all", "a"], ["--cfg=job", "-i", "all", "run=a"]),
        (["-m", "run=a,b", "--hydra.sweep.dir", "x"], ["-m", "run=a,b", "hydra.sweep.dir=x"]),
    ],
)
def test_options_become_settings_and_those_of_hydra_stay(words: list[str], expected: list[str]) -> None:
    assert as_settings(words, ReportConfig) == expected


def test_dashes_and_underscores_are_alike() -> None:
    assert as_settings(["--max-k", "50", "--index_shard=7"], MatchConfig) == ["max_k=50", "index_shard=7"]

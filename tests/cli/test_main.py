"""The list of commands, how they are started, and the help of those whose settings are composed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toy_data import write_kway

from mmtab.cli import main
from mmtab.cli.main import COMMANDS
from mmtab.config.compose import SETTINGS, compose
from mmtab.config.settings import walk


def test_every_command_can_be_loaded() -> None:
    assert set(SETTINGS) <= set(COMMANDS)
    for name, command in COMMANDS.items():
        assert callable(command.load()), name


def test_the_list_of_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mmtab', '--help']; from mmtab.cli.main import main; main(); "
        "print('torch' in sys.modules, 'hydra' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_no_help_imports_anything_heavy() -> None:
    """Each in one process, as each alone would import no more."""
    code = (
        "import contextlib, io, sys, time; from mmtab.cli.main import COMMANDS, run\n"
        "for name in COMMANDS:\n"
        "    began, text = time.process_time(), io.StringIO()\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):\n"
        "        run(name, ['--help'])\n"
        "    heavy = sorted({'torch', 'transformers', 'sklearn', 'optuna'} & set(sys.modules))\n"
        "    print(name, len(text.getvalue()) > 300, heavy, f'{time.process_time() - began:.2f} s of CPU')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=True)
    print(done.stdout)
    assert [line.split(" ", 1)[1].rpartition("]")[0] for line in done.stdout.splitlines()] == ["True ["] * len(COMMANDS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mmtab tr", "train"),
        ("mmtab train dataset=fashi", "dataset=fashion"),
        ("mmtab evaluate spl", "split="),
        ("mmtab cache cl", ""),
    ],
)
def test_a_shell_completes(
    line: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    monkeypatch.setattr(sys, "argv", ["mmtab", "-sc", "query=bash"])
    main.main()
    assert capsys.readouterr().out.strip() == expected


def test_an_unknown_command_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["mmtab", "trian"])
    with pytest.raises(SystemExit, match="2"):
        main.main()
    assert capsys.readouterr().err == "error: mmtab has no command trian; did you mean train?\n"


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_help_lists_every_setting_with_its_meaning(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main.run(name, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(SETTINGS[name]):
        assert field.metadata["rule"].meaning in text and f" {field.name}" in text


def test_help_of_train_shows_choices_bounds_and_the_settings_of_parts(capsys: pytest.CaptureFixture[str]) -> None:
    main.run("train", ["--help", "fusion=mean", "seed=7"])
    text = " ".join(capsys.readouterr().out.split())
    assert "seed=7" in text and "fusion=mean mean, transformer" in text
    assert "trainer.precision=auto number format" in text and "(one of auto, bf16, fp16, fp32)" in text
    assert "trainer.batch_size=64" in text and "(at least 1)" in text
    assert "fusion.d_hidden=256" in text and "fusion.n_heads" not in text


def test_every_setting_states_its_meaning() -> None:
    for kind in SETTINGS.values():
        settings = compose("output=unused") if kind is SETTINGS["train"] else kind()
        assert all(rule.meaning for _, rule, _ in walk(settings))


@pytest.mark.parametrize("words", [["dataset={}"], ["dataset=custom", "dataset.path={}"], ["dataset=my dätaset"]])
def test_a_dataset_folder_lends_its_name(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMTAB_DATA", str(tmp_path))  # where the last of them is looked for
    folder = tmp_path / "my dätaset"
    write_kway(folder, n=30, images=False)
    main.run("train", [*(word.format(folder) for word in words), "-c", "job", "output=unused"])
    assert yaml.safe_load(capsys.readouterr().out)["dataset"]["name"] == "my dätaset"

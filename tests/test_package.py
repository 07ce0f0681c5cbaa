"""The package that ``pip install`` gets: what the wheel holds, and that it works without a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_modules_configs_templates_and_the_type_marker(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("mmtab/")}
    source = ROOT / "src" / "mmtab"
    expected = {"mmtab/py.typed"}
    expected |= {f"mmtab/{path.relative_to(source).as_posix()}" for path in files_under(source)}
    expected |= {f"mmtab/configs/{path.relative_to(ROOT / 'configs')}" for path in files_under(ROOT / "configs")}
    assert packed == expected


def test_every_public_name_is_there() -> None:
    import mmtab

    assert all(hasattr(mmtab, name) for name in mmtab.__all__) and issubclass(mmtab.MmtabError, Exception)


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]


def test_configs_are_found_where_there_is_no_checkout(wheel: Path, tmp_path: Path) -> None:
    assert Path(python(wheel, tmp_path, "from mmtab.config.types import CONFIGS; print(CONFIGS)")).is_dir()


@pytest.mark.slow
def test_training_and_evaluation_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    code = (
        "import mmtab\n"
        "run = mmtab.fit('catalogue', output='run', recipe='frozen', dataset={'generate': {'n_rows': 200}},\n"
        "                trainer={'max_epochs': 1, 'progress': False})\n"
        "print(dir(mmtab), run.evaluate())"
    )
    assert "accuracy" in python(wheel, tmp_path, code)


def python(wheel: Path, folder: Path, code: str) -> str:
    """What a program prints that runs in an empty folder, with the unpacked wheel in place of the checkout."""
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    work = folder / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", f"import mmtab; assert mmtab.__file__.startswith({str(site)!r})\n{code}"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]

"""The house rules that a program can check: where imports point, what is light to import, how long scripts are."""

from __future__ import annotations

import ast
import gc
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmtab

ROOT = Path(__file__).parents[1]
SOURCE = Path(mmtab.__file__).parent


def test_imports_point_one_way() -> None:
    """The layers of pyproject.toml, in the order in which data flows."""
    done = subprocess.run([shutil.which("lint-imports") or "lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_command_line_starts_without_torch() -> None:
    heavy = ["torch", "pytorch_lightning", "transformers", "timm", "sklearn", "wandb"]
    code = (
        "import sys, mmtab.config.types, mmtab.data.schema, mmtab.utils.errors, mmtab.cli.main\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=True)
    assert done.stdout.strip() == "[]"


def test_messages_name_commands_and_no_scripts() -> None:
    """A wheel has no scripts/, and some of these are called otherwise than their commands."""
    named = [path.name for path in (SOURCE / "reports").rglob("*.py") if "prepare_data.py" in path.read_text("utf-8")]
    assert named == []


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_scripts_are_thin(script: Path) -> None:
    lines = script.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith('"""'), "a script begins by saying what it does"


@pytest.fixture
def no_collection() -> Iterator[None]:
    """CPython 3.11's ast.parse raises SystemError where the garbage collector lets another thread parse meanwhile
    (gh-106905); earlier tests may have left one."""
    gc.disable()
    yield
    gc.enable()


def test_names_in_configuration_become_objects_in_one_place(no_collection: None) -> None:
    callers = set()
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if {"instantiate", "get_object", "get_class", "get_method"} & {
                *names,
                getattr(node, "attr", None),
                getattr(node, "id", None),
            }:
                callers.add(path.relative_to(ROOT).as_posix())
    assert callers == {"src/mmtab/config/parts.py"}


def test_targets_are_named_in_leaf_files_only() -> None:
    leaf_groups = {
        "text",
        "image",
        "numeric",
        "categorical",
        "base",
        "search",
        "fusion",
        "kway_head",
        "regression_head",
        "pair_head",
    }
    naming = {path.parent.name for path in (ROOT / "configs").rglob("*.yaml") if "_target_" in path.read_text("utf-8")}
    assert naming == leaf_groups

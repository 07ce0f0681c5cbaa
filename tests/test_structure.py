"""The house rules that a program can check: where imports point, what is light to import, how long scripts are."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmtab

ROOT = Path(__file__).parents[1]
SOURCE = Path(mmtab.__file__).parent

# The way data flows. A module imports from the entries above its own and from its own, never from those below.
# datamodule.py stands after the encoders because it computes the features of frozen ones, once, before any batch.
ORDER = [
    "errors", "machine", "follow", "locks", "atomic", "ranks", "catalogue", "neighbours", "metrics", "schema", "digests", "store", "files", "table", "splits", "mining", "infer", "images", "convert", "prepare", "check", "preprocess", "comparison", "fitted", "config",
    "tensors", "dropout", "encoders.backbones", "encoders", "row_tokenizer", "fusion", "heads", "models", "datamodule", "tasks",
    "optim", "build", "sharding", "module", "provenance", "folder", "callbacks", "checkpoints", "datasets", "session", "ablation", "wandb_log", "importers", "run", "reproduce", "matching", "report",
    "campaign", "door", "testing", "benchmark", "cli", "benchmark.cell", "benchmark.runner", "commands",
]  # fmt: skip
LAZY = {"cli", "commands", "datasets"}  # whose imports inside functions do not count

MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path != SOURCE / "__init__.py"
}


def place(module: str) -> int:
    """The number of the most particular entry of ORDER that covers a module, such as ``encoders.text``."""
    covering = [entry for entry in ORDER if module == entry or module.startswith(f"{entry}.")]
    assert covering, f"mmtab.{module} has no place in ORDER: say where it stands in the way data flows"
    return ORDER.index(max(covering, key=len))


def imports(path: Path, lazy: bool) -> Iterator[str]:
    """Modules of mmtab that a file imports, without their ``mmtab.``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(f)
    }
    for node in ast.walk(tree):
        if lazy and id(node) in inside:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import mmtab's modules by their full names"
            if node.module == "mmtab":
                yield from (alias.name for alias in node.names)
            elif node.module and node.module.startswith("mmtab."):
                yield node.module.removeprefix("mmtab.")
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("mmtab.") for a in node.names if a.name.startswith("mmtab."))


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_up_the_way_data_flows(module: str) -> None:
    for imported in imports(MODULES[module], lazy=module in LAZY):
        if imported == "__version__":
            continue
        assert place(imported) <= place(module), f"mmtab.{module} imports mmtab.{imported}, which stands below it"


def test_the_import_reader_sees_every_kind_of_import(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import mmtab.table\nfrom mmtab import run, store\nfrom mmtab.encoders.text import TextEncoder\nimport json\n"
        "def f():\n    from mmtab.config import CONFIGS\n"
    )
    assert list(imports(path, lazy=True)) == ["table", "run", "store", "encoders.text"]
    assert list(imports(path, lazy=False)) == ["table", "run", "store", "encoders.text", "config"]
    assert place("encoders.backbones") < place("encoders.text") == place("encoders") < place("fusion")


def test_the_command_line_starts_without_torch() -> None:
    heavy = ["torch", "pytorch_lightning", "transformers", "timm", "sklearn", "wandb"]
    code = (
        "import sys, mmtab.config, mmtab.schema, mmtab.errors, mmtab.cli\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_scripts_are_thin(script: Path) -> None:
    lines = script.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith('"""'), "a script begins by saying what it does"


def test_only_build_makes_objects_from_configuration() -> None:
    callers = set()
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if "instantiate" in [*names, getattr(node, "attr", None), getattr(node, "id", None)]:
                callers.add(path.relative_to(ROOT).as_posix())
    assert callers == {"src/mmtab/build.py"}


def test_targets_are_named_in_leaf_files_only() -> None:
    leaf_groups = {"text", "image", "numeric", "categorical", "fusion", "kway_head", "pair_head"}
    naming = {path.parent.name for path in (ROOT / "configs").rglob("*.yaml") if "_target_" in path.read_text("utf-8")}
    assert naming == leaf_groups

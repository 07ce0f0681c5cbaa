"""The notebooks run from top to bottom, offline and within their folder, and are stored without outputs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
ABSOLUTE = re.compile(r"""(?<![\w.:/<\\])(?:[A-Za-z]:\\|/(?:home|root|tmp|usr|var|mnt|opt|work|data|Users)\b)""")


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    """In this interpreter and environment, from a new folder in which it writes to runs/ alone."""
    specs, work = tmp_path / "kernels", tmp_path / "work"
    (specs / "python3").mkdir(parents=True)
    work.mkdir()
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "Python 3", "language": "python"}
    (specs / "python3" / "kernel.json").write_text(json.dumps(spec))
    kernel = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)], ensure_native_kernel=False),
    )
    here = {"metadata": {"path": str(work)}}
    notebook = read(path)
    NotebookClient(notebook, km=kernel, timeout=120, resources=here).execute()  # raises CellExecutionError
    assert any(cell.get("outputs") for cell in notebook.cells)
    assert [entry.name for entry in work.iterdir()] == ["runs"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_clean(path: Path) -> None:
    """Without outputs, counts, metadata of an editor or paths of somebody's machine."""
    notebook = read(path)
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert not re.search(r"/(home|root|Users|work|tmp)/", path.read_text(encoding="utf-8")), "a path of one machine"
    for cell in notebook.cells:
        assert not cell.metadata and not cell.get("attachments"), cell.id
        assert not (found := ABSOLUTE.search(cell.source)), f"cell {cell.id}: {found}"
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.id

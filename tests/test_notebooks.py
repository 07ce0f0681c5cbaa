"""The notebooks are stored with their outputs, and run from top to bottom, offline and within their folder."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from notebook_runner import NOTEBOOKS, execute, read

ABSOLUTE = re.compile(r"""(?<![\w.:/<\\])(?:[A-Za-z]:\\|/(?:home|root|tmp|usr|var|mnt|opt|work|data|Users)\b)""")


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.slow  # what they show is also held by the tests of the packages that they call
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    """In this interpreter and environment, from a new folder in which it writes to runs/ alone; on fewer rows and for
    fewer epochs than are shown."""
    notebook = read(path)
    for cell in notebook.cells:
        fewer = cell.source.replace("n_rows=1200", "n_rows=600")
        cell.source = re.sub(r'"max_epochs": ([4-9]|\d\d)', '"max_epochs": 3', fewer)
    execute(notebook, tmp_path)
    assert any(cell.get("outputs") for cell in notebook.cells)
    assert [entry.name for entry in (tmp_path / "work").iterdir()] == ["runs"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_to_be_read(path: Path) -> None:
    """With the outputs of one run from top to bottom, without errors, metadata of an editor or paths of a machine."""
    notebook = read(path)
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert not re.search(r"/(home|root|Users|work|tmp)/", path.read_text(encoding="utf-8")), "a path of one machine"
    for cell in notebook.cells:
        assert not cell.metadata and not cell.get("attachments"), cell.id
        assert not (path_in_cell := ABSOLUTE.search(cell.source)), f"cell {cell.id}: {path_in_cell}"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell.outputs) for cell in code) > len(code) / 2
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.id
            shown = "".join(output.get("data", {}).get("text/plain", "") or output.get("text", ""))
            assert "Empty DataFrame" not in shown, cell.id
            assert not (path_in_cell := ABSOLUTE.search(shown)), f"output of cell {cell.id}: {path_in_cell}"

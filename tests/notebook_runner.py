"""Runs the notebooks and stores their outputs: python tests/notebook_runner.py [NOTEBOOK …], all of them by default."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

SECONDS = re.compile(r"  [\d.]+ s(?=$|  )", re.MULTILINE)  # that an epoch or a run took, at the end of its line
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells in this interpreter, from the new folder ``folder``/work; raises CellExecutionError."""
    specs, work = folder / "kernels", folder / "work"
    (specs / "python3").mkdir(parents=True)
    work.mkdir()
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "Python 3", "language": "python"}
    (specs / "python3" / "kernel.json").write_text(json.dumps(spec))
    kernel = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)], ensure_native_kernel=False),
    )
    resources = {"metadata": {"path": str(work)}}
    NotebookClient(notebook, km=kernel, timeout=900, resources=resources, record_timing=False).execute()


def clean(notebook: NotebookNode, folder: Path) -> None:
    """Keep what a reader looks at: no messages on stderr, no path or time of this machine, no metadata of the run."""
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            text = json.dumps(outputs).replace(f"{folder / 'work'}/", "")
            cell.outputs = [nbformat.from_dict(output) for output in json.loads(text)]
            for output in cell.outputs:
                if output.output_type == "stream":
                    output.text = SECONDS.sub("", output.text)
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )


def main(paths: list[Path]) -> None:
    for path in paths:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            notebook = read(path)
            execute(notebook, folder)
            clean(notebook, folder)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]] or NOTEBOOKS)

"""Predicts a table by an export with a graph (``mmtab export RUN -o FOLDER --format onnx``), without what trains it.

python notebooks/serve_an_export.py FOLDER rows.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

from mmtab.runs.prepared import Preparation, open_graph
from mmtab.utils.errors import MmtabError


def serve(folder: Path, table: Path) -> None:
    """Print the id of each row with its class and how likely that is, or with its number."""
    preparation, graph = Preparation.load(folder), open_graph(folder)
    for ids, inputs in preparation.rows(table, size=64):
        for name, row in zip(ids.column(0).to_pylist(), graph(inputs), strict=True):
            if preparation.classes:
                print(name, preparation.classes[row.argmax()], f"{row.max():.6f}", sep="\t")
            else:
                print(name, f"{row:.6f}", sep="\t")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        serve(Path(sys.argv[1]), Path(sys.argv[2]))
    except MmtabError as error:
        sys.exit(f"error: {error}")

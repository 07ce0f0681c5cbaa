"""``mmtab export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="run folder")],
    output: Annotated[Path, typer.Option("--output", "-o", help="new folder")],
    format: Annotated[str, typer.Option(help="run, or onnx or torch: with the whole model as a graph")] = "run",
) -> None:
    """The files of a run that predict, with a model card: a folder that works as a run and that hubs understand."""
    from mmtab.reports.model_card import model_card
    from mmtab.runs.export import export_run

    export_run(run, output, model_card, format)
    n_bytes = sum(path.stat().st_size for path in output.expanduser().rglob("*") if path.is_file())
    print(f"written: {output}, {n_bytes / 1e6:.1f} MB")

"""``mmtab results``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def results(
    folders: Annotated[list[Path], typer.Argument(help="run folders, or folders that hold some")],
    split: Annotated[str, typer.Option(help="the split of the scores")] = "test",
    refresh: Annotated[Path | None, typer.Option(help="a Markdown file to put the table into")] = None,
    mark: Annotated[str, typer.Option(help="between <!-- MARK --> and <!-- /MARK --> of it")] = "results",
) -> None:
    """A Markdown table of runs, averaged over seeds, beside figures for reference."""
    from mmtab.reports import results

    text = results.markdown(results.collect(folders, split))
    print(text)
    if refresh:
        results.refresh(refresh, mark, text)

"""Tables and lines on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmtab.utils.errors import printable
from mmtab.utils.text import count

APP: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False}  # of every typer.Typer


def print_metrics(title: str, columns: dict[str, dict[str, Any]]) -> None:
    """A table with a row for each metric that there is something to say of, and a column for each split."""
    names = {name: None for values in columns.values() for name in values}
    rows = [(name, *(_number(values.get(name)) for values in columns.values())) for name in names]
    print_table(title, ["metric", *columns], [row for row in rows if any(row[1:])], width=100)


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], width: int = 160) -> None:
    """Of texts that may be anybody's. ``width``: characters of a line where the output is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*map(printable, head), title=printable(title))
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else width, markup=False).print(table)


def print_line(text: str) -> None:
    """A line that is never wrapped, nor read as markup."""
    from rich.console import Console

    Console(soft_wrap=True, markup=False, highlight=False).print(text)


def say_first(doing: str, run: str) -> None:
    """What a command is about to do with a run, before anything slow is imported."""
    from mmtab.runs.folder import read_schema
    from mmtab.utils.progress import say

    schema = read_schema(Path(run))
    say(f"{doing} with {run}, of the dataset {schema.name} ({schema.task}, {count(len(schema.columns), 'column')})")


def _number(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"

"""The scoreboard: a page that needs no other file and no network, the same as Markdown, and its figures as csv."""

from __future__ import annotations

from pathlib import Path

from mmtab.benchmark.scoreboard.page import page
from mmtab.benchmark.scoreboard.tables import markdown, table
from mmtab.benchmark.statistics import standings
from mmtab.benchmark.types import Board
from mmtab.utils.atomic import write_text
from mmtab.utils.text import markdown_text

__all__ = ["markdown", "page", "table", "write_scoreboard"]


def write_scoreboard(board: Board, output: Path) -> None:
    """Write scoreboard.html, .md and .csv to the folder, each at once or not at all."""
    tracks = standings(board)
    write_text(output / "scoreboard.csv", table(board, tracks))
    write_text(output / "scoreboard.md", f"# {markdown_text(board.title)}\n\n{markdown(board, tracks)}\n")
    write_text(output / "scoreboard.html", page(board, tracks))

"""Text of any origin for people to read: without control characters, shortened, and as tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmtab.utils import errors


def printable(text: str) -> str:
    """Control characters become �, odd spaces plain ones; newlines, tabs and the joiners between letters stay."""
    return "".join(c if c.isprintable() or c in "\n\t\u200c\u200d" else " " if c.isspace() else "�" for c in text)


def count(n: int, one: str, several: str = "") -> str:
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def one_line(text: str) -> str:
    return " ".join(printable(text).split())


def short(value: object, limit: int) -> str:
    """At most ``limit`` characters; floats have six digits."""
    return errors.short(f"{value:.6g}" if isinstance(value, float) else str(value), limit)


def markdown_text(text: str) -> str:
    """One line in which nothing is taken for Markdown; an underscore within a word never is."""
    return re.sub(r"([\\`*\[\]<>|$~#]|(?<!\w)_|_(?!\w))", r"\\\1", one_line(text))


def text_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of cells of any text."""
    head, *body = ([markdown_text(cell) for cell in line] for line in (head, *body))
    return markdown_table(head, body)


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already (see ``markdown_text``)."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))

"""The errors that reach a user. Scripts print their message alone; a traceback means a bug in mmtab."""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Iterable
from typing import Any


class MmtabError(Exception):
    """Something the user can put right. Names and cells come from anywhere: a message stays one line, and no terminal
    obeys it."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is, also where it was made from more than its text."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConfigError(MmtabError):
    """A setting that does not exist, does not fit another one, or does not fit the data."""


class RunError(MmtabError):
    """A run folder that cannot be used."""


class TrainingError(MmtabError):
    """Training that cannot go on: a loss that is no number, or no memory left."""


class Stopped(MmtabError):
    """A run that was asked to stop by a signal, and has saved itself."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class DataError(MmtabError):
    """Data that breaks the dataset standard: says where, what was expected, what was found, how to mend it.

    ``row`` counts data rows from 1, the header of a csv not included.
    """

    def __init__(
        self,
        dataset: str,
        problem: str,
        *,
        table: str | None = None,
        row: int | None = None,
        row_id: object = None,
        column: str | None = None,
        expected: str | None = None,
        found: object = None,
        fix: str | None = None,
    ) -> None:
        self.table, self.row, self.row_id, self.column = table, row, row_id, column
        named = row if row is None or row_id is None else f"{row} (id {row_id})"
        place = {"dataset": dataset, "table": table, "row": named, "column": column}
        text = f"{', '.join(f'{what} {name}' for what, name in place.items() if name is not None)}: {problem}"
        text += "" if expected is None else f"; expected {expected}"
        text += "" if found is None else f"; found {short(found)}"
        text += "" if fix is None else f". Fix: {fix}"
        super().__init__(text)


def printable(text: str) -> str:
    """In one line, and without what a terminal obeys."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def short(value: object, limit: int = 120) -> str:
    """A value as a message shows it."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def first_line(error: BaseException) -> str:
    """What an error of others says first, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: object) -> str:
    """All that an error of others says."""
    return " ".join(str(error).split())[:400]


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A question with the one or two nearest of the known names; where none is near ``otherwise``, or all of them.
    Dotted names are also near each other by their last parts."""

    def nearness(other: str) -> float:
        texts = [text.casefold() for text in (name, other)]
        ends = [text.rpartition(".")[2] for text in texts]
        whole, end = (difflib.SequenceMatcher(None, both[0], both[1]).ratio() for both in (texts, ends))
        return max(whole, 0.95 * end)

    names = sorted(known)
    near = sorted((other for other in names if nearness(other) > 0.6), key=nearness, reverse=True)[:2]
    near = [other for other in near if nearness(other) > nearness(near[0]) - 0.08]
    return f"did you mean {' or '.join(near)}?" if near else otherwise or f"expected one of {', '.join(names)}"

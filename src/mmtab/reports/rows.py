"""Rows of a dataset on a page: their cells as text, their pictures as data URIs."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np

from mmtab.data.cells import image_sources
from mmtab.data.pictures import open_picture
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import Table
from mmtab.reports.html import data_uri
from mmtab.utils.errors import DataError
from mmtab.utils.text import short

THUMBNAIL = 120  # pixels
MAX_PICTURES = 4  # of one cell
MAX_CHARACTERS = 280  # of one cell


Picture = tuple[str, str | None]  # what it shows, and its data URI; None where it cannot be opened
Cell = tuple[str, str | list[Picture]]  # its column, and its text or its pictures


def one_row(table: Table, row: int) -> Table:
    """A table of one row, so that what is shown does not keep a large table in memory."""
    return replace(table.take(np.array([row])), first_row=table.first_row + row)


def value_of(table: Table, row: int, column: str) -> object:
    """None where the cell is missing, or the whole column."""
    return table.columns[column][row].as_py() if column in table.columns else None


def as_text(kind: ColumnType, value: object) -> str:
    """The value of a cell other than a picture, as plain text."""
    if not isinstance(value, float):
        return str(value)
    if kind is ColumnType.DATETIME and abs(value) < 2e11:
        return str(np.datetime64(int(value), "s"))
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.7g}"


def cells_of(schema: Schema, table: Table, row: int) -> list[Cell]:
    """The id and the cells of a row; missing ones are left out."""
    cells: list[Cell] = [(schema.id, str(table.ids[row].as_py()))]
    for column in schema.columns:
        value = value_of(table, row, column.name)
        if value is not None and column.type is ColumnType.IMAGE:
            cells.append((column.name, thumbnails(table, row, column.name)))
        elif value is not None:
            cells.append((column.name, short(as_text(column.type, value), MAX_CHARACTERS)))
    return cells


def thumbnails(table: Table, row: int, column: str, size: int = THUMBNAIL) -> list[Picture]:
    """The first pictures of a cell, ``size`` pixels wide or high."""
    pictures: list[Picture] = []
    for source in image_sources(value_of(table, row, column), table.folder)[:MAX_PICTURES]:
        try:
            picture = open_picture(table, source, row, column)
        except DataError:
            pictures.append((column, None))
            continue
        picture.thumbnail((size, size))
        sink = io.BytesIO()
        picture.save(sink, "JPEG", quality=80)
        pictures.append((column, data_uri(sink.getvalue(), "jpeg")))
    return pictures

"""What HTML pages share: the document, escaped text, tables, and rows of a dataset with their pictures.

A page is one file that needs no other and no network. Nothing that comes from data reaches it but through ``safe``.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io

import numpy as np
import pyarrow as pa

from mmtab.data.cells import ImageSource, image_sources
from mmtab.data.pictures import open_picture
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import Table
from mmtab.utils.errors import DataError

THUMBNAIL = 120
MAX_PICTURES = 4  # of one cell

STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:70rem;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}th,td{text-align:left;vertical-align:top;
padding:.3rem .7rem;border-bottom:1px solid #8884}td:last-child,td:nth-child(2):nth-last-child(2){overflow-wrap:anywhere;
min-width:13rem}
article{border:1px solid #8886;border-radius:.5rem;padding:.7rem;
flex:1 1 20rem;min-width:0;font-size:.85rem}article h3{margin:0 0 .4rem;font-size:.95rem;overflow-wrap:anywhere}
article .sides{display:flex;flex-wrap:wrap;gap:1rem}article .sides>div{flex:1 1 12rem;min-width:0}
dl{margin:0}dt{color:#888;font-size:.75rem;overflow-wrap:anywhere}dd{margin:0 0 .3rem;overflow-wrap:anywhere}dd img{max-height:7.5rem;
margin-right:.3rem;background:#fff}
button{font:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer;text-align:inherit}
.sort::after{content:"↕";content:"↕"/"";color:#8b8f96;margin-left:.2em;font-weight:400}
[aria-sort=ascending] .sort::after{content:"↑";content:"↑"/"";color:inherit}
[aria-sort=descending] .sort::after{content:"↓";content:"↓"/"";color:inherit}.severe,.error{color:#c0392b;font-weight:600}.warning{color:#b9770e;font-weight:600}
"""

# For tables whose heads hold buttons of the class "sort": by the figures in data-v where cells have them, else as text.
# data-down="1" says that a first click puts the greatest on top.
SORT = """
const every = (what, where = document) => [...where.querySelectorAll(what)];

function sort(button) {
  const head = button.closest('th'), table = button.closest('table'), body = table.tBodies[0], place = head.cellIndex;
  const before = head.getAttribute('aria-sort'), first = button.dataset.down === '1' ? 'descending' : 'ascending';
  const now = before ? (before === 'ascending' ? 'descending' : 'ascending') : first, sign = now === 'ascending' ? 1 : -1;
  for (const other of every('[aria-sort]', table)) other.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', now);
  const keyed = [...body.rows].map(row => {
    const cell = row.cells[place], value = cell.dataset.v;
    return {row, key: value === undefined ? cell.textContent.trim().toLowerCase() : value === '' ? NaN : Number(value)};
  });
  keyed.sort((a, b) => typeof a.key === 'string' ? sign * a.key.localeCompare(b.key)
    : Number.isNaN(a.key) - Number.isNaN(b.key) || (Number.isNaN(a.key) ? 0 : sign * (a.key - b.key)));
  body.append(...keyed.map(each => each.row));
}
"""
SORTS = (
    SORT
    + """
document.addEventListener('click', event => { const button = event.target.closest('.sort'); if (button) sort(button); });
"""
)


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page. With a script, the page may run that one and nothing else, and load nothing."""
    policy = run = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        rules = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        policy = f'<meta http-equiv="Content-Security-Policy" content="{rules}">'
        run = f"<script>{script}</script>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{policy}'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{safe(title)}</title><style>{STYLE}{style}</style></head><body>{body}{run}</body></html>\n"
    )


def safe(text: str) -> str:
    """Text of any origin, as HTML that shows it."""
    return html.escape(printable(text))


def printable(text: str) -> str:
    """Without control characters; those that join letters stay, and every odd space is a plain one."""
    return "".join(c if c.isprintable() or c in "\n\t\u200c\u200d" else " " if c.isspace() else "�" for c in text)


def short(value: object, limit: int) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def sortable(head: list[str], body: list[list[object]], rows: list[str] | None = None) -> str:
    """A table that its heads sort, on a page with SORTS. Numbers are shown short, NaN and None as empty cells; ``rows``:
    the class of each line."""
    numbers = [any(isinstance(line[j], int | float) for line in body) for j in range(len(head))]
    top = "".join(
        f'<th scope="col"{" class=number" if number else ""}><button type="button" class="sort" data-down="{int(number)}">{safe(cell)}</button></th>'
        for cell, number in zip(head, numbers, strict=True)
    )
    lines = []
    for i, line in enumerate(body):
        cells = []
        for cell, number in zip(line, numbers, strict=True):
            known = isinstance(cell, int | float) and cell == cell
            shown = f"{cell:,}" if isinstance(cell, int) else f"{cell:.3f}" if isinstance(cell, float) and known else ""
            cells.append(f'<td class="number" data-v="{cell if known else ""}">{shown}</td>' if number else f"<td>{safe(str(cell))}</td>")  # fmt: skip
        lines.append(f"<tr{f' class={rows[i]}' if rows and rows[i] else ''}>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table class="sortable"><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def plain_table(head: list[str], body: list[list[str]], kinds: list[str] | None = None) -> str:
    """``kinds``: for each line the class of its first cell."""
    top = "".join(f'<th scope="col">{safe(cell)}</th>' for cell in head)
    lines = []
    for i, line in enumerate(body):
        first = f' class="{kinds[i]}"' if kinds else ""
        cells = [f"<td{first if j == 0 else ''}>{safe(cell)}</td>" for j, cell in enumerate(line)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


# --- rows of a dataset -----------------------------------------------------------------------------------------------


def one_row(table: Table, row: int) -> Table:
    """A table of one row, so that what is shown does not keep a large table in memory."""
    columns = {name: pa.array([cells[row].as_py()], cells.type) for name, cells in table.columns.items()}
    return Table(table.dataset, table.name, table.folder, table.ids.slice(row, 1), columns, first_row=table.first_row + row)  # fmt: skip


def cell_of(table: Table, row: int, column: str) -> object:
    """None where the cell is missing, or the whole column."""
    return table.columns[column][row].as_py() if column in table.columns else None


def words(kind: ColumnType, cell: object) -> str:
    """A cell other than a picture, as plain text."""
    if not isinstance(cell, float):
        return str(cell)
    if kind is ColumnType.DATETIME and abs(cell) < 2e11:
        return str(np.datetime64(int(cell), "s"))
    return f"{cell:.0f}" if cell.is_integer() and abs(cell) < 1e15 else f"{cell:.7g}"


def row_list(schema: Schema, table: Table, row: int) -> str:
    """A row as a list of its cells; missing ones are left out."""
    lines = [f"<dt>{safe(schema.id)}</dt><dd>{safe(str(table.ids[row].as_py()))}</dd>"]
    for column in schema.columns:
        cell = cell_of(table, row, column.name)
        if cell is None:
            continue
        if column.type is ColumnType.IMAGE:
            shown = thumbnails(table, row, column.name)
        else:
            shown = safe(short(words(column.type, cell), 280))
        lines.append(f"<dt>{safe(column.name)}</dt><dd>{shown}</dd>")
    return f"<dl>{''.join(lines)}</dl>"


def thumbnails(table: Table, row: int, column: str, size: int = THUMBNAIL) -> str:
    """The first pictures of a cell."""
    sources = image_sources(cell_of(table, row, column))
    return "".join(_thumbnail(table, source, row, column, size) for source in sources[:MAX_PICTURES])


def _thumbnail(table: Table, source: ImageSource, row: int, column: str, size: int) -> str:
    try:
        picture = open_picture(table, source, row, column)
    except DataError:
        return "<em>cannot be opened</em>"
    picture.thumbnail((size, size))
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=80)
    return f'<img alt="{safe(column)}" src="{uri(sink.getvalue(), "jpeg")}">'


def uri(picture: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"

"""A new dataset folder from raw tables, with the dataset.yaml that the values suggest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmtab.data import files
from mmtab.data.csv_files import STANDARD, Dialect
from mmtab.data.schema import ColumnType
from mmtab.data.splits import SPLITS
from mmtab.data.table import BadCells, Table
from mmtab.prepare.convert import Conversion, stored_within
from mmtab.prepare.infer import Proposal, infer
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError

ALIASES = {
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "pairs_val": "pairs_valid",
    "tableA": "left",
    "tableB": "right",
}
STEMS = {"rows", *SPLITS, "left", "right", "records", "pairs", *(f"pairs_{split}" for split in SPLITS)}


def propose(
    inputs: list[Path],
    output: Path,
    *,
    name: str | None = None,
    task: str | None = None,
    id: str | None = None,
    label: str | None = None,
    types: dict[str, str] | None = None,
    dialect: Dialect = STANDARD,
    image_root: Path | Mapping[str, Path] | None = None,
    bad_cells: BadCells = "error",
) -> Proposal:
    """Write the new dataset folder ``output`` from raw tables, with the dataset.yaml that ``prepare.infer`` proposes.

    ``inputs``: one table of rows; or tables named train, valid, test, or left, right (or records) and pairs (or
    pairs_train …), or a folder of such. ``image_root``: where paths of pictures start, of all tables or by table;
    default the tables' folder. Rows without an id are numbered; a csv is written in the standard's dialect. Pictures
    that cells name are copied; one that is missing is an error, or with ``bad_cells="missing"`` left to training.
    Raises ConfigError for inputs that are no dataset, DataError for what is in them.
    """
    if output.exists():
        raise ConfigError(f"output {output} exists. Fix: remove it, or name another folder")
    tables = _by_stem(inputs)
    roots = {path.resolve().parent for path in tables.values()}
    if len(roots) > 1 and image_root is None:
        raise ConfigError(
            f"the tables lie in {len(roots)} folders: put them into one, where the paths of pictures start"
        )
    if not isinstance(image_root, Mapping):
        image_root = dict.fromkeys(tables, image_root or roots.pop())
    said: dict[str, Any] = {"task": task, "id": id, "label": label, "types": types}
    proposal = infer(tables, name=name or output.name, dialect=dialect, image_roots=image_root, **said)
    schema = proposal.schema

    def write(scratch: Path) -> None:
        conversion = Conversion(scratch, schema, bad_cells=bad_cells)
        for stem, path in tables.items():
            header = files.header(path, schema.name, dialect)
            for name in set(schema.of_type(ColumnType.IMAGE)) & set(header.names):
                place = header.get_field_index(name)
                header = header.set(place, pa.field(name, stored_within(header.field(name).type)))
            numbered = schema.id not in header.names and not stem.startswith("pairs")
            suffix = files.parts(path, schema.name)[0].suffix
            out = pa.schema([(schema.id, pa.string()), *header]) if numbered else header
            files.write_table(
                scratch / f"{stem}{suffix}", _copied(conversion, image_root[stem], stem, path, dialect, numbered), out
            )
        schema.write(scratch)

    Store.place(output, write)
    return proposal


def _by_stem(inputs: list[Path]) -> dict[str, Path]:
    if len(inputs) == 1 and inputs[0].is_dir():
        stems_inside = files.table_stems(inputs[0])
        if any(ALIASES.get(stem, stem) in STEMS for stem in stems_inside):  # else it is a folder of shards
            inputs = [files.find(inputs[0], inputs[0].name, stem) for stem in stems_inside]
    if len(inputs) == 1:
        return {"rows": inputs[0]}
    stems = {ALIASES.get(path.stem, path.stem): path for path in inputs}
    unknown = sorted(set(stems) - STEMS)
    if unknown or len(stems) < len(inputs) or not inputs:
        raise ConfigError(
            f"several tables are told apart by their names, expected some of {', '.join(sorted(STEMS))}; "
            f"found {', '.join(str(path) for path in inputs) or 'none'}. Fix: rename"
            f" {unknown[0] if unknown else 'them'}"
        )
    return stems


def _copied(
    conversion: Conversion, image_root: Path, stem: str, path: Path, dialect: Dialect, numbered: bool
) -> Iterator[pa.RecordBatch]:
    schema = conversion.schema
    row = 0
    for batch in files.scan(path, schema.name, encoding=dialect.encoding, delimiter=dialect.delimiter):
        names = [f"{stem}-{i}" if stem != "rows" else str(i) for i in range(row + 1, row + 1 + batch.num_rows)]
        table = Table(schema.name, stem, image_root, pa.array(names, pa.string()), {}, first_row=row)
        row += batch.num_rows
        columns = {schema.id: table.ids} if numbered else {}
        columns |= {field.name: batch[field.name] for field in batch.schema}
        for name in set(schema.of_type(ColumnType.IMAGE)) & set(columns):
            columns[name] = conversion.within(table, name, columns[name])
        yield pa.record_batch(list(columns.values()), names=list(columns))

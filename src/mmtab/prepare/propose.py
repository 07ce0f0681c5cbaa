"""A new dataset folder from raw tables, with the dataset.yaml that the values suggest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmtab.config.types import SPLITS
from mmtab.data import files, objects, raw
from mmtab.data.csv_files import FOUND_OUT, Dialect
from mmtab.data.formats import standard_batch
from mmtab.data.remote import fetched
from mmtab.data.schema import ColumnType
from mmtab.data.table import BadCells, Table
from mmtab.prepare.convert import Conversion, stored_within
from mmtab.prepare.infer import Proposal, infer
from mmtab.prepare.rules import IGNORE
from mmtab.utils.addresses import check_here
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError, DataError

ALIASES = objects.SPLITS | {"pairs_val": "pairs_valid", "tableA": "left", "tableB": "right"}
STEMS = {"rows", *SPLITS, "left", "right", "records", "pairs", *(f"pairs_{split}" for split in SPLITS)}


def propose(
    inputs: list[Path] | Mapping[str, Any],
    output: Path,
    *,
    name: str | None = None,
    task: str | None = None,
    id: str | None = None,
    label: str | None = None,
    types: dict[str, str] | None = None,
    formats: dict[str, Any] | None = None,
    dialect: Dialect = FOUND_OUT,
    image_root: Path | Mapping[str, Path] | None = None,
    bad_cells: BadCells = "error",
) -> Proposal:
    """Write the new dataset folder ``output`` from raw tables, with the dataset.yaml that ``prepare.infer`` proposes.

    ``inputs``: one table of rows; or tables named train, valid, test, or left, right (or records) and pairs (or
    pairs_train …), or a folder of such; or tables, by these names, in memory or by path, of any kind that ``data.raw``
    reads. ``image_root``: where paths of pictures start, of all tables or by table; default the folder of a file, else
    the current one. Rows without an id are numbered; numbers and dates are written as in the standard, by ``formats``
    where the user gives some. Pictures that cells name are copied; one that is missing is an error, or with
    ``bad_cells="missing"`` left to training. Raises ConfigError for inputs that are no dataset, DataError for what is
    in them.
    """
    check_here(output, "output")
    if output.exists():
        raise ConfigError(f"output {output} exists. Fix: remove it, or name another folder")
    if isinstance(inputs, Mapping):
        sources = {stem: fetched(source) for stem, source in inputs.items()}
    else:
        sources = _by_stem([fetched(path) for path in inputs])
    if unknown := sorted(set(map(str, sources)) - STEMS):
        raise ConfigError(f"no table is called {unknown[0]}; expected some of {', '.join(sorted(STEMS))}")
    if isinstance(image_root, Mapping):
        roots = dict(image_root)
    else:
        roots = {stem: image_root or raw.root_of(source) for stem, source in sources.items()}
    ignored = {column for column, role in (types or {}).items() if role == IGNORE}
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mmtab-") as raw_scratch:
        if len(alone := {"left", "right"} & sources.keys()) == 1:
            problem, fix = f"{alone.pop()} is alone", "give both tables, left and right, or call the one records"
            raise DataError(name or output.name, problem, fix=fix)
        tables: dict[str, Path] = {}
        for stem, source in sources.items():
            (folder := Path(raw_scratch) / stem).mkdir()
            options: dict[str, Any] = {"notes": notes, "wanted": lambda column: column not in ignored}
            tables[stem] = raw.table_file(source, folder, name or output.name, stem, dialect, **options)
        if any(not isinstance(source, str | Path) for source in sources.values()):
            types = {column: role for column, role in (types or {}).items() if column not in ignored}
        said: dict[str, Any] = {"task": task, "id": id, "label": label, "types": types, "formats": formats}
        proposal = infer(tables, name=name or output.name, image_roots=roots, **said)
        for stem, source in sources.items():
            objects.check_label(source, proposal.schema.label, name or output.name, stem)
        orders = (files.order_of(path, proposal.schema.label) for path in tables.values())
        schema = replace(proposal.schema, classes=tuple(next(filter(None, orders), ())))

        def write(scratch: Path) -> None:
            conversion = Conversion(scratch, schema, bad_cells=bad_cells)
            for stem, path in tables.items():
                types = {field.name: field.type for field in files.header(path, schema.name)}
                suffix = files.parts(path, schema.name)[0].suffix
                for column in types.keys() & schema.of_type(ColumnType.IMAGE):
                    types[column] = stored_within(types[column])
                numbers = {*schema.of_type(ColumnType.NUMERIC), schema.label} if suffix == ".parquet" else set()
                types |= dict.fromkeys(types.keys() & schema.formats.keys() & numbers, pa.float64())
                if numbered := schema.id not in types and not stem.startswith("pairs"):
                    types = {schema.id: pa.string()} | types
                batches = _copied(conversion, roots[stem], stem, path, numbered)
                files.write_table(scratch / f"{stem}{suffix}", batches, pa.schema(list(types.items())))
            schema.write(scratch)

        Store.place(output, write)
    return replace(proposal, schema=schema, notes=(*notes, *proposal.notes))


def _by_stem(inputs: list[Path]) -> dict[str, Path]:
    if len(inputs) == 1 and inputs[0].is_dir():
        inside = [path for path in sorted(inputs[0].iterdir()) if raw.is_raw(path) and not path.name.startswith(".")]
        named = [path for path in inside if _table_name(path) in STEMS]
        if named:  # else it is a folder of shards, or of pictures
            inputs = [path for path in inside if path in named or path.is_file()]
    if len(inputs) == 1:
        return {"rows": inputs[0]}
    stems = {_table_name(path): path for path in inputs}
    unknown = sorted(set(stems) - STEMS)
    if unknown or len(stems) < len(inputs) or not inputs:
        raise ConfigError(
            f"several tables are told apart by their names, expected some of {', '.join(sorted(STEMS))}; "
            f"found {', '.join(str(path) for path in inputs) or 'none'}. Fix: rename"
            f" {unknown[0] if unknown else 'them'}"
        )
    return stems


def _table_name(path: Path) -> str:
    return ALIASES.get(raw.stem_of(path), raw.stem_of(path))


def _copied(
    conversion: Conversion, image_root: Path, stem: str, path: Path, numbered: bool
) -> Iterator[pa.RecordBatch]:
    schema = conversion.schema
    row = 0
    for batch in files.scan(path, schema.name):
        names = [f"{stem}-{i}" if stem != "rows" else str(i) for i in range(row + 1, row + 1 + batch.num_rows)]
        table = Table(schema.name, stem, image_root, pa.array(names, pa.string()), {}, first_row=row)
        row += batch.num_rows
        columns = {schema.id: table.ids} if numbered else {}
        columns |= {field.name: batch[field.name] for field in batch.schema}
        for name in set(schema.of_type(ColumnType.IMAGE)) & set(columns):
            columns[name] = conversion.within(table, name, columns[name])
        yield standard_batch(pa.record_batch(list(columns.values()), names=list(columns)), schema)

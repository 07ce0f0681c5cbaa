"""``mmtab prepare``: from raw tables to a described, checked dataset folder; each step is a command of its own.

mmtab prepare all products.csv --label type -o my_dataset     every step below in one go
mmtab prepare infer products.csv -o my_dataset                propose dataset.yaml: which column is what
mmtab prepare split my_dataset --method grouped --by brand    train, valid, test
mmtab prepare check my_dataset                                the standard, and honesty alarms
mmtab prepare describe my_dataset                             card.md and card.html
mmtab prepare convert my_dataset -o other --to parquet --images embed
mmtab prepare import openmoji -o data/openmoji                a public benchmark; no name lists them
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmtab.cli.output import APP, print_line, print_table
from mmtab.data import files
from mmtab.utils.errors import ConfigError, DataError
from mmtab.utils.text import count

ABOUT = "From raw tables to a described, checked dataset folder, step by step."
app = typer.Typer(no_args_is_help=True, help=ABOUT, **APP)
Folder = Annotated[Path, typer.Argument(help="a dataset folder", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="the new folder to write", show_default=False)]
Inputs = Annotated[list[Path], typer.Argument(help="a table, several, or a folder of tables", show_default=False)]
Encoding = Annotated[str, typer.Option(help="of text files, such as cp1250; found out where that is certain")]
Delimiter = Annotated[str, typer.Option(help="of text files, such as ';'; found out where that is certain")]
Formats = Annotated[list[str] | None, typer.Option("--format", help="COLUMN=FORMAT, such as 'day=day first'")]
Types = Annotated[list[str] | None, typer.Option("--type", help="COLUMN=TYPE, to overrule a guess; again for more")]
Method = Literal["auto", "random", "stratified", "grouped", "time", "component"]
Name = Annotated[str | None, typer.Option(help="of the dataset; the name of the new folder")]
Task = Annotated[str | None, typer.Option(help="kway, regression or matching; inferred from tables and label")]
Id = Annotated[str | None, typer.Option(help="the column that identifies a row; inferred, or rows are numbered")]
Label = Annotated[str | None, typer.Option(help="the column to predict; inferred")]
How = Annotated[Method, typer.Option(help="how rows are divided; auto: stratified, of pairs component")]
By = Annotated[str | None, typer.Option(help="the column of the groups, or of the time")]
Seed = Annotated[int, typer.Option(help="of the split")]
Fractions = Annotated[tuple[float, float, float], typer.Option(help="of train, valid and test")]


@app.command()
def infer(
    inputs: Inputs,
    output: Output,
    name: Name = None,
    task: Task = None,
    id: Id = None,
    label: Label = None,
    types: Types = None,
    formats: Formats = None,
    encoding: Encoding = "",
    delimiter: Delimiter = "",
) -> None:
    """Propose dataset.yaml from raw tables and write both to a new folder; edit the yaml where it errs."""
    from mmtab.data.csv_files import Dialect
    from mmtab.prepare.propose import propose

    overruled = {"types": _by_column(types, "--type", "TYPE"), "formats": _by_column(formats, "--format", "FORMAT")}
    options: dict[str, Any] = {"name": name, "task": task, "id": id, "label": label} | overruled
    proposal = propose(inputs, output, dialect=Dialect(encoding, delimiter), **options)
    rows = [(g.name, g.role, f"{g.confidence:.0%}", g.alternatives or "", g.why) for g in proposal.guesses]
    print_table(f"{proposal.schema.name}: {proposal.schema.task}", ["column", "taken as", "sure", "or", "why"], rows)
    for note in proposal.notes:
        print_line(f"note: {note}")
    print_line(f"written: {output / 'dataset.yaml'}; edit it where a guess is wrong")


def _by_column(entries: list[str] | None, option: str, what: str) -> dict[str, str]:
    if wrong := [entry for entry in entries or [] if "=" not in entry]:
        raise ConfigError(f"{option} {wrong[0]}: expected COLUMN={what}")
    return dict(entry.rsplit("=", 1) for entry in entries or [])  # type: ignore[misc]


@app.command()
def split(
    folder: Folder, method: How = "auto", by: By = None, fractions: Fractions = (0.7, 0.1, 0.2), seed: Seed = 0
) -> None:
    """Divide rows (or pairs) into train, valid and test."""
    from mmtab.config.types import SPLITS
    from mmtab.prepare import split

    schema = split.split(folder, method=method, by=by, fractions=fractions, seed=seed)
    stems = map(schema.table_of, SPLITS)
    counts = [(stem, str(files.count(files.find(folder, schema.name, stem), schema.name))) for stem in stems]
    how = ", ".join(f"{name} {value}" for name, value in schema.split.items())
    print_table(f"{schema.name}: {how}", ["table", "rows"], counts)


@app.command()
def convert(
    folder: Folder,
    output: Output,
    to: Literal["parquet", "csv"] = "parquet",
    images: Annotated[Literal["keep", "embed", "files"], typer.Option(help="pictures in cells, or in files")] = "keep",
) -> None:
    """Write the dataset in another form, with the same values."""
    from mmtab.prepare.convert import convert

    convert(folder, output, to, images)
    print_line(f"written: {output}")


@app.command()
def check(folder: Folder, strict: Annotated[bool, typer.Option(help="severe alarms fail too")] = False) -> None:
    """The dataset standard, and whether a benchmark on it is honest. Exit status 1 where the standard is broken."""
    _verdict(folder, _checked(folder), strict)


@app.command()
def describe(
    folder: Folder, output: Annotated[Path | None, typer.Option(help="where to write; the folder itself")] = None
) -> None:
    """Write a dataset card, card.md and card.html, with the alarms of check."""
    _write_card(folder, output or folder, _checked(folder))


@app.command(name="all")
def everything(
    inputs: Inputs,
    output: Output,
    name: Name = None,
    task: Task = None,
    id: Id = None,
    label: Label = None,
    types: Types = None,
    formats: Formats = None,
    encoding: Encoding = "",
    delimiter: Delimiter = "",
    method: How = "auto",
    by: By = None,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Seed = 0,
) -> None:
    """infer, split where the tables are not divided yet, describe and check, in one go."""
    infer(inputs, output, name, task, id, label, types, formats, encoding, delimiter)
    if files.exists(output, "rows") or files.exists(output, "pairs"):
        split(output, method, by, fractions, seed)
    alarms = _checked(output)
    _write_card(output, output, alarms)
    _verdict(output, alarms)


@app.command(name="import")
def import_(
    name: Annotated[
        str | None, typer.Argument(help="a recipe of configs/import, or multabench:NAME/FOLD; none lists recipes")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the new folder")] = None,
    source: Annotated[Path | None, typer.Option(help="a folder or archive that you have already")] = None,
    seed: Seed = 0,
) -> None:
    """Bring a public benchmark into the standard, from its address or from files that you have."""
    from mmtab.prepare.importers import import_dataset, recipes

    if name is None:
        rows = [(r.name, str(r.task), r.title, r.licence) for r in recipes().values()]
        return print_table("recipes", ["name", "task", "title", "licence"], rows)
    if output is None:
        raise ConfigError("importing needs a folder to write: --output FOLDER")
    print_line(f"written: {import_dataset(name, output, source=source, seed=seed)}")


def _write_card(folder: Path, output: Path, alarms: list[Any]) -> None:
    from mmtab.reports.card import describe, write_card

    for path in write_card(describe(folder, alarms=alarms), output):
        print_line(f"written: {path}")


def _checked(folder: Path) -> list[Any]:
    """The alarms of a folder, which are kept in it where it is a dataset that may be written."""
    from mmtab.data.checked import keep_alarms
    from mmtab.prepare.check import check

    alarms = check(folder)
    try:
        keep_alarms(folder, [(str(alarm.severity), alarm.message) for alarm in alarms])
    except FileExistsError as error:
        print_line(f"note: the alarms are not kept, for {error.filename} is no file of mmtab; rename it")
    except (OSError, DataError):
        pass
    return alarms


def _verdict(folder: Path, alarms: list[Any], strict: bool = False) -> None:
    """Print the alarms and end with the exit status they deserve."""
    rows = [(str(alarm.severity), alarm.message, "\n".join(alarm.rows[:3])) for alarm in alarms]
    if rows:
        print_table(f"{folder.name}: {count(len(rows), 'alarm')}", ["severity", "what", "rows"], rows)
    else:
        print_line(f"{folder}: nothing to say against it")
    failing = {"error", "severe"} if strict else {"error"}
    sys.exit(1 if any(alarm.severity in failing for alarm in alarms) else 0)

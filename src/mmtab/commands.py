"""The steps of scripts/prepare_data.py as commands: each calls a function of the library and prints what it gave."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from mmtab import files
from mmtab.cli import friendly
from mmtab.errors import ConfigError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
Folder = Annotated[Path, typer.Argument(help="a dataset folder", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="the new folder to write", show_default=False)]
Inputs = Annotated[list[Path], typer.Argument(help="a table, several, or a folder of tables", show_default=False)]
Encoding = Annotated[str, typer.Option(help="of a csv, such as cp1252")]
Types = Annotated[list[str] | None, typer.Option("--type", help="COLUMN=TYPE, to overrule a guess; again for more")]
Method = Literal["auto", "random", "stratified", "grouped", "time", "component"]
Fractions = Annotated[tuple[float, float, float], typer.Option(help="of train, valid and test")]


def run() -> None:
    """The command line, with mistakes of the user as one line."""
    with friendly():
        app(standalone_mode=True)


@app.command()
def infer(
    inputs: Inputs, output: Output, name: str | None = None, task: str | None = None, id: str | None = None,
    label: str | None = None, types: Types = None, encoding: Encoding = "utf-8", delimiter: str = ",",
) -> None:  # fmt: skip
    """Propose dataset.yaml from raw tables and write both to a new folder; edit the yaml where it errs."""
    from mmtab.prepare import propose

    proposal = propose(
        inputs, output, name=name, task=task, id=id, label=label, types=_pairs(types),
        dialect=files.Dialect(encoding, delimiter),
    )  # fmt: skip
    rows = [(g.name, g.role, f"{g.confidence:.0%}", g.alternatives or "", g.why) for g in proposal.guesses]
    _print(f"{proposal.schema.name}: {proposal.schema.task}", ["column", "taken as", "sure", "or", "why"], rows)
    for note in proposal.notes:
        _say(f"note: {note}")
    _say(f"written: {output / 'dataset.yaml'}; edit it where a guess is wrong")


@app.command()
def split(
    folder: Folder,
    method: Method = "auto",
    by: str | None = None,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> None:
    """Divide rows (or pairs) into train, valid and test."""
    from mmtab import prepare
    from mmtab.splits import SPLITS

    schema = prepare.split(folder, method=method, by=by, fractions=fractions, seed=seed)
    stems = [stem if schema.label else f"pairs_{stem}" for stem in SPLITS]
    counts = [(stem, str(files.count(files.find(folder, schema.name, stem), schema.name))) for stem in stems]
    _print(f"{schema.name}: {schema.split}", ["table", "rows"], counts)


@app.command()
def convert(
    folder: Folder, output: Output, to: Literal["parquet", "csv"] = "parquet",
    images: Annotated[Literal["keep", "embed", "files"], typer.Option(help="pictures in cells, or in files")] = "keep",
) -> None:  # fmt: skip
    """Write the dataset in another form, with the same values."""
    from mmtab.convert import convert

    convert(folder, output, to, images)
    _say(f"written: {output}")


@app.command()
def check(folder: Folder, strict: Annotated[bool, typer.Option(help="severe alarms fail too")] = False) -> None:
    """Everything of the standard, and whether the benchmark would be honest. Exit status 1 where the standard is broken."""
    from mmtab.check import check

    _verdict(folder, check(folder), strict)


@app.command()
def describe(folder: Folder, output: Annotated[Path | None, typer.Option(help="where to write; the folder itself")] = None) -> None:  # fmt: skip
    """Write a dataset card, card.md and card.html, with the alarms of check."""
    from mmtab.check import check

    _write_card(folder, output or folder, check(folder))


@app.command(name="all")
def everything(
    inputs: Inputs, output: Output, name: str | None = None, task: str | None = None, id: str | None = None,
    label: str | None = None, types: Types = None, encoding: Encoding = "utf-8", delimiter: str = ",",
    method: Method = "auto", by: str | None = None, fractions: Fractions = (0.7, 0.1, 0.2), seed: int = 0,
) -> None:  # fmt: skip
    """infer, split where the tables are not divided yet, describe and check, in one go."""
    infer(inputs, output, name, task, id, label, types, encoding, delimiter)
    if files.exists(output, "rows") or files.exists(output, "pairs"):
        split(output, method, by, fractions, seed)
    from mmtab.check import check

    alarms = check(output)
    _write_card(output, output, alarms)
    _verdict(output, alarms)


@app.command(name="import")
def import_(
    name: Annotated[str | None, typer.Argument(help="a recipe of configs/import; none lists them")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the new folder")] = None,
    source: Annotated[Path | None, typer.Option(help="a folder or archive that you have already")] = None,
    seed: int = 0,
) -> None:  # fmt: skip
    """Bring a public benchmark into the standard, from its address or from files that you have."""
    from mmtab.importers import import_dataset, recipes

    if name is None:
        rows = [(r.name, str(r.task), r.title, r.licence) for r in recipes().values()]
        return _print("recipes", ["name", "task", "title", "licence"], rows)
    if output is None:
        raise ConfigError("importing needs a folder to write: --output FOLDER")
    _say(f"written: {import_dataset(name, output, source=source, seed=seed)}")


def _pairs(types: list[str] | None) -> dict[str, str]:
    for entry in types or []:
        if "=" not in entry:
            raise ConfigError(f"--type {entry}: expected COLUMN=TYPE")
    return dict(entry.rsplit("=", 1) for entry in types or [])  # type: ignore[misc]


def _write_card(folder: Path, output: Path, alarms: list[Any]) -> None:
    from mmtab.report.card import describe, write_card

    for path in write_card(describe(folder, alarms=alarms), output):
        _say(f"written: {path}")


def _verdict(folder: Path, alarms: list[Any], strict: bool = False) -> None:
    """Print the alarms and end with the exit status they deserve."""
    rows = [(str(alarm.severity), alarm.message, "\n".join(alarm.rows[:3])) for alarm in alarms]
    if rows:
        _print(f"{folder.name}: {len(rows)} alarms", ["severity", "what", "rows"], rows)
    else:
        _say(f"{folder}: nothing to say against it")
    failing = {"error", "severe"} if strict else {"error"}
    sys.exit(1 if any(alarm.severity in failing for alarm in alarms) else 0)


def _print(title: str, head: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)


def _say(text: str) -> None:
    Console(soft_wrap=True, markup=False, highlight=False).print(text)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)

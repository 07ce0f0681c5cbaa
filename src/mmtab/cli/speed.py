"""``mmtab speed``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmtab.benchmark.speed import Finding

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def speed(
    output: Annotated[Path, typer.Option("--output", "-o", help="json file to write")],
    only: Annotated[list[str] | None, typer.Option(help="a part; again for more. Default: all but autogluon")] = None,
    rows: Annotated[int, typer.Option(help="rows of the generated table")] = 900,
    words: Annotated[int, typer.Option(help="words of a text cell")] = 80,
    repeats: Annotated[int, typer.Option(help="times that each side is timed")] = 3,
    largest: Annotated[int, typer.Option(help="memory: most training rows")] = 1_000_000,
    peer_python: Annotated[Path | None, typer.Option(help="autogluon: python of an environment that has it")] = None,
) -> None:
    """How fast mmtab is on this machine, as ratios of what one run timed; printed and saved as json."""
    from mmtab.benchmark.speed import SIZES, Settings, measure

    sizes = tuple(size for size in SIZES if size <= largest)
    measure(Settings(rows, words, repeats, sizes, peer_python), only or [], output, _print)


def _print(finding: Finding) -> None:
    from rich.console import Console

    ratio = "" if finding.ratio is None else f"   {finding.ratio:.2f} x {finding.against}"
    bound = f"at least {finding.least:g}" if finding.least else f"at most {finding.most:g}" if finding.most else ""
    text = f"{finding.part:10} {finding.what:45} {finding.value:10,.2f} {finding.unit:12}{ratio}"
    Console(highlight=False, width=160).print(text + (f" (should be {bound})" if bound else ""))

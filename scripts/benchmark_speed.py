"""How fast mmtab is on this machine, as ratios of what one run timed; saved as json.

python scripts/benchmark_speed.py -o speed.json                       all parts but the comparison with AutoGluon
python scripts/benchmark_speed.py -o speed.json --only loop --only store
python scripts/benchmark_speed.py -o speed.json --only autogluon --peers FOLDER --peer-python OTHER_VENV/bin/python
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmtab.utils.exits import friendly


def main(
    output: Annotated[Path, typer.Option("--output", "-o")],
    only: Annotated[list[str] | None, typer.Option(help="a part; again for more")] = None,
    rows: int = 900, words: int = 80, repeats: int = 3, largest: int = 1_000_000,
    peers: Path | None = None, peer_python: Path | None = None,
) -> None:  # fmt: skip
    """Print and save the findings."""
    from mmtab.benchmark.speed import SIZES, Finding, Settings, measure

    def tell(finding: Finding) -> None:
        held = "" if finding.ratio is None else f"   {finding.ratio:.2f} x {finding.against}"
        wanted = f" (wanted: at least {finding.least:g})" if finding.least else f" (wanted: at most {finding.most:g})" if finding.most else ""  # fmt: skip
        Console(highlight=False, width=160).print(f"{finding.part:10} {finding.what:45} {finding.value:10,.2f} {finding.unit:12}{held}{wanted}")  # fmt: skip

    sizes = tuple(size for size in SIZES if size <= largest)
    measure(Settings(rows, words, repeats, sizes, peers, peer_python), only or [], output, tell)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    with friendly():
        app()

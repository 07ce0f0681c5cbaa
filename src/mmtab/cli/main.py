"""The commands by their names. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtab.utils.exits import friendly


@dataclass(frozen=True)
class Command:
    about: str  # its line in the list of commands
    module: str  # within mmtab.cli
    function: str  # takes settings that Hydra composes; or a Typer app, whose name ends in ``app``

    def load(self) -> Any:
        return getattr(importlib.import_module(f"mmtab.cli.{self.module}"), self.function)


COMMANDS = {
    "train": Command("train on a dataset, then score the test split and write a report", "runs", "train"),
    "evaluate": Command("score a run on a labelled split", "runs", "evaluate"),
    "predict": Command("predict rows or pairs of a table with a run", "runs", "predict"),
    "report": Command("write the report page of a run, or compare several", "runs", "report"),
    "export": Command("the files of a run that predict, with a model card", "export", "app"),
    "reproduce": Command("train a run again and compare every metric", "runs", "reproduce"),
    "match": Command("match two tables or deduplicate one, with a run", "experiments", "match"),
    "sweep": Command("search settings over datasets and seeds", "experiments", "sweep"),
    "benchmark": Command("rank systems by their average over the datasets of a track", "experiments", "benchmark"),
    "results": Command("a Markdown table of runs beside reference figures", "experiments", "results_app"),
    "prepare": Command("from raw tables to a described, checked dataset folder", "prepare", "app"),
    "challenge": Command("score submissions against labels that participants do not have", "challenge", "app"),
    "cache": Command("what the cache holds, and making room in it", "cache", "app"),
    "speed": Command("how fast mmtab is on this machine", "speed", "app"),
}


def main() -> None:
    """``mmtab COMMAND ARGUMENTS``."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: mmtab COMMAND [ARGUMENTS], with --help behind a command for all that it takes\n")
        print("\n".join(f"  {command:10}  {COMMANDS[command].about}" for command in COMMANDS))
    elif name == "--version":
        from mmtab import __version__

        print(f"mmtab {__version__}")
    elif name in COMMANDS:
        run(name, arguments)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}"
        print(f"error: mmtab has no command {name}; {hint}", file=sys.stderr)
        sys.exit(2)


def run(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command; ``arguments`` default to those of this process. Mistakes of the user become one line and an exit
    status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with friendly():
        command = COMMANDS[name].load()
        if COMMANDS[name].function.endswith("app"):
            command(args=list(map(_at_home, arguments)), prog_name=f"mmtab {name}")
        else:
            from mmtab.cli.composed import run_composed

            run_composed(name, command, arguments)


def _at_home(argument: str) -> str:
    """With the home folder for a leading ``~``, which a shell leaves behind ``=``."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{option}{equals}{Path(value).expanduser()}" if value.startswith("~/") else argument

"""The commands by their names. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtab.utils.errors import did_you_mean
from mmtab.utils.exits import friendly, plain_warnings
from mmtab.utils.optional import require


@dataclass(frozen=True)
class Command:
    about: str  # its line in the list of commands
    module: str  # within mmtab.cli
    function: str  # takes settings that Hydra composes; or a Typer app, whose name ends in ``app``

    needs: tuple[str, str] | None = None  # a library, and the extra of the package that it comes with

    def load(self) -> Any:
        return getattr(importlib.import_module(f"mmtab.cli.{self.module}"), self.function)


COMMANDS = {
    "train": Command("train on a dataset, then score the test split and write a report", "runs", "train"),
    "evaluate": Command("score a run on a labelled split", "runs", "evaluate"),
    "predict": Command("predict rows or pairs of a table with a run", "runs", "predict"),
    "report": Command("write the report page of a run, or compare several", "runs", "report"),
    "export": Command("the files of a run that predict, with a model card", "export", "app"),
    "reproduce": Command("train a run again and compare every metric", "runs", "reproduce"),
    "match": Command(
        "match two tables or deduplicate one, with a run", "experiments", "match", ("sparse_dot_topn", "matching")
    ),
    "sweep": Command("search settings over datasets and seeds", "experiments", "sweep", ("optuna", "sweep")),
    "benchmark": Command("rank systems by their average over the datasets of a track", "experiments", "benchmark"),
    "results": Command("a Markdown table of runs beside reference figures", "experiments", "results_app"),
    "prepare": Command("from raw tables to a described, checked dataset folder", "prepare", "app"),
    "challenge": Command("score submissions against labels that participants do not have", "challenge", "app"),
    "cache": Command("what the cache holds, and making room in it", "cache", "app"),
    "speed": Command("how fast mmtab is on this machine", "speed", "app"),
}


def main() -> None:
    """``mmtab COMMAND ARGUMENTS``."""
    if sys.stdout is None:  # it was closed
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: mmtab COMMAND [ARGUMENTS], with --help behind a command for all that it takes")
        print("An argument is written name=VALUE or --name VALUE.\n")
        print("\n".join(f"  {command:10}  {COMMANDS[command].about}" for command in COMMANDS))
    elif name == "-sc":
        _complete(arguments)
    elif name == "--version":
        from mmtab import __version__

        print(f"mmtab {__version__}")
    elif name in COMMANDS:
        run(name, arguments)
    else:
        print(f"error: mmtab has no command {name}; {did_you_mean(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def _complete(arguments: Sequence[str]) -> None:
    """Tab completion of a shell, which Hydra installs (``install=bash``) and answers (``query=bash``), but for the name
    of the command."""
    line = os.environ.get("COMP_LINE", "")
    program, _, rest = line.partition(" ")
    name, space, typed = rest.partition(" ")
    if not any(argument.startswith("query=") for argument in arguments):
        run("train", ["-sc", *arguments])
    elif not space:
        print(" ".join(command for command in COMMANDS if command.startswith(name)))
    elif name in COMMANDS and not COMMANDS[name].function.endswith("app"):
        line = f"{program} {typed}"
        os.environ.update(COMP_LINE=line, COMP_POINT=str(len(line)))
        run(name, ["-sc", *arguments])


def run(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command; ``arguments`` default to those of this process. Mistakes of the user become one line and an exit
    status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with friendly(), plain_warnings():
        if (needs := COMMANDS[name].needs) is not None and not {"-h", "--help"} & set(arguments):
            require(needs[0], extra=needs[1])
        command = COMMANDS[name].load()
        if COMMANDS[name].function.endswith("app"):
            from mmtab.cli.dialects import as_options

            _run_app(command, list(map(_at_home, as_options(command, arguments))), f"mmtab {name}")
        else:
            from mmtab.cli.composed import run_composed

            run_composed(name, command, arguments)


def _run_app(app: Any, arguments: list[str], name: str) -> None:
    """A Typer app, of whose usage errors there is one line too."""
    import typer

    try:
        status = app(args=arguments, prog_name=name, standalone_mode=False)
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # whose message is the help
            print(error.format_message())
            sys.exit(0)
        context = getattr(error, "ctx", None)
        path = context.command_path if context else name
        text = " ".join(error.format_message().split()).rstrip(".")
        print(f"error: {path}: {text}; {path} --help lists all", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _at_home(argument: str) -> str:
    """With the home folder for a leading ``~``, which a shell leaves behind ``=``."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{option}{equals}{Path(value).expanduser()}" if value.startswith("~/") else argument

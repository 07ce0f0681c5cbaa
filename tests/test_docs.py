"""The documentation names only files, modules and commands that exist, with settings that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import typer
from hydra.core.global_hydra import GlobalHydra

from mmtab.cli.dialects import as_options, as_settings
from mmtab.cli.main import COMMANDS
from mmtab.config.compose import SETTINGS, register
from mmtab.config.types import CONFIGS

ROOT = Path(__file__).parents[1]
FOLDERS = ("configs", "notebooks", "scripts", "src", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.*"))]
PAGES = [*sorted(ROOT.glob("*.md")), *(path for path in FILES if path.suffix == ".md")]
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which also names what is no longer there
SCRIPTS = {"prepare_data": "prepare", "submit": "challenge", "benchmark_speed": "speed"}  # others: as their command


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def slug(heading: str) -> str:
    """The anchor that code hosts give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("page", CURRENT, ids=ids)
def test_paths_exist(page: Path) -> None:
    """Paths from the root of the repository, and modules by the end of their path; NAME and PACKAGE stand for any."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/.$~-])((?:src/mmtab|configs|scripts|tests|notebooks)/[\w./-]*)", text):
        assert "NAME" in name or "PACKAGE" in name or (ROOT / name.rstrip(".")).exists(), name
    for name in re.findall(r"`([\w/]+\.(?:py|ipynb|toml))`", text):
        assert "PACKAGE" in name or any(path.match(name) for path in FILES), name


def test_modules_exist() -> None:
    """``mmtab.package.module.name``, without importing what is heavy: a file defines the name."""
    names = {name for page in CURRENT for name in re.findall(r"\bmmtab(?:\.[A-Za-z_]\w*)+", page.read_text("utf-8"))}
    assert names
    for name in names:
        path, parts = ROOT / "src", name.split(".")
        while parts and (path / parts[0]).is_dir():
            path /= parts.pop(0)
        path = path / f"{parts.pop(0)}.py" if parts and (path / f"{parts[0]}.py").exists() else path / "__init__.py"
        assert path.exists() and (not parts or re.search(rf"\b{parts[0]}\b", path.read_text("utf-8"))), name


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(command, arguments) of each example: indented, or between back-ticks."""
    text = page.read_text(encoding="utf-8")
    indented = re.findall(r"^    (.*)$", text, re.MULTILINE)
    for line in indented + re.findall(r"`([^`\n]+)`", text):
        line_of_code = line.split(" # ")[0]
        match = re.search(r"(?:^(?:[A-Z_]+=\S+ )*mmtab (?=[a-z])|scripts/)(\w+)(?:\.py)?((?: .*)?)$", line_of_code)
        known = match and (
            "scripts/" in match[0] or match[1] in COMMANDS or line in indented
        )  # `mmtab best` is a system
        if match and known and "…" not in match[2]:
            yield SCRIPTS.get(match[1], match[1]), shlex.split(match[2])


EXAMPLES = [(command, arguments) for page in PAGES for command, arguments in commands(page)]


def test_every_command_has_an_example() -> None:
    assert {command for command, _ in EXAMPLES} == set(COMMANDS)


def test_options_of_examples_exist() -> None:
    """Of commands that Hydra does not compose: their options and number of arguments."""
    for command, arguments in EXAMPLES:
        if COMMANDS[command].function.endswith("app") and arguments and "--help" not in arguments:
            arguments = as_options(COMMANDS[command].load(), arguments)
            program: Any = typer.main.get_command(COMMANDS[command].load())
            if hasattr(program, "commands"):
                step, *arguments = arguments
                program = program.commands[step]
            if arguments:  # else the text only mentions it
                program.make_context(command, list(arguments))


def overrides_of(arguments: list[str]) -> tuple[str, ...]:
    """Without those of Hydra's own; the first of several values of a multirun."""
    overrides = [
        a for a in arguments if "=" in a and "NAME" not in a and not a.startswith(("-", "hydra.", "launcher="))
    ]
    return tuple(re.sub(r"=([^\[,]+),.*$", r"=\1", o) if "-m" in arguments else o for o in overrides)


def test_settings_of_examples_compose() -> None:
    register()
    GlobalHydra.instance().clear()
    examples = {
        (command, overrides_of(as_settings(arguments, SETTINGS[command])))
        for command, arguments in EXAMPLES
        if not COMMANDS[command].function.endswith("app")
    }
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for command, overrides in together(sorted(examples)):
            hydra.compose(command, overrides)


def parts_of(settings: dict[str, str]) -> dict[str, str]:
    """The choices of a file of configs/: the name has no dot."""
    return {name: value for name, value in settings.items() if "." not in name}


def together(examples: list[tuple[str, tuple[str, ...]]]) -> list[tuple[str, list[str]]]:
    """Those with the same parts that contradict each other in no setting as one, for Hydra takes half a second a time.
    Which settings there are depends on the parts (``fusion=mean``) alone."""
    groups: list[tuple[str, dict[str, str]]] = []
    for command, overrides in examples:
        given = dict(override.split("=", 1) for override in overrides)
        for other, settings in groups:
            same = other == command and parts_of(settings) == parts_of(given)
            if same and all(settings.get(name, value) == value for name, value in given.items()):
                settings.update(given)
                break
        else:
            groups.append((command, given))
    return [(command, [f"{name}={value}" for name, value in settings.items()]) for command, settings in groups]

"""What ``mmtab COMMAND --help`` prints: every setting with its default, meaning, choices and bounds."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from mmtab.config.compose import SETTINGS, register
from mmtab.config.overrides import written
from mmtab.config.settings import Rule
from mmtab.config.types import CONFIGS

COMMENT = re.compile(r"(?P<indent> *)(?P<key>\w+):(?P<value>[^#]*?)(?: # (?P<comment>.*))?")


def print_help(name: str, command: Any, overrides: Sequence[str]) -> None:
    """The description of a command, its groups of configs/, and its settings with ``overrides`` applied."""
    import hydra
    from omegaconf import OmegaConf
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    register()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose(name, list(overrides), return_hydra_config=True)
    choices = {group: choice for group, choice in config.hydra.runtime.choices.items() if "/" not in group}
    values: Any = OmegaConf.to_container(config, resolve=False)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, soft_wrap=False)
    console.print(f"{inspect.getdoc(command)}\n\nusage: mmtab {name} [SETTING=VALUE | GROUP=NAME] ...\n")
    groups = Table.grid("group", "choices", padding=(0, 2, 0, 0))
    for group, choice in choices.items():
        names = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
        groups.add_row(f"  {group}={written(choice)}", Text(", ".join(names)))
    if choices:
        console.print("Groups, each of which takes the settings of configs/GROUP/NAME.yaml:")
        console.print(groups, "")
    comments = {group: _comments(group, choice) for group, choice in choices.items() if isinstance(choice, str)}
    table = Table.grid("setting", "meaning", padding=(0, 2, 0, 0))
    table.columns[0].max_width, table.columns[0].overflow = 46, "ellipsis"
    for setting, value, meaning in _settings(SETTINGS[name], values, "", comments):
        table.add_row(Text(f"  {setting}" if value == "" else f"  {setting}={value}"), Text(meaning))
    console.print("Settings and their defaults:", table, sep="\n")


def _settings(
    kind: type, values: Mapping[str, Any], prefix: str, comments: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of each setting of a settings class and its groups; those it inherits come last."""
    hints = get_type_hints(kind)
    for field in sorted(dataclasses.fields(kind), key=lambda field: field.name not in kind.__annotations__):
        rule: Rule = field.metadata.get("rule", Rule(""))
        name, value, hint = f"{prefix}{field.name}", values[field.name], hints[field.name]
        group: Any = next((part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)), None)
        if not isinstance(value, dict) or not value:
            default = "(required)" if value == MISSING else _shown(value)
            yield name, default, f"{rule.meaning} ({rule.allowed})" if rule.allowed else rule.meaning
        elif group is not None and get_origin(hint) is dict:
            yield name, f"{{{', '.join(value)}}}", rule.meaning
        else:
            yield name, "", rule.meaning
            inner = f"{name}."
            if group is not None:
                yield from _settings(group, value, inner, comments)
            else:
                yield from _leaf(value, inner, comments.get(name.split(".")[0], {}))


def _shown(value: Any) -> str:
    """As in an override, but an interpolation stays readable."""
    return value if isinstance(value, str) and "${" in value else written(value)


def _leaf(values: Mapping[str, Any], prefix: str, comments: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Settings of a part that has no settings class, with the comments of its file."""
    for key, value in values.items():
        if not key.startswith("_") and value != "${d_model}":
            yield f"{prefix}{key}", _shown(value), comments.get(f"{prefix}{key}", "")


def _comments(group: str, choice: str) -> dict[str, str]:
    """By dotted names, the comments behind the settings of configs/GROUP/CHOICE.yaml."""
    comments: dict[str, str] = {}
    parents: list[str] = []
    path = CONFIGS / group / f"{choice}.yaml"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        if match := COMMENT.fullmatch(line):
            depth = len(match["indent"]) // 2
            parents = [*parents[:depth], match["key"]]
            comments[".".join([group, *parents])] = match["comment"] or ""
    return comments

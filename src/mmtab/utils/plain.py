"""Files of plain values, read without trust: what is too big, too deep, or not as a rule says is one line.

A rule takes a value and where it stands, and raises ``Unfit``:

>>> rule = record({"thresholds": numbers(0, 1)}, {"note": text})
>>> rule({"thresholds": [0.5]}, "")
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmtab.utils.errors import RunError, short

Rule = Callable[[Any, str], None]
MAX_BYTES = {".yaml": 1 << 22, ".json": 1 << 28}


class Unfit(ValueError):
    """A value that breaks a rule."""

    def __init__(self, where: str, expected: str, found: Any) -> None:
        super().__init__(f"{where or 'the file'}: expected {expected}, found {short(found)}")


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, by which a few lines become gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):  # type: ignore[no-untyped-call]
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


def read_plain(path: Path, rule: Rule) -> dict[str, Any]:
    """A mapping from a .yaml or .json file; raises RunError that names the file and the key."""
    try:
        if path.stat().st_size > MAX_BYTES[path.suffix]:
            raise ValueError(f"it has more than {MAX_BYTES[path.suffix] >> 20} MiB")
        content = path.read_text(encoding="utf-8")
        value = yaml.load(content, _PlainLoader) if path.suffix == ".yaml" else json.loads(content)
        if "\\ud" in content.lower():  # half a character, which no file could be written with
            json.dumps(value, ensure_ascii=False, default=str).encode()
    except (ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({(str(error).splitlines() or ['it is empty'])[0]})") from error
    try:
        mapping(anything)(value, "")
        rule(value, "")
    except Unfit as error:
        raise RunError(f"{path}, {error}") from error
    return value


# --- rules -----------------------------------------------------------------------------------------------------------


def anything(value: Any, where: str) -> None:
    """Whatever there is."""


def text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise Unfit(where, "text", value)


def line(value: Any, where: str) -> None:
    """Text that a terminal may be shown."""
    text(value, where)
    if not value.isprintable():
        raise Unfit(where, "a line of text", value)


def number(low: float = -math.inf, high: float = math.inf, *, whole: bool = False, nan: bool = False) -> Rule:
    """A number from ``low`` to ``high``, finite unless ``nan`` says that it may be none."""

    def rule(value: Any, where: str) -> None:
        fits = type(value) in ((int,) if whole else (int, float))
        if not fits or not ((low <= value <= high and abs(value) < math.inf) or (nan and value != value)):
            bounds = f" from {low:g} to {high:g}" if (low, high) != (-math.inf, math.inf) else ""
            raise Unfit(where, f"a {'whole' if whole else 'finite'} number{bounds}", value)

    return rule


def choice(*allowed: str) -> Rule:
    """One of some texts."""

    def rule(value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise Unfit(where, f"one of {', '.join(allowed)}", value)

    return rule


def numbers(
    low: float = -math.inf, high: float = math.inf, *, ascending: bool = False, most: int = 1 << 24, whole: bool = False
) -> Rule:
    """A list of finite numbers."""

    def rule(value: Any, where: str) -> None:
        if (
            not isinstance(value, list)
            or len(value) > most
            or not set(map(type, value)) <= {int, *(() if whole else (float,))}
        ):
            raise Unfit(where, f"a list of at most {most} {'whole ' if whole else ''}numbers", value)
        try:
            values = np.array(value, np.float64)
        except OverflowError:
            values = np.full(1, np.inf)
        if not (np.isfinite(values) & (low <= values) & (values <= high)).all():
            bounds = f" from {low:g} to {high:g}" if (low, high) != (-math.inf, math.inf) else ""
            raise Unfit(where, f"finite numbers{bounds}", value)
        if ascending and (np.diff(values) < 0).any():
            raise Unfit(where, "ascending numbers", value)

    return rule


def texts(*, least: int = 0, once: bool = False) -> Rule:
    """A list of texts, at least ``least``, where ``once`` each once."""

    def rule(value: Any, where: str) -> None:
        if not isinstance(value, list) or not set(map(type, value)) <= {str} or len(value) < least:
            raise Unfit(where, f"a list of {f'at least {least} ' if least else ''}texts", value)
        if once and len(set(value)) < len(value):
            raise Unfit(where, "texts that differ", value)

    return rule


def listed(of: Rule) -> Rule:
    """A list of which each entry fits a rule."""

    def rule(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise Unfit(where, "a list", value)
        for i, entry in enumerate(value):
            of(entry, f"{where}[{i}]")

    return rule


def mapping(of: Rule) -> Rule:
    """A mapping of texts to what fits a rule."""

    def rule(value: Any, where: str) -> None:
        if not isinstance(value, dict) or not set(map(type, value)) <= {str}:
            raise Unfit(where, "a mapping", value)
        for key, entry in value.items() if of is not anything else ():
            of(entry, f"{where}.{key}" if where else key)

    return rule


def amounts(low: float, high: float) -> Rule:
    """A mapping of texts to numbers."""

    def rule(value: Any, where: str) -> None:
        mapping(anything)(value, where)
        numbers(low, high)(list(value.values()), where)

    return rule


def record(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Rule:
    """A mapping with these entries; others are not looked at."""

    def rule(value: Any, where: str) -> None:
        mapping(anything)(value, where)
        for key, of in {**required, **(optional or {})}.items():
            name = f"{where}.{key}" if where else key
            if key in value:
                of(value[key], name)
            elif key in required:
                raise Unfit(name, "an entry", "none")

    return rule


def maybe(of: Rule) -> Rule:
    """What fits a rule, or null."""

    def rule(value: Any, where: str) -> None:
        if value is not None:
            of(value, where)

    return rule


def either(*rules: Rule) -> Rule:
    """What fits one of the rules; the last says what is wrong."""

    def rule(value: Any, where: str) -> None:
        for of in rules[:-1]:
            try:
                return of(value, where)
            except Unfit:
                continue
        rules[-1](value, where)

    return rule

"""A setting states its meaning, choices and bounds where it stands; one check and ``--help`` read them from there."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mmtab.utils.errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """What is written about a setting beside its type and default; null is never checked."""

    meaning: str
    choices: tuple[str, ...] = ()  # a value that is none of them has to be within the bounds, if there are any
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    kind: str = ""  # path or paths (a list), which command lines take as they are
    exists: bool = False  # whether there has to be a file or folder of that path when a command begins
    remote: bool = False  # a table, which may also lie at an address
    suffixes: tuple[str, ...] = ()  # in one of which the name of a file has to end

    @property
    def allowed(self) -> str:
        """Choices, bounds and suffixes in words; empty where there are none."""
        if self.suffixes:
            return f"a name ending in {' or '.join(self.suffixes)}"
        bounds = ", and ".join(f"{word} {bound:g}" for word, bound, _ in self._bounds())
        if not self.choices:
            return bounds
        return f"{', '.join(self.choices)}, or {bounds}" if bounds else f"one of {', '.join(self.choices)}"

    def permits(self, value: Any) -> bool:
        bounds = self._bounds()
        if value is not None and self.suffixes:
            return str(value).endswith(self.suffixes)
        if value is None or value in self.choices or not (bounds or self.choices):
            return True
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return bool(bounds) and is_number and all(holds(value, bound) for _, bound, holds in bounds)

    def _bounds(self) -> list[tuple[str, float, Callable[[float, float], bool]]]:
        bounds = (
            ("at least", self.at_least, operator.ge),
            ("above", self.above, operator.gt),
            ("at most", self.at_most, operator.le),
            ("below", self.below, operator.lt),
        )
        return [(word, bound, holds) for word, bound, holds in bounds if bound is not None]


def setting(default: Any, meaning: str, **rule: Any) -> Any:
    """A field of a settings class. A list or dict is copied for each object, and a class or function is called to make
    its default; ``rule``: choices, bounds and so on, as ``Rule`` has them."""
    metadata = {"rule": Rule(meaning, **rule)}
    if callable(default) or isinstance(default, list | dict):
        factory = default if callable(default) else functools.partial(copy.deepcopy, default)
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def walk(settings: Any, prefix: str = "") -> Iterator[tuple[str, Rule, Any]]:
    """Every setting by its dotted name, with its rule and value; those of a group after it."""
    for part in dataclasses.fields(settings):
        name, value = f"{prefix}{part.name}", getattr(settings, part.name)
        yield name, part.metadata.get("rule", Rule("")), value
        groups = value.items() if isinstance(value, dict) else [(None, value)]
        for key, group in groups:
            if dataclasses.is_dataclass(group):
                yield from walk(group, f"{name}.{key}." if key else f"{name}.")


def check(settings: Any, prefix: str = "") -> None:
    """Raises ConfigError for the first value that its field does not permit, then for those that do not fit each other,
    which the settings class and its groups tell by a method ``check_together``."""
    groups = [settings]
    for name, rule, value in walk(settings, prefix):
        for one in value if isinstance(value, list) else [value]:
            if not rule.permits(one):
                raise ConfigError(f"{name}={one}: expected {rule.allowed}")
        groups.append(value)
    for group in groups:
        if hasattr(group, "check_together"):
            group.check_together()

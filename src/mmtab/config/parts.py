"""Which class or function a setting may name as its ``_target_``: a run folder may come from anybody, and to resolve a
name is to import and call code.

Allowed are the targets that configs/ names, those of settings that were composed in this process (whoever composes
settings chose them), and what lies in modules that ``trust`` was called with.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml

from mmtab.config.types import CONFIGS, PARTS
from mmtab.utils.errors import ConfigError, first_line, short

TARGET = "_target_"
# Where targets stood when run folders were written that name them so.
FORMER_TARGETS = {
    r"mmtab\.(model\.)?models\.PairModel": "mmtab.model.matcher.Matcher",
    r"mmtab\.(model\.)?models\.ComparisonEncoder": "mmtab.model.encoders.similarity.SimilarityEncoder",
    r"mmtab\.(encoders|fusion|heads)\.(.*)": r"mmtab.model.\1.\2",
}
_composed: set[str] = set()
_trusted: set[str] = set()


def trust(modules: Iterable[str]) -> None:
    """Allow what is defined in these modules, and in those below them, until the process ends. They are imported;
    raises ConfigError for one that cannot be."""
    for module in [modules] if isinstance(modules, str) else modules:
        if not isinstance(module, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module):
            raise ConfigError(f"trust={short(module)}: expected names of modules, such as [mine.encoders]")
        try:
            importlib.import_module(module)
        except Exception as error:  # a module may raise anything
            reason = first_line(error)
            raise ConfigError(
                f"trust={module}: it cannot be imported ({reason}). Fix: correct it, or PYTHONPATH"
            ) from error
        _trusted.add(module)


def trusted() -> list[str]:
    """The modules that ``trust`` was called with."""
    return sorted(_trusted)


def allow_targets(settings: Any) -> None:
    """Allow the targets of settings that the user has composed."""
    _composed.update(current_target(name) for _, name in targets_in(settings) if isinstance(name, str))


def check_targets(settings: Any) -> None:
    """Raises ConfigError for the first target, at any depth, that is not allowed; imports nothing."""
    for where, name in targets_in(settings):
        _check(name, where)


def resolve_target(name: Any, where: str) -> Callable[..., Any]:
    """The class or function of that name; raises ConfigError for one that is not allowed, or not there."""
    import hydra.utils

    where = f"{where}.{TARGET}"
    _check(name, where)
    current = current_target(name)
    try:
        found = hydra.utils.get_object(current)
    except (KeyError, ImportError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where}: cannot find {short(name)}") from error
    if not _is_named(current) and not _is_trusted(f"{getattr(found, '__module__', '')}."):
        raise _refusal(name, where)  # a trusted module has imported it from elsewhere
    return found


def _check(name: Any, where: str) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where}={short(name)}: expected the name of a class")
    if not _is_named(current_target(name)) and not _is_trusted(current_target(name)):
        raise _refusal(name, where)


def current_target(name: str) -> str:
    """What the target of that name is called today."""
    for former, current in FORMER_TARGETS.items():
        match = re.fullmatch(former, name)
        if match:
            return match.expand(current)
    return name


def with_current_targets(settings: Any) -> Any:
    """Settings as a run folder has them, with each ``_target_`` by its name of today."""
    if isinstance(settings, list):
        return list(map(with_current_targets, settings))
    if not isinstance(settings, Mapping):
        return settings
    return {
        key: current_target(value) if key == TARGET and isinstance(value, str) else with_current_targets(value)
        for key, value in settings.items()
    }


def targets_in(settings: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every ``_target_`` with its dotted place, at any depth."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            name = f"{where}.{key}" if where else str(key)
            if key == TARGET:
                yield name, value
            yield from targets_in(value, name)
    elif isinstance(settings, list | tuple):
        for i, value in enumerate(settings):
            yield from targets_in(value, f"{where}[{i}]")


@functools.cache
def _shipped() -> frozenset[str]:
    groups = (*PARTS, "base", "search", "kway_head", "regression_head", "pair_head")
    leaves = (path for group in groups for path in (CONFIGS / group).glob("*.yaml"))
    return frozenset(
        name for path in leaves for _, name in targets_in(yaml.safe_load(path.read_text(encoding="utf-8")))
    )


def _is_named(name: str) -> bool:
    return name in _shipped() or name in _composed


def _is_trusted(name: str) -> bool:
    return any(name.startswith(f"{module}.") for module in _trusted)


def _refusal(name: str, where: str) -> ConfigError:
    module = name.rpartition(".")[0]
    return ConfigError(
        f"{where}={short(name)}: this is no part of mmtab, and its code would run. Fix: only if you trust it, "
        f"trust=[{short(module)}]"
    )

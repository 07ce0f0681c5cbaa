"""Settings as a run folder has them, read without interpolation, resolvers or classes: what a run says is data."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from mmtab.config.settings import check
from mmtab.utils.plain import Unfit, number, text

Settings = TypeVar("Settings")


def settings_of(kind: type[Settings], raw: Any) -> Settings:
    """The settings object of plain values; raises Unfit for a value of another type, and ConfigError for one that its
    setting does not permit."""
    settings = _group(kind, raw, "")
    check(settings)
    return settings


def _group(kind: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise Unfit(where, "a group of settings", raw)
    prefix, hints = f"{where}." if where else "", get_type_hints(kind)
    if unknown := [key for key in raw if key not in hints]:
        raise Unfit(f"{prefix}{unknown[0]}", f"a setting of {kind.__name__}", raw[unknown[0]])
    settings = kind(**{name: _value(hints[name], value, f"{prefix}{name}") for name, value in raw.items()})
    for field in dataclasses.fields(kind):
        if getattr(settings, field.name) == MISSING:
            raise Unfit(f"{prefix}{field.name}", "a value", "none")
    return settings


def _value(hint: Any, raw: Any, where: str) -> Any:
    """A value of an annotated type; whole numbers are also floats."""
    kind, options = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        if raw is None and type(None) in options:
            return None
        options = tuple(option for option in options if option is not type(None))
        fitting = [option for option in options if option is type(raw)]
        return _value((fitting or options)[0], raw, where)
    if dataclasses.is_dataclass(kind):
        return _group(kind, raw, where)
    if kind is list:
        if not isinstance(raw, list):
            raise Unfit(where, "a list", raw)
        return [_value(options[0], entry, f"{where}[{i}]") for i, entry in enumerate(raw)]
    if kind is float:
        number()(raw, where)
        return float(raw)
    if kind is str:
        text(raw, where)
    elif kind is dict:
        if not isinstance(raw, dict):
            raise Unfit(where, "a group of settings", raw)
        _part(raw, where)
    elif type(raw) is not kind:
        raise Unfit(where, {bool: "true or false", int: "a whole number"}.get(kind, str(kind)), raw)
    return raw


def _part(raw: Any, where: str) -> None:
    """What a leaf may hold: plain values by names."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            if not isinstance(key, str):
                raise Unfit(f"{where}.{key}", "the name of a setting", key)
            _part(value, f"{where}.{key}")
    elif isinstance(raw, list):
        for i, value in enumerate(raw):
            _part(value, f"{where}[{i}]")
    elif type(raw) in (int, float):
        number(-BIGGEST, BIGGEST)(raw, where)
    elif type(raw) not in (str, bool, type(None)):
        raise Unfit(where, "a plain value", raw)


BIGGEST = 2**32  # no size, rate or seed of a part is beyond

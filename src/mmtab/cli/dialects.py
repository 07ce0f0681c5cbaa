"""Every command takes an argument in both ways in which people write one: ``name=VALUE`` and ``--name VALUE``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmtab.config.types import MatchConfig, PredictConfig
from mmtab.utils.errors import ConfigError, did_you_mean

# Options of Hydra: those with a value in an argument of its own, and the others.
VALUED = {"-c", "--cfg", "-p", "--package", "-cn", "--config-name", "-cp", "--config-path", "-cd", "--config-dir"}
VALUED |= {"-i", "--info", "--experimental-rerun"}
BARE = {"-h", "--help", "-m", "--multirun", "--resolve", "--hydra-help", "-sc", "--shell-completion"}

PLACES: dict[type, tuple[str, ...]] = {PredictConfig: ("input",), MatchConfig: ("left", "right")}  # after the run


def as_settings(arguments: Sequence[str], settings: type) -> list[str]:
    """``name=VALUE`` for each option, as Hydra takes them. A word by itself names a run, where the command has one, and
    further ones the tables. Raises ConfigError for an option without a value, and for a word too many."""
    words, options, given, bare = list(arguments), list[str](), list[str](), list[str]()
    kinds = {field.name: field.metadata["rule"].kind for field in fields(settings) if "rule" in field.metadata}
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        if option in VALUED | BARE:
            options += [word, *(words[:1] if option in VALUED and not equals else [])]
            words = words[option in VALUED and not equals :]
        elif option == "-o" or (option.startswith("--") and len(option) > 2):
            name = "output" if option == "-o" else option[2:].replace("-", "_")
            if not equals and not words:
                raise ConfigError(f"{option}: expected a value. Fix: {option} VALUE, or {name}=VALUE")
            given.append(f"{name}={value if equals else words.pop(0)}")
        elif word.startswith("-"):
            raise ConfigError(f"no option {word}; settings are written name=VALUE or --name VALUE")
        elif "run" in kinds and not equals and word[:1] not in ("~", "+"):
            bare.append(word)
        else:
            given.append(word)
    # Options first: Hydra's parser takes no settings on both sides of one.
    if kinds.get("run") == "paths":
        return options + given + ([f"run={bare[0] if len(bare) == 1 else '[' + ','.join(bare) + ']'}"] if bare else [])
    named = {word.partition("=")[0] for word in given}
    places = [name for name in ("run", *PLACES.get(settings, ())) if name not in named]
    if len(bare) > len(places):
        takes = f"one run{''.join(f', then {name}' for name in PLACES.get(settings, ()))}"
        raise ConfigError(f"{bare[len(places)]}: expected NAME=VALUE; the command takes {takes} by a word alone")
    return options + given + [f"{name}={word}" for name, word in zip(places, bare, strict=False)]


def as_options(app: Any, arguments: Sequence[str]) -> list[str]:
    """``--name VALUE``, or the value alone at its place, for each ``name=VALUE`` that a Typer app knows. Raises
    ConfigError for one that it does not know, unless it may be a text that has an equals sign in it."""
    import typer

    command, words, given = typer.main.get_command(app), list(arguments), list[str]()
    while words and words[0] in getattr(command, "commands", {}):
        given.append(words[0])
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    by_kind: dict[str, list[Any]] = {"option": [], "argument": []}
    for parameter in command.params:
        by_kind[parameter.param_type_name].append(parameter)
    options = {name: parameter for parameter in by_kind["option"] for name in parameter.opts}
    places = {parameter.name: parameter for parameter in by_kind["argument"]}
    named, bare = dict[str, list[str]](), list[str]()
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        option: Any = options.get(name if word.startswith("-") else f"--{name.replace('_', '-')}")
        if word.startswith("-"):
            n_values = 0 if option is None or option.is_flag or equals else option.nargs
            given += [word, *words[:n_values]]
            words = words[n_values:]
        elif not equals or Path(word).exists():
            bare.append(word)
        elif name not in places and option is None:
            _check_text(word, places, options)
            bare.append(word)
        elif name in places:
            named[name] = _several(value)
        elif option.is_flag:
            given += _flag(option, name, value)
        elif option.nargs > 1:
            given += [option.opts[0], *value.strip("[]").split(",")]
        else:
            given += [word for each in _several(value) for word in (option.opts[0], each)]
    for name, place in places.items():
        n_values = 0 if name in named else len(bare) if place.nargs < 0 else place.nargs
        given += [*named.get(name, []), *bare[:n_values]]
        bare = bare[n_values:]
    return given + bare


def _check_text(word: str, places: Mapping[str, Any], options: Iterable[str]) -> None:
    """Raise ConfigError for ``name=VALUE`` whose name is like a known one, or that would be one of several files."""
    name = word.partition("=")[0]
    hint = did_you_mean(name, {*places, *(key[2:].replace("-", "_") for key in options if key.startswith("--"))})
    several = any(place.nargs < 0 for place in places.values())
    if re.fullmatch(r"[\w-]+", name) and (several or hint.startswith("did you mean")):
        raise ConfigError(f"{word}: no option {name}, and no such file; {hint}")


def _several(value: str) -> list[str]:
    """The values of ``[a,b]``."""
    return value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]


def _flag(option: Any, name: str, value: str) -> list[str]:
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"{name}={value}: expected true or false")
    return option.opts[:1] if value.lower() == "true" else option.secondary_opts[:1]

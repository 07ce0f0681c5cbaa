"""Values as they stand in overrides on a command line."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

QUOTES = "'\""
INTERPOLATION = re.compile(r"\$\{([\w.]+)([:}])")  # of a setting, or of a resolver, which a colon ends
IN_QUOTES = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)


def written(value: Any) -> str:
    """A value as it stands in an override on the command line, where it means itself."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {written(inner)}' for key, inner in value.items())}}}"
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_/][\w./-]*", text) and text.lower() not in ("null", "true", "false", "nan", "inf")
    return text if plain else _quoted(verbatim(text))


def verbatim(text: str) -> str:
    """Text as OmegaConf has to read it so that no part of it is an interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def split_overrides(argument: str) -> str:
    """``overrides=[a=1,b=[x,y]]`` with the quotes about each override that Hydra needs; any other argument as it is."""
    name, _, inner = argument.partition("=")
    if name != "overrides" or not (inner.startswith("[") and inner.endswith("]")):
        return argument
    parts, depth, quote = [""], 0, ""
    for sign in inner[1:-1]:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "[{(") - (sign in "]})")
        if sign == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    stripped = [part.strip() for part in parts if part.strip()]
    return f"overrides=[{','.join(part if part[0] in QUOTES else _quoted(part) for part in stripped)}]"


def literal(argument: str, paths: Mapping[str, str], sweeps: bool = False) -> str:
    """An override as Hydra has to read it so that a path means itself, whatever signs it is made of.

    ``paths``: by the name of each setting, ``path`` or ``paths`` (a list) where it takes one, ``list`` for other lists,
    of which one entry may stand alone, or several without brackets, else nothing. A leading ``~`` is the home folder.
    ``null``, and what names no file but stands in quotes or is the interpolation of a setting (``${seed}``) or of a
    resolver (``${oc.env:HOME}``), remain Hydra's, and so do the commas of a multirun (``sweeps``).
    """
    match = re.fullmatch(r"(\+{0,2}([\w.]+)=)(.+)", argument, re.DOTALL)
    if match is None or not paths.get(match[2]) or match[3] == "null" or (sweeps and "," in match[3]):
        return argument
    value, kind = match[3], paths[match[2]]
    if kind == "path":
        return f"{match[1]}{_path(value, paths)}"
    in_brackets = value[0] == "[" and value[-1] == "]" and not _exists(value)
    if kind == "list":
        return argument if in_brackets or "${" in value else f"{match[1]}[{value}]"
    return f"{match[1]}[{','.join(_path(entry, paths) for entry in _entries(value[1:-1] if in_brackets else value))}]"


def _entries(text: str) -> Iterator[str]:
    """What stands between the commas of a list, but for commas in quotes or in the name of a file."""
    pieces = text.split(",")
    while pieces:
        joined = {n: ",".join(pieces[:n]).strip() for n in range(len(pieces), 0, -1)}
        n = next((n for n, entry in joined.items() if IN_QUOTES.fullmatch(entry) or _exists(entry)), 1)
        yield joined[n]
        pieces = pieces[n:]


def _path(text: str, settings: Container[str]) -> str:
    if IN_QUOTES.fullmatch(text) and not _exists(text):
        return text
    text = str(Path(text).expanduser()) if text.startswith("~") and not _exists(text) else text
    return _quoted(text if _interpolates(text, settings) else verbatim(text))


def _interpolates(text: str, settings: Container[str]) -> bool:
    found = INTERPOLATION.findall(text)
    known = all(sign == ":" or name.partition(".")[0] in settings for name, sign in found)
    places = [place for place in (Path(text), *Path(text).parents) if "${" in place.name]
    return 0 < len(found) == text.count("${") and known and not any(_exists(str(place)) for place in places)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _quoted(text: str) -> str:
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)  # backslashes mean themselves but before a quote
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"

"""Values as they stand in overrides on a command line."""

from __future__ import annotations

import re
from typing import Any

QUOTES = "'\""


def written(value: Any) -> str:
    """A value as it stands in an override on the command line."""
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
    return text if plain else _quoted(text)


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


def _quoted(text: str) -> str:
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)  # backslashes mean themselves but before a quote
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"

"""Pages from templates: one HTML file each, which needs no other and no network.

Whatever comes from data is escaped where the template shows it. Templates stand in ``templates/``, beside the styles
and scripts that ``layout.html.jinja`` puts into the page.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmtab.utils.text import printable

TEMPLATES = Path(__file__).with_name("templates")


def render(template: Path, **values: Any) -> str:
    """The page of a template, which may use those of ``TEMPLATES`` beside those of its own folder."""
    return _environment(template.parent).get_template(template.name).render(values) + "\n"


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )

    def source(names: Sequence[str]) -> Markup:
        assert environment.loader is not None
        return Markup("".join(environment.loader.get_source(environment, name)[0] for name in names))

    environment.globals.update(source=source, sha256=_sha256)
    environment.filters.update(number=number, sort_key=sort_key, numeric=numeric_columns, printable=printable)
    environment.tests["number"] = is_number
    return environment


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _sha256(script: str) -> str:
    """As a content security policy names a script that may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def is_number(value: object) -> bool:
    """NaN is none."""
    return isinstance(value, int | float) and not math.isnan(value)


def number(value: object) -> str:
    """Three decimals of a float, all digits of a count, nothing of NaN and None."""
    if not is_number(value):
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def sort_key(value: Any) -> str:
    """What a table's cell is sorted by; nothing where there is no finite value, which sorts after everything."""
    return "" if value is None or not math.isfinite(value) else f"{float(value):.8g}"


def numeric_columns(body: Sequence[Sequence[object]], n: int) -> list[bool]:
    """[n] whether a column of a table holds numbers."""
    return [any(isinstance(line[j], int | float) for line in body) for j in range(n)]


def data_uri(picture: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"

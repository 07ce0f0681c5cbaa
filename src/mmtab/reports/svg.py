"""Charts of matplotlib as parts of a page: with its letters, of every script, and its colours, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

INK, FAINT = "#010203", "#040506"  # become the page's, as these do
BLUE, ORANGE, GREEN, PURPLE, RED = "#1f6fb5", "#c05a12", "#26804a", "#8a4fb0", "#b01f4f"
MEANINGS = {INK: "CanvasText", "#000000": "CanvasText", FAINT: "var(--faint)", BLUE: "var(--blue)"}
MEANINGS |= {ORANGE: "var(--orange)", GREEN: "var(--green)", PURPLE: "var(--purple)", RED: "var(--red)"}


def canvas(width: float, height: float, **layout: Any) -> Any:
    """A figure of so many inches, whose points are pixels."""
    from matplotlib.figure import Figure  # heavy, and only needed here; this class needs no screen

    return Figure(figsize=(width, height), dpi=72, **layout)


def svg(figure: Any, name: str, about: str, colours: Mapping[str, str] | None = None) -> Markup:
    """The element, with ids that no chart of another name has, and nothing that changes from run to run. ``colours``:
    of the figure, as CSS."""
    import matplotlib as mpl

    figure.patch.set_visible(False)
    sink = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # whose widths are guessed; the browser has them
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", text, flags=re.S)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    for colour, meaning in (MEANINGS | dict(colours or {})).items():
        text = text.replace(colour, meaning)
    view = re.search(r'viewBox="0 0 ([\d.]+) [^"]*"', text)
    assert view is not None
    size = f'{view[0]} style="--width:{view[1]}px"'  # for styles that keep it from shrinking
    element = f'<svg class="chart" {size} role="img" aria-label="{escape(about)}">'
    return Markup(re.sub(r"<svg[^>]*>", element, text, count=1))

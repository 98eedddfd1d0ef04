"""Figures as part of a page: SVG whose colours follow the page's scheme and whose ids do not clash."""

from __future__ import annotations

import re
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

from personalllm.core.plotting import INK

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

__all__ = ["inline_svg"]

_TAG = re.compile(r"<[a-zA-Z][^>]*>")
_COLOURS = {colour: f"var(--{role})" for role, colour in INK.items()}


def _page_tag(tag: str, key: str) -> str:
    """Return a tag with its ids and references prefixed and its colours named by role."""
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', tag)
    tag = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{key}-\1"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", tag)
    for colour, variable in _COLOURS.items():
        tag = tag.replace(colour, variable)
    return tag


def inline_svg(figure: Figure, *, key: str, title: str, description: str) -> Markup:
    """Return a figure as an `<svg>` element to put into a page.

    Args:
        figure: What to draw; call within `core.plotting.drawing`.
        key: Prefix of all ids; unique in the page.
        title: Short name, read out by screen readers.
        description: What the figure shows, in words.

    Returns:
        The element, marked as safe: no XML header, metadata or name-space declarations; titles escaped.
    """
    from markupsafe import Markup

    key = escape(key)
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = _TAG.sub(lambda match: _page_tag(match.group(), key), text)
    box = re.search(r'viewBox="([^"]+)"', text)
    labels = f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
    head = (
        f'<svg class="figure" role="img" aria-labelledby="{key}-title {key}-desc" '
        f'viewBox="{box.group(1) if box else "0 0 605 300"}">{labels}'
    )
    return Markup(head + text[text.index(">") + 1 :].strip())  # noqa: S704

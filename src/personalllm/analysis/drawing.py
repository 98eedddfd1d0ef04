"""What all figures share: the palette by role, and settings that make them reproducible.

The drawing library is imported inside the functions, and no global state of it is touched.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["INK", "drawing"]

INK = {
    "ink": "#1c2126",
    "muted": "#5b6570",
    "rule": "#cfd4da",
    "paper": "#fefefe",
    "accent": "#0a6aa8",
    "soft": "#bcd9ec",
    "mark": "#c4520a",
}
"""The palette, by role; the page maps each role to a colour of the light or the dark scheme."""


@contextmanager
def drawing(*, text_as_paths: bool) -> Iterator[None]:
    """Set what makes figures reproducible and free of mathematical markup, for the length of a block."""
    import matplotlib as mpl

    settings: Any = {
        "svg.hashsalt": "personalllm",
        "svg.fonttype": "path" if text_as_paths else "none",
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],
        "font.size": 9.5,
        "axes.edgecolor": INK["rule"],
        "axes.labelcolor": INK["muted"],
        "text.color": INK["ink"],
        "xtick.color": INK["muted"],
        "ytick.color": INK["ink"],
        "axes.unicode_minus": True,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield

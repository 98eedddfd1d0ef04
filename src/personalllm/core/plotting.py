"""Shared parts of all figures: the palette by role, the style of each series, and reproducible settings.

matplotlib takes about a second to import, so it is imported inside the functions; its global state is not touched.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from personalllm.core.storage import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INK",
    "SERIES",
    "WIDTH",
    "Look",
    "bare",
    "drawing",
    "figure",
    "key_of_series",
    "label_rows",
    "look",
    "new_figure",
    "save_figure",
    "short",
    "whisker",
]

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

WIDTH = 8.2
"""Width of a figure in inches; at 800 pixels the smallest text, 8.5 pt, is 11.5 pixels high."""


class Look(NamedTuple):
    """How one of several series looks: it differs from the others in fill, hatch and marker, not in colour alone."""

    face: str
    edge: str
    hatch: str
    marker: str
    line: str

    @property
    def stroke(self) -> str:
        """Colour of a thin line or of the edge of a marker: the edge, or the face if the edge is that of the paper."""
        return self.face if self.edge == INK["paper"] else self.edge


SERIES: tuple[Look, ...] = (
    Look(INK["accent"], INK["accent"], "", "o", "-"),
    Look(INK["soft"], INK["accent"], "", "s", "--"),
    Look(INK["paper"], INK["accent"], "////", "^", "-."),
    Look(INK["mark"], INK["paper"], "\\\\\\\\", "D", ":"),
    Look(INK["paper"], INK["mark"], "....", "v", (0, (6, 2, 1, 2, 1, 2))),  # type: ignore[arg-type]
    Look(INK["rule"], INK["ink"], "xxx", "P", (0, (1, 3))),  # type: ignore[arg-type]
)
"""The looks of series, in order."""


def look(index: int) -> Look:
    """Return the look of series `index`; a seventh series looks like the first."""
    return SERIES[index % len(SERIES)]


def short(name: str, width: int = 28) -> str:
    """Return a name on one line of at most `width` characters.

    >>> short("a-name-of-one-word", 8), short("two words", 28)
    ('a-name-…', 'two words')
    """
    line = " ".join(name.split())
    return line if len(line) <= width else f"{line[: width - 1].rstrip()}\u2026"


def new_figure(height: float) -> Figure:
    """Return an empty figure of the common width that keeps its parts apart; call within `drawing`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(wspace=0.06, hspace=0.06))
    figure.set_facecolor("none")
    return figure


@contextmanager
def figure(height: float) -> Iterator[Figure]:
    """Yield an empty figure of the common width and, at the end of the block, lay it out.

    The layout is computed here, under the settings of `drawing`: text of another font size would not fit it.

    Args:
        height: Inches.
    """
    with drawing(text_as_paths=True):
        drawn = new_figure(height)
        yield drawn
        drawn.draw_without_rendering()


def bare(axis: Axes, *, grid: str) -> None:
    """Remove the frame lines of a panel but its axes, and draw a faint grid along `"x"`, `"y"` or `"both"`."""
    axis.set_facecolor("none")
    axis.spines[["top", "right", "left" if grid == "x" else "top"]].set_visible(False)
    axis.grid(visible=True, axis=grid, color=INK["rule"], linewidth=0.5)  # type: ignore[arg-type]
    axis.set_axisbelow(True)
    axis.tick_params(axis="x", color=INK["rule"], labelsize=9)
    axis.tick_params(axis="y", color=INK["rule"], labelsize=9, length=0)


def label_rows(axis: Axes, labels: Sequence[str]) -> None:
    """Name the rows of a panel whose values run across, row 0 at the top, with a grid across."""
    axis.set_yticks(range(len(labels)), list(labels))
    axis.set_ylim(len(labels) - 0.4, -0.6)
    bare(axis, grid="x")


def whisker(axis: Axes, at: float, low: float, high: float, *, upright: bool, colour: str = INK["ink"]) -> None:
    """Draw an interval as a thin line at `at`; nothing if it is not defined."""
    if low == low and high == high:
        ends = ([at, at], [low, high]) if upright else ([low, high], [at, at])
        axis.plot(*ends, color=INK["paper"], linewidth=1.9, solid_capstyle="butt", zorder=2.9)
        axis.plot(*ends, color=colour, linewidth=1.1, solid_capstyle="butt", zorder=3)


def key_of_series(figure: Figure, names: Sequence[str], *, bars: bool) -> None:
    """Put the names of the series above the panels, with their looks."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for index, name in enumerate(names):
        style = look(index)
        if bars:
            handles.append(Patch(facecolor=style.face, edgecolor=style.edge, hatch=style.hatch, label=short(name)))
        else:
            points: dict[str, Any] = {
                "marker": style.marker,
                "markerfacecolor": style.face,
                "markeredgecolor": style.stroke,
            }
            handles.append(Line2D([], [], linestyle="none", markersize=6.5, label=short(name), **points))
    columns = min(len(names), 4)
    by_rows = [handles[index] for column in range(columns) for index in range(column, len(handles), columns)]
    figure.legend(handles=by_rows, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)


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
        "hatch.linewidth": 0.8,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as `stem.svg` and `stem.png` on paper; call within `drawing`: equal figures give equal files."""
    figure.set_facecolor(INK["paper"])
    files = []
    # The date and the version of the library would make two files of one figure differ.
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        target = stem.with_name(f"{stem.name}.{kind}")
        with atomic_path(target) as temporary:
            figure.savefig(temporary, format=kind, dpi=200, metadata=metadata)
        files.append(target)
    return files

"""The plot: one panel a measure, a dot a contender on a logarithmic axis, the range of its rounds as a line."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from .report import number
from .rows import Row, Table

_COLOURS = {"ours": "#c2410c", "floor": "#737373", "peer": "#1d4ed8"}
_HEADLINE = "lmdbpipe (orange), floors (grey) and peers (blue): medians, ranges of the rounds, logarithmic axes"
_COLUMNS = 3
_DECADES = 1.0  # an axis spans at least so much, or small differences would look large
_DPI = 110
_TITLE_LETTERS = 62
# In inches:
_COLUMN_INCHES = 5.2
_ROW_INCHES = 0.2
_PANEL_INCHES = 1.0
_TITLE_INCHES = 0.6
_NAME_INCHES = 1.5
_GAP_INCHES = 0.2
_HEAD_INCHES = 0.4


def draw(table: Table, path: Path) -> None:
    """Write a PNG."""
    groups = [sorted(group, key=_rank) for group in table.measures()]
    if not groups:
        return
    lines = [groups[start : start + _COLUMNS] for start in range(0, len(groups), _COLUMNS)]
    heights = [max(len(group) for group in line) for line in lines]
    inches = [height * _ROW_INCHES + _PANEL_INCHES for height in heights]
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(_COLUMNS * _COLUMN_INCHES, sum(inches) + _HEAD_INCHES))
        top = _HEAD_INCHES
        for line, tall in zip(lines, inches, strict=True):
            for column, group in enumerate(line):
                box = (column * _COLUMN_INCHES + _NAME_INCHES, top + _TITLE_INCHES)
                _panel(_axes(figure, box, len(group) * _ROW_INCHES), group)
            top += tall
        figure.text(0.01, 1 - 0.2 / figure.get_figheight(), _HEADLINE, fontsize=10, va="top")
        figure.savefig(path, dpi=_DPI)


def _axes(figure: Figure, corner: tuple[float, float], tall: float) -> Any:
    """Axes placed in inches from the top left, so that a row is as high in every panel."""
    width, height = figure.get_size_inches()
    left, top = corner
    wide = _COLUMN_INCHES - _NAME_INCHES - _GAP_INCHES
    return figure.add_axes((left / width, 1 - (top + tall) / height, wide / width, tall / height))


def _panel(axes: Any, group: list[Row]) -> None:
    measure = group[0].measure
    better = "more is better" if measure.higher_is_better else "less is better"
    title = "\n".join(textwrap.wrap(measure.title, _TITLE_LETTERS))
    axes.set_title(f"{title}\n{measure.unit}, {better}", loc="left", fontsize=8)
    least, most = (bound(value for row in group for value in row.values) for bound in (min, max))
    logarithmic = least > 0
    if logarithmic:
        axes.set_xscale("log")
        middle, span = math.log10(least * most) / 2, max(_DECADES, math.log10(most / least))
        axes.set_xlim(10 ** (middle - 0.56 * span), 10 ** (middle + 0.75 * span))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    for height, row in enumerate(group):
        colour = _COLOURS[row.kind]
        low, high = min(row.values), max(row.values)
        axes.plot([low, high], [height, height], color=colour, linewidth=3, alpha=0.35, solid_capstyle="butt")
        axes.plot(row.median, height, "o", color=colour, markersize=5)
        place = {"textcoords": "offset points", "va": "center", "color": colour}
        axes.annotate(number(row.median), (high, height), (7, 0), **place)
    axes.set_yticks(range(len(group)), [row.contender for row in group])
    axes.set_ylim(-0.6, len(group) - 0.4)
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _tick(value: float, _: int | None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _rank(row: Row) -> float:
    """The best on top."""
    return row.median if row.measure.higher_is_better else -row.median

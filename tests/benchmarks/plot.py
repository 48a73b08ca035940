"""The plot: one panel a measure, a dot a contender on a logarithmic axis, the range of its rounds as a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .report import number
from .rows import Row, Table

_COLOURS = {"ours": "#c2410c", "floor": "#737373", "peer": "#1d4ed8"}
_COLUMNS = 3
_ROW_INCHES = 0.23
_PANEL_INCHES = 0.75


def draw(table: Table, path: Path) -> None:
    """Write a PNG."""
    groups = [sorted(group, key=_rank) for group in table.measures()]
    if not groups:
        return
    lines = [groups[start : start + _COLUMNS] for start in range(0, len(groups), _COLUMNS)]
    heights = [max(len(group) for group in line) for line in lines]
    inches = sum(heights) * _ROW_INCHES + len(lines) * _PANEL_INCHES + 0.5
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(5.2 * _COLUMNS, inches), layout="constrained")
        axes = figure.subplots(len(lines), _COLUMNS, squeeze=False, gridspec_kw={"height_ratios": heights})
        for index, panel in enumerate(axes.flat):
            if index < len(groups):
                _panel(panel, groups[index])
            else:
                panel.set_axis_off()
        figure.suptitle("lmdbpipe (orange), floors (grey), peers (blue): medians on logarithmic axes")
        figure.savefig(path, dpi=130)


def _panel(axes: Any, group: list[Row]) -> None:
    arrow = "more is better" if group[0].measure.higher_is_better else "less is better"
    axes.set_title(f"{group[0].measure.title}\n{group[0].measure.unit}, {arrow}", loc="left", fontsize=8)
    for height, row in enumerate(group):
        colour = _COLOURS[row.kind]
        axes.plot([min(row.values), max(row.values)], [height, height], color=colour, linewidth=3, alpha=0.35)
        axes.plot(row.median, height, "o", color=colour, markersize=5)
        axes.annotate(
            number(row.median), (row.median, height), (7, 0), textcoords="offset points", va="center", color=colour
        )
    axes.set_yticks(range(len(group)), [row.contender for row in group])
    axes.set_ylim(-0.6, len(group) - 0.4)
    if all(value > 0 for row in group for value in row.values):
        axes.set_xscale("log")
    axes.margins(x=0.18)
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _rank(row: Row) -> float:
    """The best on top."""
    return row.median if row.measure.higher_is_better else -row.median

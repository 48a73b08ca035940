"""Tables of plain text."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], names: int | None = None) -> list[str]:
    """Lay rows out in columns, a line each.

    Args:
        rows: Their cells. A row that is shorter than the first one is a heading: it ends where it ends.
        names: How many columns stand to the left; those after them stand to the right. None for all.
    """
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    lines = []
    for row in rows:
        left = len(row) if names is None else names
        cells = zip(row, widths, strict=False)
        placed = [cell.ljust(width) if k < left else cell.rjust(width) for k, (cell, width) in enumerate(cells)]
        lines.append("  ".join(placed).rstrip())
    return lines


def megabytes(size: int) -> str:
    """Write a number of bytes in millions."""
    return f"{size / 1e6:,.1f} MB"

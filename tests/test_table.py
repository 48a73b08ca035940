"""Tables of plain text."""

from __future__ import annotations

from lmdbpipe.table import aligned, megabytes


def test_columns_stand_below_each_other() -> None:
    """Names stand to the left and figures to the right; a shorter row is a heading, and no line ends in blanks."""
    rows = [("what", "rate"), ("a long heading of one cell",), ("stream", "7"), ("a", "12,345")]
    assert aligned(rows, names=1) == [
        "what      rate",
        "a long heading of one cell",
        "stream       7",
        "a       12,345",
    ]
    assert aligned(rows) == ["what    rate", "a long heading of one cell", "stream  7", "a       12,345"]


def test_megabytes_are_millions_of_bytes() -> None:
    """Sizes are in units of a million bytes, with one decimal place."""
    assert megabytes(1_234_567_890) == "1,234.6 MB"

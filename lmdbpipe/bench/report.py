"""What was measured, as a table of plain text for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import os
import statistics
from typing import Any

from lmdbpipe.table import aligned, megabytes

COPY, READ = "floor: copy of batches out of a memory map", "floor: read of the file, front to back"
"""What no reader can do without, of a file that is in memory and of one that is not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """How fast one way was.

    Attributes:
        cache: ``warm`` or ``cold``.
        what: What was read.
        how: By whom: inline, threads, processes.
        rates: Samples a second, one for each round; none if it could not be measured.
        missing: Why it could not.
    """

    cache: str
    what: str
    how: str
    rates: list[float] = dataclasses.field(default_factory=list)
    missing: str = ""

    @property
    def median(self) -> float | None:
        """Samples a second."""
        return statistics.median(self.rates) if self.rates else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """All figures of a file.

    Attributes:
        file: Its path.
        length: Samples.
        payload_bytes: Of all samples.
        file_bytes: Its size.
        batch_size: Samples in a batch.
        rounds: In which all took turns.
        transform: What was applied to images; empty if nothing was.
        rows: Samples a second.
        first_batch_ms: Milliseconds until the first batch, in order and shuffled, from a file that is not open.
        memory_bytes: How much memory a stream takes at most, for itself; None where that is not known.
        notes: What else must be known to read the figures.
    """

    file: str
    length: int
    payload_bytes: int
    file_bytes: int
    batch_size: int
    rounds: int
    transform: str
    rows: list[Row]
    first_batch_ms: dict[str, float]
    memory_bytes: int | None
    notes: list[str]

    def floor(self, cache: str) -> float | None:
        """Samples a second of the floor that ratios are to: a copy of what is in memory, a read of what is not."""
        floor = COPY if cache == "warm" else READ
        return next((row.median for row in self.rows if (row.cache, row.what) == (cache, floor)), None)


def as_text(report: Report) -> str:
    """The report as a table of plain text."""
    per_sample = report.payload_bytes / report.length
    lines = [
        f"{report.file}: {report.length:,} samples, {megabytes(report.payload_bytes)} of payload "
        f"({per_sample:,.0f} bytes a sample), on a machine of {os.cpu_count()} cores",
        f"Batches of {report.batch_size}; medians of {report.rounds} rounds in which all took turns; MB of payload; "
        "of the floor: times the first row under warm or cold cache",
    ]
    if report.transform:
        lines.append(f"Transformed: {report.transform}")
    table: list[tuple[str, ...]] = [("", "", "samples/s", "MB/s", "of the floor")]
    cache = what = ""
    for row in report.rows:
        if row.cache != cache:
            cache, what = row.cache, ""
            table.append((f"{cache} cache",))
        name = "" if row.what == what else f"  {row.what}"
        table.append((name, row.how, *_figures(row, per_sample, report.floor(cache))))
        what = row.what
    firsts = ", ".join(f"{value:.1f} ms {order}" for order, value in report.first_batch_ms.items())
    memory = "not known" if report.memory_bytes is None else megabytes(report.memory_bytes)
    lines += [
        "",
        *aligned(table, names=2),
        "",
        f"Time to the first batch: {firsts}",
        f"Memory of a stream, at most: {memory}",
    ]
    return "\n".join([*lines, *(f"Note: {note}" for note in report.notes)])


def as_json_dict(report: Report) -> dict[str, Any]:
    """The report for programs: every round of every way, in samples a second."""
    rows = [{**vars(row), "samples_per_second": row.median} for row in report.rows]
    return {**vars(report), "rows": rows, "cores": os.cpu_count()}


def _figures(row: Row, per_sample: float, floor: float | None) -> tuple[str, ...]:
    if row.median is None:
        return (f"not measured: {row.missing}",)
    ratio = "" if floor is None else f"{row.median / floor:.3f}"
    return f"{row.median:,.0f}", f"{row.median * per_sample / 1e6:,.1f}", ratio

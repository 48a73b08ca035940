"""What was measured, in memory: rows of one table, and who refused, failed or was missing."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from .contender import Kind


@dataclass(frozen=True)
class Measure:
    """What a figure says; rows with the same measure are compared with each other."""

    key: str
    title: str
    unit: str
    baseline: str
    """The contender that ratios are to."""
    higher_is_better: bool = True


@dataclass(frozen=True)
class Row:
    """One figure of one contender, a value a round."""

    measure: Measure
    contender: str
    kind: Kind
    values: list[float]
    cores: list[float] = field(default_factory=list)
    """Processor seconds for a second of each round, in threads and worker processes too; empty where not measured."""

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.values)

    def ratio(self, other: Row) -> float:
        """How many times ``other``: within a measure the median over the rounds of both, which lay side by side."""
        if self.measure == other.measure:
            return statistics.median(mine / its for mine, its in zip(self.values, other.values, strict=False))
        return self.median / other.median


@dataclass
class Table:
    """All rows of a run; lists of (title, contender, reason) beside it."""

    rows: list[Row] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    failed: list[tuple[str, str, str]] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def find(self, key: str, contender: str) -> Row | None:
        """The row of a contender in a measure, if it has one."""
        return next((row for row in self.rows if (row.measure.key, row.contender) == (key, contender)), None)

    def add_earlier(self, earlier: Table) -> None:
        """Take over what an earlier run had measured and this one has not, before the own rows."""
        keys = {row.measure.key for row in self.rows}
        titles = {row.measure.title for row in self.rows} | {title for title, _, _ in self.refused + self.failed}
        self.rows[:0] = [row for row in earlier.rows if row.measure.key not in keys]
        self.refused[:0] = [refusal for refusal in earlier.refused if refusal[0] not in titles]
        self.failed[:0] = [failure for failure in earlier.failed if failure[0] not in titles]
        self.missing += [missed for missed in earlier.missing if missed not in self.missing]
        self.notes[:0] = earlier.notes

    def measures(self) -> list[list[Row]]:
        """Rows grouped by measure, in the order measured, each group in the order of contenders."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.measure.key, []).append(row)
        return list(groups.values())

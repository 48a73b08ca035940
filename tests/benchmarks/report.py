"""The table: Markdown for people, JSON for programs, and whether the targets are met."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping

from .rows import Measure, Row, Table
from .workloads import TARGETS, Target


def as_markdown(table: Table, machine: Mapping[str, str]) -> str:
    """The machine, one table of all figures, the targets, and who is missing, failed or does not take part."""
    parts = [
        "# Benchmark",
        ", ".join(f"{name} {value}" for name, value in machine.items()) + ".",
        "Medians over rounds in which the contenders took turns; ratios are to the baseline of each measure (1.00x), "
        "cores are processor seconds in a second.",
        _figures(table),
    ]
    targets = "\n".join(_target(target, table) for target in TARGETS)
    parts += ["## Targets", f"| target | measured | met |\n| --- | ---: | --- |\n{targets}"]
    if table.missing:
        parts += ["## Missing", "\n".join(f"- {name}: {reason}" for name, reason in table.missing)]
    if table.failed:
        parts += ["## Failed", "\n".join(f"- {title}: {name}: {reason}" for title, name, reason in table.failed)]
    if table.refused:
        parts += ["## Not applicable", "\n".join(_refusals(table))]
    if table.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in dict.fromkeys(table.notes))]
    return "\n\n".join(parts) + "\n"


def as_json(table: Table, machine: Mapping[str, str]) -> str:
    """Every value of every round."""
    return json.dumps({"machine": dict(machine), **dataclasses.asdict(table)}, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> tuple[Table, dict[str, str]]:
    """Read what [as_json][] wrote: the table, and the machine."""
    data = json.loads(text)
    rows = [Row(**{**row, "measure": Measure(**row["measure"])}) for row in data["rows"]]
    lists = {name: [tuple(entry) for entry in data[name]] for name in ("refused", "failed", "missing")}
    return Table(rows, notes=data["notes"], **lists), data["machine"]


def number(value: float) -> str:
    """Three significant digits or more, with thousands separated."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _figures(table: Table) -> str:
    lines = [
        "| measure | contender | median | range | ratio | cores |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for group in table.measures():
        baseline = next((row for row in group if row.contender == row.measure.baseline), None)
        best = (max if group[0].measure.higher_is_better else min)(row.median for row in group)
        title = f"**{group[0].measure.title}** ({group[0].measure.unit})"
        for row in group:
            median = f"**{number(row.median)}**" if row.median == best else number(row.median)
            spread = f"{number(min(row.values))} to {number(max(row.values))}" if len(row.values) > 1 else ""
            ratio = f"{number(row.ratio(baseline))}x" if baseline is not None else ""
            cores = f"{statistics.median(row.cores):.1f}" if row.cores else ""
            lines.append(f"| {title} | {row.contender} | {median} | {spread} | {ratio} | {cores} |")
            title = ""
    return "\n".join(lines)


def _target(target: Target, table: Table) -> str:
    """A line on one target."""
    row, other = table.find(target.measure, target.contender), _opponent(target, table)
    if row is None or (target.limit is None and other is None):
        least = f"at most {target.limit:g}" if target.limit is not None else f"at least {target.factor:g} times"
        return f"| {target.measure}: {target.contender} {least} {target.of} | | not measured |"
    if other is None:
        limit = target.limit or 0.0
        text = f"{row.measure.title}: {row.contender} at most {limit:g} {row.measure.unit}"
        return f"| {text} | {number(row.median)} {row.measure.unit} | {_yes(row.median <= limit)} |"
    ratio = row.ratio(other)
    against = other.contender if other.measure == row.measure else f"{other.contender}, {other.measure.title}"
    text = f"{row.measure.title}: {row.contender} at least {target.factor:g} times {against}"
    return f"| {text} | {ratio:.2f}x | {_yes(ratio >= target.factor)} |"


def _opponent(target: Target, table: Table) -> Row | None:
    measure = target.of_measure or target.measure
    if target.limit is not None:
        return None
    if target.of != "every peer":
        return table.find(measure, target.of)
    peers = [row for row in table.rows if row.measure.key == measure and row.kind == "peer"]
    return max(peers, key=lambda row: row.median, default=None)


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"


def _refusals(table: Table) -> list[str]:
    """Refusals gathered by reason and then by measure, since most hold for many."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for title, name, reason in table.refused:
        by_reason.setdefault((reason, title), []).append(name)
    gathered: dict[tuple[str, str], list[str]] = {}
    for (reason, title), names in by_reason.items():
        gathered.setdefault((reason, ", ".join(names)), []).append(title)
    return [f"- {reason}: {names} ({'; '.join(titles)})" for (reason, names), titles in gathered.items()]

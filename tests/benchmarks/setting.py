"""What every measurement of a run shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .contender import Contender
from .probe import Prober
from .rows import Table
from .workloads import Plan


@dataclass(frozen=True)
class Setting:
    """Sizes, those who take part, where they build, where figures go, and the process that probes run in."""

    plan: Plan
    contenders: Sequence[Contender]
    work: Path
    table: Table
    prober: Prober
    keep: bool = False
    """Whether what is built stays, for the next run to use."""

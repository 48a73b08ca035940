"""The memory that a stream needs is measured whatever the process had free before, over as many epochs as asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import probe
from .contender import Job

NOTHING: Any = None
REQUEST = probe.Request(
    what="memory", contender="lmdbpipe", source=NOTHING, folder=Path(), job=Job(batch_size=1), epochs=3
)
MANY, LARGE = 200, 100_000


class Holding:
    """A contender that holds some arrays while it gives three batches."""

    def __init__(self) -> None:
        self.given = 0

    def sequential(self, job: Job) -> Any:
        """Itself."""
        return self

    shuffled = sequential

    def __iter__(self) -> Any:
        held = [np.ones(LARGE, np.uint8) for _ in range(MANY)]
        for _ in range(3):
            self.given += 1
            yield len(held)


@pytest.mark.skipif(probe._glibc() is None, reason="only glibc's allocator gives back what is free when told")
def test_holes_do_not_hide_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stream takes is counted where the process has freed as much just before."""
    monkeypatch.setattr(probe, "_open", lambda _: Holding())
    holes = [np.ones(LARGE, np.uint8) for _ in range(2 * MANY)]
    del holes[::2]
    assert probe._repeat(REQUEST)["value"] > 0.9 * MANY * LARGE


def test_every_order_is_read_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs of each order are looked at."""
    holding = Holding()
    monkeypatch.setattr(probe, "_open", lambda _: holding)
    monkeypatch.setattr(probe, "_memory", lambda: holding.given)
    assert probe.memory(REQUEST) == 2 * 3 * 3

"""Read-ahead: asking the kernel for what a pass reads next, so that the disk works while batches are copied.

What is in memory costs a look at the ends of it. The rest is asked for in a thread: to ask takes about as much of a
processor as to copy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from lmdbpipe.indices import Indices
from lmdbpipe.records import Records
from lmdbpipe.store import STEP, Database

_REMEMBERED = 8192
"""Steps, of 1 MiB, that are remembered: a window of a shuffled order comes back to its own with every batch."""


class ReadAhead:
    """Brings the samples of some files into memory before they are read; nothing where the system cannot be asked.

    What it remembers of having asked is as large for any length: a step is forgotten when one that lies a multiple of
    8 GiB away is asked for.

    Args:
        records: The files.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        counts = [database.manifest.totals["file_bytes"] // STEP + 1 for database in records.databases]
        self._firsts = np.cumsum([0, *counts])
        self._asked = np.full(_REMEMBERED, -1, np.int64)
        self._run = (0, range(0))
        """Of a pass through consecutive samples instead: a file, and the steps of it that were asked for."""
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"ReadAhead({self._records})"

    def ask(self, indices: Indices) -> None:
        """Have some samples brought in, at least one, but for what was asked for lately or is in memory."""
        if not hasattr(os, "posix_fadvise"):
            return
        for number, steps in self._records.steps(indices):
            database = self._records.databases[number]
            new = self._further(number, steps) if isinstance(steps, range) else self._unknown(number, steps)
            if new and (missing := database.missing(new)):
                self._advise(database, missing)

    def close(self) -> None:
        """Forget what the kernel was not asked for yet, and let the thread end; nobody waits, as in `map_ahead`."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _further(self, number: int, steps: range) -> range:
        """Take what of some steps the run so far does not hold, and go on with it, or with another run."""
        file, run = self._run
        if number == file and run.start <= steps.start <= run.stop:
            new = range(run.stop, steps.stop)
            self._run = file, range(max(run.start, run.stop - _REMEMBERED), max(run.stop, steps.stop))
            return new
        self._run = number, steps
        return steps

    def _unknown(self, number: int, steps: npt.NDArray[np.int64]) -> list[int]:
        """Take those of some steps that are not remembered, and remember them."""
        numbers = steps + self._firsts[number]
        places = numbers % _REMEMBERED
        is_new = self._asked[places] != numbers
        self._asked[places] = numbers
        new: list[int] = steps[is_new].tolist()
        return new

    def _advise(self, database: Database, steps: Sequence[int]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="lmdbpipe-readahead")
        self._thread.submit(database.advise, steps)

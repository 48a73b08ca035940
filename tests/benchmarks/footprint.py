"""Time to the first batch, and whether memory grows with the dataset: both in processes of their own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from .built import build, forget
from .contender import Contender, Job, Unsupported
from .data import Images, Source
from .probe import Request
from .rows import Measure, Row
from .setting import Setting
from .workloads import Data

log = logging.getLogger(__name__)

_GROWTH = ("lmdbpipe", "memmap copy", "torchlmdb")  # who is built a second time, ten times as long
_MEMORY_REPEATS = 3


class Footprint:
    """Measures of one dataset that is built already."""

    def __init__(self, setting: Setting, data: Data) -> None:
        self.data = data
        self.plan = setting.plan
        self.contenders = setting.contenders
        self.work = setting.work
        self.table = setting.table
        self.prober = setting.prober
        self.keep = setting.keep
        self.job = Job(batch_size=data.batch_size, buffer_size=setting.plan.buffer_size)

    def first_batch(self, source: Source, folders: dict[str, Path]) -> None:
        """Milliseconds to the first batch, imports excluded, warm."""
        title = f"{self.data.title}, time to the first batch"
        for contender in self.contenders:
            if contender.name in folders:
                seconds = self._ask("first-batch", title, contender, (source, folders[contender.name]))
                self._add(self._measure("first-batch", title, "ms"), contender, [1e3 * value for value in seconds])

    def memory(self, source: Images, folders: dict[str, Path]) -> None:
        """MiB of own memory while streaming, and the same over a longer dataset for some.

        Those read as many batches of both, the shorter one in more epochs: the most memory of ten times as many batches
        is a little more for any length, as buffers are freed and taken at different times.
        """
        times = self.plan.memory_growth
        title, longer = f"{self.data.title}, memory of a stream", f"{self.data.title}, memory, {times} times the images"
        for contender in self.contenders:
            if contender.name not in folders:
                continue
            epochs = times if contender.name in _GROWTH else 1
            short = self._ask("memory", title, contender, (source, folders[contender.name]), epochs)
            self._add(self._measure("memory", title, "MiB"), contender, [value / 2**20 for value in short])
            if contender.name not in _GROWTH or not short:
                continue
            try:
                long = self._ask("memory", longer, contender, self.build_long(source, contender))
            except Exception as error:
                self.table.failed.append((longer, contender.name, f"{type(error).__name__}: {error}"))
                continue
            finally:
                if not self.keep:
                    forget(self._long_folder(contender))
            self._add(self._measure("memory-long", longer, "MiB"), contender, [value / 2**20 for value in long])
            if len(long) == len(short):
                growth = [after / max(before, 1.0) for after, before in zip(long, short, strict=True)]
                self._add(self._measure("memory-growth", f"{longer}, growth", "times"), contender, growth)

    def prepare(self, source: Images) -> None:
        """Build the longer datasets."""
        for contender in self.contenders:
            if contender.name in _GROWTH:
                self.build_long(source, contender)

    def build_long(self, source: Images, contender: Contender) -> tuple[Images, Path]:
        """Build the longer dataset with one contender."""
        long_source, folder = Images(source.path, self.plan.memory_growth * len(source)), self._long_folder(contender)
        build(contender, long_source, folder)
        return long_source, folder

    def _long_folder(self, contender: Contender) -> Path:
        length = self.plan.memory_growth * self.data.count
        return self.work / f"{self.data.key}-{length}" / contender.folder.replace(" ", "-")

    def _ask(
        self,
        what: Literal["first-batch", "memory"],
        title: str,
        contender: Contender,
        built: tuple[Source, Path],
        epochs: int = 1,
    ) -> list[float]:
        log.info("measuring %s of %s", title, contender.name)
        request = Request(
            what=what,
            contender=contender.name,
            source=built[0],
            folder=built[1],
            job=self.job,
            epochs=epochs,
            repeats=_MEMORY_REPEATS if what == "memory" else self.plan.first_batch_repeats,
        )
        try:
            return self.prober.ask(request)
        except Unsupported as refusal:
            self.table.refused.append((title, contender.name, str(refusal)))
        except Exception as error:
            self.table.failed.append((title, contender.name, str(error)))
        return []

    def _measure(self, name: str, title: str, unit: str) -> Measure:
        return Measure(f"{self.data.key}/{name}", title, unit, "torchlmdb", higher_is_better=False)

    def _add(self, measure: Measure, contender: Contender, values: list[float]) -> None:
        if values:
            self.table.rows.append(Row(measure, contender.name, contender.kind, values))

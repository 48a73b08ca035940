"""Measures: builds every dataset with every contender, checks what they give, then lets them take turns.

In each round every contender of a case has one turn, in an order that moves on by one from round to round, so that a
machine that gets slower or faster in between does so for all. A turn is whole epochs. A contender that breaks is
reported as failed, and the others go on.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .built import build
from .check import Expected, check_get, check_plain, check_transformed
from .contender import Contender, Epochs, Job, Reader, Unsupported
from .data import Source
from .machine import deadline, processor_seconds, settle
from .rows import Measure, Row
from .setting import Setting
from .workloads import Case, Data, Plan

log = logging.getLogger(__name__)

_BUILD_LIMITS = 4  # a build may take this many times as long as a turn


@dataclass(frozen=True)
class _Turn:
    """Some whole epochs, added up."""

    epochs: int
    images: int
    seconds: float
    to_first: float
    """Seconds until the first batch of each epoch came."""
    processor: float
    """Seconds of processor time, of threads and ended worker processes too."""

    def steady(self, batch_size: int) -> float:
        """Images/s without the first batches and the time until they came."""
        return (self.images - self.epochs * batch_size) / max(self.seconds - self.to_first, 1e-9)


@dataclass
class _Entrant:
    """A contender that passed the check of a case, and its turns."""

    contender: Contender
    epochs: Epochs
    length: int
    turns: list[_Turn]

    def slow(self, plan: Plan) -> bool:
        """Whether it had as many turns as slow ones get."""
        return len(self.turns) >= plan.slow_rounds and self.turns[0].seconds > plan.slow_seconds


class Runner:
    """Builds datasets, and measures cases over them."""

    def __init__(self, setting: Setting, contenders: Sequence[Contender]) -> None:
        self.plan = setting.plan
        self.contenders = contenders
        self.work = setting.work
        self.table = setting.table
        self.start_method = multiprocessing.get_start_method()

    def build(self, data: Data, source: Source) -> dict[str, Path]:
        """Build one dataset with every contender; the folders of those that could, by contender."""
        folders: dict[str, Path] = {}
        built: dict[str, Path] = {}
        for contender in self.contenders:
            folder = self.work / f"{data.folder}-{len(source)}" / contender.folder.replace(" ", "-")
            if contender.folder in built:
                folders[contender.name] = built[contender.folder]
                continue
            title = f"{data.title}, build"
            with self._surviving(contender, title), deadline(_BUILD_LIMITS * self.plan.limit_seconds):
                found = build(contender, source, folder)
                folders[contender.name] = built[contender.folder] = folder
                baseline = "torchlmdb" if source.shape else "torchvision"
                took = Measure(f"{data.key}/build", title, "s", baseline, higher_is_better=False)
                self._add(took, contender, [found.seconds])
                size = Measure(f"{data.key}/size", f"{data.title}, on disk", "MiB", baseline, higher_is_better=False)
                self._add(size, contender, [found.size / 2**20])
        return folders

    def measure(self, data: Data, source: Source, folders: dict[str, Path], cases: Sequence[Case]) -> None:
        """Run the cases of one dataset."""
        readers: dict[str, Reader] = {}
        opening = f"{data.title}, open"
        for contender in self.contenders:
            if contender.name in folders:
                with self._surviving(contender, opening), deadline(self.plan.limit_seconds):
                    readers[contender.name] = contender.open(source, folders[contender.name])
        for case in cases:
            log.info("measuring %s, %s", data.title, case.title)
            self._case(case, data, source, readers)
        for reader in readers.values():
            reader.close()

    def _case(self, case: Case, data: Data, source: Source, readers: dict[str, Reader]) -> None:
        title = f"{data.title}, {case.title}"
        transform = None if case.transform is None else case.transform(data.side)
        expected = Expected(source, transform)
        job = Job(
            batch_size=data.batch_size,
            transform=transform,
            buffer_size=self.plan.buffer_size,
            threads=case.threads,
            workers=case.workers,
        )
        entrants = []
        for contender in self.contenders:
            if contender.name not in readers:
                continue
            with self._surviving(contender, title), deadline(self.plan.limit_seconds):
                epochs, length = _begin(case, readers[contender.name], job, expected, self.plan.get_count)
                entrants.append(_Entrant(contender, epochs, length, []))
        for number in range(self.plan.rounds):
            first = number % max(1, len(entrants))
            for entrant in [*entrants[first:], *entrants[:first]]:
                if entrant.slow(self.plan):
                    continue
                alive = False
                with self._surviving(entrant.contender, title), deadline(self.plan.limit_seconds):
                    entrant.turns.append(_turn(entrant.epochs, entrant.length, self.plan.turn_seconds))
                    alive = True
                if not alive:
                    entrants.remove(entrant)
        for entrant in entrants:
            rates = [turn.images / turn.seconds for turn in entrant.turns]
            cores = [turn.processor / turn.seconds for turn in entrant.turns]
            self._add(Measure(case.key, title, "images/s", case.baseline), entrant.contender, rates, cores)
            if case.workers:
                steady = [turn.steady(min(data.batch_size, len(source))) for turn in entrant.turns]
                longer = Measure(f"{case.key}-steady", f"{title}, after the first batch", "images/s", case.baseline)
                self._add(longer, entrant.contender, steady)

    def _add(self, measure: Measure, contender: Contender, values: list[float], cores: Sequence[float] = ()) -> None:
        self.table.rows.append(Row(measure, contender.name, contender.kind, values, list(cores)))

    @contextmanager
    def _surviving(self, contender: Contender, title: str) -> Iterator[None]:
        """Note what a contender refuses or breaks at, and go on; undo what it did to the whole process."""
        settle()
        before = set(multiprocessing.active_children())
        try:
            yield
        except Unsupported as refusal:
            self.table.refused.append((title, contender.name, str(refusal)))
        except Exception as error:
            log.info("%s failed: %s", contender.name, error, exc_info=True)
            lines = f"{type(error).__name__}: {error}".strip().splitlines()
            self.table.failed.append((title, contender.name, lines[0]))
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
        finally:
            if multiprocessing.get_start_method() != self.start_method:
                log.info("%s had changed the start method of all processes", contender.name)
                multiprocessing.set_start_method(self.start_method, force=True)


def _begin(case: Case, reader: Reader, job: Job, expected: Expected, get_count: int) -> tuple[Epochs, int]:
    """The epochs of a case and their length, after one was checked (which also warms caches and compilers)."""
    if case.mode == "get":
        indices = np.random.default_rng(0).permutation(len(expected.source))[:get_count].tolist()
        epochs = reader.get(indices)
        check_get(epochs, expected, indices)
        return epochs, len(indices)
    start: Callable[[Job], Epochs] = getattr(reader, case.mode)
    epochs = start(job)
    if job.transform is not None:
        check_transformed(epochs, expected)
    else:
        check_plain(epochs, expected, ordered=case.mode in ("sequential", "carry"))
    return epochs, len(expected.source)


def _turn(epochs: Epochs, length: int, least_seconds: float) -> _Turn:
    """Take whole epochs for at least so long."""
    settle()
    count, seconds, to_first, processor = 0, 0.0, 0.0, processor_seconds()
    while not count or seconds < least_seconds:
        start = time.perf_counter()
        iterator = iter(epochs)
        batch = next(iterator)
        first = time.perf_counter()
        for batch in iterator:  # noqa: B007 - as a training loop, hold one batch until the next is there
            pass
        seconds += time.perf_counter() - start
        to_first += first - start
        count += 1
        del batch, iterator
    return _Turn(count, count * length, seconds, to_first, processor_seconds() - processor)

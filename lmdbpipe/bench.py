"""``lmdbpipe bench``: how fast a file of the user's own is read on this machine, in every way, beside two floors.

All ways stay open and take turns, so that a machine that gets slower or faster does so for all; a figure is the median
of the turns, and what was read ahead before a turn is not counted. The floors are what no reader can do without: a copy
of as many bytes for each batch out of a memory map, and a read of the file from front to back. With a cold cache the
file is dropped from memory before every turn. The first batch and the memory are measured in a process of its own.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lmdbpipe.codecs import ImageCodec
from lmdbpipe.dataset import LMDBDataset
from lmdbpipe.errors import FormatError
from lmdbpipe.iterable import LMDBIterableDataset
from lmdbpipe.machine import cached, can_drop_cache, drop_cache, own_memory, peak_memory
from lmdbpipe.reader import fixed_steps
from lmdbpipe.records import Records
from lmdbpipe.wrapped import Transform, touched

Counts: TypeAlias = Iterator[float]
"""Reads on with every step, without end or for one epoch, and says how many samples that were."""

_COPY, _READ = "floor: copy of batches out of a memory map", "floor: read of the file, front to back"
_ROUNDS = 3
_THREADS = 2
_FIRST_BATCHES = 7
_WARM_SECONDS = 20.0
"""How long the file may be read to bring it into memory; of a file on a slow disk, what was read then is warm."""
_BLOCK = 1024**2
_WHOLE = 0.98
"""From this part on a file counts as cached, since few places of it are looked at."""
_SMALL = 64
"""Up to this many pixels a side, crops are made from a padded border."""
_CROP = 224
_KEPT: dict[str, Any] = {"persistent_workers": True}
_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and for how long.

    Attributes:
        batch_size: Samples in a batch.
        workers: Worker processes, where there are any.
        seconds: How long each way is read in all.
        transform: What is applied to images; None takes one that suits them.
        transform_name: What it is called.
    """

    batch_size: int = 256
    workers: int = 2
    seconds: float = 1.0
    transform: Transform | None = None
    transform_name: str = ""


class Way(NamedTuple):
    """A way to read."""

    what: str
    how: str
    parallel: int
    """Batches that are made at once, by threads or processes; 0 if the reader itself makes them."""
    ahead: int
    """Batches that may be ready when a turn begins."""
    open: Callable[[], Counts]


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
    transform: str
    rows: list[Row]
    first_batch_ms: dict[str, float]
    memory_bytes: int | None
    notes: list[str]

    def floor(self, cache: str) -> float | None:
        """Samples a second of the floor that ratios are to: a copy of what is in memory, a read of what is not."""
        floor = _COPY if cache == "warm" else _READ
        return next((row.median for row in self.rows if (row.cache, row.what) == (cache, floor)), None)


def bench(file: Path, options: Options) -> Report:
    """Measure a file.

    Raises:
        LMDBPipeError: The file cannot be read.
    """
    records = Records([file])
    manifest = records.databases[0].manifest
    notes: list[str] = []
    options = _with_transform(records, options, notes)
    records.close()
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        firsts, memory = pool.submit(_alone, file, options.batch_size, options.seconds).result()
    if memory is None:
        notes.append("this system does not tell how much memory a process has")
    return Report(
        file=str(file),
        length=manifest.length,
        payload_bytes=manifest.totals["payload_bytes"],
        file_bytes=file.stat().st_size,
        batch_size=options.batch_size,
        transform=options.transform_name,
        rows=[*_warm(file, manifest.length, options, notes), *_cold(file, manifest.length, options, notes)],
        first_batch_ms={order: 1e3 * seconds for order, seconds in firsts.items()},
        memory_bytes=memory,
        notes=notes,
    )


def usual_transform(codec: ImageCodec) -> v2.Compose | None:
    """The transform that most people would train such images with; None for modes of which there is no such custom."""
    channels = _CHANNELS.get(codec.mode or "")
    if channels is None:
        return None
    steps: list[Any] = []
    if codec.size is None:
        steps.append(v2.RandomResizedCrop(_CROP))
    elif max(codec.size) <= _SMALL:
        steps.append(v2.RandomCrop(codec.size, padding=4))
    steps += [v2.RandomHorizontalFlip(), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*steps, v2.Normalize([0.5] * channels, [0.25] * channels)])


def _with_transform(records: Records, options: Options, notes: list[str]) -> Options:
    """The options with a transform, if the file has images for it."""
    if options.transform is not None:
        return options
    places = touched(fixed_steps(records, _nothing, None, None).steps)
    codecs = zip(records.schema.structure.paths, records.schema.codecs, strict=True)
    images = [codec for path, codec in codecs if path in places and isinstance(codec, ImageCodec)]
    transform = usual_transform(images[0]) if images else None
    if transform is None:
        modes = ", ".join(codec.mode or "several modes" for codec in images)
        reason = f"its images are of {modes}" if images else "there are no images where transforms act"
        notes.append(f"no transform is measured, since {reason}; --transform takes one")
        return options
    name = ", ".join(type(step).__name__ for step in transform.transforms)
    return dataclasses.replace(options, transform=transform, transform_name=name)


def _nothing(image: Any) -> Any:
    return image


def _ways(file: Path, length: int, options: Options) -> list[Way]:
    """All ways in which a cached file is read, in the order of the table."""
    size = options.batch_size
    epoch = _epoch(length, size)

    def stream(*, how: str = "inline", **given: Any) -> Counts:
        reader = LMDBIterableDataset(file, batch_size=size, num_threads=_THREADS if how == "threads" else 0, **given)
        if how == "workers":
            return _endless(DataLoader(reader, batch_size=None, num_workers=options.workers, **_KEPT), epoch)
        return _endless(reader, epoch)

    def wrapped(*, how: str) -> Counts:
        dataset = LMDBDataset.from_path(file, transform=options.transform)
        workers: dict[str, Any] = {"num_workers": options.workers, **_KEPT} if how == "workers" else {}
        return _endless(DataLoader(dataset, batch_size=size, shuffle=True, **workers), epoch)

    def each(what: str, opener: Callable[..., Counts], hows: Sequence[str] = ("inline", "threads", "workers")) -> None:
        for how in hows:
            if how == "workers" and not options.workers:
                continue
            parallel = {"inline": 0, "threads": _THREADS, "workers": options.workers}[how]
            ahead = {"inline": 0, "threads": _THREADS + 1, "workers": 2 * options.workers}[how]
            name = how if how == "inline" else f"{parallel} {how}"
            ways.append(Way(what, name, parallel, ahead, functools.partial(opener, how=how)))

    ways = [
        Way(_COPY, "inline", 0, 0, functools.partial(_copies, file, length, epoch)),
        Way(_READ, "inline", 0, 0, functools.partial(_blocks, file, length)),
    ]
    each("stream in order", stream)
    each("stream, shuffled", functools.partial(stream, shuffle=True))
    ways.append(Way("random samples, dataset[i]", "inline", 0, 0, functools.partial(_samples, file, length)))
    if options.transform is not None:
        each("stream, shuffled, transformed", functools.partial(stream, shuffle=True, transform=options.transform))
        each("DataLoader(dataset, shuffle=True), transformed", wrapped, ("inline", "workers"))
    return ways


def _epoch(length: int, batch_size: int) -> list[float]:
    """How many samples each batch of an epoch has."""
    return [float(min(batch_size, length - start)) for start in range(0, length, batch_size)]


def _endless(batches: Iterable[Any], epoch: Sequence[float]) -> Counts:
    """Take epoch after epoch, holding one batch until the next is there, as a training loop does."""
    while True:
        for batch, count in zip(batches, epoch, strict=True):  # noqa: B007
            yield count


def _samples(file: Path, length: int) -> Counts:
    dataset, rng = LMDBDataset.from_path(file), np.random.default_rng(0)
    while True:
        for index in rng.integers(length, size=1024).tolist():
            dataset[index]
            yield 1.0


def _copies(file: Path, length: int, epoch: Sequence[float]) -> Counts:
    """Copy as many bytes for a batch as it has in the file, into fresh memory."""
    memory = np.memmap(file, mode="r").view(np.ndarray)
    ends = (np.cumsum([0.0, *epoch]) * (len(memory) / length)).astype(np.int64).tolist()
    while True:
        for (start, end), count in zip(itertools.pairwise(ends), epoch, strict=True):
            batch = memory[start:end].copy()  # noqa: F841 - held, as a training loop does
            yield count


def _blocks(file: Path, length: int, *, once: bool = False) -> Counts:
    """Read the file in blocks; in samples, by its bytes a sample."""
    buffer, per_byte = bytearray(_BLOCK), length / file.stat().st_size
    with file.open("rb", buffering=0) as opened:
        while True:
            while count := opened.readinto(buffer):
                yield count * per_byte
            if once:
                return
            opened.seek(0)


def _warm(file: Path, length: int, options: Options, notes: list[str]) -> list[Row]:
    """Let all ways take turns over a file that was read before."""
    _take(_blocks(file, length, once=True), _WARM_SECONDS)
    part = cached(file)
    if part is None:
        notes.append("this system does not tell how much of the file is in memory")
    elif part < _WHOLE:
        notes.append(f"only {part:.0%} of the file was in memory: the figures called warm include reads from disk")
    ways = _ways(file, length, options)
    rows = {way: Row(cache="warm", what=way.what, how=way.how) for way in ways}
    reading: dict[Way, Counts] = {}
    try:
        for way in sorted(ways, key=lambda way: "workers" not in way.how):  # threads do not go well with a fork
            with _noted(rows, way):
                counts = way.open()
                next(counts)
                reading[way] = counts
        for number in range(_ROUNDS):
            for way in [*ways[number % len(ways) :], *ways[: number % len(ways)]]:
                if way in reading and not rows[way].missing:
                    with _noted(rows, way):
                        rows[way].rates.append(_turn(way, reading[way], options.seconds / _ROUNDS))
    finally:
        for counts in reading.values():
            counts.close()  # type: ignore[attr-defined]
        reading.clear()
        gc.collect()  # loaders hold on to themselves, and so to their worker processes and the file
    return list(rows.values())


@contextlib.contextmanager
def _noted(rows: dict[Way, Row], way: Way) -> Iterator[None]:
    """Note why a way could not be measured, and go on with the others.

    Raises:
        FormatError: The file is damaged.
    """
    try:
        yield
    except FormatError:
        raise
    except Exception as error:  # a transform may raise anything, and worker processes need it pickled
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        rows[way] = Row(cache="warm", what=way.what, how=way.how, missing=reason)


def _turn(way: Way, counts: Counts, seconds: float) -> float:
    """Samples a second, over whole groups of batches that are made at once."""
    for _ in range(way.ahead):
        next(counts)
    group = max(way.parallel, 1)
    least = 2 * group if way.parallel else 1
    start, samples, steps = time.perf_counter(), 0.0, 0
    while steps < least or steps % group or time.perf_counter() - start < seconds:
        samples += next(counts)
        steps += 1
    return samples / (time.perf_counter() - start)


def _take(counts: Counts, seconds: float) -> float:
    """Read for some seconds, or until there is no more; samples a second."""
    start, samples = time.perf_counter(), 0.0
    for count in counts:
        samples += count
        if time.perf_counter() - start >= seconds:
            break
    return samples / (time.perf_counter() - start)


def _cold(file: Path, length: int, options: Options, notes: list[str]) -> list[Row]:
    """Read a file that is not in memory, for some seconds or to its end."""
    names = (_READ, "stream in order")
    rows = {name: Row(cache="cold", what=name, how="inline") for name in names}
    if not can_drop_cache():
        reason = "this system cannot be asked to forget a file"
        return [Row(cache="cold", what=name, how="inline", missing=reason) for name in names]
    kept = 0.0
    for number in range(_ROUNDS):
        for name in names if number % 2 == 0 else reversed(names):
            kept = max(kept, drop_cache(file) or 0.0)
            if name == names[0]:
                rate = _take(_blocks(file, length, once=True), options.seconds / _ROUNDS)
            else:
                reader = LMDBIterableDataset(file, batch_size=options.batch_size)
                counts = (
                    float(min(options.batch_size, length - start)) for start in itertools.count(0, options.batch_size)
                )
                rate = _take((count for _, count in zip(reader, counts, strict=False)), options.seconds / _ROUNDS)
                reader.records.close()
            rows[name].rates.append(rate)
    if kept > 1 - _WHOLE:
        notes.append(f"{kept:.0%} of the file stayed in memory: the figures called cold are too high")
    return list(rows.values())


def _alone(file: Path, batch_size: int, seconds: float) -> tuple[dict[str, float], int | None]:
    """Seconds until the first batch, in order and shuffled, and the bytes that streams take; in a fresh process."""
    memory = _memory(file, batch_size, seconds)
    times: dict[str, list[float]] = {"in order": [], "shuffled": []}
    for _, order in itertools.product(range(_FIRST_BATCHES), times):
        start = time.perf_counter()
        reader = LMDBIterableDataset(file, batch_size=batch_size, shuffle=order == "shuffled")
        next(iter(reader))
        times[order].append(time.perf_counter() - start)
        reader.records.close()
    return {order: statistics.median(values) for order, values in times.items()}, memory


def _memory(file: Path, batch_size: int, seconds: float) -> int | None:
    measure = peak_memory if own_memory() is None else own_memory
    before = most = measure()
    if before is None or most is None:
        return None
    for shuffle in (False, True):
        start = time.perf_counter()
        for _ in LMDBIterableDataset(file, batch_size=batch_size, shuffle=shuffle):
            most = max(most, measure() or 0)
            if time.perf_counter() - start >= seconds:
                break
    return most - before


def as_text(report: Report) -> str:
    """The report as a table of plain text."""
    per_sample = report.payload_bytes / report.length
    lines = [
        f"{report.file}: {report.length:,} samples, {report.payload_bytes / 1e6:,.1f} MB of payload "
        f"({per_sample:,.0f} bytes a sample), on a machine of {os.cpu_count()} cores",
        f"Batches of {report.batch_size}; medians of {_ROUNDS} rounds in which all took turns; MB of payload; "
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
    memory = "not known" if report.memory_bytes is None else f"{report.memory_bytes / 1e6:,.1f} MB"
    lines += ["", *_aligned(table), "", f"Time to the first batch: {firsts}", f"Memory of a stream, at most: {memory}"]
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


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lay rows out in columns, figures to the right; a row that is shorter than the others ends where it ends."""
    full = [row for row in table if len(row) == len(table[0])]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    lines = []
    for row in table:
        names = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
        figures = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=False)]
        lines.append("  ".join([*names, *figures]).rstrip())
    return lines

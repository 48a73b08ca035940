"""Measures a file: all ways stay open and take turns, so that a machine that gets slower or faster does so for all.

A figure is the median of the turns, and what was read ahead before a turn is not counted. The floors are what no reader
can do without: a copy of as many bytes for each batch out of a memory map, and a read of the file from front to back.
With a cold cache the file is dropped from memory before every turn. The first batch and the memory are measured in a
process of its own.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import itertools
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from lmdbpipe.bench.report import READ, Report, Row
from lmdbpipe.bench.ways import Counts, Options, Way, all_ways, blocks, epoch_sizes, with_transform
from lmdbpipe.errors import FormatError
from lmdbpipe.iterable import LMDBIterableDataset
from lmdbpipe.machine import cached, can_drop_cache, drop_cache, own_memory, peak_memory
from lmdbpipe.records import Records

_ROUNDS = 3
_FIRST_BATCHES = 7
_WARM_SECONDS = 20.0
"""How long the file may be read to bring it into memory; of a file on a slow disk, what was read then is warm."""
_WHOLE = 0.98
"""From this part on a file counts as cached, since few places of it are looked at."""


def bench(file: Path, options: Options) -> Report:
    """Measure a file.

    Raises:
        LMDBPipeError: The file cannot be read.
    """
    file = file.expanduser()
    records = Records([file])
    manifest = records.databases[0].manifest
    notes: list[str] = []
    options = with_transform(records, options, notes)
    records.close()
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        firsts, memory = pool.submit(_alone, file, options.batch_size, options.seconds).result()
    if memory is None:
        notes.append("this system does not tell how much memory a process has")
    elif own_memory() is None:
        notes.append("this system does not tell a process's own memory from the pages of files that it maps")
    return Report(
        file=str(file),
        length=manifest.length,
        payload_bytes=manifest.totals["payload_bytes"],
        file_bytes=file.stat().st_size,
        batch_size=options.batch_size,
        rounds=_ROUNDS,
        transform=options.transform_name,
        rows=[*_warm(file, manifest.length, options, notes), *_cold(file, manifest.length, options, notes)],
        first_batch_ms={order: 1e3 * seconds for order, seconds in firsts.items()},
        memory_bytes=memory,
        notes=notes,
    )


def _warm(file: Path, length: int, options: Options, notes: list[str]) -> list[Row]:
    """Let all ways take turns over a file that was read before."""
    _take(blocks(file, length, once=True), _WARM_SECONDS)
    part = cached(file)
    if part is None:
        notes.append("this system does not tell how much of the file is in memory")
    elif part < _WHOLE:
        notes.append(f"only {part:.0%} of the file was in memory: the figures called warm include reads from disk")
    ways = all_ways(file, length, options)
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
    """Note why a way could not be measured, also that it would not be the one that is named, and go on with the others.

    Raises:
        FormatError: The file is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "no threads read ahead")
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
    names = (READ, "stream in order")
    rows = {name: Row(cache="cold", what=name, how="inline") for name in names}
    if not can_drop_cache():
        reason = "this system cannot be asked to forget a file"
        return [Row(cache="cold", what=name, how="inline", missing=reason) for name in names]
    kept = 0.0
    for number in range(_ROUNDS):
        for name in names if number % 2 == 0 else reversed(names):
            kept = max(kept, drop_cache(file) or 0.0)
            if name == names[0]:
                rate = _take(blocks(file, length, once=True), options.seconds / _ROUNDS)
            else:
                reader = LMDBIterableDataset(file, batch_size=options.batch_size)
                sizes = epoch_sizes(length, options.batch_size)
                rate = _take((count for _, count in zip(reader, sizes, strict=True)), options.seconds / _ROUNDS)
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

"""A pass over a big file that is not in memory, taking turns with ``dd`` and a plain read over the same file."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lmdbpipe.machine import drop_cache

from .built import build, forget
from .contender import Job, Kind
from .contenders.ours import FILE, LMDBPipe
from .data import Images
from .machine import filler
from .probe import Request
from .rows import Measure, Row
from .setting import Setting

_TITLE = "cold cache, sequential"
_BLOCK = 1 << 20
_BATCH = 128
_STILL_COLD = 0.02  # part of the file that may still be cached when a pass begins

_Reader = tuple[Kind, Callable[[Path], float]]


def measure_cold(setting: Setting, source: Images) -> None:
    """Build the file, then let everybody read it in turns, dropping it from the page cache before each."""
    if not any(contender.kind == "ours" for contender in setting.contenders):
        return
    long_source, folder = _long(source, setting.plan.cold_bytes), _cold_folder(setting, source)
    try:
        prepare_cold(setting, source)
    except Exception as error:
        setting.table.failed.append((_TITLE, LMDBPipe.name, f"{type(error).__name__}: {error}"))
    else:
        _take_turns(setting, folder / FILE, _readers(setting, long_source, folder))
    finally:
        if not setting.keep:
            forget(folder)


def prepare_cold(setting: Setting, source: Images) -> None:
    """Build the file that is read."""
    build(LMDBPipe(), _long(source, setting.plan.cold_bytes), _cold_folder(setting, source))


def _cold_folder(setting: Setting, source: Images) -> Path:
    return setting.work / f"cold-{len(_long(source, setting.plan.cold_bytes))}" / LMDBPipe.folder


def _long(source: Images, size: int) -> Images:
    """The same images repeated until they have so many bytes."""
    pixels = source[0][0]
    return Images(source.path, max(len(source), size // (pixels.width * pixels.height * 3)))


def _readers(setting: Setting, source: Images, folder: Path) -> dict[str, _Reader]:
    """Who reads: each gives the seconds that its pass over the file took."""
    readers: dict[str, _Reader] = {}
    if shutil.which("dd"):
        readers["dd"] = "floor", _dd
    else:
        setting.table.missing.append(("dd", "not on the path; the plain read takes its place"))
    readers["plain read"] = "floor", _plain_read
    for readahead in (True, False):
        request = Request(
            what="pass",
            contender=LMDBPipe.name,
            source=source,
            folder=folder,
            job=Job(batch_size=_BATCH),
            readahead=readahead,
        )
        readers[f"lmdbpipe readahead={readahead}"] = "ours", partial(_ours, setting, request)
    return readers


def _take_turns(setting: Setting, file: Path, readers: dict[str, _Reader]) -> None:
    """Measure each reader once a round, with the file dropped from the page cache, which is full of something else.

    So it is on a machine that has run for a while. Where memory is free instead, a virtual machine's host may have
    taken it back: a reader then waits for the host at every page that it is the first to use, and dd took up to three
    times as long after another reader as after itself.
    """
    speeds: dict[str, list[float]] = {name: [] for name in readers}
    names, notes = list(readers), setting.table.notes
    with filler(setting.work) as fill:
        for number in range(setting.plan.cold_rounds):
            first = number % len(names)
            for name in [*names[first:], *names[:first]]:
                if name not in speeds:
                    continue
                still = drop_cache(file)
                if setting.plan.fill_memory and not fill():
                    notes.append("cold cache: not all free memory was filled before each pass")
                if still is None:
                    notes.append("cold cache: this system does not tell whether the file was cached")
                elif still > _STILL_COLD:
                    notes.append(f"cold cache: {still:.0%} of the file was cached before a pass of {name}")
                try:
                    speeds[name].append(file.stat().st_size / 1e9 / readers[name][1](file))
                except Exception as error:
                    del speeds[name]
                    setting.table.failed.append((_TITLE, name, f"{type(error).__name__}: {error}"))
    measure = Measure("cold", _TITLE, "GB/s", "dd" if "dd" in speeds else "plain read")
    setting.table.rows += [Row(measure, name, readers[name][0], values) for name, values in speeds.items()]


def _ours(setting: Setting, request: Request, file: Path) -> float:
    return setting.prober.ask(request)[0]


def _dd(file: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["dd", f"if={file}", "of=/dev/null", f"bs={_BLOCK}"], check=True, capture_output=True)
    return time.perf_counter() - start


def _plain_read(file: Path) -> float:
    buffer = bytearray(_BLOCK)
    start = time.perf_counter()
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass
    return time.perf_counter() - start

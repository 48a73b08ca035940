"""What the machine is and has free, what datasets and processes take of it; a deadline, and quiet from garbage."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_PACKAGES = (
    "lmdbpipe",
    "lmdb",
    "torch",
    "torchvision",
    "numpy",
    "Pillow",
    "numba",
    "ffcv",
    "torchlmdb",
    "webdataset",
    "litdata",
    "datasets",
    "mosaicml-streaming",
    "grain",
    "array-record",
)
_LEFT_FREE = 512 * 1024**2
"""Bytes: the kernel keeps some memory free."""
_BLOCK = 512  # st_blocks counts these, whatever the file system's own blocks are


def describe() -> dict[str, str]:
    """The machine and the versions of everything measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    machine = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch threads": str(torch.get_num_threads()),
    }
    for name in _PACKAGES:
        try:
            machine[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return machine


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def disk_usage(folder: Path) -> int:
    """Bytes on disk of all files under a folder: in blocks, so that a sparse file counts as what it takes."""
    stats = [file.stat() for file in folder.rglob("*") if file.is_file()]
    return sum(stat.st_blocks * _BLOCK if hasattr(stat, "st_blocks") else stat.st_size for stat in stats)


@contextmanager
def filler(folder: Path) -> Iterator[Callable[[], bool]]:
    """Give what fills the free memory with page cache: zeros, of a file without content.

    It says whether it could: not where the system does not tell what is free, or a disk stores no holes.

    Args:
        folder: Where the file lies meanwhile.
    """
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        if (size := _memory("MemTotal")) is not None:
            file.truncate(size)
        block = bytearray(1 << 20)

        def fill() -> bool:
            for _ in range((size or 0) // len(block)):
                if (_memory("MemFree") or 0) < _LEFT_FREE:
                    return True
                if not file.readinto(block):
                    file.seek(0)
            return False

        yield fill


def _memory(entry: str) -> int | None:
    """Bytes that Linux says of its memory; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:")), None)


def processor_seconds() -> float:
    """Processor time of this process so far, its threads and its ended children included."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread after so many seconds, where the system has timers for it."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def expire(*_: object) -> None:
        raise TimeoutError(f"nothing after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def imported() -> Iterator[None]:
    """Take what exists by now out of the garbage collector's sight: imports make a full collection take long."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def settle() -> None:
    """Collect garbage, so that no turn pays for the one before."""
    gc.collect()

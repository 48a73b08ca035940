"""What the machine is, what a process has in memory, what is cached of a file. Where only Linux knows, else None."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
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
    "ffcv",
    "torchlmdb",
    "webdataset",
    "litdata",
    "datasets",
    "mosaicml-streaming",
    "grain",
    "array-record",
)
_BLOCK = 512  # st_blocks counts these, whatever the file system's own blocks are
_PROBES = 256
_DROPS = 10
_DROP_SECONDS = 0.1


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


def own_memory() -> int | None:
    """Bytes of memory that are this process's own: not the pages of files that it maps. None where unknown."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    try:
        return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) << 10
    except KeyError:
        return None


def processor_seconds() -> float:
    """Processor time of this process so far, its threads and its ended children included."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_memory() -> int:
    """Bytes of the process's largest resident size so far, file mappings included."""
    resource = importlib.import_module("resource")
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def drop_cache(path: Path) -> float | None:
    """Ask the kernel to forget a file that nobody maps; the part still cached after that, or None where unknown."""
    if not hasattr(os, "posix_fadvise"):
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # dirty pages are not dropped
        for _ in range(_DROPS):  # nor are, the first time, those that the kernel is still busy with
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            cached = _cached(descriptor)
            if not cached:
                break
            time.sleep(_DROP_SECONDS)
        return cached
    finally:
        os.close(descriptor)


def _cached(descriptor: int) -> float | None:
    """The part of some evenly spread places of a file that can be read without waiting for the disk."""
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    size, found = os.fstat(descriptor).st_size, 0
    for probe in range(_PROBES):
        try:
            found += os.preadv(descriptor, [bytearray(1)], size * probe // _PROBES, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        except OSError:
            return None  # the file system cannot tell
    return found / _PROBES


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

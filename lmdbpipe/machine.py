"""What of a file is in the page cache, and what memory a process has: what only some systems know is None elsewhere."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

_PROBES = 256
_DROPS = 10
_DROP_SECONDS = 0.1


def cached(path: Path) -> float | None:
    """The part of a file that is in memory, of 256 places spread over it; None where that is not known."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _cached(descriptor)
    finally:
        os.close(descriptor)


def drop_cache(path: Path) -> float | None:
    """Ask the kernel to forget a file that nobody maps; the part still cached after that, or None where unknown."""
    if not can_drop_cache():
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # dirty pages are not dropped
        for _ in range(_DROPS):  # nor are, the first time, those that the kernel is still busy with
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            part = _cached(descriptor)
            if not part:
                break
            time.sleep(_DROP_SECONDS)
        return part
    finally:
        os.close(descriptor)


def can_drop_cache() -> bool:
    """Whether this system can be asked to forget a file."""
    return hasattr(os, "posix_fadvise")


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


def peak_memory() -> int | None:
    """Bytes of the process's largest resident size so far, file mappings included; None where unknown."""
    try:
        resource = importlib.import_module("resource")
    except ModuleNotFoundError:
        return None
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10

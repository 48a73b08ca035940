"""Shared memory without a name: gone with the last process that has it.

On Linux it is a memory file (``memfd_create``), which takes room only where it is written to, and is not bounded by
what ``/dev/shm`` may hold: 64 MB in many containers. Elsewhere it is torch's shared memory.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Bytes = npt.NDArray[np.uint8]


class Arena:
    """Shared memory of some bytes, zeros at first. Pickled for another process, it is the same memory there.

    Args:
        buffer: The memory.
        handle: Gives what the memory is rebuilt from in another process: a function, and its arguments.
    """

    def __init__(self, buffer: Any, handle: Callable[[], tuple[Callable[..., Arena], tuple[Any, ...]]]) -> None:
        self.buffer = memoryview(buffer)
        self.bytes: Bytes = np.frombuffer(self.buffer, np.uint8)
        self.handle = handle

    def __repr__(self) -> str:
        return f"Arena({len(self.bytes)} bytes)"

    def view(self, offset: int, nbytes: int, ended: Callable[[int], None], number: int) -> Bytes:
        """View some bytes, and call ``ended(number)`` once nobody holds the view, or a tensor, view or slice of it."""
        view = np.frombuffer(self.buffer, np.uint8, nbytes, offset)  # over a buffer: views of it refer to it
        weakref.finalize(view, ended, number).atexit = False
        return view


def make_arena(size: int) -> Arena:
    """Make shared memory of some bytes."""
    try:
        descriptor = os.memfd_create("lmdbpipe")
    except (AttributeError, OSError):  # another system, or one that does not let us
        return _of_storage(torch.UntypedStorage._new_shared(size))  # type: ignore[no-untyped-call]
    os.ftruncate(descriptor, size)
    arena = Arena(mmap.mmap(descriptor, size), lambda: (_of_file, (DupFd(descriptor), size)))
    weakref.finalize(arena, os.close, descriptor).atexit = False
    return arena


def _of_file(handle: Any, size: int) -> Arena:
    descriptor = handle.detach()
    try:
        return Arena(mmap.mmap(descriptor, size), _not_again)
    finally:
        os.close(descriptor)  # the map has its own


def _of_storage(storage: torch.UntypedStorage) -> Arena:
    memory = torch.empty(0, dtype=torch.uint8).set_(storage)
    return Arena(memory.numpy().data, lambda: (_of_storage, (storage,)))


def _not_again() -> Any:
    raise ValueError("this memory belongs to another process, which alone can hand it on")


ForkingPickler.register(Arena, lambda arena: arena.handle())

"""Batches on their way from a worker process to the main one, through shared memory that is used again and again.

torch sends every tensor of a worker in a fresh shared-memory segment: a file descriptor to pass, and every page faulted
in on both sides. Here a worker makes its batches in a few shared slots to begin with (`lend`; what was made elsewhere
is copied into one), and the main process gets a tensor over the slot; the slot is free again once nobody in either
process holds it. All slots of one size are one piece of shared memory, a ring, whose handle travels with the first
messages; later ones name the slot. A byte in front of the slots says whether the main process has one, another whether
it knows the ring. Who holds more than a few batches gets copies of the others; where no slot is free, torch's own way
is taken; small tensors travel in the message. Rings are unnamed and gone with the processes.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import get_worker_info

from lmdbpipe.arena import Arena, Bytes, make_arena

SMALLEST = 64 * 1024
"""Bytes below which a tensor travels in the message itself."""
_SLOTS = 8
_RING_BYTES = 512 * 1024**2
"""The most shared memory a worker takes for its slots of one size; a size is a power of two."""
_HELD = 4
"""How many slots of a worker's ring the main process may hold; it copies what comes beyond."""
_FLAGS = mmap.PAGESIZE
"""Bytes before the first slot. Each of the first says whether the main process has the slot of that number."""
_KNOWN, _RETIRED = _SLOTS, _SLOTS + 1
"""The bytes that say whether the main process knows the ring, and whether it wants another one in its place."""


class SharedTensor(torch.Tensor):
    """A plain tensor that travels by way of a slot; in the main process it arrives as a plain tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self.detach().as_subclass(torch.Tensor).clone()


def travels() -> bool:
    """Whether what is made here goes to another process: in a worker process it does."""
    info = get_worker_info()
    return info is not None and getattr(info, "worker_method", "process") != "thread"


def share(batch: Any) -> Any:
    """Mark the tensors of a batch (in lists, tuples and dicts) that `travels`, to go by way of slots."""
    if type(batch) is torch.Tensor and batch.device.type == "cpu" and batch.layout == torch.strided:
        return batch.as_subclass(SharedTensor)
    if type(batch) in (list, tuple):
        return type(batch)(map(share, batch))
    if type(batch) is dict:
        return {key: share(item) for key, item in batch.items()}
    return batch


_Form = tuple[str, tuple[int, ...], tuple[int, ...]]
"""How a tensor lies in its memory: dtype, shape and strides, as what pickle writes without asking anybody."""


class _Ring:
    """A worker's slots of one size: shared memory that begins with a page of flags."""

    def __init__(self, size: int) -> None:
        self.key = (os.getpid(), time.monotonic_ns())  # a later process may get the number of an ended one
        self.size = size
        self.slots = min(_SLOTS, _RING_BYTES // size)
        self.arena = make_arena(_FLAGS + self.slots * size)
        self.address = int(self.arena.bytes.ctypes.data)
        self._taken = [False] * self.slots
        self._lock = threading.Lock()

    def take(self) -> int | None:
        """Take a free slot, if there is one."""
        with self._lock:
            for number, taken in enumerate(self._taken):
                if not taken and not self.arena.bytes[number]:
                    self._taken[number] = True
                    return number
        return None

    def give_back(self, number: int) -> None:
        """Say that this process holds a slot no longer."""
        self._taken[number] = False

    def holds(self, number: int) -> bool:
        """Whether only this process has a slot."""
        return self._taken[number] and not self.arena.bytes[number]

    def start(self, number: int) -> int:
        """Where a slot begins in the shared memory."""
        return _FLAGS + number * self.size

    def send(self, number: int, offset: int, form: _Form) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
        """Pickle the place of bytes in a slot, which from now on the main process has."""
        self.arena.bytes[number] = 1
        arena = None if self.arena.bytes[_KNOWN] else self.arena
        return _rebuild, (self.key, number, arena, self.start(number) + offset, form)


class _Received(NamedTuple):
    """In the main process: a worker's ring, the slots that somebody here holds, and those that a fork may hold, too."""

    process: int
    arena: Arena
    held: set[int]
    forked: set[int]

    def give_back(self, number: int) -> None:
        """Let the worker have a slot again.

        But what a fork of this process drops, this one may still hold; and what this one drops, a fork: such slots are
        never used again, and a ring of many of them is given up.
        """
        if self.process != os.getpid():
            return
        self.held.discard(number)
        if number not in self.forked:
            self.arena.bytes[number] = 0
        elif len(self.forked) >= _HELD:
            self.arena.bytes[_RETIRED] = 1


_making = threading.Lock()
_rings: dict[int, _Ring] = {}
"""In a worker: its rings, by the size of their slots."""
_lent: dict[int, tuple[_Ring, int]] = {}
"""In a worker: the slots that were lent, by their addresses."""
_received: dict[tuple[int, int], _Received] = {}
"""In the main process: each worker's rings."""


def _ring(nbytes: int) -> _Ring:
    """The ring of this process for tensors of so many bytes."""
    size = 1 << (nbytes - 1).bit_length()  # pages of a slot that are never written take no memory
    with _making:
        ring = _rings.get(size)
        if ring is None or ring.key[0] != os.getpid() or ring.arena.bytes[_RETIRED]:  # or it was inherited by a fork
            for address in [address for address, (lender, _) in list(_lent.items()) if lender is ring]:
                del _lent[address]  # what is not sent yet is copied
            ring = _rings[size] = _Ring(size)
        return ring


def lend(nbytes: int) -> Bytes | None:
    """In a worker: give uninitialised bytes of a slot, which then travel without being copied.

    Returns:
        uint8 [nbytes]; None in other processes, for few bytes, and where no slot is free.
    """
    if nbytes < SMALLEST or not travels():
        return None
    ring = _ring(nbytes)
    number = ring.take()
    if number is None:
        return None
    start = ring.start(number)
    _lent[ring.address + start] = (ring, number)
    return ring.arena.view(start, nbytes, ring.give_back, number)


def _reduce(tensor: SharedTensor) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
    """Pickle the number of the slot that a tensor lies in, or of a free one after copying it there."""
    plain = tensor.detach().as_subclass(torch.Tensor)
    if not _is_dense(plain):
        plain = plain.contiguous()
    form = str(plain.dtype)[len("torch.") :], tuple(plain.shape), plain.stride()
    if plain.nbytes < SMALLEST:
        return _from_bytes, (_bytes(plain).tobytes(), form)
    ring, number = _lent.get(plain.untyped_storage().data_ptr(), (None, None))
    if ring is not None and number is not None and ring.holds(number):
        return ring.send(number, int(plain.storage_offset()) * plain.element_size(), form)
    ring = _ring(plain.nbytes)
    number = ring.take()
    if number is None:
        return reduce_tensor(plain)  # type: ignore[no-any-return, no-untyped-call]
    # by NumPy: in one thread, since other workers have the other cores
    start = ring.start(number)
    ring.arena.bytes[start : start + plain.nbytes] = _bytes(plain)
    message = ring.send(number, 0, form)
    ring.give_back(number)
    return message


def _bytes(dense: torch.Tensor) -> Bytes:
    """View the memory of a dense tensor."""
    return dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy()


def _from_bytes(data: bytes, form: _Form) -> torch.Tensor:
    """Make a tensor of the bytes that came with the message."""
    return _formed(torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0), form)


def _formed(data: torch.Tensor, form: _Form) -> torch.Tensor:
    """See bytes as the tensor that lay in them."""
    name, shape, strides = form
    return data.view(getattr(torch, name)).as_strided(shape, strides)


def _rebuild(key: tuple[int, int], number: int, arena: Arena | None, start: int, form: _Form) -> torch.Tensor:
    """Give a tensor over its slot; a copy where many slots of a worker are held here, so that some are left to it."""
    if arena is not None and key not in _received:
        for known, other in list(_received.items()):  # in place of a ring that was given up
            if known[0] == key[0] and len(other.arena.bytes) == len(arena.bytes):
                del _received[known]
        _forget_with_worker(key)
        _received[key] = _Received(os.getpid(), arena, set(), set())
        arena.bytes[_KNOWN] = 1
    received = _received[key]
    many = len(received.held) >= _HELD
    received.held.add(number)
    nbytes = math.prod(form[1]) * getattr(torch, form[0]).itemsize
    data = received.arena.view(start, nbytes, received.give_back, number)
    return _formed(torch.from_numpy(data.copy() if many else data), form)


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor's elements fill its memory without gaps or overlaps, in whatever order of axes."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _before_fork() -> None:
    """Remember what the child holds, too."""
    for received in list(_received.values()):
        received.forked.update(received.held)


def _forget_with_worker(key: tuple[int, int]) -> None:
    """Let go of a ring when the object of the worker's process goes, which the loader's iterator has."""
    for process in multiprocessing.active_children():
        if process.pid == key[0]:
            weakref.finalize(process, _received.pop, key, None).atexit = False


ForkingPickler.register(SharedTensor, _reduce)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)

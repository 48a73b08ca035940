"""Batches on their way from a worker process to the main one, through shared memory that is used again and again.

torch sends every tensor of a worker in a fresh shared-memory segment: a file descriptor to pass, and every page faulted
in on both sides. Here a worker copies a large tensor into one of a few shared slots, and the main process copies it out
while it unpickles the message. A slot's handle travels with the first message that uses it, later ones name its number;
a byte in shared memory says whether the slot is free, another whether the main process knows it. Where no slot is free, or the
tensor is small or huge, torch's own way is taken. Slots are unnamed and gone with the processes.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import get_worker_info

from lmdbpipe.transforms.pool import POOL

_SMALLEST = 64 * 1024
"""Bytes below which torch's own way is as fast."""
_SLOTS = 8
_RING_BYTES = 512 * 1024**2
"""The most shared memory a worker takes for its slots."""
_FREE, _BUSY, _KNOWN = 0, 1, 2


class SharedTensor(torch.Tensor):
    """A plain tensor that travels by way of a slot; in the main process it arrives as a plain tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl


def share(batch: Any) -> Any:
    """In a worker process, mark the large tensors of a batch (in lists, tuples and dicts) to travel by way of slots."""
    info = get_worker_info()
    if info is None or getattr(info, "worker_method", "process") == "thread":
        return batch
    return _mark(batch)


def _mark(value: Any) -> Any:
    if type(value) is torch.Tensor and value.device.type == "cpu" and value.nbytes >= _SMALLEST:
        return value.as_subclass(SharedTensor)
    if type(value) in (list, tuple):
        return type(value)(map(_mark, value))
    if type(value) is dict:
        return {key: _mark(item) for key, item in value.items()}
    return value


class _Ring:
    """A worker's slots of one size, and two bytes of shared state for each."""

    _numbers = itertools.count()

    def __init__(self, size: int) -> None:
        self.key = (os.getpid(), next(self._numbers))
        self.slots: list[torch.Tensor] = []
        self.state = torch.zeros((_SLOTS, 2), dtype=torch.uint8).share_memory_()
        self.size = size

    def take(self) -> int | None:
        """Find a free slot, or make one; None if there may be no more."""
        for number in range(len(self.slots)):
            if self.state[number, 0] == _FREE:
                return number
        if len(self.slots) == _SLOTS or (len(self.slots) + 1) * self.size > _RING_BYTES:
            return None
        self.slots.append(torch.empty(self.size, dtype=torch.uint8).share_memory_())
        return len(self.slots) - 1


_rings: dict[int, _Ring] = {}
"""In a worker: its rings by the size of a slot."""
_received: dict[tuple[int, int], dict[int, torch.Tensor]] = {}
_states: dict[tuple[int, int], torch.Tensor] = {}
"""In the main process: the slots and states of workers' rings."""
_lock = threading.Lock()


def _reduce(tensor: SharedTensor) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
    plain = tensor.detach().as_subclass(torch.Tensor)
    if get_worker_info() is None and os.getpid() not in {key[0] for key in (ring.key for ring in _rings.values())}:
        _rings.clear()  # inherited by a fork, or not in a worker at all
    strides = _dense_strides(plain)
    ring = _rings.setdefault(plain.nbytes, _Ring(plain.nbytes)) if strides is not None else None
    with _lock:
        number = ring.take() if ring is not None else None
        if ring is None or number is None:
            return reduce_tensor(plain)  # type: ignore[no-any-return]
        ring.state[number, 0] = _BUSY
    slot = ring.slots[number]
    slot.view(plain.dtype).as_strided(plain.shape, plain.stride()).copy_(plain)
    handles = None if ring.state[number, 1] == _KNOWN else (slot, ring.state)
    return _rebuild, (ring.key, number, handles, plain.dtype, tuple(plain.shape), plain.stride())


def _rebuild(
    key: tuple[int, int],
    number: int,
    handles: tuple[torch.Tensor, torch.Tensor] | None,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> torch.Tensor:
    """Copy a tensor out of its slot, and free the slot."""
    with _lock:
        if handles is not None:
            if key not in _received:
                _forget_dead()
            _received.setdefault(key, {})[number], _states[key] = handles
        slot, state = _received[key][number], _states[key]
    state[number, 1] = _KNOWN
    out = POOL.empty((slot.numel() // dtype.itemsize,), dtype)
    out.copy_(slot.view(dtype))
    state[number, 0] = _FREE
    return out.as_strided(shape, strides)


def _dense_strides(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """A tensor's strides, if its elements fill its memory without gaps or overlaps, in whatever order of axes."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return None
        expected *= size
    return tensor.stride()


def _forget_dead() -> None:
    """Let go of the slots of workers that have ended."""
    for key in list(_received):
        if not _is_alive(key[0]):
            del _received[key], _states[key]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


ForkingPickler.register(SharedTensor, _reduce)

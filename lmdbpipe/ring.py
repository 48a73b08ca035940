"""Batches on their way from a worker process to the main one, through shared memory that is used again and again.

torch sends every tensor of a worker in a fresh shared-memory segment: a file descriptor to pass, and every page faulted
in on both sides. Here a worker copies a large tensor into one of a few shared slots, and the main process copies it out
while it unpickles the message. A slot's handle travels with the first message that uses it, later ones name its number;
a byte in shared memory says whether the slot is free, another whether the main process knows it. Where no slot is free,
torch's own way is taken; small tensors travel in the message. Slots are unnamed and gone with the processes.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import get_worker_info

from lmdbpipe.transforms.pool import DEAR, POOL

_SMALLEST = 64 * 1024
"""Bytes below which a tensor travels in the message itself."""
_SLOTS = 8
_RING_BYTES = 512 * 1024**2
"""The most shared memory a worker takes for its slots."""
_BUSY, _KNOWN = 0, 1


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


class _Form(NamedTuple):
    """How a tensor lies in its memory."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Slot:
    """Shared memory: the tensor whose handle travels, and its bytes for NumPy, which is quicker to begin a copy."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor: torch.Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
        self.bytes: npt.NDArray[np.uint8] = self.tensor.numpy()


class _Ring:
    """A worker's slots of one size, and two bytes of shared state for each."""

    _numbers = itertools.count()

    def __init__(self, size: int) -> None:
        self.key = (os.getpid(), next(self._numbers))
        self.size = size
        self.slots: list[_Slot] = []
        self.state = _Slot(torch.zeros(2 * _SLOTS, dtype=torch.uint8))

    def take(self) -> int | None:
        """Find a free slot, or make one; None if there may be no more."""
        for number in range(len(self.slots)):
            if not self.state.bytes[2 * number + _BUSY]:
                return number
        if len(self.slots) == _SLOTS or (len(self.slots) + 1) * self.size > _RING_BYTES:
            return None
        self.slots.append(_Slot(torch.empty(self.size, dtype=torch.uint8)))
        return len(self.slots) - 1


_rings: dict[int, _Ring] = {}
"""In a worker: its rings, by the size of their slots."""
_received: dict[tuple[int, int], tuple[dict[int, _Slot], _Slot]] = {}
"""In the main process: the slots and the state of each worker's rings."""


def _reduce(tensor: SharedTensor) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
    """Copy a tensor into a free slot, and pickle the slot's number."""
    plain = tensor.detach().as_subclass(torch.Tensor)
    if not _is_dense(plain):
        plain = plain.contiguous()
    form = _Form(plain.dtype, tuple(plain.shape), plain.stride())
    data = plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy()
    if plain.nbytes < _SMALLEST:
        return _from_bytes, (bytearray(data), form)
    size = 1 << (plain.nbytes - 1).bit_length()  # pages of a slot that are never written take no memory
    ring = _rings.get(size)
    if ring is None or ring.key[0] != os.getpid():  # or it was inherited by a fork
        ring = _rings[size] = _Ring(size)
    number = ring.take()
    if number is None:
        return reduce_tensor(plain)  # type: ignore[no-any-return, no-untyped-call]
    ring.state.bytes[2 * number + _BUSY] = 1
    slot = ring.slots[number]
    slot.bytes[: len(data)] = data  # by NumPy: in one thread, since other workers have the other cores
    handles = None if ring.state.bytes[2 * number + _KNOWN] else (slot.tensor, ring.state.tensor)
    return _rebuild, (ring.key, number, handles, form)


def _from_bytes(data: bytearray, form: _Form) -> torch.Tensor:
    """Make a tensor of the bytes that came with the message."""
    flat = torch.frombuffer(data, dtype=form.dtype) if data else torch.empty(0, dtype=form.dtype)
    return flat.as_strided(form.shape, form.strides)


def _rebuild(
    key: tuple[int, int],
    number: int,
    handles: tuple[torch.Tensor, torch.Tensor] | None,
    form: _Form,
) -> torch.Tensor:
    """Copy a tensor out of its slot, and free the slot."""
    if handles is not None:
        if key not in _received:
            _forget_ended()
            _received[key] = ({}, _Slot(handles[1]))
        _received[key][0][number] = _Slot(handles[0])
    slots, state = _received[key]
    state.bytes[2 * number + _KNOWN] = 1
    size = math.prod(form.shape) * form.dtype.itemsize
    if size < DEAR:
        out = torch.from_numpy(slots[number].bytes[:size].copy())
    else:
        out = POOL.empty((size,), torch.uint8)
        out.numpy()[:] = slots[number].bytes[:size]
    state.bytes[2 * number + _BUSY] = 0
    return out.view(form.dtype).as_strided(form.shape, form.strides)


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor's elements fill its memory without gaps or overlaps, in whatever order of axes."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _forget_ended() -> None:
    """Let go of the slots of workers that have ended."""
    alive = {process.pid for process in multiprocessing.active_children()}
    for key in [key for key in _received if key[0] not in alive]:
        del _received[key]


ForkingPickler.register(SharedTensor, _reduce)

"""Which epoch a pass is, agreed on by worker processes that never talk to each other.

A DataLoader starts its workers anew for every pass, or keeps them; it copies the dataset to them by fork or by pickle;
and it tells the dataset in the main process nothing. So the count lives in shared memory (unnamed, gone with the
processes): every process that begins a pass writes into its own slot which loader it works for, how many passes it has
begun for it, and which epoch this one is. A worker whose n-th pass begins takes the epoch that another worker of its
loader took its n-th pass for; the first of them takes the epoch after the last. That is right in whatever order the
workers arrive, without a lock, also where one still begins a pass that was abandoned while another begins the next, or
after the next epoch was told: what was begun before that belongs to another generation.

The processes that count together are the one that made the counter, or got a copy of it, and the workers of its
loaders. Another process that was given it, a rank that was forked or spawned, counts on by itself from there, with its
own workers.

Loaders are told apart by the seeds that they draw, and slots by the seeds of workers, so that two loaders may read at
once. A loader may draw a seed again; its workers then find the epoch of the earlier pass in their own slots, too.

A state that is loaded in the main process lies in the same memory, so that workers find it, kept ones too. It belongs
to one epoch, so it is used once; its seed holds from then on.
"""

from __future__ import annotations

import os
import time
import weakref
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from lmdbpipe.checks import whole
from lmdbpipe.errors import ConfigError, StateError

_MOST_WORKERS = 1024
_WORKER_SLOTS = 4096
"""Of loaders that read at once, few workers then share a slot. Another slot is for a process that is no worker."""
_SLOTS = 1 + _WORKER_SLOTS
_LOADER, _WORKERS, _NUMBER, _GENERATION, _EPOCH, _LAST_GENERATION, _LAST_EPOCH = range(7)
"""A slot: the loader, its workers, the number of the worker's pass, its generation and epoch, and those of the last."""
_SLOT_CELLS = 7
_NOBODY, _WRITING = -1, -2
"""In place of a loader: none; and less a loader, that the slot is being written for it and cannot be read."""
_TRIES, _PAUSE = 1000, 1e-4
"""How often to look again at slots that are being written, and the seconds between: who writes may be interrupted."""
_TOLD, _HAS_SEED, _SEED, _HAS_PASS_SEED, _PASS_SEED, _NOW, _NEXT, _HAS_WORKERS = range(8)
_LOADED, _SIZE, _LAST_LOADED, _LAST_SIZE, _LAST_LOADED_IN = range(8, 13)
"""The epoch and size of the state that is loaded, and of the one before, which late workers need; its generation."""
_CELLS = 13
_STATE_BYTES = 65536
"""Room for a state of about 3,000 ranges; one that speaks for all takes 300 bytes."""


class _Process(NamedTuple):
    """Who begins a pass: its slot, its loader, and how many workers that has (0 in a process that is none)."""

    slot: int
    loader: int
    workers: int


class _Begun(NamedTuple):
    """When a pass was begun: generations are counted by `EpochCounter.set` and `EpochCounter.load`."""

    generation: int
    epoch: int


class EpochCounter:
    """Counts passes. Copies that travel to worker processes count together; other copies count on by themselves."""

    def __init__(self) -> None:
        numbers = np.full(_CELLS + _SLOTS * _SLOT_CELLS + 2 * _STATE_BYTES // 8, -1, np.int64)
        numbers[:_CELLS] = 0
        numbers[[_LOADED, _LAST_LOADED]] = -1
        self.__setstate__((_shared(numbers), os.getpid()))

    def __getstate__(self) -> tuple[torch.Tensor, int]:
        self._become_own()
        return self._memory, self._owner

    def __setstate__(self, state: tuple[torch.Tensor, int]) -> None:
        memory, self._owner = state
        self._memory: torch.Tensor = memory.share_memory_()  # type: ignore[no-untyped-call]
        numbers = self._memory.numpy()  # quicker than torch here
        self._all_cells, slots, states = np.split(numbers, [_CELLS, _CELLS + _SLOTS * _SLOT_CELLS])
        self._slots = slots.reshape(_SLOT_CELLS, _SLOTS)
        self._state, self._last_state = states.view(np.uint8).reshape(2, _STATE_BYTES)
        self._numbers: dict[tuple[int, _Process], int] = {}
        """How many passes this process has begun, as one of a loader's workers."""
        _counters.add(self)

    def set(self, epoch: int) -> None:
        """Make `epoch` the next one to begin.

        Raises:
            ConfigError: It is not an integer of at least 0.
            StateError: A state of another epoch was loaded, and not used yet.
        """
        epoch = whole("epoch", epoch)
        if self.latest() is None and self._cells.item(_LOADED) >= 0:
            self._require(epoch, self._cells.item(_LOADED))
        else:
            self._forget(epoch)
        self._cells[_TOLD] = 1

    def load(self, epoch: int, seed: int, state: bytes) -> None:
        """Keep a state for the pass `epoch`, which is to be the next, here or in workers.

        Raises:
            StateError: `set` has told another epoch since the last pass began, or there is no room for the state.
        """
        self.check_told(epoch)
        if len(state) > _STATE_BYTES:
            raise StateError(
                f"the state takes {len(state)} bytes, more than {_STATE_BYTES}: load it into iterators or nodes instead"
            )
        self._forget(epoch)
        self._state[: len(state)] = np.frombuffer(state, np.uint8)
        self._keep_seed(seed)
        self._cells[_SIZE] = len(state)
        self._cells[_LOADED] = epoch

    def loaded(self, epoch: int) -> bytes | None:
        """The state that was loaded for a pass; in a worker, for the one that it has begun."""
        process, cells = _this_process(), self._cells
        if process.workers and self._slots.item(_GENERATION, process.slot) == cells.item(_LAST_LOADED_IN):
            return bytes(self._last_state[: cells[_LAST_SIZE]]) if cells.item(_LAST_LOADED) == epoch else None
        return bytes(self._state[: cells[_SIZE]]) if cells.item(_LOADED) == epoch else None

    @property
    def seed(self) -> int | None:
        """The seed of the last state that was loaded."""
        return self._cells.item(_SEED) % 2**64 if self._cells.item(_HAS_SEED) else None

    @property
    def pass_seed(self) -> int | None:
        """The seed that the last pass was begun with, alone."""
        return self._cells.item(_PASS_SEED) % 2**64 if self._cells.item(_HAS_PASS_SEED) else None

    def peek(self) -> int:
        """The epoch that the next pass will be."""
        latest = self.latest()
        told: int = self._cells.item(_NEXT)
        return told if latest is None else max(told, latest + 1)

    def latest(self) -> int | None:
        """The epoch of the last pass; None if none has begun since `set` or `load`, or at all."""
        now = self._cells.item(_NOW)
        if not self._cells.item(_HAS_WORKERS):
            return self._slots.item(_EPOCH, 0) if self._slots.item(_GENERATION, 0) == now else None
        epochs = self._slots[_EPOCH].copy()  # first: of a slot that is written now, `begin` then sees all or nothing
        begun = epochs[(self._slots[_GENERATION] == now) & (self._slots[_LOADER] > _WRITING)]
        return int(begun.max()) if len(begun) else None

    def begin(self, seed: int | None = None) -> int:
        """Begin a pass in this process, and give its epoch.

        Args:
            seed: A seed for this pass alone, which other processes may ask for.

        Raises:
            ConfigError: There are more workers than slots.
        """
        process = _this_process()
        number = self._number(process)
        begun = self._by_others(process, number)
        if begun is None:
            following = _Begun(self._cells.item(_NOW), self.peek())
            begun = self._by_others(process, number) or following  # another may have been quicker
        self._cells[_PASS_SEED] = _signed(seed or 0)
        self._cells[_HAS_PASS_SEED] = int(seed is not None)
        self._write(process, number, begun)
        return begun.epoch

    def join(self, epoch: int, seed: int) -> None:
        """Begin the pass `epoch` in this process, as a state says that was loaded in it, whatever was counted before.

        Raises:
            ConfigError: There are more workers than slots.
        """
        process = _this_process()
        self._cells[_NEXT] = min(self._cells[_NEXT], epoch)
        self._slots[_EPOCH, self._slots[_EPOCH] > epoch] = epoch  # no other: those may be written now
        self._keep_seed(seed)
        self._write(process, self._number(process), _Begun(self._cells.item(_NOW), epoch))

    def check_told(self, epoch: int) -> None:
        """Check that `set` has not told another epoch since the last pass began.

        Raises:
            StateError: It has.
        """
        if self._cells.item(_TOLD) and self.latest() is None:
            self._require(self._cells.item(_NEXT), epoch)  # and no `peek`: another worker may begin its pass now

    @property
    def _cells(self) -> npt.NDArray[np.int64]:
        self._become_own()
        return self._all_cells

    def _become_own(self) -> None:
        """Count in memory of its own from now on, if it is another process's and this is none of its workers."""
        if self._owner != os.getpid() and get_worker_info() is None:
            self.__setstate__((_shared(self._memory.numpy()), os.getpid()))

    def _require(self, told: int, loaded: int) -> None:
        if told != loaded:
            raise StateError(
                f"set_epoch({told}) contradicts the state, which goes on in epoch {loaded}: "
                f"call set_epoch({loaded}), or leave it out"
            )

    def _forget(self, epoch: int) -> None:
        if self._cells.item(_LOADED) >= 0:
            self._last_state[:] = self._state
            self._cells[[_LAST_LOADED, _LAST_SIZE]] = self._cells[[_LOADED, _SIZE]]
            self._cells[_LAST_LOADED_IN] = self._cells[_NOW]
        self._cells[_LOADED] = -1
        self._cells[_TOLD] = 0
        self._cells[_NEXT] = epoch
        self._cells[_NOW] += 1

    def _keep_seed(self, seed: int) -> None:
        self._cells[_SEED] = _signed(seed)
        self._cells[_HAS_SEED] = 1

    def _number(self, process: _Process) -> int:
        """Which of this process's passes as this worker now begins, from 0."""
        if not process.workers:
            return 0
        key = os.getpid(), process
        self._numbers[key] = self._numbers.get(key, -1) + 1
        return self._numbers[key]

    def _by_others(self, process: _Process, number: int) -> _Begun | None:
        """When other workers of this one's loader began the pass of some number; None if they have not."""
        if not process.workers:
            return None
        own = _Begun(*(self._slots.item(cell, process.slot) for cell in (_GENERATION, _EPOCH)))
        loaders, workers, found = self._slots[_LOADER], self._slots[_WORKERS], set()
        for _ in range(_TRIES):
            others = np.flatnonzero((loaders == process.loader) & (workers == process.workers))
            rows = self._slots.T[others].tolist()
            if (loaders[others] == process.loader).all() and not (loaders == _WRITING - process.loader).any():
                break
            time.sleep(_PAUSE)
        for _, _, theirs, generation, epoch, last_generation, last_epoch in rows:
            if theirs == number:
                found.add(_Begun(generation, epoch))
            elif theirs == number + 1:
                found.add(_Begun(last_generation, last_epoch))
            elif theirs > number:  # this one is far behind: passes follow each other
                found.add(_Begun(generation, epoch - (theirs - number)))
        return max((begun for begun in found if begun > own), default=None)

    def _write(self, process: _Process, number: int, begun: _Begun) -> None:
        if process.workers:
            self._cells[_HAS_WORKERS] = 1
        slot = self._slots[:, process.slot]
        last = slot[[_GENERATION, _EPOCH]].tolist() if int(slot[_LOADER]) == process.loader else (-1, -1)
        slot[_LOADER] = _WRITING - max(process.loader, 0)
        row = [process.loader, process.workers, number, *begun, *last]
        slot[_WORKERS:] = row[_WORKERS:]
        slot[_LOADER] = process.loader


_counters: weakref.WeakSet[EpochCounter] = weakref.WeakSet()


def _before_fork() -> None:
    """Let the workers of a loader count with the process that forks them, not with the one that this was given from."""
    for counter in list(_counters):
        counter._become_own()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)


def _shared(numbers: npt.NDArray[np.int64]) -> torch.Tensor:
    """Copy numbers into shared memory; not by torch, which may do it in threads that a fork has not got."""
    storage = torch.UntypedStorage._new_shared(numbers.nbytes)  # type: ignore[no-untyped-call]
    memory = torch.empty(0, dtype=torch.int64).set_(storage)
    memory.numpy()[:] = numbers
    return memory


def _signed(seed: int) -> int:
    """A seed as int64 holds it."""
    return (seed + 2**63) % 2**64 - 2**63


def _this_process() -> _Process:
    info = get_worker_info()
    if info is None:
        return _Process(0, _NOBODY, 0)
    if info.id >= _MOST_WORKERS:
        raise ConfigError(f"at most {_MOST_WORKERS} workers can share a reader, got {info.num_workers}")
    return _Process(1 + info.seed % _WORKER_SLOTS, info.seed - info.id, info.num_workers)

"""Which epoch a pass is, agreed on by worker processes that never talk to each other.

A DataLoader starts its workers anew for every pass, or keeps them; it copies the dataset to them by fork or by pickle;
and it tells the dataset in the main process nothing. So the count lives in shared memory (unnamed, gone with the
processes): every process that begins a pass writes into its own slot which loader it works for and which epoch it
began. A worker joins the pass that another worker of its loader has begun and it has not; otherwise it begins the epoch
after the last. That is right in whatever order the workers arrive, without a lock.

A state that is loaded in the main process lies in the same memory, so that workers find it, kept ones too. It belongs
to one epoch, so it is used once; its seed holds from then on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils.data import get_worker_info

from lmdbpipe.errors import ConfigError, StateError

_SLOTS = 1025
"""One for a process that is no worker, and one for each of up to 1,024 workers."""
_LOADER, _WORKERS, _EPOCH = range(3)
_TOLD, _HAS_SEED, _SEED, _HAS_PASS_SEED, _PASS_SEED, _LOADED, _SIZE = range(7)
_STATE_BYTES = 65536
"""Room for a state of about 3,000 ranges; one that speaks for all takes 300 bytes."""


class _Process(NamedTuple):
    """Who begins a pass: its slot, its loader, and how many workers that has (0 in a process that is none)."""

    slot: int
    loader: int
    workers: int


class EpochCounter:
    """Counts passes. Copies that travel to worker processes count together; other copies count on by themselves."""

    def __init__(self) -> None:
        self._slots = _shared(torch.full((_SLOTS, 3), -1, dtype=torch.int64))
        self._cells = _shared(torch.tensor([0, 0, 0, 0, 0, -1, 0], dtype=torch.int64))
        self._state = _shared(torch.zeros(_STATE_BYTES, dtype=torch.uint8))

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: _shared(value) for name, value in state.items()})

    def set(self, epoch: int) -> None:
        """Make `epoch` the next one to begin.

        Raises:
            ConfigError: It is not an integer of at least 0.
            StateError: A state of another epoch was loaded, and not used yet.
        """
        if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
            raise ConfigError(f"epoch must be an integer of at least 0, got {epoch!r}")
        if self.latest() is None and int(self._cells[_LOADED]) >= 0:
            self._require(epoch, int(self._cells[_LOADED]))
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
        self._state[: len(state)] = torch.frombuffer(bytearray(state), dtype=torch.uint8)
        self._keep_seed(seed)
        self._cells[_SIZE] = len(state)
        self._cells[_LOADED] = epoch

    def loaded(self, epoch: int) -> bytes | None:
        """The state that was loaded for a pass."""
        if int(self._cells[_LOADED]) != epoch:
            return None
        return bytes(self._state[: int(self._cells[_SIZE])].numpy())

    @property
    def seed(self) -> int | None:
        """The seed of the last state that was loaded."""
        return int(self._cells[_SEED]) % 2**64 if int(self._cells[_HAS_SEED]) else None

    @property
    def pass_seed(self) -> int | None:
        """The seed that the last pass was begun with, alone."""
        return int(self._cells[_PASS_SEED]) % 2**64 if int(self._cells[_HAS_PASS_SEED]) else None

    def peek(self) -> int:
        """The epoch that the next pass will be."""
        return int(self._slots[:, _EPOCH].max()) + 1

    def latest(self) -> int | None:
        """The epoch of the last pass; None if none has begun since `set` or `load`, or at all."""
        begun = self._slots[self._slots[:, _WORKERS] >= 0]
        return int(begun[:, _EPOCH].max()) if len(begun) else None

    def begin(self, seed: int | None = None) -> int:
        """Begin a pass in this process, and give its epoch.

        Args:
            seed: A seed for this pass alone, which other processes may ask for.

        Raises:
            ConfigError: There are more workers than slots.
        """
        process = _this_process()
        slots = self._slots.clone()
        own_epoch = slots[process.slot, _EPOCH]
        same_loader = (slots[:, _LOADER] == process.loader) & (slots[:, _WORKERS] == process.workers)
        begun = slots[same_loader & (slots[:, _EPOCH] > own_epoch)]
        is_worker = process.workers > 0
        epoch = int(begun[:, _EPOCH].max()) if is_worker and len(begun) else int(slots[:, _EPOCH].max()) + 1
        self._cells[_PASS_SEED] = _signed(seed or 0)
        self._cells[_HAS_PASS_SEED] = int(seed is not None)
        self._write(process, epoch)
        return epoch

    def join(self, epoch: int, seed: int) -> None:
        """Begin the pass `epoch` in this process, as a state says that was loaded in it, whatever was counted before.

        Raises:
            ConfigError: There are more workers than slots.
        """
        process = _this_process()
        self._slots[:, _EPOCH].clamp_(max=epoch)
        self._keep_seed(seed)
        self._write(process, epoch)

    def check_told(self, epoch: int) -> None:
        """Check that `set` has not told another epoch since the last pass began.

        Raises:
            StateError: It has.
        """
        if int(self._cells[_TOLD]) and self.latest() is None:
            self._require(self.peek(), epoch)

    def _require(self, told: int, loaded: int) -> None:
        if told != loaded:
            raise StateError(
                f"set_epoch({told}) contradicts the state, which goes on in epoch {loaded}: "
                f"call set_epoch({loaded}), or leave it out"
            )

    def _forget(self, epoch: int) -> None:
        self._cells[_LOADED] = -1
        self._cells[_TOLD] = 0
        self._slots[:, _LOADER] = -1
        self._slots[:, _WORKERS] = -1
        self._slots[:, _EPOCH] = epoch - 1

    def _keep_seed(self, seed: int) -> None:
        self._cells[_SEED] = _signed(seed)
        self._cells[_HAS_SEED] = 1

    def _write(self, process: _Process, epoch: int) -> None:
        self._slots[process.slot, _LOADER] = process.loader  # before the epoch, which makes the slot count
        self._slots[process.slot, _WORKERS] = process.workers
        self._slots[process.slot, _EPOCH] = epoch


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    """Move a tensor to memory that other processes see, if it is not there."""
    shared: torch.Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    return shared


def _signed(seed: int) -> int:
    """A seed as int64 holds it."""
    return (seed + 2**63) % 2**64 - 2**63


def _this_process() -> _Process:
    info = get_worker_info()
    if info is None:
        return _Process(0, -1, 0)
    if info.id + 1 >= _SLOTS:
        raise ConfigError(f"at most {_SLOTS - 1} workers can share a reader, got {info.num_workers}")
    return _Process(info.id + 1, info.seed - info.id, info.num_workers)

"""Which epoch a pass is, agreed on by worker processes that never talk to each other.

A DataLoader starts its workers anew for every pass, or keeps them; it copies the dataset to them by fork or by pickle;
and it tells the dataset in the main process nothing. So the count lives in shared memory (unnamed, gone with the
processes): every process that begins a pass writes into its own slot which loader it works for and which epoch it
began. A worker joins the pass that another worker of its loader has begun and it has not; otherwise it begins the epoch
after the last. That is right in whatever order the workers arrive, without a lock.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import get_worker_info

from lmdbpipe.errors import ConfigError

_SLOTS = 1025
"""One for a process that is no worker, and one for each of up to 1,024 workers."""
_LOADER, _WORKERS, _EPOCH = range(3)


class EpochCounter:
    """Counts passes. Copies that travel to worker processes count together; other copies count on by themselves."""

    def __init__(self, epoch: int = 0) -> None:
        self._slots = torch.full((_SLOTS, 3), -1, dtype=torch.int64).share_memory_()
        self.set(epoch)

    def __getstate__(self) -> dict[str, Any]:
        return {"slots": self._slots}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._slots = state["slots"] if state["slots"].is_shared() else state["slots"].share_memory_()

    def set(self, epoch: int) -> None:
        """Make `epoch` the next one to begin.

        Raises:
            ConfigError: It is not an integer of at least 0.
        """
        if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
            raise ConfigError(f"epoch must be an integer of at least 0, got {epoch!r}")
        self._slots[:, _LOADER] = -1
        self._slots[:, _EPOCH] = epoch - 1

    def peek(self) -> int:
        """The epoch that the next pass will be."""
        return int(self._slots[:, _EPOCH].max()) + 1

    def begin(self) -> int:
        """Begin a pass in this process, and give its epoch.

        Raises:
            ConfigError: There are more workers than slots.
        """
        info = get_worker_info()
        if info is None:
            slot, loader, workers = 0, -1, 0
        else:
            slot, loader, workers = info.id + 1, info.seed - info.id, info.num_workers
        if slot >= _SLOTS:
            raise ConfigError(f"at most {_SLOTS - 1} workers can share a reader, got {workers}")
        slots = self._slots.clone()
        begun = slots[(slots[:, _LOADER] == loader) & (slots[:, _WORKERS] == workers) & (slots[:, _EPOCH] > slots[slot, _EPOCH])]
        epoch = int(begun[:, _EPOCH].max()) if info is not None and len(begun) else int(slots[:, _EPOCH].max()) + 1
        self._slots[slot, _LOADER] = loader  # before the epoch, which makes the slot count
        self._slots[slot, _WORKERS] = workers
        self._slots[slot, _EPOCH] = epoch
        return epoch

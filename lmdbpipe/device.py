"""Batches on their way to a device.

To a GPU they go from pinned memory on a stream of their own, while the caller's stream still computes with the batch
before: copies and kernels of a batch are queued there when it is read, one batch ahead of the caller at least. The
caller's stream waits for a batch when it is handed out, and its memory is not used again before that stream is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import get_worker_info

from lmdbpipe.errors import ConfigError

Item = TypeVar("Item")
Request = TypeVar("Request")
Device = str | int | torch.device


def find_device(device: Device | None) -> torch.device | None:
    """Make a `torch.device` of what a user gave, if it is there.

    Raises:
        ConfigError: It is none, or not here, or neither a CPU nor a CUDA device.
    """
    if device is None:
        return None
    there = f"available are {', '.join(_available())}"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device must name a device as torch does, got {device!r}; {there}") from error
    if found.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be a CPU or CUDA device, got {device!r}; {there}")
    if found.type == "cuda" and (found.index or 0) >= _cuda_devices():
        raise ConfigError(f"device is {device!r}, which torch does not see here; {there}")
    return found


def _cuda_devices() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _available() -> list[str]:
    return ["cpu", *(f"cuda:{number}" for number in range(_cuda_devices()))]


def is_gpu(device: torch.device | None) -> bool:
    """Whether batches go to a GPU."""
    return device is not None and device.type == "cuda"


def move(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch (in lists, tuples, named tuples and dicts) to a device.

    Returns:
        New containers. To a GPU, copies are only queued: they come from pinned memory, which torch keeps until they are
        done.
    """

    def one(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        pinned = is_gpu(device) and value.device.type == "cpu" and value.layout == torch.strided
        return (value.pin_memory() if pinned else value).to(device, non_blocking=pinned)

    return tree_map(one, batch)


@dataclass(frozen=True)
class _Coming:
    """A batch whose copies and kernels are queued, and the event after the last of them."""

    batch: Any
    ready: Any


class Transfer:
    """The way of one pass's batches to a device.

    Args:
        device: Where they go; None leaves them as they are. A CUDA device without a number is the one that is current
            in the thread that makes this.

    Raises:
        ConfigError: This is a worker process, and the device is a GPU.
    """

    def __init__(self, device: torch.device | None) -> None:
        info = get_worker_info()
        if is_gpu(device) and info is not None and getattr(info, "worker_method", "process") != "thread":
            raise ConfigError(
                f"device is {str(device)!r}, but this is a worker process of a DataLoader, where CUDA cannot be used: "
                "give the DataLoader num_workers=0, and the reader num_threads to read ahead"
            )
        self.device = device
        self._side: Any = None
        if is_gpu(device):
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.device = self._side.device

    def __repr__(self) -> str:
        return f"Transfer({self.device})"

    def over(self, read: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """Make of a function that reads a batch one that also moves it; safe in any thread.

        Returns:
            A function whose results go through `arrive`.
        """
        if self.device is None:
            return read
        device = self.device

        def read_and_move(request: Request) -> Any:
            if self._side is None:
                return move(read(request), device)
            with torch.cuda.stream(self._side):  # streams and current devices are a thread's own
                batch = move(read(request), device)
                return _Coming(batch, self._side.record_event())

        return read_and_move

    def arrive(self, item: Any) -> Any:
        """Hand a batch over to the stream that is current in this thread."""
        if self._side is None:
            return item
        current = torch.cuda.current_stream(self.device)
        current.wait_event(item.ready)
        for tensor in tree_leaves(item.batch):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "cpu":
                tensor.record_stream(current)  # it was allocated for the other stream
        return item.batch

    def arrivals(self, items: Iterator[Any]) -> Iterator[Any]:
        """Hand over the results of `over`; to a GPU, the next one is queued before one is handed over."""
        return items if self._side is None else map(self.arrive, one_ahead(items))


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Take an item before the one before it is given; an error is raised where its item would be."""
    for held in items:
        while True:
            try:
                following = next(items)
            except StopIteration:
                yield held
                return
            except Exception:
                yield held
                raise
            yield held
            held = following  # noqa: PLW2901

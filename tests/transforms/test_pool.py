"""The pool: memory is used again when nobody can see it, and never before."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.dlpack

from lmdbpipe.transforms.pool import SMALLEST, Pool

SHAPE = (SMALLEST // 4, 2)


def test_memory_comes_back() -> None:
    """A dead tensor's memory is given out again."""
    pool = Pool()
    first = pool.empty(SHAPE, torch.float32)
    address = first.data_ptr()
    del first
    assert pool.held == 2 * SMALLEST
    assert pool.empty(SHAPE, torch.float32).data_ptr() == address


@pytest.mark.parametrize(
    "hold",
    [
        lambda t: t[1:2],
        lambda t: t.view(-1)[5:],
        lambda t: t.untyped_storage(),
        lambda t: t.numpy()[3],
        lambda t: memoryview(t.numpy()),
        lambda t: t.detach(),
        torch.utils.dlpack.from_dlpack,
        torch.nn.Parameter,
        lambda t: (t.requires_grad_() * 2).grad_fn,
    ],
)
def test_whatever_holds_it_keeps_it(hold: Any) -> None:
    """A view, slice, storage, array, buffer or graph keeps the memory from being given out."""
    pool = Pool()
    tensor = pool.empty(SHAPE, torch.float32)
    held = hold(tensor)
    del tensor
    gc.collect()
    assert pool.held == 0
    del held
    gc.collect()


def test_bounded() -> None:
    """The shelves hold no more than the limit, and few of a size."""
    pool = Pool(limit=5 * SMALLEST, per_size=3)
    tensors = [pool.empty((SMALLEST,), torch.uint8) for _ in range(6)]
    del tensors
    assert pool.held == 3 * SMALLEST
    large = pool.empty((4 * SMALLEST,), torch.uint8)
    del large
    assert pool.held == 4 * SMALLEST
    huge = pool.empty((6 * SMALLEST,), torch.uint8)
    del huge
    assert pool.held <= 5 * SMALLEST
    pool.clear()
    assert pool.held == 0
    assert repr(pool) == f"Pool(0 bytes free, limit={5 * SMALLEST})"


def test_small_and_odd_tensors_are_plain() -> None:
    """Small tensors and dtypes that NumPy lacks are not pooled."""
    pool = Pool()
    assert pool.empty((3,), torch.float32).shape == (3,)
    assert pool.empty(SHAPE, torch.bfloat16).dtype == torch.bfloat16
    assert pool.held == 0


def test_threads() -> None:
    """Tensors that threads hold at the same time never share memory."""
    pool, failures = Pool(), []

    def work(value: int) -> None:
        for _ in range(200):
            tensor = pool.empty((SMALLEST,), torch.uint8)
            tensor.fill_(value)
            if not bool((tensor == value).all()):
                failures.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def _child(pool: Pool, queue: Any) -> None:
    torch.set_num_threads(1)  # as DataLoader does: the parent's threads are not here
    tensor = pool.empty((SMALLEST,), torch.uint8).fill_(7)
    queue.put(int(tensor.sum()))


def test_fork() -> None:
    """A forked child's tensors do not touch the parent's."""
    pool = Pool()
    tensor = pool.empty((SMALLEST,), torch.uint8).fill_(1)
    free = pool.empty((SMALLEST,), torch.uint8)
    del free
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_child, args=(pool, queue))
    child.start()
    assert queue.get() == 7 * SMALLEST
    child.join()
    assert int(tensor.sum()) == SMALLEST
    assert np.asarray(tensor).sum() == SMALLEST

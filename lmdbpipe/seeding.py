"""The global random number generators that transforms draw from: saved, seeded, and put back."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch
import xxhash

_lock = threading.RLock()


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - a thread that is not in the child may hold the other
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def seed_all(*key: int) -> None:
    """Seed the generators of torch (CPU), NumPy and ``random`` as a function of some integers."""
    seed = xxhash.xxh3_64_intdigest(repr(key).encode())
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Give the generators back as they were, whatever happens inside. One thread at a time may have them."""
    with _lock:
        states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
        try:
            yield
        finally:
            torch.default_generator.set_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])

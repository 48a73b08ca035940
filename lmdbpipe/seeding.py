"""The global random number generators that transforms draw from: saved, seeded, and put back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
import xxhash


def seed_all(*key: int) -> None:
    """Seed the generators of torch (CPU), NumPy and ``random`` as a function of some integers."""
    seed = xxhash.xxh3_64_intdigest(repr(key).encode())
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - the generator that users' transforms draw from
    random.seed(seed)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Give the generators back as they were, whatever happens inside."""
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])

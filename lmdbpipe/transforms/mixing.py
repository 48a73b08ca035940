"""`lmdbpipe.transforms.streams`'s counter-based stream, compiled; that alone imports it, where numba is there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lmdbpipe.transforms.jit import jit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@jit
def mixed(z: np.uint64) -> np.uint64:
    """SplitMix64's finaliser."""
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


@jit
def keys_of(indices: NDArray[np.int64], key: np.uint64) -> NDArray[np.uint64]:
    """Give each sample a key."""
    keys = np.empty(len(indices), np.uint64)
    for i in range(len(indices)):
        keys[i] = mixed(mixed(np.uint64(indices[i]) ^ key) + key)
    return keys


@jit
def words_of(keys: NDArray[np.uint64], first: int, count: int) -> NDArray[np.uint32]:
    """Give words of each key's stream."""
    words = np.empty((len(keys), count), np.uint32)
    for i in range(len(keys)):
        for j in range(count):
            words[i, j] = np.uint32(mixed(keys[i] + np.uint64(first + j + 1) * _GOLDEN) >> np.uint64(32))
    return words

"""Random words: torch's own stream in bulk, and a counter-based stream.

`torch_words` gives the 32-bit words that torch's default CPU generator (a Mersenne Twister) would have given to as many
calls of ``torch.rand(1)`` or ``torch.randint(..., (1,))``, and leaves the generator as those calls would have left it.
It reads the generator's state into NumPy's Mersenne Twister; `torch_words_known` proves on a generator of its own, once
a process, that this torch version behaves so, and where it does not, callers fall back on torch's calls.

`counter_words` hashes (seed, epoch, sample index, position) with SplitMix64 (Steele, Lea, Flood: Fast Splittable
Pseudorandom Number Generators, 2014), the finaliser of which passes BigCrush.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Words = NDArray[np.uint32]

_lock = threading.Lock()
_twister: Any = np.random.MT19937(0)
"""Only its state is used, which is set each time; making one is slow."""
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
# struct CPUGeneratorImplStateLegacy (aten/src/ATen/CPUGeneratorImpl.cpp): seed u64, left i32, seeded i32, next u64,
# state u64[624], and more for normals that words do not touch
_LEFT, _NEXT, _STATE, _END = slice(8, 12), slice(16, 24), slice(24, 24 + 624 * 8), 24 + 624 * 8


def _after_fork_in_child() -> None:
    global _lock, _twister
    _lock, _twister = threading.Lock(), np.random.MT19937(0)  # a thread that is not in the child may hold the old ones


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _draw(state: NDArray[np.uint8], count: int) -> Words:
    """Take words from a torch generator's state, and advance it in place."""
    left = int(state[_LEFT].view(np.int32)[0])
    twister = _twister
    key = state[_STATE].view(np.uint64)
    inner = {"key": key.astype(np.uint32), "pos": 625 - left}
    twister.state = {"bit_generator": "MT19937", "state": inner}
    words: Words = twister.random_raw(count).astype(np.uint32)
    inner = twister.state["state"]
    key[:] = inner["key"]
    state[_LEFT].view(np.int32)[0] = 625 - inner["pos"]
    state[_NEXT].view(np.uint64)[0] = inner["pos"]
    return words


@cache
def torch_words_known() -> bool:
    """Say whether the stream of this torch version's CPU generator is the one that `torch_words` computes."""
    generator = torch.Generator()
    try:
        for count in (1, 3, 700):
            generator.manual_seed(20_011 + count)
            torch.rand(count % 5, generator=generator)
            state = generator.get_state().numpy().copy()
            with _lock:
                words = _draw(state, 2 * count)
            ours = [value for u, v in words.reshape(-1, 2) for value in ((int(u) & 0xFFFFFF) / 2**24, int(v) % 1009)]
            theirs = []
            for _ in range(count):
                theirs.append(torch.rand(1, generator=generator).item())
                theirs.append(torch.randint(0, 1009, (1,), generator=generator).item())
            if ours != theirs or not np.array_equal(state, generator.get_state().numpy()):
                return False
    except (ValueError, RuntimeError, TypeError, IndexError):
        return False
    return True


def torch_words(count: int) -> Words:
    """Take the next 32-bit words of torch's default CPU generator; only where `torch_words_known`.

    Returns:
        uint32 [count].
    """
    if not count:
        return np.empty(0, np.uint32)
    with _lock:
        state = torch.get_rng_state()
        words = _draw(state.numpy(), count)
        torch.set_rng_state(state)
    return words


_COMPILED: list[Any] = []
"""The module `lmdbpipe.transforms.mixing`, once `prepare` was called where numba is."""
_MIXING = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = np.array([30, 27, 31, 32], np.uint64)
_MULTIPLIERS = np.array(_MIXING, np.uint64)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser, in place."""
    for shift, multiplier in zip(_SHIFTS[:2], _MULTIPLIERS, strict=True):
        z ^= z >> shift
        z *= multiplier
    z ^= z >> _SHIFTS[2]
    return z


def _mix_one(z: int) -> int:
    """As `_mix`, for one number."""
    for shift, multiplier in zip((30, 27), _MIXING, strict=True):
        z = (z ^ (z >> shift)) * multiplier & _MASK
    return z ^ (z >> 31)


def keys(seed: int, epoch: int, indices: NDArray[np.int64], stream: int = 0) -> NDArray[np.uint64]:
    """Give each sample a 64-bit key of (seed, epoch, stream, index): uint64 [n]."""
    key = seed * _GOLDEN & _MASK
    for part in (seed >> 64, epoch, stream) if stream else (seed >> 64, epoch):
        key = _mix_one(key + (part + 1) * 0xD1342543DE82EF95 & _MASK)
    if _COMPILED:
        own: NDArray[np.uint64] = _COMPILED[0].keys_of(indices, np.uint64(key))
        return own
    mixed = _mix(indices.astype(np.uint64) ^ np.uint64(key))
    mixed += np.uint64(key)
    return _mix(mixed)


def counter_words(keys: NDArray[np.uint64], first: int, count: int) -> Words:
    """Give words ``first`` to ``first + count`` of each key's stream: uint32 [n, count]."""
    if _COMPILED:
        compiled: Words = _COMPILED[0].words_of(keys, first, count)
        return compiled
    counters = np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    words: Words = (_mix(keys[:, None] + counters) >> _SHIFTS[3]).astype(np.uint32)
    return words


def prepare() -> None:
    """Let numba load or compile, where it is installed, what keys and words are made with from now on."""
    if not _COMPILED:
        with suppress(ImportError):
            from lmdbpipe.transforms import mixing  # noqa: PLC0415 it needs numba

            mixing.words_of(mixing.keys_of(np.zeros(1, np.int64), np.uint64(0)), 0, 1)
            _COMPILED.append(mixing)

"""Random words for places in any sequence: the word of a place depends on the seed, the epoch and the place alone.

`random_words` gives words one after the other; samplers need those of a few places that lie anywhere. So two words of
its stream become keys, and SplitMix64 (Steele, Lea and Flood, 2014; its finaliser passes BigCrush) hashes the place
with them. Integers only: the same bits on every machine and NumPy. About 20 ns a word.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lmdbpipe.order.permute import Int64Array, Purpose, Uint64Array, random_words

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def words_at(places: Int64Array, *, purpose: Purpose, seed: int, epoch: int, stream: int = 0) -> Uint64Array:
    """Return a uniform 64-bit word for each place, uint64 of the shape of ``places``.

    Args:
        places: int64, each 0 or more.
        purpose: What the words are for.
        seed: Any integer; it counts modulo 2**64.
        epoch: Number of the pass, 0 or more.
        stream: Number of the stream within the epoch, 0 or more.

    Raises:
        ConfigError: An argument is not an integer in its range.
    """
    low, high = _keys(purpose, seed, epoch, stream)
    counters = (places.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    return _finalise(_finalise(counters + low) ^ high)


@lru_cache(maxsize=256)
def _keys(purpose: Purpose, seed: int, epoch: int, stream: int) -> tuple[np.uint64, np.uint64]:
    low, high = random_words(2, purpose=purpose, seed=seed, epoch=epoch, stream=stream)
    return low, high


def _finalise(z: Uint64Array) -> Uint64Array:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

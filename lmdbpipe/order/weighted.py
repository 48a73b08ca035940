"""Sampling with replacement: each place of an epoch draws a sample by itself, as its weight makes it likely.

Any place is reached at once: a word that is hashed from (seed, epoch, place) is looked up in the running sum of the
weights. Takes 8 bytes a sample of memory, and O(log length) time a place. Neighbouring places lie anywhere in the file:
what does not fit into memory is read at random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import xxhash

from lmdbpipe.checks import whole
from lmdbpipe.errors import ConfigError
from lmdbpipe.order.base import BaseOrder
from lmdbpipe.order.permute import Int64Array, Purpose
from lmdbpipe.order.segments import LENGTH_LIMIT
from lmdbpipe.order.selection import Picked, Selection, number
from lmdbpipe.order.words import words_at

_BITS = 62
"""Words are cut to so many bits, and the weights add up to as much; a sum of floats is known to 53 of them."""


@dataclass(frozen=True, eq=False)
class Weighted:
    """Samples drawn with replacement, anew in every epoch; made by `draw`. Every draw is a copy of its own."""

    selection: Selection
    sums: Int64Array
    length: int
    is_fixed = False

    @property
    def span(self) -> int:
        """Draws lie anywhere: an order gains nothing by keeping some together."""
        return self.length

    @property
    def copies(self) -> int:
        """As many as draws."""
        return self.length * self.selection.copies

    @cached_property
    def name(self) -> str:
        """What is drawn from, a hash of what decides the draws, and their number."""
        return f"{self.selection.name}~{xxhash.xxh3_128_hexdigest(self.sums.tobytes())}~{self.length}"

    def at(self, places: Int64Array, order: BaseOrder) -> Picked:
        """Draw."""
        words = words_at(places, purpose=Purpose.DRAWS, seed=order.seed, epoch=order.epoch)
        cut = (words >> np.uint64(64 - _BITS)).view(np.int64)
        drawn = np.searchsorted(self.sums, cut, side="right").astype(np.int64, copy=False)
        indices, numbers = self.selection.at(drawn, order)
        return indices, number(places, self.selection, numbers)


def draw(selection: Selection, weights: npt.ArrayLike, num_samples: int) -> Weighted:
    """Draw places of a selection.

    Args:
        selection: What is drawn from.
        weights: How likely each of its places is, relative to the others: ``[selection.length]``, finite, 0 or more.
            Below 1e-16 of the sum of those before it, a weight may be rounded to 0.
        num_samples: Draws in an epoch, 1 or more.

    Raises:
        ConfigError: Weights are not as many finite numbers of at least 0, all are 0, or `num_samples` is not a whole
            number of at least 1.
    """
    try:
        given = np.asarray(weights)
    except ValueError as error:
        raise ConfigError(f"weights must be a number for each of {selection.length} samples: {error}") from error
    if given.dtype.kind not in "fiub" or given.shape != (selection.length,):
        raise ConfigError(
            f"weights must be a number for each of {selection.length} samples, got {given.dtype} of shape {given.shape}"
        )
    given = given.astype(np.float64)
    wrong = np.flatnonzero(~((given >= 0) & (given < math.inf)))
    if wrong.size:
        raise ConfigError(f"weights must be finite and at least 0, but that of sample {wrong[0]} is {given[wrong[0]]}")
    if not given.any():
        raise ConfigError(f"all of {len(given)} weights are 0: there is nothing to draw")
    sums = np.cumsum(given / given.max())  # the largest is 1, so that the sum is finite
    whole_sums = (sums / sums[-1] * 2.0**_BITS).astype(np.int64)
    return Weighted(selection, whole_sums, whole("num_samples", num_samples, 1, LENGTH_LIMIT))


def balance(classes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return weights, float64 ``[n]``, that make every class equally likely, given the class of each sample."""
    _, members, sizes = np.unique(np.asarray(classes), return_inverse=True, return_counts=True)
    weights: npt.NDArray[np.float64] = 1 / sizes[members.reshape(-1)]
    return weights

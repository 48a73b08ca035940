"""Where a lowered pipeline's randomness comes from.

`ReplayDraws` consumes the global generators exactly as torchvision would, sample after sample. `CounterDraws` is a pure
function of (seed, epoch, sample index), whatever batch a sample is in.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lmdbpipe.errors import ConfigError
from lmdbpipe.seeding import preserved
from lmdbpipe.transforms.streams import Words, counter_words, keys


class Draws(Protocol):
    """A source of random words for a batch."""

    @property
    def in_order(self) -> bool:
        """Whether draws are taken from the global generators, sample after sample, as torchvision takes them."""

    def words(self, rows: NDArray[np.int64], first: int, count: int) -> Words:
        """Words ``first`` to ``first + count`` of the streams of some of the batch's samples: uint32 [rows, count]."""

    def own(self, rows: NDArray[np.int64], first: int) -> Iterator[None]:
        """Iterate over samples; while each is current, the global generators are what its own code may draw from."""


class ReplayDraws:
    """Draws from the global generators of torch, ``random`` and NumPy, in torchvision's order.

    Under ``torch.manual_seed(s)``, a lowered pipeline gives what the transform itself would give to one sample after
    the other, and leaves the generators in the same state.
    """

    in_order = True

    def __repr__(self) -> str:
        return "ReplayDraws()"

    def words(self, rows: NDArray[np.int64], first: int, count: int) -> Words:
        """Not for streams without positions."""
        raise NotImplementedError("the global generators have no positions")

    def own(self, rows: NDArray[np.int64], first: int) -> Iterator[None]:
        """Leave the global generators alone."""
        for _ in rows:
            yield None


class CounterDraws:
    """Draws that are a pure function of (seed, epoch, sample index): of no batch, worker, order or earlier draw.

    Args:
        seed: Any integer, at least 0.
        epoch: Any integer, at least 0.
        indices: int64 [n], the index in the dataset of each sample of the batch.
        stream: Which of several images of a sample these are, at least 0: what is drawn for each is independent.

    Steps without a batched form draw from the global generators, which are seeded for each sample and put back after
    the batch. Only one thread does so at a time.
    """

    in_order = False

    def __init__(self, seed: int, epoch: int, indices: NDArray[np.int64], stream: int = 0) -> None:
        if seed < 0 or epoch < 0:
            raise ConfigError(f"seed is {seed} and epoch is {epoch}; both must be at least 0")
        self.seed = seed
        self.epoch = epoch
        self.indices = np.ascontiguousarray(indices, np.int64)
        self._keys = keys(seed, epoch, self.indices, stream)

    def __repr__(self) -> str:
        return f"CounterDraws(seed={self.seed}, epoch={self.epoch}, {len(self.indices)} samples)"

    def words(self, rows: NDArray[np.int64], first: int, count: int) -> Words:
        """Words of some samples' streams: uint32 [rows, count]."""
        return counter_words(self._keys[rows], first, count)

    def own(self, rows: NDArray[np.int64], first: int) -> Iterator[None]:
        """Seed the global generators for one sample after the other, then put them back."""
        seeds = self.words(rows, first, 2)
        with preserved():
            for low, high in seeds.tolist():
                seed = high << 32 | low
                torch.default_generator.manual_seed(seed)
                random.seed(seed)
                np.random.seed([low, high])
                yield None

"""Where the samples of a source lie in its file: round after round, each in the source's order or in one of its own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lmdbpipe.order import Permutation, Purpose
from lmdbpipe.store import Manifest

_Int64 = npt.NDArray[np.int64]


@functools.lru_cache(maxsize=4)
def physical_order(length: int, seed: int, round_: int) -> Permutation:
    """The permutation from physical positions in a round to the source's indices."""
    return Permutation(n=length, seed=seed, epoch=round_, purpose=Purpose.BUILD)


@dataclasses.dataclass(frozen=True)
class Physical:
    """The physical order of a file.

    Attributes:
        length: Samples in a round.
        shuffle_seed: Seeds the order of every round; None for the source's.
    """

    length: int
    shuffle_seed: int | None

    @classmethod
    def of(cls, manifest: Manifest) -> Physical:
        """What a file's manifest says of its order."""
        rounds = int(manifest.provenance["rounds"])
        return cls(manifest.length // rounds, manifest.provenance["shuffle_seed"])

    def position(self, number: int) -> int:
        """Where a sample lies, given ``round * length + index`` in the source."""
        return number if self.shuffle_seed is None else int(self.positions(np.array([number]))[0])

    def positions(self, numbers: _Int64) -> _Int64:
        """Where samples lie, int64 ``[n]``; see `position`."""
        return self._moved(numbers, Permutation.inverse)

    def index(self, position: int) -> int:
        """Which sample of the source lies at a position."""
        number = position if self.shuffle_seed is None else int(self.numbers(np.array([position]))[0])
        return number % self.length

    def numbers(self, positions: _Int64) -> _Int64:
        """Which samples lie at some positions, int64 ``[n]``: the inverse of `positions`."""
        return self._moved(positions, Permutation.forward)

    def _moved(self, given: _Int64, move: Callable[[Permutation, _Int64], _Int64]) -> _Int64:
        if self.shuffle_seed is None:
            return given
        rounds, within = np.divmod(given, self.length)
        moved = np.empty_like(given)
        for round_ in np.unique(rounds).tolist():
            own = rounds == round_
            order = physical_order(self.length, self.shuffle_seed, round_)
            moved[own] = round_ * self.length + move(order, within[own])
        return moved

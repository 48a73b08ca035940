"""What an epoch is made of: all samples of some files, once each, or a selection of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from lmdbpipe.errors import ConfigError, OutOfRangeError
from lmdbpipe.order import BaseOrder, Repeated, Selection, Whole, choose, draw
from lmdbpipe.records import Records
from lmdbpipe.structure import Path


class Contents:
    """The samples of an epoch, before they are ordered.

    Args:
        records: What they are read from.
        selection: Which of these, and how often; None for all, once each.
    """

    def __init__(self, records: Records, selection: Selection | None = None) -> None:
        self.records = records
        self.selection = selection

    def __repr__(self) -> str:
        return f"Contents({self.records}, length={self.length})"

    @property
    def fingerprint(self) -> str:
        """Tells the files from others, in few bytes."""
        fingerprint = self.records.fingerprint
        if len(self.records.databases) > 1:
            fingerprint = xxhash.xxh3_128_hexdigest(fingerprint.encode())
        if self.selection is None:
            return fingerprint
        return f"{fingerprint}/{self.selection.name}"

    @property
    def length(self) -> int:
        """Samples in an epoch, over all ranks."""
        return len(self.records) if self.selection is None else self.selection.length

    @property
    def block(self) -> int:
        """Samples that lie together on disk, of those that are read."""
        if self.selection is None:
            return max(self.records.chunk_length, 1)
        return max(self.records.chunk_length * self.length // max(self.selection.span, 1), 1)

    def select(self, indices: Iterable[int]) -> Contents:
        """Take some samples only, in this order.

        Raises:
            ConfigError: Indices are not integers, or samples are drawn anew in every epoch.
            OutOfRangeError: There is no such sample.
        """
        fixed = self._fixed()
        given = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise ConfigError(f"indices must be integers in a row, got {given.dtype} of shape {given.shape}")
        given = given.astype(np.int64)
        outside = given[(given < 0) | (given >= self.length)]
        if outside.size:
            raise OutOfRangeError(f"sample {int(outside[0])} does not exist: there are {self.length}")
        return Contents(self.records, choose(fixed, given))

    def repeat(self, times: int) -> Contents:
        """Take each sample several times.

        Raises:
            ConfigError: It is not an integer of at least 1, or samples are drawn anew in every epoch.
        """
        return Contents(self.records, Repeated(self._fixed(), times))

    def weighted(self, weights: npt.ArrayLike, num_samples: int | None = None) -> Contents:
        """Draw samples with replacement, anew in every epoch.

        Raises:
            ConfigError: As `lmdbpipe.order.draw` raises, or samples are drawn anew in every epoch already.
        """
        return Contents(self.records, draw(self._fixed(), weights, self.length if num_samples is None else num_samples))

    def values(self, leaf: str | int | Path) -> npt.NDArray[Any] | list[Any]:
        """Read one leaf of all samples of an epoch, as they lie in its files: an array if it is dense, else a list.

        Raises:
            ConfigError: There is no such leaf, or samples are drawn anew in every epoch.
        """
        fixed = self._fixed()
        values = self.records.values(self.records.leaf(leaf))
        if self.selection is None:
            return values
        indices, _ = fixed.at(np.arange(self.length, dtype=np.int64), BaseOrder(length=self.length))
        return [values[index] for index in indices.tolist()] if isinstance(values, list) else values[indices]

    def _fixed(self) -> Selection:
        if self.selection is None:
            return Whole(len(self.records))
        if not self.selection.is_fixed:
            raise ConfigError(
                "what is weighted or mixed is drawn anew in every epoch, so that nothing can be selected from it: "
                "select before weighting, and say how many samples are drawn by num_samples, choose or epoch_size"
            )
        return self.selection

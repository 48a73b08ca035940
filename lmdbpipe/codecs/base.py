"""The contract of a codec: how one leaf of every sample becomes columns of arrays, and comes back.

A codec is a frozen description of what it has seen. The first value gives the narrowest codec that holds it (`of`);
joining it with the codecs of further values widens it (a second image size makes the size vary) or fails, if no codec
of this kind holds both. A column's bytes do not depend on how wide its codec is; a wider codec only has more columns,
and those that earlier, narrower chunks lack are constants (`widen`). So a build needs no look at the data beforehand.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]
OFFSET = np.dtype("<i8")


class MismatchError(Exception):
    """A value does not fit a codec; the message says how. Callers add the sample and the leaf."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a leaf.

    Attributes:
        role: What it is to its codec, such as ``pixels`` or ``offsets``.
        dtype: Little-endian NumPy dtype of its elements.
        shape: Shape of a sample's row, so that a chunk's column is an ``[n, *shape]`` array; None where rows vary in
            length, so that it is the flat concatenation of the rows.
    """

    role: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None

    @property
    def row_bytes(self) -> int | None:
        """Bytes of one sample's row, or None where that varies."""
        if self.shape is None:
            return None
        return math.prod(self.shape) * self.dtype.itemsize


class Rows(Protocol):
    """One leaf of one chunk, ready to be read by row."""

    def sample(self, row: int) -> Any:
        """Give a row's value exactly as the source gave it, in memory of its own."""
        ...

    def batch_item(self, row: int) -> Any:
        """Give a row's value as it stands in a batch whose rows cannot be stacked."""
        ...


class Codec(ABC):
    """One kind of leaf. Subclasses are frozen dataclasses whose fields are JSON-able."""

    name: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]
    """Every column the codec may ever have, in file order."""

    @classmethod
    @abstractmethod
    def of(cls, value: Any) -> Codec | None:
        """Describe one value by the narrowest codec that holds it; None if this kind takes no such value.

        Raises:
            MismatchError: The kind takes such values, but cannot hold this one exactly.
        """

    @abstractmethod
    def join(self, other: Any) -> Codec:
        """Give the narrowest codec that holds what both hold.

        Raises:
            MismatchError: There is none.
        """

    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """List the columns that hold this leaf."""

    @abstractmethod
    def encode(self, values: Sequence[Any]) -> dict[str, Array]:
        """Turn a chunk's values into one array for each column."""

    @abstractmethod
    def rows(self, arrays: Arrays, length: int) -> Rows:
        """Read a chunk of `length` samples from its columns' arrays, shaped as `columns` says."""

    def widen(self, narrower: Any, length: int) -> dict[str, Array]:
        """Make the columns that `length` samples written under a narrower codec lack."""
        return {}

    def dense(self) -> Column | None:
        """The column whose rows, stacked, are a batch of this leaf; None if batches of it are lists."""
        return None

    def stack(self, rows: torch.Tensor) -> torch.Tensor:
        """Turn ``[n, *shape]`` rows of the `dense` column, as stored, into the batch of this leaf."""
        return rows

    def check(self, arrays: Arrays, length: int) -> list[str]:
        """Say what in a chunk's arrays breaks the format's promises; each row is decoded once."""
        rows = self.rows(arrays, length)
        problems = []
        for row in range(length):
            try:
                rows.sample(row)
            except Exception as error:  # whatever the damage makes of the decoder
                problems.append(f"row {row} cannot be decoded: {error}")
        return problems

    def params(self) -> dict[str, Any]:
        """Describe the codec as JSON, without its name."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> Codec:
        """Read what `params` wrote."""
        return cls(**{key: as_tuples(value) for key, value in params.items()})


def as_tuples(value: Any) -> Any:
    """Make tuples of the lists in a JSON value, so that it can be compared and hashed."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def as_bytes(array: Array) -> bytes | memoryview:
    """View the bytes of a C-contiguous array, whatever its dtype."""
    return array.reshape(-1).view(np.uint8).data if array.nbytes else b""


def ends(lengths: npt.ArrayLike) -> Array:
    """Turn the lengths of rows into the offsets at which they end."""
    return np.cumsum(np.asarray(lengths, OFFSET), dtype=OFFSET)


def span(ends: Array, row: int) -> slice:
    """Give the slice of a flat column that holds a row."""
    return slice(int(ends[row - 1]) if row else 0, int(ends[row]))


def check_ends(ends: Array, total: int) -> list[str]:
    """Say whether ends are no valid partition of `total` items."""
    steps = np.diff(ends, prepend=0)
    if (steps < 0).any() or (len(ends) and ends[-1] != total):
        return [f"offsets do not partition the {total} items of their column"]
    return []

"""Scalars: int, float, bool, complex and NumPy scalars, as one dense array."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from lmdbpipe.codecs.base import Array, Arrays, Codec, Column, MismatchError

_PYTHON: dict[type, tuple[str, str]] = {
    bool: ("bool", "|b1"),
    int: ("int", "<i8"),
    float: ("float", "<f8"),
    complex: ("complex", "<c16"),
}
_PLAIN_KINDS = "biufcmM"
_INT64 = np.iinfo(np.int64)


@dataclasses.dataclass(frozen=True)
class ScalarCodec(Codec):
    """Numbers of one type.

    Attributes:
        kind: ``bool``, ``int`` (64 bits), ``float``, ``complex``, or ``numpy``.
        dtype: The dtype of the column, in NumPy's array-protocol spelling.
    """

    kind: str
    dtype: str

    name: ClassVar[str] = "scalar"
    roles: ClassVar[tuple[str, ...]] = ("data",)

    @classmethod
    def of(cls, value: Any) -> ScalarCodec | None:
        """Take a built-in number, or a NumPy scalar of a number, date or duration."""
        if type(value) in _PYTHON:
            if type(value) is int and not _INT64.min <= value <= _INT64.max:
                raise MismatchError(f"the integer {value} does not fit into 64 bits")
            return cls(*_PYTHON[type(value)])
        if isinstance(value, np.generic) and value.dtype.kind in _PLAIN_KINDS:
            return cls("numpy", value.dtype.newbyteorder("<").str)
        return None

    def join(self, other: ScalarCodec) -> ScalarCodec:
        """Accept only the same type again."""
        if self != other:
            raise MismatchError(f"the samples before have {self._describe()}, this one {other._describe()}")
        return self

    def columns(self) -> tuple[Column, ...]:
        """List the one column."""
        return (Column("data", np.dtype(self.dtype), ()),)

    def encode(self, values: Sequence[Any]) -> dict[str, Array]:
        """Make one array of a chunk's numbers."""
        return {"data": np.array(values, self.dtype)}

    def rows(self, arrays: Arrays, length: int) -> ScalarRows:
        """Read a chunk's numbers."""
        return ScalarRows(arrays["data"], self.kind)

    def dense(self) -> Column | None:
        """Numbers stack, where torch has their dtype."""
        column = self.columns()[0]
        try:
            torch.from_numpy(np.empty(0, column.dtype))
        except TypeError:
            return None
        return column

    def check(self, arrays: Arrays, length: int) -> list[str]:
        """Find nothing: any bits are numbers."""
        return []

    def _describe(self) -> str:
        return f"a NumPy scalar of dtype {self.dtype}" if self.kind == "numpy" else f"a {self.kind}"


class ScalarRows:
    """The numbers of a chunk."""

    def __init__(self, data: Array, kind: str) -> None:
        self._data = data
        self._kind = kind

    def sample(self, row: int) -> Any:
        """A row's number, of the source's type."""
        return self._data[row] if self._kind == "numpy" else self._data[row].item()

    batch_item = sample

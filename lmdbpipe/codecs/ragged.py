"""What text, bytes and JSON share: rows of bytes, one after the other, and the offsets at which they end."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lmdbpipe.codecs.base import OFFSET, Array, Arrays, Codec, Column, check_ends, ends, span


@dataclasses.dataclass(frozen=True)
class RaggedCodec(Codec):
    """A value that has a form as bytes. Subclasses say which values, and how to and from bytes."""

    roles: ClassVar[tuple[str, ...]] = ("bytes", "offsets")

    @staticmethod
    @abstractmethod
    def to_bytes(value: Any) -> bytes:
        """Write a value."""

    @staticmethod
    @abstractmethod
    def from_bytes(row: bytes) -> Any:
        """Read a value."""

    def join(self, other: RaggedCodec) -> RaggedCodec:
        """Accept any further value."""
        return self

    def columns(self) -> tuple[Column, ...]:
        """List the bytes and their offsets."""
        return Column("bytes", np.dtype("u1"), None), Column("offsets", OFFSET, ())

    def encode(self, values: Sequence[Any]) -> dict[str, Array]:
        """Concatenate a chunk's values."""
        rows = [self.to_bytes(value) for value in values]
        return {"bytes": np.frombuffer(b"".join(rows), "u1"), "offsets": ends([len(row) for row in rows])}

    def rows(self, arrays: Arrays, length: int) -> RaggedRows:
        """Read a chunk's values."""
        return RaggedRows(self, arrays)

    def check(self, arrays: Arrays, length: int) -> list[str]:
        """Check the offsets, then decode every value."""
        return check_ends(arrays["offsets"], len(arrays["bytes"])) or super().check(arrays, length)


class RaggedRows:
    """The values of a chunk."""

    def __init__(self, codec: RaggedCodec, arrays: Arrays) -> None:
        self._read = codec.from_bytes
        self._bytes = arrays["bytes"]
        self._ends = arrays["offsets"]

    def sample(self, row: int) -> Any:
        """A row's value."""
        return self._read(self._bytes[span(self._ends, row)].tobytes())

    batch_item = sample

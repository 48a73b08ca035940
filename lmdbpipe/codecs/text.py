"""Text: str as UTF-8 (lone surrogates, as file names may have them, pass), and bytes as they are."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from lmdbpipe.codecs.ragged import RaggedCodec


@dataclasses.dataclass(frozen=True)
class TextCodec(RaggedCodec):
    """Strings."""

    name: ClassVar[str] = "text"

    @classmethod
    def of(cls, value: Any) -> TextCodec | None:
        """Take a str."""
        return cls() if type(value) is str else None

    @staticmethod
    def to_bytes(value: str) -> bytes:
        """Write UTF-8."""
        return value.encode("utf-8", "surrogatepass")

    @staticmethod
    def from_bytes(row: bytes) -> str:
        """Read UTF-8."""
        return row.decode("utf-8", "surrogatepass")


@dataclasses.dataclass(frozen=True)
class BytesCodec(RaggedCodec):
    """Byte strings."""

    name: ClassVar[str] = "bytes"

    @classmethod
    def of(cls, value: Any) -> BytesCodec | None:
        """Take a bytes object."""
        return cls() if type(value) is bytes else None

    @staticmethod
    def to_bytes(value: bytes) -> bytes:
        """Write the bytes."""
        return value

    @staticmethod
    def from_bytes(row: bytes) -> bytes:
        """Read the bytes."""
        return row

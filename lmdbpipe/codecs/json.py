"""JSON: None, and plain nested lists and dicts whose form varies by sample, such as COCO and VOC annotations."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, ClassVar

from lmdbpipe.codecs.base import MismatchError
from lmdbpipe.codecs.ragged import RaggedCodec
from lmdbpipe.structure import is_plain


@dataclasses.dataclass(frozen=True)
class JsonCodec(RaggedCodec):
    """Plain data. Floats come back bit for bit, NaN and infinities included; integers have any size."""

    name: ClassVar[str] = "json"

    @classmethod
    def of(cls, value: Any) -> JsonCodec | None:
        """Take None, and built-in numbers, strings, lists, and dicts with string keys, nested."""
        if is_plain(value):
            return cls()
        if type(value) in (dict, list):
            raise MismatchError("the samples before have plain data here, this one holds other values or dict keys")
        return None

    @staticmethod
    def to_bytes(value: Any) -> bytes:
        """Write compact UTF-8 JSON; lone surrogates pass."""
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    @staticmethod
    def from_bytes(row: bytes) -> Any:
        """Read JSON."""
        return json.loads(row)

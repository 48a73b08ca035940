"""Where in the map a value lies, without touching it: its key says so.

py-lmdb reads a byte of every page of a value before it gives it: all of a chunk is then faulted in, page by page and
again in every worker, although a batch may want little of it. A key is cheap to find, and lies in a leaf page of the
tree, beside the size of its value and the number of the page that this begins on (``mdb.c`` of LMDB 0.9: MDB_node,
F_BIGDATA, PAGEHDRSZ).
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Any, NamedTuple

import numpy as np

_NODE = struct.Struct("<HHHH")
"""Before a key: size of the value (low, high), flags, size of the key."""
_NUMBER = struct.Struct("<Q")
_HEADER_BYTES = 16
_BIG = 1
"""The flag of a value that lies on pages of its own; the number of the first stands behind the key."""


class Place(NamedTuple):
    """A value's address in memory, and its bytes."""

    address: int
    size: int


def find_place(cursor: Any, key: bytes, page_size: int, last_page: int) -> Place | None:
    """Find a value by its key, where LMDB's layout is the one above: compare one place with what LMDB itself says.

    Args:
        cursor: Of a read transaction whose keys are memory views.
        key: Its key.
        page_size: Bytes of a page.
        last_page: The number of the file's last page.

    Returns:
        None if there is no such key, if the value ends beyond the last page, or if the layout is another.
    """
    if sys.byteorder != "little" or sys.maxsize < 2**32 or not cursor.set_key(key):
        return None
    address = int(np.frombuffer(cursor.key(), np.uint8).__array_interface__["data"][0])
    low, high, flags, key_size = _NODE.unpack(ctypes.string_at(address - _NODE.size, _NODE.size))
    if key_size != len(key):
        return None
    size, beside = low | high << 16, address + key_size
    if not flags & _BIG:
        return Place(beside, size)
    leaf = address - address % page_size  # pages lie in memory as the map does, which begins at one
    (own,) = _NUMBER.unpack(ctypes.string_at(leaf, _NUMBER.size))
    (number,) = _NUMBER.unpack(ctypes.string_at(beside, _NUMBER.size))
    if number * page_size + _HEADER_BYTES + size > (last_page + 1) * page_size:
        return None
    return Place(leaf + (number - own) * page_size + _HEADER_BYTES, size)

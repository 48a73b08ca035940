"""LMDB's own pages, checked by hand: LMDB trusts them, and a damaged one can kill the process that it is read in.

A file is two meta pages and trees of pages. Every page that LMDB would walk is checked before LMDB does: that it is the
page it says, of the kind that belongs there, that its nodes lie within it in ascending order, that the pages it leads
to are in the file, and that none is reached twice. Values are not read: checksums are for them. The layout is that of
LMDB 0.9 (``mdb.c``: MDB_meta, MDB_db, MDB_page, MDB_node) on little-endian 64-bit machines; elsewhere nothing is
checked. It costs a read of every page but those of large values, one in some hundred of a file.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_META = struct.Struct("<II8xQ48x48xQQ")
"""Of a meta page, after the header: magic, version, map size, the free and the main tree, last page, transaction."""
_TREE = struct.Struct("<IHHQQQQQ")
"""Of a tree: padding (of the free tree: the page size), flags, depth, three counts of pages, entries, root page."""
_HEADER = struct.Struct("<QHHHH")
"""Of a page: its number, padding, flags, and where the free space between pointers and nodes begins and ends."""
_NODE = struct.Struct("<HHHH")
"""Of a node: size of its value (low, high), flags, size of its key; in a branch the first three are a page number."""
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _IS_META = 1, 2, 4, 8
_BIG, _SUBTREE = 1, 2
_NO_PAGE = 2**64 - 1
_MOST_LEVELS = 32
"""LMDB's own limit (CURSOR_STACK) to the depth of a tree."""


class _Damage(Exception):
    """What is wrong with a page."""


class _Tree(NamedTuple):
    name: str
    depth: int
    entries: int
    root: int


def looks_like_lmdb(path: Path) -> bool:
    """Whether a file begins as LMDB's do, or is empty."""
    if not path.is_file():  # a pipe would be waited for
        return False
    with path.open("rb") as file:
        head = file.read(_HEADER.size + 4)
    return not head or _MAGIC.to_bytes(4, sys.byteorder) in head


def check_pages(path: Path, *, trees: tuple[str, ...] | None = None) -> Iterator[str]:
    """Yield what is wrong with a file's pages; nothing if LMDB can walk them safely.

    Args:
        path: The file.
        trees: The named databases to check; the rest is as little as opening the file takes. None checks all.
    """
    if sys.byteorder != "little" or sys.maxsize < 2**32:
        return
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                pages = _Pages(data)
                for name, value, flags in list(pages.walk(pages.main)):
                    text = name.decode("utf-8", "replace")
                    if flags & _SUBTREE and (trees is None or text in trees):
                        for _ in pages.walk(_tree(text, value)):
                            pass
        except (_Damage, ValueError, struct.error) as error:
            yield f"the file's tree of pages is damaged: {error}"


def _tree(name: str, value: bytes) -> _Tree:
    if len(value) != _TREE.size:
        raise _Damage(f"database {name}: its description has {len(value)} bytes")
    _, flags, depth, _, _, _, entries, root = _TREE.unpack(value)
    if flags:
        raise _Damage(f"database {name}: it has flags {flags:#x}")
    if depth > _MOST_LEVELS:
        raise _Damage(f"database {name}: it is {depth} pages deep, which LMDB does not walk")
    return _Tree(name, depth, entries, root)


class _Pages:
    """The pages of a file, as its last transaction left them."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._seen: set[int] = set()
        self._size = 4096
        sizes, metas = [], []
        for number in (0, 1):
            start = number * self._size
            _, _, flags, _, _ = _HEADER.unpack_from(data, start)
            magic, version, _, last, transaction = _META.unpack_from(data, start + _HEADER.size)
            if not flags & _IS_META or magic != _MAGIC or version != _VERSION:
                raise _Damage(f"page {number} is no meta page of LMDB 0.9")
            trees = start + _HEADER.size + 24
            sizes.append(_TREE.unpack_from(data, trees)[0])
            if sizes[-1] not in (2**bits for bits in range(9, 17)):
                raise _Damage(f"page {number}: it says that pages have {sizes[-1]} bytes")
            metas.append((transaction, last, bytes(data[trees + _TREE.size : trees + 2 * _TREE.size])))
            self._size = sizes[-1]
        if sizes[0] != sizes[1]:
            raise _Damage(f"pages 0 and 1 say that pages have {sizes[0]} and {sizes[1]} bytes")
        _, self._last, main = max(metas)
        if (self._last + 1) * self._size > len(data):
            raise _Damage(f"its last page is {self._last}, but there are {len(data) // self._size}")
        self.main = _tree("main", main)

    def walk(self, tree: _Tree) -> Iterator[tuple[bytes, bytes, int]]:
        """Check the pages of a tree, and give its keys, the values that lie beside them, and their nodes' flags."""
        if tree.root == _NO_PAGE:
            if tree.entries or tree.depth:
                raise _Damage(f"database {tree.name}: it has no root page, but {tree.entries} entries")
            return
        count, before = 0, None
        for key, value, flags in self._page(tree, tree.root, tree.depth):
            if before is not None and key <= before:
                raise _Damage(f"database {tree.name}: key {key.hex()} does not follow {before.hex()}")
            count, before = count + 1, key
            yield key, value, flags
        if count != tree.entries:
            raise _Damage(f"database {tree.name}: it has {count} entries, and says {tree.entries}")

    def _page(self, tree: _Tree, number: int, depth: int) -> Iterator[tuple[bytes, bytes, int]]:
        """Check a page of a tree and all below it."""
        where = f"database {tree.name}, page {number}"
        self._visit(where, number)
        start = number * self._size
        own, _, flags, lower, upper = _HEADER.unpack_from(self._data, start)
        count = (lower - _HEADER.size) // 2
        if own != number or flags != (_LEAF if depth == 1 else _BRANCH) or depth < 1:
            raise _Damage(f"{where}: it says that it is page {own} with flags {flags:#x}")
        if lower % 2 or count < (1 if depth == 1 else 2) or not lower <= upper <= self._size:
            raise _Damage(f"{where}: its free space is from {lower} to {upper}")
        for place in struct.unpack_from(f"<{count}H", self._data, start + _HEADER.size):
            if not upper <= place <= self._size - _NODE.size:
                raise _Damage(f"{where}: a node lies at {place}")
            low, high, node_flags, key_size = _NODE.unpack_from(self._data, start + place)
            first = start + place + _NODE.size
            key, after = bytes(self._data[first : first + key_size]), first + key_size
            room = start + self._size - after
            if depth > 1:
                if room < 0:
                    raise _Damage(f"{where}: a key is larger than the page")
                yield from self._page(tree, low | high << 16 | node_flags << 32, depth - 1)
                continue
            if node_flags not in ((0, _BIG, _SUBTREE) if tree is self.main else (0, _BIG)):
                raise _Damage(f"{where}: a node has flags {node_flags:#x}")
            yield key, self._value(where, after, room, low | high << 16, node_flags), node_flags

    def _value(self, where: str, place: int, room: int, size: int, flags: int) -> bytes:
        """Check where a value lies; give it, if that is beside its key."""
        if room < (8 if flags & _BIG else size):
            raise _Damage(f"{where}: a value is larger than the page")
        if not flags & _BIG:
            return bytes(self._data[place : place + size])
        (number,) = struct.unpack_from("<Q", self._data, place)
        self._visit(where, number)
        own, _, page_flags, low, high = _HEADER.unpack_from(self._data, number * self._size)
        pages = low | high << 16
        if own != number or page_flags != _OVERFLOW or pages * self._size < _HEADER.size + size:
            raise _Damage(f"{where}: the value on page {number} has {pages} pages for {size} bytes")
        if number + pages - 1 > self._last:
            raise _Damage(f"{where}: the value on page {number} ends beyond the last page")
        return b""

    def _visit(self, where: str, number: int) -> None:
        """Check that a page is in the file and has not been met before."""
        if not 2 <= number <= self._last:
            raise _Damage(f"{where}: it leads to page {number} of {self._last + 1}")
        if number in self._seen:
            raise _Damage(f"{where}: it leads to page {number}, which belongs elsewhere")
        self._seen.add(number)

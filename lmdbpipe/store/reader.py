"""A finished file, opened for reading: its manifest, and the columns of its chunks."""

from __future__ import annotations

import ctypes
import os
import struct
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from lmdbpipe.codecs import Array, Column, Rows
from lmdbpipe.config import LMDBConfig
from lmdbpipe.errors import CorruptError, DatabaseMismatchError, UnfinishedError
from lmdbpipe.store import environment
from lmdbpipe.store.manifest import MANIFEST_KEY, Manifest

_KEY = struct.Struct(">QH")
_CHUNKS_KEPT = 256
_ROWS_KEPT = 2**21
"""At most; where a leaf's sizes vary, 8 bytes each say where its rows lie."""
STEP = 1024**2
"""Bytes of the file that the kernel is asked for at a time."""
_LOOKED_AT = 16
"""Steps of which the ends are looked at."""


def chunk_key(chunk: int, column: int) -> bytes:
    """The key of one column of one chunk: big-endian, so that key order is file order."""
    return _KEY.pack(chunk, column)


class Database:
    """A finished file. Opens lazily, again after a fork; pickles as its path; several may be open on one file.

    Args:
        path: The file.
        config: How to open it.

    Raises:
        DatabaseNotFoundError: There is no such file.
        DatabasePathError: The path is a folder, or not readable.
        FormatError: The file is not LMDB, not of this package, of a newer format, unfinished, or truncated.

    A file that was replaced is refused with a DatabaseMismatchError where it is opened again: after a fork, or when
    this object was pickled.
    """

    def __init__(self, path: str | os.PathLike[str], config: LMDBConfig | None = None) -> None:
        self.path = Path(path).expanduser().absolute()
        self.config = config or LMDBConfig()
        self._environment: environment.Environment | None = None
        self._generation = -1
        self._rows: dict[int, tuple[Rows, ...]] = {}
        self._addresses: dict[int, npt.NDArray[np.int64]] = {}
        self._memory: tuple[int, npt.NDArray[np.uint8]] | None = None
        self._anchor = (0, 0)
        """A chunk, and where in the file it begins, but for the few pages before the first."""
        self._written = b""
        """A hash of the manifest, which tells what was opened from what may stand under the path later."""
        self.manifest = self._read_manifest()

    def __repr__(self) -> str:
        return f"Database({str(self.path)!r}, length={self.manifest.length})"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "config": self.config, "written": self._written}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["config"])  # type: ignore[misc]
        if self._written != state["written"]:
            self.close()
            raise self._replaced()

    def column(self, chunk: int, index: int, column: Column) -> Array:
        """Read one column of one chunk.

        Returns:
            A read-only view into the map, valid while this object is: ``[n, *shape]``, or flat where rows vary. It must
            not reach a user.

        Raises:
            CorruptError: The value is missing or has a wrong size.
        """
        value, rows = self._value(chunk, index), self.manifest.chunk_rows(chunk)
        if value is None or not self._fits(len(value), chunk, column):
            found = "missing" if value is None else f"{len(value)} bytes"
            expected = None if column.row_bytes is None else rows * column.row_bytes
            raise CorruptError(f"{self.path}: column {index} of chunk {chunk} is damaged: {found}, not {expected}")
        if not len(value):
            return np.empty((rows, *column.shape) if column.shape is not None else 0, column.dtype)
        array: Array = np.frombuffer(value, column.dtype)
        return array if column.shape is None else array.reshape(rows, *column.shape)

    def rows(self, chunk: int) -> tuple[Rows, ...]:
        """Read a chunk: for each leaf of the structure, its values by row. Some that were read are kept."""
        self._open()
        if (found := self._rows.get(chunk)) is not None:
            return found
        if len(self._rows) >= min(_CHUNKS_KEPT, _ROWS_KEPT // self.manifest.chunk_length):
            self._rows = {}
        schema = self.manifest.schema
        arrays: list[dict[str, Array]] = [{} for _ in schema.codecs]
        for index, leaf, column in schema.columns:
            arrays[leaf][column.role] = self.column(chunk, index, column)
        length = self.manifest.chunk_rows(chunk)
        rows = tuple(codec.rows(given, length) for codec, given in zip(schema.codecs, arrays, strict=True))
        self._rows[chunk] = rows
        return rows

    def start(self, chunk: int, index: int, column: Column) -> tuple[npt.NDArray[np.uint8], int]:
        """Return `memory()`'s bytes and the offset in them at which this non-empty column begins."""
        self._open()
        table = self._addresses.get(index)
        address: int = -1 if table is None else table.item(chunk)
        if address < 0:
            address = self._find(chunk, index, column)
        base, memory = self._memory or self.memory()
        return memory, address - base

    def addresses(self, chunks: npt.NDArray[np.int64], index: int, column: Column) -> npt.NDArray[np.int64]:
        """Look up where in memory one column of some chunks begins; 0 where it is empty.

        Remembered: 8 bytes a chunk.
        """
        self._open()
        table = self._table(index)
        addresses: npt.NDArray[np.int64] = table[chunks]
        if (addresses < 0).any():
            for chunk in np.unique(chunks[addresses < 0]).tolist():
                self._find(chunk, index, column)
            addresses = table[chunks]
        return addresses

    def memory(self) -> tuple[int, npt.NDArray[np.uint8]]:
        """Give an address, and the bytes from there on: all of the map is among them, and much that nobody reads.

        Only after an address of a column that is not empty was looked up. The bytes claim to be writable, so that torch
        takes them.
        """
        self._open()
        if self._memory is None:
            with environment.lock():  # threads that are first at once would see it from different addresses
                if self._memory is None:
                    tables = list(self._addresses.values())  # another thread may add one
                    any_address = next(int(table.max()) for table in tables if table.max() > 0)
                    base = any_address - self.manifest.totals["file_bytes"]
                    size = 2 * self.manifest.totals["file_bytes"]
                    self._memory = base, np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(base))
        return self._memory

    def steps(self, chunks: npt.NDArray[np.int64] | range) -> npt.NDArray[np.int64] | range:
        """Number the steps of 1 MiB of the file that hold some chunks, ascending; a range for a range.

        A chunk's place is taken from the chunk that was read last, and the mean size of chunks: to learn it exactly
        would read it.
        """
        end = self.manifest.totals["file_bytes"] - 1
        stride = (end + 1) * self.manifest.chunk_length / self.manifest.length  # the last chunk may be shorter
        chunk, place = self._anchor
        if isinstance(chunks, range):
            low, high = place + (chunks.start - chunk) * stride, place + (chunks.stop - chunk) * stride
            return range(max(int(low), 0) // STEP, min(int(high), end) // STEP + 1)
        lows = place + (np.unique(chunks) - chunk) * stride
        first = np.maximum(lows.astype(np.int64), 0) // STEP
        last = np.minimum((lows + stride).astype(np.int64), end) // STEP
        span = int((last - first).max()) + 1
        return np.unique(np.minimum(first[:, None] + np.arange(span), last[:, None]))

    def missing(self, steps: Sequence[int]) -> list[int]:
        """Tell which of some steps of the file, at least one, are not in memory; all where the kernel cannot tell.

        Where steps follow each other, some of them are looked at, and what lies between two is taken to be as they are:
        to look costs a system call, and a read of a page that is not there.
        """
        descriptor = self._open().descriptor(self.path)
        size = _LOOKED_AT if steps[-1] - steps[0] < len(steps) else 1
        found: list[int] = []
        for first in range(0, len(steps), size):
            some = steps[first : first + size]
            ends = (some[-1], some[0]) if len(some) > 1 else (some[0],)
            if not all(_is_cached(descriptor, step * STEP) for step in ends):
                found += some
        return found

    def advise(self, steps: Sequence[int]) -> None:
        """Ask the kernel to bring in steps of the file, on a system that has ``posix_fadvise``.

        That takes about as long as the disk does. Linux cuts a longer request to about a step, so each is asked for by
        itself.
        """
        descriptor = self._open().descriptor(self.path)
        for step in steps:
            os.posix_fadvise(descriptor, step * STEP, STEP, os.POSIX_FADV_WILLNEED)

    def sum(self, chunk: int, index: int) -> bytes | None:
        """The stored checksum of one column of one chunk."""
        value = self._open().transaction().get(chunk_key(chunk, index), db=self._open().handles[environment.SUMS])
        return None if value is None else bytes(value)

    def keys(self, database: bytes) -> Iterator[bytes]:
        """All keys of one of the file's databases, in file order."""
        with self._open().transaction().cursor(self._open().handles[database]) as cursor:
            yield from map(bytes, cursor.iternext(values=False))

    def close(self) -> None:
        """Let the file go; it opens again on the next use."""
        if self._environment is not None and self._generation == environment.generation():
            self._finalizer()
        self._environment = None

    def _fits(self, size: int, chunk: int, column: Column) -> bool:
        """Whether a column of a chunk may have so many bytes."""
        if column.row_bytes is None:
            return size % column.dtype.itemsize == 0
        return size == self.manifest.chunk_rows(chunk) * column.row_bytes

    def _table(self, index: int) -> npt.NDArray[np.int64]:
        """What is known of a column's addresses, by chunk; -1 where nothing is. All threads have the same."""
        table = self._addresses.get(index)
        if table is None:
            table = self._addresses.setdefault(index, np.full(self.manifest.num_chunks, -1, np.int64))
        return table

    def _find(self, chunk: int, index: int, column: Column) -> int:
        """Look up one address, and remember it."""
        opened, table = self._open(), self._table(index)
        place = None if opened.keys_tell is False else opened.place(chunk_key(chunk, index))
        if opened.keys_tell and place is not None and self._fits(place.size, chunk, column):
            address = place.address if place.size else 0
        else:  # LMDB is asked, to prove what keys tell, or to say what is wrong
            array = self.column(chunk, index, column)
            address = array.__array_interface__["data"][0] if array.nbytes else 0
            if place is None or place.size:
                opened.keys_tell = place is not None and place.address == address
        table[chunk] = address
        if address and index == self.manifest.schema.columns[0].index and table[0] > 0:
            self._anchor = (chunk, address - int(table[0]))
        return address

    def _value(self, chunk: int, index: int) -> Any:
        opened = self._open()
        key = chunk_key(chunk, index)
        if self.config.access == "get":
            return opened.transaction().get(key, db=opened.handles[environment.DATA])
        return self._cursor_value(opened, key)

    def _cursor_value(self, opened: environment.Environment, key: bytes) -> Any:
        """Step this thread's cursor forward if the key is next, else move it there."""
        cursors = opened.threads.__dict__.setdefault("cursors", weakref.WeakKeyDictionary())
        cursor = cursors.get(self)
        if cursor is None:
            cursor = cursors[self] = opened.transaction().cursor(opened.handles[environment.DATA])
            found = cursor.set_key(key)
        else:
            found = cursor.key() == key or (cursor.next() and cursor.key() == key) or cursor.set_key(key)
        return cursor.value() if found else None

    def _open(self) -> environment.Environment:
        if self._environment is None or self._generation != environment.generation():
            with environment.lock():
                if self._environment is not None and self._generation == environment.generation():
                    return self._environment  # another thread was first
                self._environment = None  # what a fork inherited is closed, also where what follows fails
                opened = environment.acquire(self.path, self.config)
                self._rows, self._addresses, self._anchor = {}, {}, (0, 0)
                self._memory = None
                self._generation = environment.generation()
                self._finalizer = weakref.finalize(self, _release, opened, self._generation)
                self._finalizer.atexit = False  # threads may still read: the process takes the map with it
                if self._written and xxhash.xxh3_128_digest(_manifest(opened) or b"") != self._written:
                    self._finalizer()
                    raise self._replaced()
                self._environment = opened  # last: other threads look at it without the lock
        return self._environment

    def _read_manifest(self) -> Manifest:
        data = _manifest(self._open())
        if data is None:
            self.close()
            raise UnfinishedError(
                f"{self.path}: is an unfinished build; run the same build again and it goes on where it stopped"
            )
        self._written = xxhash.xxh3_128_digest(data)
        try:
            return Manifest.loads(data, source=str(self.path))
        except Exception:
            self.close()
            raise

    def _replaced(self) -> DatabaseMismatchError:
        return DatabaseMismatchError(
            f"{self.path}: another file stands here than the one that was opened: open it anew, "
            "and do not build over a file that is being read"
        )


def _manifest(opened: environment.Environment) -> bytes | None:
    data = opened.transaction().get(MANIFEST_KEY, db=opened.handles[environment.META])
    return None if data is None else bytes(data)


def _release(opened: environment.Environment, generation: int) -> None:
    if generation == environment.generation():
        environment.release(opened)


def _is_cached(descriptor: int, offset: int) -> bool:
    """Whether the kernel has a page of a file in memory; False where it cannot be asked."""
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except (AttributeError, OSError):
        return False

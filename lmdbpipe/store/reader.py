"""A finished file, opened for reading: its manifest, and the columns of its chunks."""

from __future__ import annotations

import os
import struct
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lmdbpipe.codecs import Array, Column
from lmdbpipe.config import LMDBConfig
from lmdbpipe.errors import CorruptError, UnfinishedError
from lmdbpipe.store import environment
from lmdbpipe.store.manifest import MANIFEST_KEY, Manifest

_KEY = struct.Struct(">QH")


def chunk_key(chunk: int, column: int) -> bytes:
    """The key of one column of one chunk: big-endian, so that key order is file order."""
    return _KEY.pack(chunk, column)


def parse_key(key: bytes) -> tuple[int, int]:
    """Read what `chunk_key` wrote."""
    return _KEY.unpack(key)  # type: ignore[return-value]


class Database:
    """A finished file. Opens lazily, again after a fork; pickles as its path; several may be open on one file.

    Args:
        path: The file.
        config: How to open it.

    Raises:
        DatabaseNotFoundError: There is no such file.
        DatabasePathError: The path is a folder, or not readable.
        FormatError: The file is not LMDB, not of this package, of a newer format, unfinished, or truncated.
    """

    def __init__(self, path: str | os.PathLike[str], config: LMDBConfig | None = None) -> None:
        self.path = Path(path).expanduser().absolute()
        self.config = config or LMDBConfig()
        self._environment: environment.Environment | None = None
        self._generation = -1
        self._lock = threading.Lock()
        self.manifest = self._read_manifest()

    def __repr__(self) -> str:
        return f"Database({str(self.path)!r}, length={self.manifest.length})"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["config"])  # type: ignore[misc]

    def column(self, chunk: int, index: int, column: Column) -> Array:
        """Read one column of one chunk.

        Returns:
            A read-only view into the map, valid while this object is: ``[n, *shape]``, or flat where rows vary. It must
            not reach a user.

        Raises:
            CorruptError: The value is missing or has a wrong size.
        """
        value = self._value(chunk, index)
        rows = self.manifest.chunk_rows(chunk)
        expected = None if column.row_bytes is None else rows * column.row_bytes
        if value is None or (expected is not None and len(value) != expected) or len(value) % column.dtype.itemsize:
            found = "missing" if value is None else f"{len(value)} bytes"
            raise CorruptError(f"{self.path}: column {index} of chunk {chunk} is damaged: {found}, not {expected}")
        if not len(value):
            return np.empty((rows, *column.shape) if column.shape is not None else 0, column.dtype)
        array: Array = np.frombuffer(value, column.dtype)
        return array if column.shape is None else array.reshape(rows, *column.shape)

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
            with self._lock:
                opened = environment.acquire(self.path, self.config)
                self._environment, self._generation = opened, environment.generation()
                self._finalizer = weakref.finalize(self, _release, opened, self._generation)
        return self._environment

    def _read_manifest(self) -> Manifest:
        opened = self._open()
        data = opened.transaction().get(MANIFEST_KEY, db=opened.handles[environment.META])
        if data is None:
            self.close()
            raise UnfinishedError(
                f"{self.path}: is an unfinished build; run the same build again and it goes on where it stopped"
            )
        try:
            return Manifest.loads(bytes(data), source=str(self.path))
        except Exception:
            self.close()
            raise


def _release(opened: environment.Environment, generation: int) -> None:
    if generation == environment.generation():
        environment.release(opened)

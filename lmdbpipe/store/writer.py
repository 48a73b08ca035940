"""Writing a file: chunks in batches of commits into ``NAME.partial``, then one rename.

LMDB's map starts small and doubles when it is full, up to the configured bound; a batch that did not fit is written
again, so nothing is lost. Every commit holds a checkpoint from which an interrupted build goes on.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
import xxhash

from lmdbpipe.codecs import Columns
from lmdbpipe.codecs.base import as_bytes
from lmdbpipe.config import LMDBConfig
from lmdbpipe.errors import DatabaseFullError, DatabasePathError, LMDBPipeError
from lmdbpipe.store.environment import DATA, FILE_OPTIONS, META, SUMS
from lmdbpipe.store.manifest import CHECKPOINT_KEY, MANIFEST_KEY, Manifest
from lmdbpipe.store.pages import check_pages
from lmdbpipe.store.reader import chunk_key

_MIB = 1024**2
_FIRST_MAP = 64 * _MIB
_PENDING_BYTES = 64 * _MIB
"""Most bytes of chunks held in memory between two commits."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""How a full disk, quota or file system shows; LMDB says EIO where a part of a write is taken."""


def partial_path(path: Path) -> Path:
    """Where a file lies while it is built."""
    return path.with_name(path.name + ".partial")


def lock_path(path: Path) -> Path:
    """The lock that builders of a file hold, one at a time."""
    return path.with_name(path.name + ".lock")


def read_checkpoint(path: Path) -> dict[str, Any] | Manifest | None:
    """How far an interrupted build has come: its last commit's checkpoint, or its manifest if it lacks only a name.

    Returns:
        None if there is nothing to go on with.

    Raises:
        FormatError: The manifest is not one of this version.
    """
    partial = partial_path(path)
    if not partial.is_file() or any(check_pages(partial)):  # LMDB would trust a damaged page
        return None
    try:
        with (
            lmdb.open(str(partial), readonly=True, **FILE_OPTIONS) as env,
            env.begin(db=env.open_db(META, create=False)) as transaction,
        ):
            manifest, checkpoint = transaction.get(MANIFEST_KEY), transaction.get(CHECKPOINT_KEY)
    except lmdb.Error:
        return None
    if manifest is not None:
        return Manifest.loads(manifest, source=str(partial))
    return None if checkpoint is None else dict(json.loads(checkpoint))


class Writer:
    """The partial file of one build. Use it as a context; `finish` publishes, anything else leaves the partial file.

    Args:
        path: The final path.
        config: Its ``map_size``, ``write_frequency`` and ``meminit`` apply.
        fresh: Begin anew: drop what another build has left.

    Raises:
        DatabasePathError: The file cannot be created or written.
        DatabaseFullError: Not even an empty database fits.
    """

    def __init__(self, path: Path, config: LMDBConfig, *, fresh: bool = False) -> None:
        self.path = path
        self.partial = partial_path(path)
        self._config = config
        self._pending: list[tuple[int, Columns, dict[str, Any]]] = []
        self._pending_bytes = self._pending_samples = 0
        if fresh:
            self.partial.unlink(missing_ok=True)
        self._open()

    def _open(self) -> None:
        used = self.partial.stat().st_size if self.partial.exists() else 0
        map_size = min(self._config.map_size, max(_FIRST_MAP, 2 * used))
        try:
            self._env = lmdb.open(
                str(self.partial), map_size=map_size, meminit=self._config.meminit, metasync=True, **FILE_OPTIONS
            )
        except (lmdb.Error, OSError) as error:
            raise DatabasePathError(f"{self.partial}: cannot be written: {error}") from error
        self._handles: dict[bytes, Any] = {}
        try:
            for name in (META, DATA, SUMS):
                self._write(functools.partial(self._open_database, name))
        except LMDBPipeError:
            self._env.close()
            raise

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._env.close()

    def put(self, chunk: int, columns: Columns, samples: int, checkpoint: dict[str, Any]) -> None:
        """Add columns to a chunk; `checkpoint` describes the build with them in. Commits when enough is pending."""
        self._pending.append((chunk, columns, checkpoint))
        self._pending_bytes += sum(array.nbytes for array in columns.values())
        self._pending_samples += samples
        if self._pending_bytes >= _PENDING_BYTES or self._pending_samples >= self._config.write_frequency:
            self.commit()

    def commit(self) -> None:
        """Write what is pending, with the last checkpoint in the same transaction.

        Raises:
            DatabaseFullError: It needs more room than ``map_size`` or the disk allows.
            DatabasePathError: It cannot be written for another reason.
        """
        if not self._pending:
            return
        pending, self._pending, self._pending_bytes, self._pending_samples = self._pending, [], 0, 0

        def write(transaction: Any) -> None:
            for chunk, columns, _ in pending:
                for index in sorted(columns):
                    value = as_bytes(columns[index])
                    key = chunk_key(chunk, index)
                    transaction.put(key, value, db=self._handles[DATA])
                    transaction.put(key, xxhash.xxh3_64_digest(value), db=self._handles[SUMS])
            transaction.put(CHECKPOINT_KEY, json.dumps(pending[-1][2]).encode(), db=self._handles[META])

        self._write(write)

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest, make everything durable, and give the file its final name.

        Returns:
            The manifest as written, with the file's size in its totals.

        Raises:
            DatabaseFullError: As `commit` raises.
            DatabasePathError: As `commit` raises; or the complete file cannot be moved to its place, and is left where
                it is.
        """
        self.commit()
        size = 0
        while manifest.totals.get("file_bytes") != size:  # the manifest names the size of the file it lies in
            manifest = dataclasses.replace(manifest, totals={**manifest.totals, "file_bytes": size})
            self._write(functools.partial(self._finish, manifest.dumps()))
            size = self.partial.stat().st_size
        try:
            self._env.sync(True)
            self._env.close()
            _fsync(self.partial, os.O_RDWR)
            os.replace(self.partial, self.path)  # noqa: PTH105 - named in the format's promise
            if os.name == "posix":
                _fsync(self.path.parent, os.O_RDONLY)
        except (lmdb.Error, OSError) as error:  # such as, on Windows, a reader that has the old file open
            raise DatabasePathError(f"{self.path}: the new file cannot take this place: {error}") from error
        return manifest

    def _finish(self, manifest: bytes, transaction: Any) -> None:
        transaction.put(MANIFEST_KEY, manifest, db=self._handles[META])
        transaction.delete(CHECKPOINT_KEY, db=self._handles[META])

    def _open_database(self, name: bytes, transaction: Any) -> None:
        self._handles[name] = self._env.open_db(name, txn=transaction)

    def _write(self, write: Callable[[Any], None]) -> None:
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    write(transaction)
            except lmdb.MapFullError as error:
                self._grow(error)
            except (lmdb.Error, OSError) as error:
                if _is_full(error):
                    raise DatabaseFullError(
                        f"{self.partial}: cannot be written: {error}; if the disk is full, free room and build again"
                    ) from error
                raise DatabasePathError(f"{self.partial}: cannot be written: {error}") from error
            else:
                return

    def _grow(self, error: lmdb.MapFullError) -> None:
        size = self._env.info()["map_size"]
        if size >= self._config.map_size:
            raise DatabaseFullError(
                f"{self.partial}: the database needs more than map_size={self._config.map_size} bytes; "
                "raise it in db_cfg"
            ) from error
        self._env.set_mapsize(min(2 * size, self._config.map_size))


def _is_full(error: Exception) -> bool:
    """Whether a disk takes no more. LMDB's errors tell the system's only by their text."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return str(error).endswith(tuple(map(os.strerror, _FULL)))


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""One read-only LMDB environment for a file and a process, shared by all its readers.

LMDB forbids to open a file twice in a process, and to use an environment across ``fork()``. So environments stand in a
registry keyed by the file's identity and counted by their users; a forked child closes what it inherited and every
reader opens anew on its next use. Files are never changed after they are published, so one read transaction a thread
serves as long as the environment lives.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb

from lmdbpipe.config import LMDBConfig
from lmdbpipe.errors import CorruptError, DatabaseNotFoundError, DatabasePathError, FormatError
from lmdbpipe.store.pages import check_pages
from lmdbpipe.store.places import Place, find_place

_FILE = {"subdir": False, "lock": False, "max_dbs": 3}
if int(lmdb.__version__.split(".")[0]) >= 3:
    _FILE["lib_version"] = 0  # LMDB 1.0 changed the format on disk; these files stay readable by LMDB 0.9
FILE_OPTIONS: dict[str, Any] = _FILE
"""How every file of this package is opened, for reading and writing."""

META, DATA, SUMS = b"meta", b"data", b"sums"


@dataclass
class Environment:
    """An open file, the handles of its databases, and one read transaction for each thread."""

    env: Any
    handles: dict[bytes, Any]
    page_size: int
    last_page: int
    users: int = 0
    keys_tell: bool | None = None
    """Whether keys tell where values lie; None if that was not looked at yet."""
    advice: int | None = None
    threads: threading.local = field(default_factory=threading.local)

    def descriptor(self, path: Path) -> int:
        """A file descriptor of the file, for advice to the kernel; closed with the environment.

        It is opened with ``POSIX_FADV_RANDOM``, because looking for a page through an ordinary descriptor starts the
        kernel's read-ahead.
        """
        if self.advice is None:
            descriptor = os.open(path, os.O_RDONLY)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            self.advice = descriptor
        return self.advice

    def close(self) -> None:
        """Unmap the file."""
        self.env.close()
        if self.advice is not None:
            os.close(self.advice)

    def place(self, key: bytes) -> Place | None:
        """Where in memory a value of the data lies, as its key tells; None if it does not."""
        with self.transaction().cursor(self.handles[DATA]) as cursor:
            return find_place(cursor, key, self.page_size, self.last_page)

    def transaction(self) -> Any:
        """The calling thread's read transaction, whose values are memory views into the map."""
        transaction = getattr(self.threads, "transaction", None)
        if transaction is None:
            transaction = self.threads.transaction = self.env.begin(buffers=True)
        return transaction


_registry: dict[tuple[int, int], Environment] = {}
_registry_lock = threading.RLock()
_generation = 0


def lock() -> threading.RLock:
    """The lock under which environments are opened; a forked child has one of its own, free."""
    return _registry_lock


def generation() -> int:
    """Count the forks between the first process and this one; an environment belongs to one generation."""
    return _generation


def acquire(path: Path, config: LMDBConfig) -> Environment:
    """Open a file for reading, or share it if this process has it open; undo with `release`.

    Raises:
        DatabaseNotFoundError: There is no such file.
        DatabasePathError: The path is a folder, or not readable.
        FormatError: It is no LMDB file, or not one of this package.
        CorruptError: It is shorter than it says.
    """
    with _registry_lock:
        key = _identity(path)
        if key not in _registry:
            _registry[key] = _open(path, config)
        environment = _registry[key]
        environment.users += 1
        return environment


def release(environment: Environment) -> None:
    """Close an environment when its last user lets it go."""
    with _registry_lock:
        environment.users -= 1
        if environment.users <= 0:
            for key in [key for key, value in _registry.items() if value is environment]:
                del _registry[key]
                environment.close()


def _identity(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError as error:
        raise DatabaseNotFoundError(f"{path}: there is no such file") from error
    except OSError as error:
        raise DatabasePathError(f"{path}: cannot be opened: {error.strerror}") from error
    if path.is_dir():
        raise DatabasePathError(f"{path}: is a folder; a database is a single file")
    return stat.st_dev, stat.st_ino


def _open(path: Path, config: LMDBConfig) -> Environment:
    if not os.access(path, os.R_OK):
        raise DatabasePathError(f"{path}: cannot be opened: permission denied")
    try:
        env = lmdb.open(
            str(path),
            readonly=True,
            readahead=config.readahead,
            meminit=config.meminit,
            max_readers=config.max_readers,
            max_spare_txns=config.max_spare_txns,
            **FILE_OPTIONS,
        )
    except (lmdb.Error, OSError) as error:
        raise FormatError(f"{path}: is not an LMDB file that can be read here ({error})") from error
    try:
        _check_size(path, env)
        for damage in check_pages(path, trees=("meta",)):  # what is walked while a file is opened
            raise CorruptError(f"{path}: {damage}; copy or build it again")
        handles = {name: env.open_db(name, create=False) for name in (META, DATA, SUMS)}
    except lmdb.Error as error:
        env.close()
        raise FormatError(f"{path}: is an LMDB file, but not one that lmdbpipe wrote ({error})") from error
    except CorruptError:
        env.close()
        raise
    return Environment(env, handles, env.stat()["psize"], env.info()["last_pgno"])


def _check_size(path: Path, env: Any) -> None:
    """Refuse a file that ends before its last page: reading there would kill the process."""
    expected = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    actual = path.stat().st_size
    if actual < expected:
        raise CorruptError(f"{path}: is truncated: {actual} bytes of {expected}; copy or build it again")


def _after_fork_in_child() -> None:
    global _generation, _registry_lock  # noqa: PLW0603 - a process has one registry, and a fork is not a call
    _registry_lock = threading.RLock()
    _generation += 1
    for environment in _registry.values():
        environment.close()
    _registry.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""Writing: what the disk and LMDB refuse."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import lmdb
import pytest

from lmdbpipe.config import LMDBConfig
from lmdbpipe.errors import DatabaseFullError, DatabasePathError
from lmdbpipe.store import Writer

REFUSED = {
    "disk": (lmdb.DiskError("mdb_txn_commit: " + os.strerror(errno.ENOSPC)), DatabaseFullError),
    "quota": (lmdb.Error("mdb_txn_commit: " + os.strerror(errno.EDQUOT)), DatabaseFullError),
    "part of a write": (lmdb.Error("mdb_txn_commit: " + os.strerror(errno.EIO)), DatabaseFullError),
    "file system": (OSError(errno.ENOSPC, "full", "a.lmdb"), DatabaseFullError),
    "rights": (lmdb.ReadonlyError("mdb_txn_begin: " + os.strerror(errno.EACCES)), DatabasePathError),
    "pages": (lmdb.CorruptedError("mdb_put: MDB_CORRUPTED: Located page was wrong type"), DatabasePathError),
    "size": (lmdb.BadValsizeError("mdb_put: MDB_BAD_VALSIZE: Unsupported size of key/DB name/data"), DatabasePathError),
    "server": (OSError(errno.ESTALE, "stale"), DatabasePathError),
}


@pytest.mark.parametrize(("error", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_only_a_full_disk_is_said_to_be_full(error: Exception, expected: type[Exception], tmp_path: Path) -> None:
    """An error of LMDB or of the system says what it is, and to make room only where there is none."""

    def refuse(_: Any) -> None:
        raise error

    with Writer(tmp_path / "a.lmdb", LMDBConfig()) as writer, pytest.raises(expected) as caught:
        writer._write(refuse)
    assert type(caught.value) is expected
    assert caught.value.__cause__ is error
    assert str(error) in str(caught.value)
    assert ("free room" in str(caught.value)) is (expected is DatabaseFullError)

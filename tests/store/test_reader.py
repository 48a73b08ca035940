"""Databases: opened late, shared, forked, pickled, read by key or cursor, and refused when they are not whole."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lmdbpipe
from lmdbpipe import LMDBConfig
from lmdbpipe.errors import (
    CorruptError,
    DatabaseMismatchError,
    DatabaseNotFoundError,
    DatabasePathError,
    FormatError,
    SourceError,
    UnfinishedError,
    UnsupportedVersionError,
)
from lmdbpipe.store import STEP, Database, environment
from tests.helpers import OPTIONS, Failing, Listed, change, dump, unprivileged
from tests.store.conftest import CHUNK, LENGTH

FORK: Any = multiprocessing.get_context("fork")

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")


def label(database: Database, index: int) -> int:
    """The label of a sample, which is its index."""
    chunk, row = divmod(index, CHUNK)
    return int(database.rows(chunk)[1].sample(row))


def labels(database: Database) -> list[int]:
    """All labels."""
    return [label(database, index) for index in range(LENGTH)]


def opened() -> int:
    """How many files this process has open."""
    gc.collect()
    return len(environment._registry)


def test_readers_share_one_environment(path: Path) -> None:
    """Several readers of one file, under any of its names, open it once; the last one to go closes it."""
    link = path.with_name("link.lmdb")
    link.symlink_to(path)
    before = opened()
    readers = [Database(path), Database(str(path), LMDBConfig(access="cursor")), Database(link)]
    assert opened() == before + 1
    assert all(labels(reader) == list(range(LENGTH)) for reader in readers)
    readers.pop().close()
    assert all(labels(reader) == list(range(LENGTH)) for reader in readers)
    readers.clear()
    assert opened() == before


def test_closed_readers_open_again(path: Path) -> None:
    """A reader that was closed, even twice, opens again on its next use."""
    database = Database(path)
    for _ in range(3):
        assert label(database, 8) == 8
        database.close()
        database.close()
    assert label(database, 9) == 9


def _read_in_child(database: Database, results: Any) -> None:
    results.send(labels(database))


def _count_in_child(results: Any) -> None:
    results.send(len(environment._registry))


def test_forked_children_hold_nothing(path: Path) -> None:
    """A forked child lets go of the files that its parent has open: LMDB forbids to use them there."""
    database = Database(path)
    here, there = FORK.Pipe()
    child = FORK.Process(target=_count_in_child, args=(there,))
    child.start()
    assert here.recv() == 0
    child.join()
    assert opened() >= 1
    assert label(database, 3) == 3


@pytest.mark.parametrize("access", ["get", "cursor"])
def test_forked_child_reads_and_parent_reads_on(access: Any, path: Path) -> None:
    """A file that is open at a fork, in the midst of a pass, is opened anew by the child; the parent reads on."""
    database = Database(path, LMDBConfig(access=access))
    assert [label(database, index) for index in range(10)] == list(range(10))
    here, there = FORK.Pipe()
    children = [FORK.Process(target=_read_in_child, args=(database, there)) for _ in range(2)]
    for child in children:
        child.start()
    assert [label(database, index) for index in range(10, LENGTH)] == list(range(10, LENGTH))
    assert [here.recv() for _ in children] == [list(range(LENGTH))] * 2
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert labels(database) == list(range(LENGTH))


def _fork_again(database: Database, results: Any) -> None:
    label(database, 3)
    grandchild = FORK.Process(target=_read_in_child, args=(database, results))
    grandchild.start()
    grandchild.join()


def test_grandchildren_read(path: Path) -> None:
    """A child that has the file open may fork again."""
    database = Database(path)
    here, there = FORK.Pipe()
    child = FORK.Process(target=_fork_again, args=(database, there))
    child.start()
    assert here.recv() == list(range(LENGTH))
    child.join()


def test_fork_while_threads_open(path: Path) -> None:
    """A fork while another thread holds the lock under which files are opened does not stop the child."""
    database = Database(path)
    database.close()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with environment.lock():
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    here, there = FORK.Pipe()
    child = FORK.Process(target=_read_in_child, args=(database, there))
    child.start()
    assert here.recv() == list(range(LENGTH))
    done.set()
    thread.join()
    child.join()


def test_processes_that_are_not_forked_read(path: Path) -> None:
    """A reader travels through a pickle to a process that inherits nothing."""
    context: Any = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    child = context.Process(target=_read_in_child, args=(Database(path), there))
    child.start()
    assert here.recv() == list(range(LENGTH))
    child.join()


def test_readers_pickle_as_their_path(path: Path) -> None:
    """A pickled or copied reader holds a path and its options, no handle and no data."""
    database = Database(path, LMDBConfig(access="cursor", readahead=False))
    labels(database)
    pickled = pickle.dumps(database)
    assert len(pickled) < 2000
    for again in (pickle.loads(pickled), copy.deepcopy(database)):
        assert (again.path, again.config, again.manifest) == (database.path, database.config, database.manifest)
        assert labels(again) == list(range(LENGTH))


def test_replaced_files_are_refused(path: Path) -> None:
    """What is opened again, or unpickled, must be the file that was opened; one that stays open is read on."""
    before = opened()
    database = Database(path)
    pickled = pickle.dumps(database)
    lmdbpipe.build(Listed([(k, k) for k in range(3)]), path, overwrite=True, progress=False)
    assert label(database, 20) == 20
    database.close()
    with pytest.raises(DatabaseMismatchError, match="another file stands here"):
        label(database, 20)
    with pytest.raises(DatabaseMismatchError, match="another file stands here"):
        pickle.loads(pickled)
    assert opened() == before
    assert Database(path).manifest.length == 3


def _refused_twice(database: Database, results: Any) -> None:
    for _ in range(2):
        try:
            label(database, 3)
        except Exception as error:
            results.send(type(error))


def test_replaced_files_are_refused_after_a_fork(path: Path) -> None:
    """A forked child that finds another file says so as often as it is asked; it never reads what it inherited."""
    database = Database(path)
    assert label(database, 3) == 3
    lmdbpipe.build(Listed([(k, k) for k in range(3)]), path, overwrite=True, progress=False)
    here, there = FORK.Pipe()
    child = FORK.Process(target=_refused_twice, args=(database, there))
    child.start()
    assert [here.recv() for _ in range(2)] == [DatabaseMismatchError] * 2
    child.join()


@pytest.mark.parametrize("access", ["get", "cursor"])
def test_threads_share_a_reader(access: Any, path: Path) -> None:
    """Threads read the same object at once, from its first use on."""
    database = Database(path, LMDBConfig(access=access))
    database.close()
    barrier, results = threading.Barrier(8), []

    def read(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(LENGTH).tolist() * 5
        barrier.wait()
        results.append([label(database, index) for index in order] == order)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8
    assert sum(1 for _ in environment._registry) >= 1
    database.close()


def test_threads_find_the_same_places(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that are the first to look for a column's chunks put what they find into one table."""
    database, full = Database(path), np.full
    tables: list[Any] = []

    def interrupted(*arguments: Any) -> Any:
        if not tables:
            tables.append(None)
            tables.append(database._table(0))  # by another thread, while this one waits
        return full(*arguments)

    monkeypatch.setattr(np, "full", interrupted)
    assert database._table(0) is tables[1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(keys=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), max_size=30))
def test_get_and_cursor_read_the_same(keys: list[tuple[int, int]], original: Path) -> None:
    """By key or by cursor, in any order of keys: the same values."""
    with (
        contextlib.closing(Database(original)) as get,
        contextlib.closing(Database(original, LMDBConfig(access="cursor"))) as cursor,
    ):
        columns = get.manifest.schema.columns
        for chunk, number in keys:
            index, _, column = columns[number]
            left, right = get.column(chunk, index, column), cursor.column(chunk, index, column)
            assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


@pytest.mark.parametrize("access", ["get", "cursor"])
def test_missing_chunks_are_corrupt(access: Any, path: Path) -> None:
    """A column that is not there is a CorruptError that names it, whatever lies beside it."""
    database = Database(path, LMDBConfig(access=access))
    index, _, column = database.manifest.schema.columns[0]
    for chunk in (99, 2**63):
        with pytest.raises(CorruptError, match=f"column 0 of chunk {chunk} is damaged: missing"):
            database.column(chunk, index, column)
    assert labels(database) == list(range(LENGTH))


def test_few_rows_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that were read are kept up to a number of rows, however large they are."""
    monkeypatch.setattr("lmdbpipe.store.reader._ROWS_KEPT", 2 * CHUNK)
    database = Database(path)
    for _ in range(2):
        assert labels(database) == list(range(LENGTH))
        assert 1 <= len(database._rows) <= 2


def test_views_into_the_map_are_read_only(path: Path) -> None:
    """What is read of the map cannot be written to by mistake."""
    database = Database(path)
    index, _, column = database.manifest.schema.columns[0]
    assert not database.column(0, index, column).flags.writeable


def test_descriptors_are_closed(path: Path) -> None:
    """Opening and closing many times leaves no descriptor open."""
    database = Database(path)
    database.close()
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for _ in range(20):
        label(database, 3)
        database.advise(range(1))
        database.close()
    assert not before or len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_map_stays_until_the_process_has_ended(path: Path) -> None:
    """Threads that still read while the interpreter exits do not find the map gone."""
    code = """
import atexit, sys
atexit.register(lambda: print(memory[begin : begin + 1000].sum()))  # called last
from lmdbpipe.store import Database
database = Database(sys.argv[1])
index, _, column = database.manifest.schema.columns[0]
memory, begin = database.start(0, index, column)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert int(done.stdout) > 0


@pytest.mark.parametrize("length", [13, 241, 240])
def test_steps_hold_their_chunks(length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for is where chunks lie, but for a few pages, also where the last chunk is a short one."""
    monkeypatch.setattr("lmdbpipe.encode._CHUNK_LENGTH", 12)
    sample = np.zeros(1 << 17, np.uint8)
    lmdbpipe.build(Listed([sample] * length), tmp_path / "a.lmdb", progress=False)
    database = Database(tmp_path / "a.lmdb")
    (index, _, column), chunks = database.manifest.schema.columns[0], range(database.manifest.num_chunks)
    steps = [database.steps(np.array([chunk])) for chunk in chunks]
    assert [list(database.steps(range(chunk, chunk + 1))) for chunk in chunks] == [list(some) for some in steps]
    _, start = database.start(0, index, column)
    for chunk in chunks:
        first = database.start(chunk, index, column)[1] - start
        last = first + database.manifest.chunk_rows(chunk) * sample.nbytes - 1
        assert steps[chunk][0] * STEP <= first + 2**16
        assert last - 2**16 < (steps[chunk][-1] + 1) * STEP


# What cannot be read


def test_missing_files_are_not_found(tmp_path: Path) -> None:
    """No file is a DatabaseNotFoundError, which is a FileNotFoundError, and names the path."""
    with pytest.raises(DatabaseNotFoundError, match=r"nothing\.lmdb") as caught:
        Database(tmp_path / "nothing.lmdb")
    assert isinstance(caught.value, FileNotFoundError)


def test_folders_are_no_files(tmp_path: Path) -> None:
    """A folder is a DatabasePathError, also one that LMDB keeps a file in."""
    lmdb.open(str(tmp_path / "env")).close()
    for folder in (tmp_path, tmp_path / "env"):
        with pytest.raises(DatabasePathError, match="is a folder"):
            Database(folder)


@pytest.mark.parametrize(
    "data", [b"", b"garbage", bytes(10_000), os.urandom(10_000)], ids=["empty", "short", "0", "random"]
)
def test_garbage_is_no_database(data: bytes, tmp_path: Path) -> None:
    """A file that is not LMDB is a FormatError; it is left as it is."""
    (tmp_path / "a.lmdb").write_bytes(data)
    with pytest.raises(FormatError, match=r"a\.lmdb"):
        Database(tmp_path / "a.lmdb")
    assert (tmp_path / "a.lmdb").read_bytes() == data


@pytest.mark.parametrize("keep", [0.99, 0.5, 0.1])
def test_truncated_files_are_corrupt(keep: float, path: Path) -> None:
    """A file that ends too early is refused when it is opened: reading it would kill the process."""
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(CorruptError, match="is truncated"):
        Database(path)


def test_files_truncated_to_nothing(path: Path) -> None:
    """A file of which hardly anything is left is a FormatError."""
    for size in (8192, 4096, 100, 1):
        os.truncate(path, size)
        with pytest.raises(FormatError):
            Database(path)


def test_foreign_lmdb_files(tmp_path: Path) -> None:
    """An LMDB file of something else is a FormatError, whatever its databases are called."""
    with lmdb.open(str(tmp_path / "a.lmdb"), **OPTIONS) as env, env.begin(write=True) as txn:
        txn.put(b"data", b"a plain value")
        txn.put(b"key", b"value")
    with lmdb.open(str(tmp_path / "b.lmdb"), **OPTIONS) as env:
        for name in (b"meta", b"data", b"sums"):
            env.open_db(name)
        with env.begin(write=True, db=env.open_db(b"meta")) as txn:
            txn.put(b"manifest", b'{"format": "other"}')
    with pytest.raises(FormatError, match="not one that lmdbpipe wrote"):
        Database(tmp_path / "a.lmdb")
    with pytest.raises(FormatError, match="is not an lmdbpipe file: its format is 'other'"):
        Database(tmp_path / "b.lmdb")


def test_unfinished_files(tmp_path: Path) -> None:
    """The partial file of a build is an UnfinishedError that says how to go on."""
    flag = tmp_path / "flag"
    flag.touch()
    with pytest.raises(SourceError), pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmdbpipe.encode._CHUNK_LENGTH", 7)
        lmdbpipe.build(Failing(40, 25, flag), tmp_path / "a.lmdb", progress=False)
    with pytest.raises(UnfinishedError, match="run the same build again"):
        Database(tmp_path / "a.lmdb.partial")


def changed(path: Path, **fields: Any) -> Path:
    """Change fields of a file's manifest."""
    manifest = json.loads(dump(path, b"meta")[b"manifest"])
    change(path, b"meta", b"manifest", json.dumps({**manifest, **fields}).encode())
    return path


def test_newer_formats(path: Path) -> None:
    """A file of a newer format says so, and what to do."""
    with pytest.raises(UnsupportedVersionError, match="format version 2, this lmdbpipe reads version 1; upgrade it"):
        Database(changed(path, version=2, structure="of another kind"))


MANIFESTS: dict[str, dict[str, Any]] = {
    "no samples": {"length": 0},
    "negative length": {"length": -1},
    "no chunk length": {"chunk_length": 0},
    "length of another type": {"length": "30"},
    "no leaves": {"leaves": []},
    "no columns": {"columns": []},
    "structure": {"structure": {"tuple": ["leaf"]}},
    "totals": {"totals": {}},
    "provenance": {"provenance": {}},
    "provenance of another type": {"provenance": None},
    "unknown codec": {"leaves": [{"codec": "jpeg", "params": {}}]},
}


@pytest.mark.parametrize("fields", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_damaged_manifests(fields: dict[str, Any], path: Path) -> None:
    """A manifest that contradicts itself or lacks something is a CorruptError of that file, which is closed again."""
    before = opened()
    with pytest.raises(CorruptError, match=r"a\.lmdb"):
        Database(changed(path, **fields))
    assert opened() == before


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}"], ids=repr)
def test_manifests_that_are_none(data: bytes, path: Path) -> None:
    """A manifest that is not even the JSON of one is a FormatError."""
    change(path, b"meta", b"manifest", data)
    with pytest.raises(FormatError, match=r"a\.lmdb"):
        Database(path)


def test_unreadable_files(original: Path) -> None:
    """A file that may not be read is a DatabasePathError."""
    data = original.read_bytes()
    with unprivileged() as folder:
        path = folder / "a.lmdb"
        path.write_bytes(data)
        path.chmod(0)
        with pytest.raises(DatabasePathError, match="permission denied"):
            Database(path)

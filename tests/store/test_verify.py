"""Verifying: a sound file has no problems, and each kind of damage is found and named."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmdbpipe import LMDBConfig
from lmdbpipe.errors import CorruptError, LMDBPipeError
from lmdbpipe.store import Database, verify
from lmdbpipe.store.pages import check_pages
from tests.helpers import OPTIONS, change, content, dump
from tests.store.conftest import LENGTH

FORK: Any = multiprocessing.get_context("fork")


def problems(path: Path, **config: Any) -> list[str]:
    """What is wrong with a file."""
    with contextlib.closing(Database(path, LMDBConfig(**config))) as database:
        return list(verify(database))


def column_names(path: Path) -> dict[int, str]:
    """The columns' names by their index."""
    return {column["index"]: column["name"] for column in json.loads(dump(path, b"meta")[b"manifest"])["columns"]}


@pytest.mark.parametrize("access", ["get", "cursor"])
def test_sound_files_have_no_problems(access: str, path: Path) -> None:
    """A file as it was built is sound, however it is read."""
    assert problems(path, access=access) == []


def test_every_column_is_there(path: Path) -> None:
    """The file that is damaged here has every kind of column that images and text have."""
    names = {name.rsplit("/", 1)[1] for name in column_names(path).values()}
    assert names == {"pixels", "shape", "mode", "palette", "palette_offsets", "data", "bytes", "offsets"}


@pytest.mark.parametrize("column", range(9))
def test_flipped_bits_are_found(column: int, path: Path) -> None:
    """One bit of one value of any column, in any chunk: the problem names the chunk and the column."""
    index, name = list(column_names(path).items())[column]
    for chunk in (0, 3, 4):
        key = struct.pack(">QH", chunk, index)
        value = bytearray(content(path)[key])
        place = random.Random(column).randrange(len(value))
        value[place] ^= 4
        change(path, b"data", key, bytes(value))
        found = problems(path)
        assert any(
            f"chunk {chunk}, column {index} ({name}): its bytes do not match their checksum" in text for text in found
        )
        value[place] ^= 4
        change(path, b"data", key, bytes(value))


@pytest.mark.parametrize("column", range(9))
def test_structural_damage_with_right_sums_is_found(column: int, path: Path) -> None:
    """A value of another length whose checksum is right breaks the promises of the format all the same."""
    index, name = list(column_names(path).items())[column]
    key = struct.pack(">QH", 2, index)
    value = content(path)[key]
    for other in (value[:-1], value + value[:8] + b"\x00", b""):
        change(path, b"data", key, other)
        change(path, b"sums", key, xxhash.xxh3_64_digest(other))
        found = problems(path)
        assert any("chunk 2" in text and name.split("/")[0] in text for text in found), (name, found)


def test_dropped_and_added_keys_are_found(path: Path) -> None:
    """A missing value, a missing sum, and a key that belongs to no column are problems that name the key."""
    key, extra = struct.pack(">QH", 1, 0), struct.pack(">QH", 99, 0)
    value, digest = content(path)[key], dump(path, b"sums")[key]
    for database, good in ((b"data", value), (b"sums", digest)):
        change(path, database, key, None)
        assert any(f"database {database.decode()}: key {key.hex()} is missing" in text for text in problems(path))
        change(path, database, key, good)
        for added in (extra, b"strange", struct.pack(">QH", 1, 9999)):
            change(path, database, added, b"x")
            assert any(f"database {database.decode()}: key" in text for text in problems(path))
            change(path, database, added, None)


def test_wrong_sums_are_found(path: Path) -> None:
    """A sum that is not its value's is a problem, also one of another length."""
    key = struct.pack(">QH", 1, 0)
    for digest in (b"\x00" * 8, b"", b"\x00" * 9):
        change(path, b"sums", key, digest)
        assert any(
            "chunk 1, column 0 (0/pixels): its bytes do not match their checksum" in text for text in problems(path)
        )


def test_added_meta_is_found(path: Path) -> None:
    """A finished file's ``meta`` holds the manifest alone."""
    change(path, b"meta", b"checkpoint", b"{}")
    assert any("database meta" in text for text in problems(path))


@pytest.mark.parametrize(
    ("field", "name"),
    [("payload_bytes", "payload"), ("file_bytes", "the file has")],
)
def test_wrong_totals_are_found(field: str, name: str, path: Path) -> None:
    """Totals that are not those of the file are problems."""
    manifest = json.loads(dump(path, b"meta")[b"manifest"])
    manifest["totals"][field] += 1
    change(path, b"meta", b"manifest", json.dumps(manifest).encode())
    assert any(name in text for text in problems(path))


@pytest.mark.parametrize("length", [LENGTH - 1, LENGTH + 1, LENGTH + 7, 7])
def test_wrong_lengths_are_found(length: int, path: Path) -> None:
    """A manifest that counts more or fewer samples than there are is a problem, not a crash."""
    manifest = json.loads(dump(path, b"meta")[b"manifest"])
    change(path, b"meta", b"manifest", json.dumps({**manifest, "length": length}).encode())
    assert problems(path)


def _walk(paths: Any) -> None:
    for path in iter(paths.recv, None):
        try:
            found = problems(path)
        except LMDBPipeError as error:
            found = [str(error)]
        paths.send(found)


@contextlib.contextmanager
def other_process() -> Iterator[Any]:
    """A pipe to a process that verifies files; it closes if that process is killed by what it reads."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=_walk, args=(there,))
    process.start()
    there.close()
    yield here
    here.send(None)
    process.join()
    assert process.exitcode == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_damaged_pages_do_not_kill_the_process(original: Path, tmp_path: Path) -> None:
    """Whatever page of the file is overwritten: that is found, or changes nothing that is read; the process lives."""
    with lmdb.open(str(original), readonly=True, **OPTIONS) as env:
        size = int(env.stat()["psize"])
    whole = original.read_bytes()
    rng = random.Random(0)
    path = tmp_path / "a.lmdb"
    damages: dict[str, Any] = {"zeros": bytes, "ones": lambda n: b"\xff" * n, "noise": rng.randbytes}
    places = [(0, 32), (0, size), (8, 2), (10, 2), (12, 4), (16, 64), (24, 16), (size - 200, 200)]
    undamaged, found = content(original), 0
    with other_process() as verifier:
        for page in range(len(whole) // size):
            for (name, make), (start, length) in itertools.product(damages.items(), places):
                damaged = bytearray(whole)
                damaged[page * size + start : page * size + start + length] = make(length)
                path.write_bytes(damaged)
                verifier.send(path)
                try:
                    said = verifier.recv()
                except EOFError:
                    pytest.fail(f"killed by page {page}, {name} from {start} to {start + length}")
                found += bool(said)
                if not said:
                    assert content(path) == undamaged
    assert found > len(whole) // size


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(data=st.data())
def test_any_flipped_bytes_are_found(data: st.DataObject, original: Path, tmp_path: Path) -> None:
    """Bytes changed anywhere in the file are found, or change nothing that is read; the process lives."""
    whole = bytearray(original.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.lmdb"
    path.write_bytes(whole)
    try:
        said = problems(path)
    except LMDBPipeError as error:
        said = [str(error)]
    assert said or content(path) == content(original)


def test_trees_deeper_than_lmdb_walks_are_refused(path: Path) -> None:
    """A tree that was made as deep as Python's stack is refused before it is walked."""
    with lmdb.open(str(path), readonly=True, **OPTIONS) as env:
        size = int(env.stat()["psize"])
    whole, levels = bytearray(path.read_bytes()), 2000
    first = len(whole) // size
    for meta in (0, size):  # magic, version, address and map size, the free tree; then the main one, and the last page
        struct.pack_into("<H", whole, meta + 16 + 24 + 48 + 6, levels)
        struct.pack_into("<QQ", whole, meta + 16 + 24 + 48 + 40, first, first + levels)
    for number in range(first, first + levels + 1):
        page = bytearray(size)
        struct.pack_into("<QHHHHHH", page, 0, number, 0, 1, 20, size - 16, size - 16, size - 8)
        for place in (size - 16, size - 8):
            struct.pack_into("<HHHH", page, place, (number + 1) & 0xFFFF, (number + 1) >> 16, 0, 0)
        whole += page
    path.write_bytes(whole)
    with pytest.raises(CorruptError, match="2000 pages deep"):
        Database(path)


def test_sound_trees_of_any_size_are_sound(tmp_path: Path) -> None:
    """Trees of one page, of several levels, and of none have no damage."""
    for count in (0, 1, 10, 5000):
        with lmdb.open(str(tmp_path / f"{count}.lmdb"), map_size=2**27, **OPTIONS) as env:
            for name in (b"meta", b"data"):
                with env.begin(write=True, db=env.open_db(name)) as txn:
                    for key in range(count):
                        txn.put(struct.pack(">QH", key, 1), b"x" * (key * 37 % 9000))
        assert list(check_pages(tmp_path / f"{count}.lmdb")) == []

"""Verifying a file: every checksum, and every promise that the format makes of its structure."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import lmdb
import xxhash

from lmdbpipe.codecs import Array
from lmdbpipe.codecs.base import as_bytes
from lmdbpipe.errors import CorruptError
from lmdbpipe.store.environment import DATA, META, SUMS
from lmdbpipe.store.manifest import MANIFEST_KEY
from lmdbpipe.store.pages import check_pages
from lmdbpipe.store.reader import Database, chunk_key


def verify(database: Database) -> Iterator[str]:
    """Read a whole file once, and yield what is wrong with it, where; nothing if it is sound."""
    damage = list(check_pages(database.path))
    yield from damage
    if damage:  # LMDB would trust these pages
        return
    try:
        yield from _verify_keys(database)
        payload = 0
        for chunk in range(database.manifest.num_chunks):
            payload += yield from _verify_chunk(database, chunk)
        if payload != database.manifest.totals["payload_bytes"]:
            yield f"the payload has {payload} bytes, the manifest says {database.manifest.totals['payload_bytes']}"
        size = database.path.stat().st_size
        if size != database.manifest.totals["file_bytes"]:
            yield f"the file has {size} bytes, its manifest says {database.manifest.totals['file_bytes']}"
    except lmdb.Error as error:
        yield f"the file's tree of pages is damaged: {error}"


def _verify_keys(database: Database) -> Iterator[str]:
    manifest = database.manifest
    yield from (
        f"database meta: key {key!r} does not belong there" for key in database.keys(META) if key != MANIFEST_KEY
    )
    indices = [column.index for column in manifest.schema.columns]
    for name in (DATA, SUMS):
        expected = (chunk_key(chunk, index) for chunk in range(manifest.num_chunks) for index in indices)
        keys = database.keys(name)
        for key in expected:
            if next(keys, None) != key:
                yield f"database {name.decode()}: key {key.hex()} is missing, or another stands before it"
                return
        if (extra := next(keys, None)) is not None:
            yield f"database {name.decode()}: key {extra.hex()} belongs to no column"


def _verify_chunk(database: Database, chunk: int) -> Generator[str, None, int]:
    """Yield what is wrong with a chunk; return its bytes, of the columns that can be read."""
    size = 0
    schema = database.manifest.schema
    leaves: dict[int, dict[str, Array]] = {leaf: {} for leaf in range(len(schema.codecs))}
    sound = set(leaves)
    for index, leaf, column in schema.columns:
        name = f"chunk {chunk}, column {index} ({schema.leaf_names[leaf]}/{column.role})"
        try:
            array = leaves[leaf][column.role] = database.column(chunk, index, column)
        except CorruptError as error:
            yield f"{name}: {error}"
            sound.discard(leaf)
            continue
        size += array.nbytes
        if xxhash.xxh3_64_digest(as_bytes(array)) != database.sum(chunk, index):
            yield f"{name}: its bytes do not match their checksum"
            sound.discard(leaf)
    for leaf in sorted(sound):
        problems = schema.codecs[leaf].check(leaves[leaf], database.manifest.chunk_rows(chunk))
        yield from (f"chunk {chunk}, leaf {schema.leaf_names[leaf]}: {problem}" for problem in problems)
    return size

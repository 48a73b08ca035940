"""Where a value lies is told by its key, as LMDB itself finds it; where keys tell nothing, LMDB is asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmdbpipe.store import Database, environment
from lmdbpipe.store.places import Place, find_place
from lmdbpipe.store.reader import chunk_key
from tests.store.conftest import LENGTH


def found(database: Database, **changed: int) -> dict[tuple[int, int], tuple[Place | None, Place]]:
    """For each column of each chunk, what its key tells, and what LMDB says."""
    opened = database._open()
    told: dict[tuple[int, int], tuple[Place | None, Place]] = {}
    pages: dict[str, Any] = {"page_size": opened.page_size, "last_page": opened.last_page, **changed}
    for chunk in range(database.manifest.num_chunks):
        for index, _, _ in database.manifest.schema.columns:
            key = chunk_key(chunk, index)
            value = np.frombuffer(opened.transaction().get(key, db=opened.handles[environment.DATA]), np.uint8)
            with opened.transaction().cursor(opened.handles[environment.DATA]) as cursor:
                place = find_place(cursor, key, **pages)
            told[chunk, index] = place, Place(value.__array_interface__["data"][0], len(value))
    return told


def test_keys_tell_what_lmdb_says(path: Path) -> None:
    """For large values, which have pages of their own, and small ones, which lie beside their keys."""
    told = found(Database(path))
    assert all(place == said for place, said in told.values())
    sizes = [said.size for _, said in told.values()]
    assert min(sizes) < 1000
    assert max(sizes) > 5000


def test_nothing_is_told_of_what_is_not_there(path: Path) -> None:
    """Of a missing key, and of a value that would end beyond the file, nothing is known."""
    database = Database(path)
    assert database._open().place(chunk_key(LENGTH, 0)) is None
    told = found(database, last_page=1)
    assert {place is None for place, said in told.values() if said.size > 5000} == {True}


def test_other_machines_are_asked_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numbers lie the other way round, no key is read."""
    monkeypatch.setattr(sys, "byteorder", "big")
    assert all(place is None for place, _ in found(Database(path)).values())


@pytest.mark.parametrize("shift", [0, 8])
def test_the_first_place_is_proved(path: Path, shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses are right whatever keys tell: a first one that LMDB contradicts is the last that is asked for."""
    asked: list[bytes] = []

    def place(cursor: Any, key: bytes, *pages: int) -> Place | None:
        asked.append(key)
        told = find_place(cursor, key, *pages)
        return told and Place(told.address + shift, told.size)

    monkeypatch.setattr(environment, "find_place", place)
    database = Database(path)
    for (chunk, index), (_, said) in found(database).items():
        (column,) = (column for number, _, column in database.manifest.schema.columns if number == index)
        assert database.addresses(np.array([chunk]), index, column).tolist() == [said.address]
    assert len(asked) == (1 if shift else database.manifest.num_chunks * len(database.manifest.schema.columns))

"""Contents: what an epoch is made of, before it is ordered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lmdbpipe
from lmdbpipe.contents import Contents
from lmdbpipe.errors import ConfigError, DatabaseNotFoundError, OutOfRangeError
from lmdbpipe.files import open_files
from lmdbpipe.records import Records
from tests.helpers import Listed


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    """All of a file of ten numbers, each with its square."""
    lmdbpipe.build(Listed([(k, k * k) for k in range(10)]), tmp_path / "a.lmdb", progress=False)
    return Contents(Records([tmp_path / "a.lmdb"]))


def test_selections_stack(contents: Contents) -> None:
    """Samples are counted as they lie in what they are selected from, and their values are read alike."""
    some = contents.select([7, 2, 2]).repeat(2)
    assert (contents.length, some.length) == (10, 6)
    assert np.asarray(some.values(1)).tolist() == [49, 4, 4] * 2
    assert np.asarray(some.select([0, 4]).values(0)).tolist() == [7, 2]
    assert repr(some).endswith("length=6)")


def test_contents_are_told_apart(contents: Contents) -> None:
    """Whatever changes what an epoch is made of changes the fingerprint; the same again does not."""
    made = [
        contents,
        contents.select([1, 2]),
        contents.select([2, 1]),
        contents.repeat(2),
        contents.weighted([1.0] * 10),
    ]
    assert len({one.fingerprint for one in made}) == len(made)
    assert contents.select([1, 2]).fingerprint == made[1].fingerprint


def test_what_is_drawn_anew_is_not_selected_from(contents: Contents) -> None:
    """Of what every epoch draws anew there is nothing to select; and nothing of what is not there."""
    with pytest.raises(ConfigError, match="select before weighting"):
        contents.weighted([1.0] * 10).select([0])
    for index in (-1, 10):
        with pytest.raises(OutOfRangeError, match=f"sample {index} does not exist: there are 10"):
            contents.select([index])
    with pytest.raises(ConfigError, match="integers in a row, got float64"):
        contents.select(np.array([0.5]))


def test_files_are_named_by_path_pattern_or_part(contents: Contents, tmp_path: Path) -> None:
    """A path, a pattern, a list of both, and parts open the files that they name."""
    path = contents.records.databases[0].path
    assert open_files(path, None).length == open_files(str(tmp_path / "*.lmdb"), None).length == 10
    assert open_files([path, tmp_path / "[a].lmdb"], None).length == 20
    assert open_files([lmdbpipe.Part(path, choose=3), path], None).length == 13
    with pytest.raises(DatabaseNotFoundError, match="no file matches"):
        open_files(str(tmp_path / "b*.lmdb"), None)
    with pytest.raises(ConfigError, match="give the path of at least one database"):
        open_files([], None)

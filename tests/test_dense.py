"""Dense leaves: rows of one or several files, copied by every way there is, are the samples' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lmdbpipe
from lmdbpipe.dense import JoinedLeaf
from lmdbpipe.records import Records
from tests.helpers import Listed, same

LENGTH = 23
INDICES = (range(LENGTH), range(6, 9), range(7, 8), np.array([22, 0, 7, 7, 8, 1]), np.array([3]), range(4, 4))


def sample(k: int) -> Any:
    """A number, an array, and a tensor of a dtype that NumPy lacks."""
    return k, np.full((2, 3), k, np.uint16), torch.full((5,), k, dtype=torch.bfloat16)


@pytest.fixture(scope="module", params=[(0, 23), (0, 7, 8, 23)], ids=["one", "three"])
def records(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """The same samples in one file, or in three, in chunks of five."""
    folder, cuts = tmp_path_factory.mktemp("dense"), request.param
    paths = [folder / f"{low}.lmdb" for low in cuts[:-1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmdbpipe.encode._CHUNK_LENGTH", 5)
        for path, low, high in zip(paths, cuts, cuts[1:], strict=False):
            lmdbpipe.build(Listed([sample(k) for k in range(low, high)]), path, progress=False)
    return Records(paths)


@pytest.mark.parametrize("dear", [0, 1 << 30], ids=["by torch", "by NumPy"])
@pytest.mark.parametrize("most_windows", [0, 2**62], ids=["row by row", "at once"])
def test_rows_are_the_samples(records: Records, dear: int, most_windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Consecutive rows and any others, over chunks and files, by whichever way of copying, are what was stored."""
    monkeypatch.setattr("lmdbpipe.dense.DEAR", dear)
    monkeypatch.setattr("lmdbpipe.dense.MOST_WINDOWS", most_windows)
    for indices in INDICES:
        numbers, arrays, tensors = records.batch(indices)
        expected = [sample(k) for k in indices]
        assert numbers.tolist() == [one[0] for one in expected]
        assert tuple(arrays.shape) == (len(indices), 2, 3)
        assert all(same(one[1], array.numpy()) for one, array in zip(expected, arrays, strict=True))
        assert tensors.dtype == torch.bfloat16
        assert all(same(one[2], tensor) for one, tensor in zip(expected, tensors, strict=True))


def test_files_that_store_alike_are_read_as_one(records: Records) -> None:
    """A batch of several files is copied once: there is no copy for each file, to be joined."""
    assert all(isinstance(leaf, JoinedLeaf) is (len(records.databases) > 1) for leaf in records._dense)


def test_whole_columns_join(records: Records) -> None:
    """A column of several files is one array."""
    assert same(records.values(0), np.arange(LENGTH))


def test_many_files(tmp_path: Path) -> None:
    """A file of one sample each is read like one file of them all."""
    paths = [tmp_path / f"{k:02}.lmdb" for k in range(12)]
    for k, path in enumerate(paths):
        lmdbpipe.build(Listed([(k, k / 2)]), path, progress=False)
    records = Records(paths)
    for indices in (range(12), range(3, 9), np.array([11, 2, 2, 7])):
        assert [column.tolist() for column in records.batch(indices)] == [list(indices), [k / 2 for k in indices]]

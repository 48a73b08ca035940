"""Small files with several chunks of several columns."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import lmdbpipe
from tests.helpers import Listed, image

LENGTH, CHUNK = 30, 7
MakeFile = Callable[[], Path]


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with an image of varying size, mode and palette, a label, a text, and a fixed image, in five chunks."""
    path = tmp_path_factory.mktemp("original") / "a.lmdb"
    modes = ["RGB", "P", "L"]
    samples = [
        (image(modes[k % 3], (20 + k % 4, 30), k), k, "text" * (k % 5), image("RGB", (8, 8), k)) for k in range(LENGTH)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmdbpipe.encode._CHUNK_LENGTH", CHUNK)
        lmdbpipe.build(Listed(samples), path, progress=False)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A copy of the file that a test may damage."""
    return Path(shutil.copy(original, tmp_path / "a.lmdb"))

"""Small files, built once for all tests of the streaming faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import lmdbpipe

from .helpers import Numbered

FileOf = Callable[..., str]


@pytest.fixture(scope="session")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> FileOf:
    """Gives the path of a file of `Numbered` samples, in chunks of seven."""
    folder = tmp_path_factory.mktemp("numbered")

    def build(length: int, first: int = 0) -> str:
        path = Path(folder, f"{length}-{first}.lmdb")
        if not path.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("lmdbpipe.encode._CHUNK_LENGTH", 7)
                lmdbpipe.build(Numbered(length, first), path, progress=False)
        return str(path)

    return build

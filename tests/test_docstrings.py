"""Examples in docstrings: what is written is run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import lmdbpipe
from lmdbpipe import LMDBIterableDataset, LMDBReader, merge_states
from lmdbpipe.nodes import LMDBNode, loader

from .faces.helpers import Numbered

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(lmdbpipe.__path__, "lmdbpipe.")
    if not module.name.endswith("__main__")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that examples name: 40 images each."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("train.lmdb", "more.lmdb"):
        lmdbpipe.build(Numbered(40), folder / name, progress=False)
    return folder


@pytest.mark.filterwarnings("ignore:.*set_vital")  # torchdata calls what torch has deprecated
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example gives what it says, and leaves nothing behind."""
    monkeypatch.chdir(folder)
    assert doctest.testmod(importlib.import_module(name)).failed == 0
    assert sorted(path.name for path in folder.iterdir()) == ["more.lmdb", "train.lmdb"]


@pytest.mark.parametrize("thing", [LMDBIterableDataset, LMDBReader, LMDBNode, loader, merge_states])
def test_what_resumes_has_an_example(thing: object) -> None:
    """Everything that has a state shows how to use it."""
    found = doctest.DocTestFinder(recurse=False).find(thing)
    assert any(test.examples for test in found)

"""Data that tests of several parts share, and what all of them run under."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.utils.data._utils
from hypothesis import settings
from PIL import Image

settings.register_profile("tests", parent=settings(), deadline=None, max_examples=100)
settings.register_profile("thorough", parent=settings(), deadline=None, max_examples=1000)
settings.load_profile("tests")  # or, for a night: python -m pytest --hypothesis-profile thorough

if "forkserver" in multiprocessing.get_all_start_methods():
    # The server of this session imports torch once, and not each of its processes. Spawned ones import it themselves.
    multiprocessing.set_forkserver_preload(["lmdbpipe"])

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_finish() -> None:
    """Leave what the imports made out of later collections of garbage: many tests ask for one, and so does pytest."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _torch_in_a_hurry() -> Iterator[None]:
    """Spare what torch takes time for and no test is about.

    For every kind of device that is not there torch.manual_seed notes down the stack, in each of thousands of calls,
    for as long as the process lives; torchvision's FakeData seeds for every sample, and a DataLoader for every worker.

    The workers of a DataLoader that failed, or was left in the midst, do not hear of it where only a collection of
    garbage ends it, since their queue is closed first: it then waits five seconds for each before it terminates them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
        if not torch.cuda.is_available():
            patch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
        yield


def _unpack(name: str, folder: Path) -> Path:
    """Unpack an archive that holds one folder, and give that folder; skip, but fail in CI, where there is none."""
    archive = _DATA / name
    if not archive.is_file():
        message = f"{archive} is not there"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(message)
        pytest.skip(message)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


@pytest.fixture
def _served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that would be spawned come from the fork server, which has imported torch already."""
    given = multiprocessing.get_context
    monkeypatch.setattr(
        multiprocessing, "get_context", lambda method=None: given("forkserver" if method == "spawn" else method)
    )


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait until the kernel has forgotten a file: it may keep a small one for seconds."""
    monkeypatch.setattr("lmdbpipe.machine._DROP_SECONDS", 0.0)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of many sizes: the root of an ImageFolder."""
    return _unpack("photos.tar", tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 10,000 test images of CIFAR-10, 32×32 pixels: the root of an ImageFolder."""
    return _unpack("cifar10-test.tar.gz", tmp_path_factory.mktemp("cifar"))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of an ImageFolder of three classes with four PNG images each, of 12×10 pixels."""
    root = tmp_path_factory.mktemp("image_folder")
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = root / f"class{number % 3}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(256, size=(10, 12, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return root

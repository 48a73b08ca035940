"""``lmdbpipe bench``: what it measures, what it says of what it cannot, and that it lets everything go."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import FakeData

import lmdbpipe
from lmdbpipe.bench import Options, Report, as_text, bench
from lmdbpipe.bench import run as module
from lmdbpipe.errors import DatabaseNotFoundError, FormatError

pytestmark = pytest.mark.usefixtures("_impatient")
QUICK = Options(batch_size=8, workers=1, seconds=0.01)
WAYS = [
    ("stream in order", "inline"),
    ("stream in order", "2 threads"),
    ("stream in order", "1 workers"),
    ("stream, shuffled", "inline"),
    ("stream, shuffled", "2 threads"),
    ("stream, shuffled", "1 workers"),
    ("random samples, dataset[i]", "inline"),
]
TRANSFORMED = [
    ("stream, shuffled, transformed", "inline"),
    ("stream, shuffled, transformed", "2 threads"),
    ("stream, shuffled, transformed", "1 workers"),
    ("DataLoader(dataset, shuffle=True), transformed", "inline"),
    ("DataLoader(dataset, shuffle=True), transformed", "1 workers"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 20 images with labels."""
    path = tmp_path_factory.mktemp("built") / "images.lmdb"
    lmdbpipe.build(FakeData(size=20, image_size=(3, 16, 12)), path, progress=False)
    return path


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file without images."""
    path = tmp_path_factory.mktemp("built") / "numbers.lmdb"
    lmdbpipe.build([{"id": k, "point": np.full(3, k, np.float32)} for k in range(20)], path, progress=False)
    return path


def measured(report: Report) -> list[tuple[str, str]]:
    """The ways that have figures with a warm cache, without the floors."""
    rows = [row for row in report.rows if row.cache == "warm" and "floor" not in row.what]
    return [(row.what, row.how) for row in rows if row.median]


def test_every_way_is_measured(images: Path) -> None:
    """Each way and each floor has a figure for each round; no process is left, and none holds the file."""
    report = bench(images, QUICK)
    assert measured(report) == [*WAYS, *TRANSFORMED]
    assert all(len(row.rates) == 3 and min(row.rates) > 0 for row in report.rows if not row.missing)
    assert [row.how for row in report.rows if "floor" in row.what and row.cache == "warm"] == ["inline"] * 2
    assert {row.what for row in report.rows if row.cache == "cold"} == {
        "floor: read of the file, front to back",
        "stream in order",
    }
    assert (report.length, report.file_bytes) == (20, images.stat().st_size)
    assert report.payload_bytes >= 20 * 16 * 12 * 3
    assert report.transform == "RandomCrop, RandomHorizontalFlip, PILToTensor, ToDtype, Normalize"
    assert set(report.first_batch_ms) == {"in order", "shuffled"}
    assert min(report.first_batch_ms.values()) > 0
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("_served")
def test_a_file_without_images(numbers: Path) -> None:
    """Raw samples are measured, and a note says why no transform is; no workers are no rows."""
    report = bench(numbers, Options(batch_size=8, workers=0, seconds=0.0))
    assert measured(report) == [way for way in WAYS if "workers" not in way[1]]
    assert report.transform == ""
    assert any("no images where transforms act; --transform takes one" in note for note in report.notes)


def _broken(image: Any) -> Any:
    raise ZeroDivisionError("of the test")


@pytest.mark.usefixtures("_served")
def test_what_fails_is_said(images: Path) -> None:
    """A transform that raises leaves rows that say so, and the other figures."""
    report = bench(images, Options(batch_size=8, workers=0, seconds=0.0, transform=_broken, transform_name="broken"))
    assert measured(report) == [way for way in WAYS if "workers" not in way[1]]
    missing = [row for row in report.rows if row.missing and row.cache == "warm"]
    assert [(row.what, row.how) for row in missing] == [way for way in TRANSFORMED if "workers" not in way[1]]
    assert all(("no threads" if "threads" in row.how else "of the test") in row.missing for row in missing)
    assert as_text(report).count("not measured: ") >= len(missing)


def test_a_cache_that_cannot_be_dropped(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no such call, the rows say so; where the file stays in memory, a note does."""
    notes: list[str] = []
    monkeypatch.setattr(module, "can_drop_cache", lambda: False)
    rows = module._cold(images, 20, QUICK, notes)
    assert [row.missing for row in rows] == ["this system cannot be asked to forget a file"] * 2
    assert not notes
    monkeypatch.setattr(module, "can_drop_cache", lambda: True)
    monkeypatch.setattr(module, "drop_cache", lambda file: 0.5)
    rows = module._cold(images, 20, QUICK, notes)
    assert all(len(row.rates) == 3 for row in rows)
    assert notes == ["50% of the file stayed in memory: the figures called cold are too high"]


def test_a_file_that_is_not_in_memory(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that include the disk are not called warm without a word."""
    notes: list[str] = []
    for part, said in ((0.25, "only 25% of the file was in memory"), (None, "does not tell how much of the file")):
        monkeypatch.setattr(module, "cached", lambda file, part=part: part)
        module._warm(images, 20, Options(batch_size=8, workers=0, seconds=0.0), notes)
        assert said in notes.pop()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """They are the errors of any reader."""
    with pytest.raises(DatabaseNotFoundError):
        bench(tmp_path / "none.lmdb", QUICK)
    (tmp_path / "text.lmdb").write_text("no database\n" * 1000)
    with pytest.raises(FormatError):
        bench(tmp_path / "text.lmdb", QUICK)

"""``lmdbpipe bench``: what it measures, what it says of what it cannot, and that it lets everything go."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import FakeData
from torchvision.transforms import v2

import lmdbpipe
from lmdbpipe import bench as module
from lmdbpipe.bench import Options, Report, Row, as_json_dict, as_text, bench, usual_transform
from lmdbpipe.codecs import ImageCodec
from lmdbpipe.errors import DatabaseNotFoundError, FormatError

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


def test_a_file_without_images(numbers: Path) -> None:
    """Raw samples are measured, and a note says why no transform is; no workers are no rows."""
    report = bench(numbers, Options(batch_size=8, workers=0, seconds=0.0))
    assert measured(report) == [way for way in WAYS if "workers" not in way[1]]
    assert report.transform == ""
    assert any("no images where transforms act; --transform takes one" in note for note in report.notes)


def _broken(image: Any) -> Any:
    raise ZeroDivisionError("of the test")


def test_what_fails_is_said(images: Path) -> None:
    """A transform that raises leaves rows that say so, and the other figures."""
    report = bench(images, Options(batch_size=8, workers=0, seconds=0.0, transform=_broken, transform_name="broken"))
    assert measured(report) == [way for way in WAYS if "workers" not in way[1]]
    missing = [row for row in report.rows if row.missing and row.cache == "warm"]
    assert [(row.what, row.how) for row in missing] == [way for way in TRANSFORMED if "workers" not in way[1]]
    assert all("of the test" in row.missing for row in missing)
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


@pytest.mark.parametrize(
    ("codec", "first", "shape"),
    [
        (ImageCodec("RGB", (32, 32)), v2.RandomCrop, (3, 32, 32)),
        (ImageCodec("L", (28, 20)), v2.RandomCrop, (1, 28, 20)),
        (ImageCodec("RGBA", (70, 65)), v2.RandomHorizontalFlip, (4, 70, 65)),
        (ImageCodec("RGB", None), v2.RandomResizedCrop, (3, 224, 224)),
    ],
    ids=str,
)
def test_usual_transforms(codec: ImageCodec, first: type, shape: tuple[int, ...]) -> None:
    """Small images are cropped from a border, those of many sizes to one; all end as normalised floats."""
    transform = usual_transform(codec)
    assert transform is not None
    assert type(transform.transforms[0]) is first
    height, width = codec.size or (300, 200)
    channels = shape[0]
    pixels = np.full((height, width, channels), 255, np.uint8)
    image = v2.functional.to_pil_image(pixels[..., 0] if channels == 1 else pixels, codec.mode)
    out = transform(image)
    assert (out.dtype, tuple(out.shape)) == (torch.float32, shape)
    assert float(out.max()) == pytest.approx(2.0)


@pytest.mark.parametrize("mode", [None, "P", "F"])
def test_modes_without_a_usual_transform(mode: str | None) -> None:
    """Where no transform is customary, none is guessed."""
    assert usual_transform(ImageCodec(mode, (32, 32))) is None


def test_the_table() -> None:
    """Figures stand in columns: samples/s, MB/s of payload, and times the floor of the same cache."""
    rows = [
        Row(cache="warm", what="floor: copy of batches out of a memory map", how="inline", rates=[1e6, 3e6, 2e6]),
        Row(cache="warm", what="stream in order", how="inline", rates=[1e6]),
        Row(cache="warm", what="stream in order", how="2 workers", missing="PicklingError: cannot"),
        Row(cache="cold", what="floor: read of the file, front to back", how="inline", rates=[1e5]),
        Row(cache="cold", what="stream in order", how="inline", rates=[2e5]),
    ]
    report = Report(
        file="x.lmdb",
        length=1000,
        payload_bytes=3_000_000,
        file_bytes=3_100_000,
        batch_size=64,
        transform="",
        rows=rows,
        first_batch_ms={"in order": 4.25, "shuffled": 5.0},
        memory_bytes=None,
        notes=["a note"],
    )
    text = as_text(report)
    lines = {line.split("inline")[0].strip(): line.split()[-3:] for line in text.splitlines() if "inline" in line}
    assert lines["floor: copy of batches out of a memory map"] == ["2,000,000", "6,000.0", "1.000"]
    assert "stream in order  " in text
    assert ["1,000,000", "3,000.0", "0.500"] in [line.split()[-3:] for line in text.splitlines()]
    assert lines["stream in order"] == ["200,000", "600.0", "2.000"]
    assert "2 workers  not measured: PicklingError: cannot" in text
    assert "Time to the first batch: 4.2 ms in order, 5.0 ms shuffled" in text
    assert text.endswith("Memory of a stream, at most: not known\nNote: a note")
    assert len({len(line) for line in text.splitlines() if "inline" in line or "samples/s" in line}) == 1

    data = json.loads(json.dumps(as_json_dict(report)))
    assert data["rows"][0]["rates"] == [1e6, 3e6, 2e6]
    assert data["rows"][0]["samples_per_second"] == 2e6
    assert data["rows"][2]["samples_per_second"] is None

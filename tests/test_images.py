"""Images in the map: whatever their sizes, modes and files, they are viewed where they lie."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import transforms as v1

import lmdbpipe
from lmdbpipe.records import Records
from tests.helpers import Listed, image, same

SAMPLES: dict[str, Callable[[int], Any]] = {
    "fixed": lambda k: image("RGB", (4, 5), k),
    "mixed": lambda k: image(("RGB", "P")[k % 2], (k % 4, 5), k),
    "palettes": lambda k: image("P", (4, 5), k),
    "late palettes": lambda k: image("P" if k > 9 else "L", (4, 5), k),
    "empty": lambda k: image("RGB", (0, 5 + k % 2)) if k < 5 else image("RGB", (2, 2), k),
    "empty file": lambda k: image("L", (0, 3)) if k < 7 else image("L", (3, 3), k),
}


def build(folder: Path, *parts: Sequence[Any], **options: Any) -> Records:
    """Files of some images each, and their records."""
    paths = [folder / f"{number}.lmdb" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        lmdbpipe.build(Listed(part), path, progress=False, **options)
    return Records(paths)


@pytest.mark.parametrize("cuts", [(0, 12), (0, 7, 12), (0, 3, 4, 12)], ids=["one", "two", "three"])
@pytest.mark.parametrize("name", SAMPLES)
def test_images_are_viewed_where_they_lie(
    name: str, cuts: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of one or several files, any or consecutive ones, come in the order that is asked for."""
    monkeypatch.setattr("lmdbpipe.encode._CHUNK_LENGTH", 5)
    samples = [SAMPLES[name](k) for k in range(12)]
    records = build(tmp_path, *(samples[low:high] for low, high in itertools.pairwise(cuts)))
    for indices in (np.array([11, 0, 4, 4, 8, 3]), range(2, 12), np.array([5]), range(3, 4)):
        raw = records.raw_images(0, indices)
        assert raw is not None
        assert len(raw) == len(indices)
        assert all(same(samples[k], raw.pil(n)) for n, k in enumerate(indices))
        if name == "fixed":
            assert isinstance(raw.sizes, tuple), "so that all are copied at once"
            assert same(raw.gather(), records.leaf_batch(0, indices).permute(0, 2, 3, 1).contiguous())


def test_images_of_two_layouts_are_not_viewed(tmp_path: Path) -> None:
    """Files that store images C×H×W and H×W×C have no view in common; one of them alone has."""
    samples = [image("RGB", (4, 5), k) for k in range(6)]
    paths = [tmp_path / "a.lmdb", tmp_path / "b.lmdb"]
    for path, first in zip(paths, (True, False), strict=True):
        config = {"db_channels_first": first}
        lmdbpipe.build(Listed(samples), path, db_transform=v1.PILToTensor(), db_cfg=config, progress=False)
    records = Records(paths)
    assert records.raw_images(0, np.array([0, 8])) is None
    for indices in (np.array([2, 0]), np.array([9, 6])):
        raw = records.raw_images(0, indices)
        assert raw is not None
        assert all(same(samples[k % 6], raw.pil(n)) for n, k in enumerate(indices.tolist()))


def test_maps_too_far_apart_are_not_viewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a view of all places of an image would have more bytes than int64 counts, there is none."""
    records = build(tmp_path, [image("RGB", (4, 5), k) for k in range(3)], [image("RGB", (5, 4), k) for k in range(3)])
    monkeypatch.setattr("lmdbpipe.images.MOST_WINDOWS", 1000)
    assert records.raw_images(0, np.array([0, 5])) is None
    fixed = Records([records.databases[0].path])
    monkeypatch.setattr("lmdbpipe.records.MOST_WINDOWS", 1000)
    assert fixed.raw_images(0, np.array([0, 2])) is None

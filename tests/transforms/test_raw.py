"""Stored images: views, PIL images and gathering, from memory that is read-only and unaligned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmdbpipe.errors import TransformError
from lmdbpipe.transforms import RawImages
from tests.transforms.helpers import MODE_NAMES, assert_same, make_images, pack


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("mode", MODE_NAMES)
def test_images_come_back(mode: str, layout: str) -> None:
    """Every mode gives the image that was stored, and its pixels."""
    images = make_images(mode, [(5, 7), (6, 4)], 1)
    raw = pack(images, layout)
    for i, image in enumerate(images):
        assert_same(raw.pil(i), image)
        pixels = raw.image(i) if layout == "HWC" else raw.image(i).transpose(1, 2, 0)
        np.testing.assert_array_equal(pixels.squeeze(), np.asarray(image).squeeze())


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("mode", ["RGB", "I;16", "F", "1"])
def test_gather(mode: str, layout: str) -> None:
    """Gathering gives the images in order, neighbours or not, repeated or not."""
    raw = pack(make_images(mode, [(5, 7)] * 6, 1), layout)
    for order in ([0, 1, 2], [5, 5, 0, 3], [2]):
        taken = raw.take(np.array(order))
        got = taken.gather().numpy()
        np.testing.assert_array_equal(got, np.stack([raw.image(i) for i in order]))


def test_gather_run_is_owned() -> None:
    """What was gathered is the caller's: writing to it does not reach the memory."""
    memory = np.arange(24, dtype=np.uint8)
    raw = RawImages(memory, np.array([0, 12]), (2, 2), "RGB")
    raw.gather().zero_()
    assert memory[5] == 5
    assert RawImages(torch.from_numpy(memory), np.array([12]), (2, 2), "RGB").gather()[0, 0, 0, 0] == 12


def test_refusals() -> None:
    """Bad layouts, modes, offsets and ragged gathers are refused in words."""
    memory, offsets = np.zeros(12, np.uint8), np.array([0])
    with pytest.raises(TransformError, match="layout is 'WHC'"):
        RawImages(memory, offsets, (2, 2), "RGB", "WHC")
    with pytest.raises(TransformError, match="PIL mode 'X'"):
        RawImages(memory, offsets, (2, 2), "X").pil(0)
    with pytest.raises(TransformError, match="lie at bytes 1 to 13"):
        RawImages(memory, np.array([1]), (2, 2), "RGB").gather()
    with pytest.raises(TransformError, match="do not stack"):
        RawImages(memory, offsets, np.array([[2, 2]]), "RGB").gather()


def test_repr() -> None:
    """A batch says what it holds."""
    assert repr(pack(make_images("RGB", [(5, 7)] * 2, 0))) == "RawImages(2 images, RGB, 5x7, HWC)"
    mixed = pack(make_images("RGB", [(5, 7)], 0) + make_images("L", [(4, 7)], 0))
    assert repr(mixed) == "RawImages(2 images, varying modes, varying sizes, HWC)"

"""Rectangles that reach over edges have a border, whatever was gathered before them in the same thread."""

from __future__ import annotations

import numpy as np
import pytest

from lmdbpipe.transforms.gather import gather
from lmdbpipe.transforms.windows import Windows
from tests.transforms.helpers import make_images, pack

OVER, SIZE = 4, 28


@pytest.mark.parametrize("before", [20, 24])
def test_borders_of_images_of_other_sizes(before: int) -> None:
    """Frames that are as large, with images that begin at the same place, are not taken for each other's."""
    for side in (before, 16):
        images = pack(make_images("RGB", [(side, side)] * 3, side))
        corner = np.full(3, -OVER)
        windows = Windows(np.arange(3), (SIZE, SIZE), corner, corner, fill=(7.0, 8.0, 9.0), whole=False)
        expected = np.full((3, SIZE, SIZE, 3), (7, 8, 9), np.uint8)
        for i in range(3):
            expected[i, OVER : OVER + side, OVER : OVER + side] = images.hwc(i)[: SIZE - OVER, : SIZE - OVER]
        assert np.array_equal(gather(images, windows, None).numpy(), expected.transpose(0, 3, 1, 2))

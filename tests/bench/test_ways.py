"""The transform that is measured where the user gives none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from lmdbpipe.bench.ways import usual_transform
from lmdbpipe.codecs import ImageCodec


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

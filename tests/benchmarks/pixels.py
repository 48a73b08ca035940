"""What the adapters of record-wise peers share: a record's pixels or JPEG file, to a PIL image, to a batch."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .data import Pixels, Source

Sample = tuple[Any, int]


def record(source: Source, index: int) -> tuple[Pixels | bytes, int]:
    """Sample ``index`` as peers store it: CHW pixels, or the JPEG file where sizes vary."""
    encoded = source.encoded(index)
    if encoded is not None:
        return encoded, source.labels[index]
    image, label = source[index]
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)), label


def pil(stored: Any) -> Any:
    """The PIL image of what [record][] stored."""
    if isinstance(stored, bytes | bytearray | memoryview):
        with Image.open(io.BytesIO(stored)) as opened:
            return opened.convert("RGB")
    return Image.fromarray(np.ascontiguousarray(np.asarray(stored).transpose(1, 2, 0)))


def apply(transform: Callable[[Any], Any], stored: Any, label: Any) -> Sample:
    """A sample with the transform applied to its PIL image."""
    return transform(pil(stored)), int(label)


def stack(samples: Sequence[Sample]) -> list[torch.Tensor]:
    """Samples of equal shape to a batch, the labels int64."""
    images, labels = zip(*samples, strict=True)
    if isinstance(images[0], torch.Tensor):
        return [torch.stack(images), torch.tensor(labels)]
    return [torch.from_numpy(np.stack(images)), torch.tensor([int(label) for label in labels])]

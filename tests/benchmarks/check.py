"""Everybody does the same work: one epoch of each contender is looked at, pixel sums and all, before it is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .contender import Epochs
from .data import Source

_LOOKED_AT = 8  # samples compared pixel by pixel
_REFERENCE = 512  # samples that the statistics of train transforms come from
_FAR = 0.15  # how far mean and deviation of normalised pixels may lie from the reference's


class WrongOutput(Exception):
    """A contender gives something else than the others."""


@dataclass(frozen=True)
class Expected:
    """What an epoch over a source must add up to."""

    source: Source
    transform: Any = None

    @cached_property
    def pixel_sum(self) -> int:
        """The sum of all pixels."""
        return sum(int(np.asarray(self.source[index][0]).sum(dtype=np.int64)) for index in range(len(self.source)))

    @cached_property
    def statistics(self) -> tuple[torch.Size, float, float]:
        """Shape, mean and deviation of samples that torchvision itself transformed."""
        count = min(_REFERENCE, len(self.source))
        chosen = np.linspace(0, len(self.source) - 1, count).astype(int).tolist()
        images = torch.stack([self.transform(self.source[index][0]) for index in chosen])
        return images.shape[1:], float(images.mean()), float(images.std())

    def pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """CHW pixels of one sample."""
        return np.asarray(self.source[index][0]).transpose(2, 0, 1)


def check_plain(epochs: Epochs, expected: Expected, *, ordered: bool) -> None:
    """An epoch of untransformed batches: every image once, uint8 (or float in [0, 1]) NCHW, in order or not.

    Raises:
        WrongOutput: Something differs.
    """
    labels: list[int] = []
    pixel_sum = 0.0
    for number, batch in enumerate(epochs):
        images, batch_labels = pair(batch)
        scale = _scale(images)
        if ordered and number == 0:
            for row in range(min(_LOOKED_AT, len(images))):
                _compare(np.asarray(images[row]) * scale, expected.pixels(row), row)
        labels.extend(int(label) for label in batch_labels)
        total = images.sum(dtype=torch.int64) if scale == 1 else images.sum(dtype=torch.float64) * scale
        pixel_sum += float(total)
    _check_labels(labels, expected, ordered=ordered)
    if abs(pixel_sum - expected.pixel_sum) > 1e-6 * expected.pixel_sum:
        raise WrongOutput(f"the pixels sum to {pixel_sum:.0f}, not {expected.pixel_sum}")


def check_transformed(epochs: Epochs, expected: Expected) -> None:
    """An epoch of transformed batches: every image once, float32, and normalised pixels distributed as torchvision's.

    Raises:
        WrongOutput: Something differs.
    """
    labels: list[int] = []
    shape, mean, deviation = expected.statistics
    total = squares = 0.0
    for batch in epochs:
        images, batch_labels = pair(batch)
        if images.dtype != torch.float32 or images.shape[1:] != shape:
            raise WrongOutput(f"images are {images.dtype} {tuple(images.shape[1:])}, not float32 {tuple(shape)}")
        labels.extend(int(label) for label in batch_labels)
        total += float(images.sum(dtype=torch.float64))
        squares += float(images.double().square().sum())
    _check_labels(labels, expected, ordered=False)
    count = len(labels) * shape.numel()
    found = total / count, (squares / count - (total / count) ** 2) ** 0.5
    if abs(found[0] - mean) > _FAR or abs(found[1] - deviation) > _FAR:
        raise WrongOutput(f"pixels have mean {found[0]:.2f}±{found[1]:.2f}, not {mean:.2f}±{deviation:.2f}")


def check_get(samples: Epochs, expected: Expected, indices: Sequence[int]) -> None:
    """Samples by index: the right image and label for each.

    Raises:
        WrongOutput: Something differs.
    """
    labels: list[int] = []
    for index, sample in zip(indices, samples, strict=True):
        image, label = (sample["image"], sample["label"]) if isinstance(sample, dict) else sample
        labels.append(int(label))
        if len(labels) <= _LOOKED_AT:
            array = np.asarray(image)
            channels_first = array.transpose(2, 0, 1) if array.shape[-1] == 3 else array
            _compare(channels_first * _scale(array), expected.pixels(index), index)
    if labels != [expected.source.labels[index] for index in indices]:
        raise WrongOutput("labels are not those of the indices asked for")


def pair(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of a batch.

    Raises:
        WrongOutput: It is not ``[images, labels]`` with images NCHW.
    """
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise WrongOutput(f"a batch is {type(batch).__name__}, not [images, labels]")
    images, labels = batch
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or images.shape[1] != 3:
        raise WrongOutput(f"images are {getattr(images, 'shape', type(images).__name__)}, not a tensor N,3,H,W")
    if len(labels) != len(images):
        raise WrongOutput(f"{len(images)} images come with {len(labels)} labels")
    return images, labels


def _scale(images: Any) -> int:
    """1 for bytes, 255 for floats in [0, 1]."""
    return 1 if images.dtype in (torch.uint8, np.uint8) else 255


def _compare(found: npt.NDArray[Any], wanted: npt.NDArray[np.uint8], index: int) -> None:
    if not np.array_equal(np.rint(found), wanted):
        raise WrongOutput(f"sample {index} has other pixels than the source's")


def _check_labels(labels: list[int], expected: Expected, *, ordered: bool) -> None:
    wanted = expected.source.labels
    if len(labels) != len(wanted):
        raise WrongOutput(f"an epoch has {len(labels)} images, not {len(wanted)}")
    if sorted(labels) != sorted(wanted):
        raise WrongOutput("labels are not the source's")
    if (labels == wanted) != ordered:
        raise WrongOutput("not in order" if ordered else "not shuffled")

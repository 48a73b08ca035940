"""Samples sorted by what they are, to be transformed together, and results put back in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from lmdbpipe.errors import TransformError
from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.crops import Crops, Tuples
from lmdbpipe.transforms.raw import RawImages
from lmdbpipe.transforms.step import Spec, spec_of
from lmdbpipe.transforms.windows import Ints

Images = RawImages | Sequence[Image.Image] | Sequence[Tensor] | Tensor


@dataclass(frozen=True)
class Leaf:
    """Samples that are through: their places in the batch, and a batch or a list of objects."""

    places: Ints
    result: Batch | Crops | list[Any]


def batches_of(images: Images) -> list[tuple[Ints, Batch | list[Any]]]:
    """Sort what came in by `Spec`."""
    everything = np.arange(len(images))
    if isinstance(images, RawImages):
        if isinstance(images.mode, str):
            return [(everything, Batch.of_raw(images))]
        modes = np.array(images.mode)
        groups = [np.flatnonzero(modes == mode) for mode in dict.fromkeys(images.mode)]
        return [(rows, Batch.of_raw(_of_mode(images.take(rows)))) for rows in groups]
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise TransformError(f"a batch of images is [n, C, H, W]; this one is {list(images.shape)}")
        spec = Spec("tensor", "", images.dtype, images.shape[1])
        return [(everything, Batch.of_tensors(spec, images.as_subclass(Tensor)))]
    return grouped(list(images))


def grouped(samples: list[Any]) -> list[tuple[Ints, Batch | list[Any]]]:
    """Sort samples by `Spec`; objects that are no images stay a list."""
    specs: dict[Spec, list[int]] = {}
    for i, sample in enumerate(samples):
        specs.setdefault(spec_of(sample), []).append(i)
    result: list[tuple[Ints, Batch | list[Any]]] = []
    for spec, rows in specs.items():
        members = [samples[i] for i in rows]
        result.append((np.array(rows), members if spec.kind == "object" else Batch.of_samples(spec, members)))
    return result


def size_of(sample: Any) -> tuple[int, int]:
    """Height and width of a PIL image or a tensor [..., H, W]."""
    if isinstance(sample, Image.Image):
        return sample.height, sample.width
    return int(sample.shape[-2]), int(sample.shape[-1])


def collect(leaves: list[Leaf], count: int, device: torch.device | None) -> Tensor | Sequence[Any]:
    """Put results in order; one tensor where they are tensors of one shape and dtype."""
    done: list[tuple[Ints, Any]] = []
    for leaf in leaves:
        result: Any = leaf.result
        if isinstance(result, Crops):
            result = (result if device is None or result.spec.kind != "tensor" else result.to(device)).results()
        elif isinstance(result, Batch):
            if device is not None and result.spec.kind == "tensor":
                result = result.to(device)
            image, result = result.spec.image, result.results()
            if image and len(leaves) > 1:
                result = [tv_tensors.Image(one) for one in result]
        elif device is not None:
            result = [one.to(device) if isinstance(one, Tensor) else one for one in result]
        done.append((leaf.places, result))
    if len(done) == 1 and isinstance(done[0][1], Tensor | Tuples):
        whole: Tensor | Tuples = done[0][1]
        return whole
    listed: list[Any] = [None] * count
    for places, result in done:
        for place, sample in zip(places.tolist(), result, strict=True):
            listed[place] = sample
    first = listed[0]
    if isinstance(first, Tensor) and all(
        isinstance(x, Tensor) and x.shape == first.shape and x.dtype == first.dtype for x in listed
    ):
        return torch.stack([x.as_subclass(Tensor) for x in listed])
    return listed


def _of_mode(images: RawImages) -> RawImages:
    return RawImages(images.memory, images.offsets, images.sizes, images.mode_at(0), images.layout, images.palettes)

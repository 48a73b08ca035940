"""``FiveCrop`` and ``TenCrop``: each sample becomes a tuple of images, and the batch a batch for each place in it.

Crops are `Windows` over the same pixels, so nothing is copied for them. Steps of version 2 that follow act alike on all
images of a sample, as they do in torchvision; those of version 1 take no tuples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.step import Params, Spec, Step
from lmdbpipe.transforms.windows import Ints, axes, some


@dataclass(frozen=True)
class Crops:
    """A batch of n samples that are tuples of images.

    Attributes:
        batches: For each place in the tuple, the n images there; all of one `Spec` and one size.
    """

    batches: tuple[Batch, ...]

    def __len__(self) -> int:
        return len(self.batches[0])

    @property
    def spec(self) -> Spec:
        """What the samples are."""
        return replace(self.batches[0].spec, crops=len(self.batches))

    @property
    def size(self) -> Any:
        """(height, width) of every image."""
        return self.batches[0].size

    def each(self, function: Callable[[Batch], Batch]) -> Crops:
        """Apply a function to the batch at each place."""
        return Crops(tuple(map(function, self.batches)))

    def take(self, picks: Ints) -> Crops:
        """Some of the samples; nothing is copied."""
        return self.each(lambda batch: batch.take(picks))

    def to(self, device: torch.device) -> Crops:
        """Move pixels to a device."""
        return self.each(lambda batch: batch.to(device))

    def bound_for(self, device: torch.device) -> Crops:
        """Let pixels go to a device once they move."""
        return self.each(lambda batch: batch.bound_for(device))

    def results(self) -> Sequence[Any]:
        """Give what a caller gets: `Tuples` of tensors, or a list of tuples of PIL images."""
        results = [batch.results() for batch in self.batches]
        tensors = [result for result in results if isinstance(result, Tensor)]
        return Tuples(tensors, image=self.spec.image) if len(tensors) == len(results) else self.samples()

    def samples(self) -> list[Any]:
        """Give each sample as torchvision would hold it: a tuple of PIL images, tensors or `Image`s."""
        return list(zip(*(batch.samples() for batch in self.batches), strict=True))


class Tuples(Sequence[tuple[Tensor, ...]]):
    """A batch of tuples of tensors: a sequence of n tuples, held as a batch for each place in them.

    Args:
        batches: For each place, a tensor [n, C, H, W].
        image: Whether samples are `torchvision.tv_tensors.Image`.
    """

    def __init__(self, batches: Sequence[Tensor], *, image: bool) -> None:
        self.batches = tuple(batches)
        self._image = image

    def __repr__(self) -> str:
        return f"Tuples({len(self)} of {len(self.batches)} tensors {list(self.batches[0].shape[1:])})"

    def __len__(self) -> int:
        return len(self.batches[0])

    @overload
    def __getitem__(self, i: int) -> tuple[Tensor, ...]: ...
    @overload
    def __getitem__(self, i: slice) -> list[tuple[Tensor, ...]]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        tensors = (batch[i] for batch in self.batches)
        return tuple(map(tv_tensors.Image, tensors) if self._image else tensors)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return map(self.__getitem__, range(len(self)))


class FiveCrop(Step):
    """``FiveCrop``: the corners and the centre."""

    images = "lost"

    def accept(self, spec: Spec) -> Spec | str:
        """Any image."""
        return replace(spec, crops=5)

    def resized(self, spec: Spec, size: Any) -> Any:
        """The crops' own size."""
        return int(self.t.size[0]), int(self.t.size[1])

    def apply(self, batch: Batch, params: Params) -> Crops:  # type: ignore[override]
        """Take all five of each image."""
        return Crops(self._five(batch.compute(self.kept(batch.spec))))

    def _five(self, batch: Batch) -> tuple[Batch, ...]:
        (height, width), size = axes(batch.size), self.resized(batch.spec, None)
        h, w = size
        if some(height < h) or some(width < w):
            smallest = int(np.min(height)), int(np.min(width))
            raise ValueError(f"Requested crop size {size} is bigger than input size {smallest}")
        low, right = height - h, width - w
        middle = np.rint(low / 2.0).astype(np.int64), np.rint(right / 2.0).astype(np.int64)
        corners = ((0, 0), (0, right), (low, 0), (low, right), middle)
        return tuple(batch.moved(batch.windows.crop(top, left, size)) for top, left in corners)


class TenCrop(FiveCrop):
    """``TenCrop``: those five, and those of the mirrored image."""

    def accept(self, spec: Spec) -> Spec | str:
        """Any image."""
        return replace(spec, crops=10)

    def apply(self, batch: Batch, params: Params) -> Crops:  # type: ignore[override]
        """Take all ten of each image."""
        batch = batch.compute(self.kept(batch.spec))
        everything = np.ones(len(batch), bool)
        mirrored = batch.moved(batch.windows.mirror(everything, vertical=self.t.vertical_flip))
        return Crops((*self._five(batch), *self._five(mirrored)))


def run(step: Step, batch: Batch | Crops, params: Params) -> Batch | Crops:
    """Apply a step to a batch; to the images of tuples alike."""
    if isinstance(batch, Crops):
        return batch.each(lambda one: step.apply(one, params))
    return step.apply(batch, params)

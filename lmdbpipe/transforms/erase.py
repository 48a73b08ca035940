"""``RandomErasing``, on tensors; PIL images are left to torchvision.

Which images, and where, is drawn for all at once; the few rectangles are then filled one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.gather import near
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.step import Params, Spec, Step, below, uniform
from lmdbpipe.transforms.streams import Words
from lmdbpipe.transforms.windows import axes

ATTEMPTS = 10
"""How often torchvision tries to find a rectangle that fits."""


class Erased(NamedTuple):
    """A rectangle and what fills it: [C, 1, 1], [1, 1, 1] or [C, h, w]."""

    top: int
    left: int
    height: int
    width: int
    value: Tensor


class RandomErasing(Step):
    """``v1.RandomErasing``."""

    words = 3 + 4 * ATTEMPTS
    draws = True

    def accept(self, spec: Spec) -> Spec | str:
        """Tensors, and values that fit the channels."""
        if spec.kind == "pil":
            return "PIL images are left to torchvision"
        value = self.values()
        return f"value {self.t.value!r} does not fit" if value and len(value) not in (1, spec.channels) else spec

    def values(self) -> list[float] | None:
        """What to fill with; None for noise."""
        if isinstance(self.t.value, str) or self.t.value is None:
            return None
        values = self.t.value if isinstance(self.t.value, (list, tuple)) else [self.t.value]
        return [float(value) for value in values]

    def fixed(self, spec: Spec, size: Size) -> int | None:
        """It varies."""
        return None

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give an `Erased` or None for each image."""
        count = len(words)
        rows = np.flatnonzero(below(words[:, 0], self.t.p, as_tensor=True))
        height, width = (np.broadcast_to(np.asarray(extent), count)[rows, None] for extent in axes(size))
        tries = words[rows, 3:].reshape(-1, ATTEMPTS, 4)
        low, high = self.t.scale
        area = height * width * (low + uniform(tries[..., 0]) * (high - low))
        low, high = np.log(self.t.ratio)
        ratio = np.exp(low + uniform(tries[..., 1]) * (high - low))
        h, w = np.rint(np.sqrt(area * ratio)).astype(int), np.rint(np.sqrt(area / ratio)).astype(int)
        fits = (h < height) & (w < width)
        values = self.values()
        constant = None if values is None else torch.tensor(values)[:, None, None]
        found = np.flatnonzero(fits.any(axis=1))
        first = fits[found].argmax(axis=1)
        tall, across = h[found, first], w[found, first]
        top = tries[found, first, 2] % (height[found, 0] - tall + 1)
        left = tries[found, first, 3] % (width[found, 0] - across + 1)
        result: list[Erased | None] = [None] * count
        for i, y, x, *extent in np.stack([rows[found], top, left, tall, across], axis=1).tolist():
            value = constant
            if value is None:
                generator = torch.Generator().manual_seed(int(words[i, 1]) << 32 | int(words[i, 2]))
                value = torch.empty([spec.channels, *extent]).normal_(generator=generator)
            result[i] = Erased(y, x, extent[0], extent[1], value)
        return result, size

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """One `Erased` or None."""
        if not torch.rand(1) < self.t.p:
            return None, size
        blank = torch.empty((spec.channels, *size), device="meta")
        i, j, h, w, value = self.t.get_params(blank, scale=self.t.scale, ratio=self.t.ratio, value=self.values())
        return (None if value is blank else Erased(i, j, h, w, value)), size

    def stack(self, ones: Sequence[Any]) -> Params:
        """Give them as they are."""
        return list(ones)

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Fill the rectangles."""
        if not any(params):
            return batch
        done = batch.now()
        targets: Any = done.source
        dtype = batch.spec.dtype
        by_numpy = isinstance(targets, Tensor) and near(targets.device) and dtype in (torch.float32, torch.float64)
        if by_numpy:
            targets = targets.numpy()  # which is quicker to begin
        given, filling = None, None
        for target, erased in zip(targets, params, strict=True):
            if erased is None:
                continue
            top, left, height, width, value = erased
            area = target[..., top : top + height, left : left + width]
            if not by_numpy:
                area.copy_(value.to(area.device, non_blocking=True))
                continue
            if value is not given:  # mostly all are filled with one
                given, filling = value, value.numpy()
            area[...] = filling
        return done


class RandomErasingV2(RandomErasing):
    """``v2.RandomErasing``."""

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """One `Erased` or None."""
        if torch.rand(1) >= self.t.p:
            return None, size
        drawn = self.t.make_params([torch.empty((spec.channels, *size), device="meta")])
        if drawn["v"] is None:
            return None, size
        return Erased(drawn["i"], drawn["j"], drawn["h"], drawn["w"], drawn["v"]), size

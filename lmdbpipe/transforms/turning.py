"""``RandomRotation`` and ``RandomAffine`` of PIL images, with Pillow's bits."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import pil_modes_mapping
from torchvision.transforms.v2._utils import _get_fill
from torchvision.transforms.v2.functional._geometry import _check_interpolation

from lmdbpipe.transforms.edits import Edited, colour
from lmdbpipe.transforms.operations import MAPS, Edit, Operation, affine, rotation
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.step import Params, Spec, between, uniform
from lmdbpipe.transforms.streams import Words
from lmdbpipe.transforms.windows import axes

_OPERATIONS = {kind: operation for operation, kind in MAPS.items()}


@lru_cache(maxsize=64)
def _filter(interpolation: Any) -> Image.Resampling:
    """PIL's filter, by what torchvision takes for one: its own name, a string or PIL's number."""
    return Image.Resampling(pil_modes_mapping[_check_interpolation(interpolation)])


class Turning(Edited):
    """A step that may move pixels, and brings in others of one colour."""

    def accept(self, spec: Spec) -> Spec | str:
        """Those that take the nearest pixels, with a colour that fits."""
        accepted = super().accept(spec)
        if isinstance(accepted, str):
            return accepted
        if (found := _filter(self.t.interpolation)) not in _OPERATIONS:
            return f"PIL's filter {found.name} is left to PIL"
        try:
            self.fill(spec)
        except (TypeError, ValueError) as error:
            return f"fill: {error}"
        return accepted

    @property
    def operation(self) -> Operation:
        """That of its interpolation."""
        return _OPERATIONS[_filter(self.t.interpolation)]

    def fill(self, spec: Spec) -> tuple[int, ...]:
        """As it was given."""
        return colour(_get_fill(self.t._fill, Image.Image) if self.is_v2 else self.t.fill, spec.mode)

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give what `chosen` gives for each image."""
        heights, widths = (np.broadcast_to(np.asarray(extent), len(words)).tolist() for extent in axes(size))
        numbers, sizes = self.numbers(words), zip(heights, widths, strict=True)
        return self.stack([self.chosen(own, at) for own, at in zip(numbers, sizes, strict=True)]), size

    def numbers(self, words: Words) -> list[list[Any]]:
        """Turn words into those numbers that `chosen` takes, at once for all images: here from 0 to 1."""
        return uniform(words).tolist()  # type: ignore[no-any-return]

    def chosen(self, numbers: list[Any], size: tuple[int, int]) -> list[Edit]:
        """Turn one image's numbers into operations, as many for each."""
        raise NotImplementedError

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """Give operations."""
        return self.drawn(size), size

    def drawn(self, size: tuple[int, int]) -> list[Edit]:
        """As `chosen`, by the calls that torchvision makes."""
        raise NotImplementedError


class RandomRotation(Turning):
    """``RandomRotation`` of both generations."""

    words = 1

    def accept(self, spec: Spec) -> Spec | str:
        """Those that keep the size."""
        return "it changes the size of images" if self.t.expand else super().accept(spec)

    def chosen(self, numbers: list[Any], size: tuple[int, int]) -> list[Edit]:
        """One rotation."""
        angle = between(numbers[0], self.t.degrees)
        return [rotation(size, angle, self.t.center, operation=self.operation)]

    def drawn(self, size: tuple[int, int]) -> list[Edit]:
        """As `chosen`, by the calls that torchvision makes."""
        angle = self.t.make_params([])["angle"] if self.is_v2 else self.t.get_params(self.t.degrees)
        return [rotation(size, angle, self.t.center, operation=self.operation)]


class RandomAffine(Turning):
    """``RandomAffine`` of both generations."""

    words = 6

    def affine(self, size: tuple[int, int], *arguments: Any, **named: Any) -> Edit:
        """A map, as its generation computes it."""
        return affine(size, *arguments, operation=self.operation, is_v2=self.is_v2, **named)

    def chosen(self, numbers: list[Any], size: tuple[int, int]) -> list[Edit]:
        """One map."""
        t, (height, width) = self.t, size
        turn, across, along, growth, *lean = numbers
        far = t.translate or (0.0, 0.0)
        moved = round((2 * across - 1) * far[0] * width), round((2 * along - 1) * far[1] * height)
        scale = between(growth, t.scale or (1.0, 1.0))
        limits = [*(t.shear or ()), 0.0, 0.0, 0.0, 0.0]
        shear = between(lean[0], limits[:2]), between(lean[1], limits[2:4])
        return [self.affine(size, between(turn, t.degrees), moved, scale, shear, center=t.center)]

    def drawn(self, size: tuple[int, int]) -> list[Edit]:
        """As `chosen`, by the calls that torchvision makes."""
        t = self.t
        if self.is_v2:
            drawn = t.make_params([torch.empty((1, *size), device="meta")])
            return [self.affine(size, **drawn, center=t.center)]
        angle, translate, scale, shear = t.get_params(t.degrees, t.translate, t.scale, t.shear, size[::-1])
        return [self.affine(size, angle, translate, scale, shear, center=t.center)]

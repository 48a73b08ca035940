"""``RandomRotation`` and ``RandomAffine``, with the bits of Pillow, or of torch for tensors."""

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
from lmdbpipe.transforms.operations import MAPS, Edit, Maps, Operation
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.step import Params, Spec, between, uniform
from lmdbpipe.transforms.streams import Words
from lmdbpipe.transforms.windows import axes

_OPERATIONS = {kind: operation for operation, kind in MAPS.items()}


@lru_cache(maxsize=64)
def _filter(interpolation: Any) -> Image.Resampling:
    """PIL's filter, by what torchvision takes for one: its own name, a string or PIL's number."""
    return Image.Resampling(pil_modes_mapping[_check_interpolation(interpolation)])


def _levels(fill: Any, channels: int) -> tuple[int, ...]:
    """The bytes that torchvision rounds a colour to: a number, some, or None for 0.

    Raises:
        ValueError: It is no colour of so many channels.
    """
    values = np.rint(np.array([0 if fill is None else fill], np.float32).ravel())
    if len(values) not in (1, channels) or not ((values >= 0) & (values <= 255)).all():
        raise ValueError(f"{fill} is no colour of {channels} bytes")
    return tuple(map(int, np.broadcast_to(values, channels)))


class Turning(Edited):
    """A step that may move pixels, and brings in others of one colour."""

    def accept(self, spec: Spec) -> Spec | str:
        """Those with a colour that fits."""
        accepted = super().accept(spec)
        if isinstance(accepted, str):
            return accepted
        if (found := _filter(self.t.interpolation)) not in _OPERATIONS:
            return f"PIL's filter {found.name} is left to PIL"
        if spec.kind != "pil" and self.operation != Operation.AFFINE:
            return "of tensors, what lies between pixels is left to torchvision"
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
        given = _get_fill(self.t._fill, spec.tensor_type) if self.is_v2 else self.t.fill
        return colour(given, spec.mode) if spec.kind == "pil" else _levels(given, spec.channels)

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give what `chosen` gives for each image."""
        heights, widths = (np.broadcast_to(np.asarray(extent), len(words)).tolist() for extent in axes(size))
        numbers, sizes = self.numbers(words), zip(heights, widths, strict=True)
        return self.stack([self.chosen(own, self.maps(at, spec)) for own, at in zip(numbers, sizes, strict=True)]), size

    def numbers(self, words: Words) -> list[list[Any]]:
        """Turn words into those numbers that `chosen` takes, at once for all images: here from 0 to 1."""
        return uniform(words).tolist()  # type: ignore[no-any-return]

    def maps(self, size: tuple[int, int], spec: Spec) -> Maps:
        """How pixels of images of (height, width) move."""
        return Maps(size, self.operation, self.is_v2, of_tensors=spec.kind != "pil")

    def chosen(self, numbers: list[Any], maps: Maps) -> list[Edit]:
        """Turn one image's numbers into operations, as many for each."""
        raise NotImplementedError

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """Give operations."""
        return self.drawn(self.maps(size, spec)), size

    def drawn(self, maps: Maps) -> list[Edit]:
        """As `chosen`, by the calls that torchvision makes."""
        raise NotImplementedError


class RandomRotation(Turning):
    """``RandomRotation`` of both generations."""

    words = 1

    def accept(self, spec: Spec) -> Spec | str:
        """Those that keep the size."""
        return "it changes the size of images" if self.t.expand else super().accept(spec)

    def chosen(self, numbers: list[Any], maps: Maps) -> list[Edit]:
        """One rotation."""
        angle = between(numbers[0], self.t.degrees)
        return [maps.rotation(angle, self.t.center)]

    def drawn(self, maps: Maps) -> list[Edit]:
        """As `chosen`, by the calls that torchvision makes."""
        angle = self.t.make_params([])["angle"] if self.is_v2 else self.t.get_params(self.t.degrees)
        return [maps.rotation(angle, self.t.center)]


class RandomAffine(Turning):
    """``RandomAffine`` of both generations."""

    words = 6

    def chosen(self, numbers: list[Any], maps: Maps) -> list[Edit]:
        """One map."""
        t, (height, width) = self.t, maps.size
        turn, across, along, growth, *lean = numbers
        far = t.translate or (0.0, 0.0)
        moved = round((2 * across - 1) * far[0] * width), round((2 * along - 1) * far[1] * height)
        scale = between(growth, t.scale or (1.0, 1.0))
        limits = [*(t.shear or ()), 0.0, 0.0, 0.0, 0.0]
        shear = between(lean[0], limits[:2]), between(lean[1], limits[2:4])
        return [maps.affine(between(turn, t.degrees), moved, scale, shear, center=t.center)]

    def drawn(self, maps: Maps) -> list[Edit]:
        """As `chosen`, by the calls that torchvision makes."""
        t = self.t
        if self.is_v2:
            drawn = t.make_params([torch.empty((1, *maps.size), device="meta")])
            return [maps.affine(**drawn, center=t.center)]
        angle, translate, scale, shear = t.get_params(t.degrees, t.translate, t.scale, t.shear, maps.size[::-1])
        return [maps.affine(angle, translate, scale, shear, center=t.center)]

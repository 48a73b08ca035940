"""``RandomRotation`` and ``RandomAffine`` of PIL images by the nearest pixel, with Pillow's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import pil_modes_mapping
from torchvision.transforms.v2._utils import _get_fill
from torchvision.transforms.v2.functional._geometry import _check_interpolation

from lmdbpipe.transforms.edits import Edited, colour
from lmdbpipe.transforms.operations import Edit, affine, rotation
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.step import Params, Spec, between
from lmdbpipe.transforms.streams import Words
from lmdbpipe.transforms.windows import axes


class Turning(Edited):
    """A step that may move pixels, and brings in others of one colour."""

    @property
    def version(self) -> int:
        """The generation of torchvision's class."""
        return 2 if type(self.t).__module__.startswith("torchvision.transforms.v2.") else 1

    def accept(self, spec: Spec) -> Spec | str:
        """Those that take the nearest pixel, with a colour that fits."""
        accepted = super().accept(spec)
        if isinstance(accepted, str):
            return accepted
        if pil_modes_mapping[_check_interpolation(self.t.interpolation)] != Image.Resampling.NEAREST:
            return "it interpolates, which is left to PIL"
        try:
            self.fill(spec)
        except (TypeError, ValueError) as error:
            return f"fill: {error}"
        return accepted

    def fill(self, spec: Spec) -> tuple[int, ...]:
        """As it was given."""
        return colour(_get_fill(self.t._fill, Image.Image) if self.version == 2 else self.t.fill, spec.mode)

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give what `chosen` gives for each image."""
        heights, widths = (np.broadcast_to(np.asarray(extent), len(words)).tolist() for extent in axes(size))
        sizes = zip(heights, widths, strict=True)
        return self.stack([self.chosen(own, at) for own, at in zip(words, sizes, strict=True)]), size

    def chosen(self, words: Words, size: tuple[int, int]) -> list[Edit]:
        """Turn one image's words into operations, as many for each."""
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

    def chosen(self, words: Words, size: tuple[int, int]) -> list[Edit]:
        """One rotation."""
        return [rotation(size, float(between(words[0], *self.t.degrees)), self.t.center)]

    def drawn(self, size: tuple[int, int]) -> list[Edit]:
        """The same."""
        angle = self.t.make_params([])["angle"] if self.version == 2 else self.t.get_params(self.t.degrees)
        return [rotation(size, angle, self.t.center)]


class RandomAffine(Turning):
    """``RandomAffine`` of both generations."""

    words = 6

    def chosen(self, words: Words, size: tuple[int, int]) -> list[Edit]:
        """One map."""
        t, (height, width) = self.t, size
        far = t.translate or (0.0, 0.0)
        moves = [(-far[0] * width, far[0] * width), (-far[1] * height, far[1] * height)]
        shears = np.array([*(t.shear or ()), 0.0, 0.0, 0.0, 0.0])[:4].reshape(2, 2)
        limits = np.array([t.degrees, *moves, t.scale or (1.0, 1.0), *shears])
        angle, x, y, scale, *shear = between(words, *limits.T).tolist()
        return [affine(size, angle, (round(x), round(y)), scale, shear, t.center)]

    def drawn(self, size: tuple[int, int]) -> list[Edit]:
        """The same."""
        t = self.t
        if self.version == 2:
            drawn = t.make_params([torch.empty((1, *size), device="meta")])
            return [affine(size, **drawn, center=t.center)]
        angle, translate, scale, shear = t.get_params(t.degrees, t.translate, t.scale, t.shear, size[::-1])
        return [affine(size, angle, translate, scale, shear, t.center)]

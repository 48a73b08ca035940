"""Operations on images that take a few numbers, and what Pillow does for each."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import functional as v1
from torchvision.transforms.v2.functional import _geometry as v2

Edit = tuple[float, float, float, float, float, float, float]
"""The number of an `Operation`, and its values; zeros where it has fewer than six."""


class Operation(enum.IntEnum):
    """An operation on bytes of images of mode L or RGB, or of tensors of as many channels."""

    IDENTITY = 0
    BRIGHTNESS = 1
    """By a factor, as the following two."""
    CONTRAST = 2
    COLOR = 3
    """Saturation."""
    HUE = 4
    """By a shift, 0 to 255 for a whole turn; of tensors by a part of one."""
    SHARPNESS = 5
    """By a factor."""
    AUTOCONTRAST = 6
    EQUALIZE = 7
    INVERT = 8
    POSTERIZE = 9
    """To a number of bits."""
    SOLARIZE = 10
    """From a threshold on."""
    AFFINE = 11
    """By the coefficients of ``Image.Transform.AFFINE``, to the nearest pixel; of tensors, from the middle."""
    BILINEAR = 12
    """The same, between the four nearest pixels; of PIL images only."""
    QUARTERS = 13
    """By a number of quarter turns; of tensors only."""


MAPS = {Operation.AFFINE: Image.Resampling.NEAREST, Operation.BILINEAR: Image.Resampling.BILINEAR}
"""The operations that move pixels, and Pillow's filters for them."""


def make_edit(operation: Operation, *values: float) -> Edit:
    """Put an operation and its values together."""
    return (float(operation), *map(float, values), *([0.0] * (6 - len(values))))  # type: ignore[return-value]


class Maps(NamedTuple):
    """How pixels of some images move.

    Attributes:
        size: (height, width) of the images.
        operation: One of `MAPS`.
        is_v2: Whether torchvision's version 2 computes the coefficients, which may differ in their last bits.
        of_tensors: Whether the images are tensors; then version 2 does.
    """

    size: tuple[int, int]
    operation: Operation = Operation.AFFINE
    is_v2: bool = False
    of_tensors: bool = False

    def affine(
        self,
        angle: float = 0.0,
        translate: Sequence[float] = (0, 0),
        scale: float = 1.0,
        shear: Sequence[float] = (0.0, 0.0),
        center: Sequence[float] | None = None,
    ) -> Edit:
        """As torchvision's ``affine``.

        Args:
            angle: In degrees, as those of ``shear``.
            translate: In pixels, to the right and down.
            scale: As a factor.
            shear: Along x and y.
            center: (x, y); the middle, if not given.
        """
        matrix = (v2 if self.is_v2 else v1)._get_inverse_affine_matrix
        middle = [self.size[1] * 0.5, self.size[0] * 0.5]
        if self.of_tensors:
            center = [0.0, 0.0] if center is None else [c - m for c, m in zip(center, middle, strict=True)]
        shifts = [float(shift) for shift in translate] if self.of_tensors else list(translate)
        return make_edit(
            self.operation, *matrix(middle if center is None else list(center), angle, shifts, scale, list(shear))
        )

    def rotation(self, angle: float, center: Sequence[float] | None = None) -> Edit:
        """As ``Image.rotate``, where images stay as large; of tensors as torchvision's: degrees, anticlockwise."""
        height, width = self.size
        if self.of_tensors:
            quarters, rest = divmod(angle % 360, 90)
            if center is None and rest == 0 and quarters in ((0, 1, 2, 3) if height == width else (0, 2)):
                return make_edit(Operation.QUARTERS, quarters)
            return self.affine(-(angle % 360), center=center)
        turn = -math.radians(angle % 360.0)
        a, b, d, e = (round(part, 15) for part in (math.cos(turn), math.sin(turn), -math.sin(turn), math.cos(turn)))
        x, y = (width / 2, height / 2) if center is None else center
        return make_edit(self.operation, a, b, a * -x + b * -y + x, d, e, d * -x + e * -y + y)


def by_pil(image: Image.Image, edit: Sequence[float], fill: tuple[int, ...]) -> Image.Image:
    """Let Pillow do it.

    Args:
        image: Of mode L or RGB.
        edit: An `Edit`.
        fill: The colour of pixels from outside.
    """
    operation, values = Operation(int(edit[0])), list(edit[1:])
    if operation in MAPS:
        colour = fill if len(fill) > 1 else fill[0]
        return image.transform(image.size, Image.Transform.AFFINE, values, MAPS[operation], fillcolor=colour)
    return _BY_PIL[operation](image, values[0])


def _shift_hue(image: Image.Image, shift: float) -> Image.Image:
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + int(shift)) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


_BY_PIL: dict[Operation, Callable[[Image.Image, float], Image.Image]] = {
    Operation.IDENTITY: lambda image, _: image,
    Operation.BRIGHTNESS: lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    Operation.CONTRAST: lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    Operation.COLOR: lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    Operation.HUE: _shift_hue,
    Operation.SHARPNESS: lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    Operation.AUTOCONTRAST: lambda image, _: ImageOps.autocontrast(image),
    Operation.EQUALIZE: lambda image, _: ImageOps.equalize(image),
    Operation.INVERT: lambda image, _: ImageOps.invert(image),
    Operation.POSTERIZE: lambda image, bits: ImageOps.posterize(image, int(bits)),
    Operation.SOLARIZE: ImageOps.solarize,  # type: ignore[dict-item]
}

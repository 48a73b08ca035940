"""Flips, crops and padding: none of them moves a pixel by itself, see `lmdbpipe.transforms.windows`.

Only padding that repeats pixels (edge, reflect, symmetric) does: it is an index for each axis, which NumPy's own
``np.pad`` gives, since that is what torchvision pads PIL images with.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmdbpipe.errors import TransformError
from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.step import Params, Spec, Step, below
from lmdbpipe.transforms.streams import Words
from lmdbpipe.transforms.windows import Int, axes, join, some

Sides = tuple[Int, Int, Int, Int]
"""Pixels to add at the left, top, right and bottom."""

# Modes whose border PIL fills with the numbers given. The others go through a palette, one bit, or another byte order.
_FILLABLE = ("CMYK", "F", "HSV", "I", "I;16", "L", "LA", "RGB", "RGBA", "YCbCr")
# What Image.fromarray makes of padded pixels
_REPEATED = {"1": "1", "CMYK": "RGBA", "F": "F", "HSV": "RGB", "I": "I", "I;16": "I;16", "L": "L", "LA": "LA"}
_REPEATED |= {"LAB": "RGB", "RGB": "RGB", "RGBA": "RGBA", "YCbCr": "RGB"}


class HorizontalFlip(Step):
    """``RandomHorizontalFlip``."""

    words = 1
    draws = True
    vertical = False

    def accept(self, spec: Spec) -> Spec | str:
        """Any image."""
        return spec

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give bool [n]."""
        return below(words[:, 0], self.t.p, as_tensor=True), size

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """One bool."""
        return bool(torch.rand(1) < self.t.p), size

    def stack(self, ones: Sequence[Any]) -> Params:
        """Give bool [n]."""
        return np.array(ones, bool)

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Mirror the chosen images."""
        return batch.moved(batch.windows.mirror(params, vertical=self.vertical)) if params.any() else batch


class VerticalFlip(HorizontalFlip):
    """``RandomVerticalFlip``."""

    vertical = True


class CenterCrop(Step):
    """``CenterCrop``; images smaller than the crop get a border of zeros."""

    def accept(self, spec: Spec) -> Spec | str:
        """Modes that PIL pads plainly; whether an image needs it is not known yet."""
        if spec.kind == "pil" and spec.mode not in _FILLABLE:
            return f"PIL pads mode {spec.mode} in its own way"
        return spec

    def resized(self, spec: Spec, size: Any) -> Any:
        """The crop's own size."""
        return int(self.t.size[0]), int(self.t.size[1])

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Pad where needed, and crop."""
        (height, width), (h, w) = axes(batch.size), self.resized(batch.spec, None)
        short, narrow = np.maximum(h - height, 0), np.maximum(w - width, 0)
        if some(short) or some(narrow):
            sides = (narrow // 2, short // 2, (narrow + 1) // 2, (short + 1) // 2)
            batch = border(batch, [sides], (0.0,) * batch.spec.channels)
            height, width = axes(batch.size)
        top = np.rint((height - h) / 2.0).astype(np.int64)
        left = np.rint((width - w) / 2.0).astype(np.int64)
        return batch.moved(batch.windows.crop(top, left, (h, w)))


class Pad(Step):
    """``Pad`` in every mode."""

    def accept(self, spec: Spec) -> Spec | str:
        """Fills that the pixels can hold, and no negative padding."""
        sides = _sides(self.t.padding)
        if sides is None or min(sides) < 0:
            return f"padding {self.t.padding!r} is negative or not integers"
        return padded_spec(self.t, spec)

    def resized(self, spec: Spec, size: Any) -> Any:
        """Larger by the padding."""
        return _grown(size, [_known_sides(self.t.padding)])

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Pad all sides."""
        return pad(batch, self.t, [_known_sides(self.t.padding)])


class RandomCrop(Step):
    """``RandomCrop`` with every padding.

    Its parameters are two int64 arrays [n]: top and left in the padded image.
    """

    words = 2
    draws = True

    def accept(self, spec: Spec) -> Spec | str:
        """As `Pad` where it pads; any image where it does not."""
        if self.t.padding is None and not self.t.pad_if_needed:
            return spec
        sides = self._given()
        if sides is None or min(sides) < 0:
            return f"padding {self.t.padding!r} is negative or not integers"
        return padded_spec(self.t, spec)

    def fixed(self, spec: Spec, size: Size) -> int | None:
        """None where images are of the crop's size already; not known where sizes vary."""
        padded = _grown(size, self.paddings(size))
        if not isinstance(padded, tuple):
            return None
        return 0 if padded == self.crop_size else 2

    def resized(self, spec: Spec, size: Any) -> Any:
        """The crop's own size."""
        return self.crop_size

    @property
    def crop_size(self) -> tuple[int, int]:
        """(height, width) of the crops."""
        return int(self.t.size[0]), int(self.t.size[1])

    def paddings(self, size: Any) -> list[Sides]:
        """What is added to images of some size, one padding after the other."""
        result: list[Sides] = []
        if self.t.padding is not None:
            result.append(_known_sides(self._given()))
        if self.t.pad_if_needed:
            height, width = axes(_grown(size, result))
            short, narrow = np.maximum(self.crop_size[0] - height, 0), np.maximum(self.crop_size[1] - width, 0)
            result += [(narrow, 0, narrow, 0), (0, short, 0, short)]
        return result

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give tops and lefts, uniform over where the crop fits."""
        high, wide = self._room(_grown(size, self.paddings(size)))
        return self._corners(words, high, wide), self.crop_size

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """One top and left."""
        high, wide = self._room(_grown(size, self.paddings(size)))
        if high == 1 and wide == 1:
            return (0, 0), self.crop_size
        top = torch.randint(0, int(high), size=(1,)).item()
        return (top, torch.randint(0, int(wide), size=(1,)).item()), self.crop_size

    def stack(self, ones: Sequence[Any]) -> Params:
        """Give tops and lefts."""
        corners = np.array(ones, np.int64).reshape(-1, 2)
        return corners[:, 0], corners[:, 1]

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Pad and crop."""
        sides = [side for side in self.paddings(batch.size) if any(map(some, side))]
        if sides:
            batch = pad(batch, self.t, sides)
        elif self.t.padding is not None and self.t.padding_mode != "constant":  # an empty padding is one too, to PIL
            batch = pad(batch, self.t, [(0, 0, 0, 0)])
        return batch.moved(batch.windows.crop(params[0], params[1], self.crop_size))

    def _given(self) -> Any:
        return (0, 0, 0, 0) if self.t.padding is None else _sides(self.t.padding)

    def _room(self, padded: Any) -> tuple[Any, Any]:
        """How many tops and lefts there are."""
        (height, width), (h, w) = axes(padded), self.crop_size
        if some(height < h) or some(width < w):
            raise ValueError(f"Required crop size {(h, w)} is larger than input image size {_smallest(padded)}")
        return height - h + 1, width - w + 1

    def _corners(self, words: Words, high: Any, wide: Any) -> tuple[Any, Any]:
        if not words.shape[1]:
            zeros = np.zeros(len(words), np.int64)
            return zeros, zeros
        return words[:, 0].astype(np.int64) % high, words[:, 1].astype(np.int64) % wide


class RandomCropV2(RandomCrop):
    """``v2.RandomCrop``, which draws for an axis only where there is room, and pads once."""

    def fixed(self, spec: Spec, size: Size) -> int | None:
        """One word for each axis with room."""
        padded = _grown(size, self.paddings(size))
        if not isinstance(padded, tuple):
            return None
        return sum(int(room > 1) for room in self._room(padded))

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """One top and left."""
        rooms = self._room(_grown(size, self.paddings(size)))
        top, left = (int(torch.randint(0, int(room), size=())) if room > 1 else 0 for room in rooms)
        return (top, left), self.crop_size

    def paddings(self, size: Any) -> list[Sides]:
        """All paddings as one."""
        sides = super().paddings(size)
        if not sides:
            return []
        left, top, right, bottom = (sum(side[i] for side in sides) for i in range(4))
        return [(left, top, right, bottom)]

    def _given(self) -> Any:
        if self.t.padding is None:
            return (0, 0, 0, 0)
        left, right, top, bottom = self.t.padding
        return left, top, right, bottom

    def _corners(self, words: Words, high: Any, wide: Any) -> tuple[Any, Any]:
        if words.shape[1] < 2:  # replayed: a column for each axis with room
            column = words[:, 0].astype(np.int64) if words.shape[1] else np.zeros(len(words), np.int64)
            return column % high, column % wide
        return super()._corners(words, high, wide)


def padded_spec(t: Any, spec: Spec) -> Spec | str:
    """Say what padding makes of images, or why it is not batched."""
    fill = fill_of(t, spec)
    if t.padding_mode == "constant":
        return fill if isinstance(fill, str) else spec
    if t.padding_mode not in ("edge", "reflect", "symmetric"):
        return f"padding mode {t.padding_mode!r} is not one of torchvision's"
    if spec.kind == "pil":
        mode = _REPEATED.get(spec.mode)
        return Spec.pil(mode) if mode else f"PIL pads mode {spec.mode} in its own way"
    if isinstance(fill, str):
        return fill
    if spec.dtype not in (torch.uint8, torch.int16, torch.uint16, torch.float32, torch.float64):
        return f"torchvision pads {spec.dtype} by way of float32"
    return spec


def fill_of(t: Any, spec: Spec) -> tuple[float, ...] | str:
    """The border's value for each channel, or why it cannot be given as such."""
    given = getattr(t, "_fill", None)
    fill = t.fill if given is None else given.get(spec.tensor_type, given.get("others"))
    values: Any = 0 if fill is None else fill
    if isinstance(values, int | float | numbers.Real):  # the two common ones are found fast
        values = [values]
    elif spec.kind == "tensor" and given is None:
        return "torchvision pads tensors with one number only"
    elif spec.kind == "tensor" and len(values) > 1 and t.padding_mode != "constant":
        return "torchvision pads tensors with several numbers only in constant mode"
    reason = _unfit(values, spec)
    if reason:
        return f"fill {fill!r} {reason}"
    if spec.kind == "pil" and spec.mode != "F":
        values = [int(value) for value in values]
    if not spec.dtype.is_floating_point and not _fits(values, spec.dtype):
        return f"fill {fill!r} is no value of {spec.dtype}"
    filled = tuple(float(value) for value in values)
    return filled * spec.channels if len(filled) == 1 else filled


def _unfit(values: Any, spec: Spec) -> str | None:
    """Why a fill cannot be one value for each channel."""
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, numbers.Real) for value in values):
        return "is not numbers"
    if len(values) not in (1, spec.channels):
        return f"does not fit {spec.channels} channels"
    if spec.kind == "pil" and spec.mode not in _FILLABLE:
        return f"is used in PIL's own way in mode {spec.mode}"
    return None


def _fits(values: Any, dtype: torch.dtype) -> bool:
    """Whether numbers are values of an integer dtype."""
    if dtype == torch.bool or any(value != int(value) for value in values):
        return False
    limits = torch.iinfo(dtype)
    return bool(limits.min <= min(values) and max(values) <= limits.max)


def pad(batch: Batch, t: Any, sides: list[Sides]) -> Batch:
    """Pad as a transform with ``fill`` and ``padding_mode`` does, one padding after the other."""
    if t.padding_mode == "constant":
        fill = fill_of(t, batch.spec)
        assert not isinstance(fill, str)
        return border(batch, sides, fill)
    spec = padded_spec(t, batch.spec)
    assert isinstance(spec, Spec)
    done = batch.now()
    strict = batch.spec.kind == "tensor"
    if isinstance(done.source, Tensor):
        return Batch.of_tensors(spec, _repeat(done.source, sides, t.padding_mode, strict))
    assert isinstance(done.source, list)
    listed = []
    for i, tensor in enumerate(done.source):
        own: list[Any] = [[int(a[i]) if isinstance(a, np.ndarray) and a.ndim else a for a in side] for side in sides]
        listed.append(_repeat(tensor, own, t.padding_mode, strict))
    return Batch.of_tensors(spec, listed)


def border(batch: Batch, sides: list[Sides], fill: tuple[float, ...]) -> Batch:
    """Add a border of a constant."""
    if batch.pending or not batch.windows.whole:
        batch = batch.now()
    left, top, right, bottom = (sum(side[i] for side in sides) for i in range(4))
    return batch.moved(batch.windows.pad(left, top, right, bottom, fill))


def _repeat(pixels: Tensor, sides: list[Any], mode: str, strict: bool) -> Tensor:
    """Pad [..., H, W] by repeating pixels; ``strict`` where torch refuses to repeat them more than once."""
    y, x = np.arange(pixels.shape[-2]), np.arange(pixels.shape[-1])
    for left, top, right, bottom in sides:
        y, x = _index(y, int(top), int(bottom), mode, strict), _index(x, int(left), int(right), mode, strict)
    for dim, index in ((-2, y), (-1, x)):
        if len(index) != pixels.shape[dim]:
            pixels = pixels.index_select(dim, torch.from_numpy(index).to(pixels.device, non_blocking=True))
    return pixels


def _index(index: NDArray[np.int64], before: int, after: int, mode: str, strict: bool) -> NDArray[np.int64]:
    limit = len(index) - (mode == "reflect")
    if strict and mode != "edge" and max(before, after) > limit:
        raise TransformError(f"{mode} padding of {max(before, after)} pixels does not fit an axis of {len(index)}")
    if not before and not after:
        return index
    return np.pad(index, (before, after), mode)  # type: ignore[call-overload, no-any-return]


def _sides(padding: Any) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of torchvision's ``padding`` argument; None if it is not integers."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    if not isinstance(padding, (list, tuple)) or not all(isinstance(value, int) for value in padding):
        return None
    if len(padding) not in (1, 2, 4):
        return None
    left, top, right, bottom = (*padding,) * (4 // len(padding))
    return left, top, right, bottom


def _known_sides(padding: Any) -> Sides:
    sides = _sides(padding)
    if sides is None:
        raise TransformError(f"padding is {padding!r}; it must be 1, 2 or 4 integers")
    return sides


def _grown(size: Any, sides: list[Sides]) -> Any:
    height, width = axes(size)
    for left, top, right, bottom in sides:
        height, width = height + top + bottom, width + left + right
    return join(height, width)


def _smallest(size: Any) -> tuple[int, int]:
    height, width = axes(size)
    return int(np.min(height)), int(np.min(width))

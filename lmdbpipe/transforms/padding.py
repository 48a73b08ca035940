"""Padding, as torchvision does it.

A constant border moves no pixel by itself, see `lmdbpipe.transforms.windows`. Padding that repeats pixels (edge,
reflect, symmetric) does: it is an index for each axis, which NumPy's own ``np.pad`` gives, since that is what
torchvision pads PIL images with.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmdbpipe.errors import TransformError
from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.step import Spec
from lmdbpipe.transforms.windows import Int, axes, join

Sides = tuple[Int, Int, Int, Int]
"""Pixels to add at the left, top, right and bottom."""

# Modes whose border PIL fills with the numbers given. The others go through a palette, one bit, or another byte order.
FILLABLE = ("CMYK", "F", "HSV", "I", "I;16", "L", "LA", "RGB", "RGBA", "YCbCr")
# What Image.fromarray makes of padded pixels
_REPEATED = {"1": "1", "CMYK": "RGBA", "F": "F", "HSV": "RGB", "I": "I", "I;16": "I;16", "L": "L", "LA": "LA"}
_REPEATED |= {"LAB": "RGB", "RGB": "RGB", "RGBA": "RGBA", "YCbCr": "RGB"}


def padded_spec(t: Any, spec: Spec) -> Spec | str:
    """Say what padding makes of images, or why it is not batched."""
    fill = _fill_of(t, spec)
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


def pad(batch: Batch, t: Any, sides: list[Sides]) -> Batch:
    """Pad as a transform with ``fill`` and ``padding_mode`` does, one padding after the other."""
    if t.padding_mode == "constant":
        fill = _fill_of(t, batch.spec)
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


def sides_of(padding: Any) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of torchvision's ``padding`` argument; None if it is not integers."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    if not isinstance(padding, (list, tuple)) or not all(isinstance(value, int) for value in padding):
        return None
    if len(padding) not in (1, 2, 4):
        return None
    left, top, right, bottom = (*padding,) * (4 // len(padding))
    return left, top, right, bottom


def known_sides(padding: Any) -> Sides:
    """As `sides_of`; a TransformError if it is not integers."""
    sides = sides_of(padding)
    if sides is None:
        raise TransformError(f"padding is {padding!r}; it must be 1, 2 or 4 integers")
    return sides


def grown(size: Any, sides: list[Sides]) -> Any:
    """The size of images, or the sizes int [n, 2], after padding."""
    height, width = axes(size)
    for left, top, right, bottom in sides:
        height, width = height + top + bottom, width + left + right
    return join(height, width)


def _fill_of(t: Any, spec: Spec) -> tuple[float, ...] | str:
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
    if spec.kind == "pil" and spec.mode not in FILLABLE:
        return f"is used in PIL's own way in mode {spec.mode}"
    return None


def _fits(values: Any, dtype: torch.dtype) -> bool:
    """Whether numbers are values of an integer dtype."""
    if dtype == torch.bool or dtype.is_complex or any(value != int(value) for value in values):
        return False
    limits = torch.iinfo(dtype)
    return bool(limits.min <= min(values) and max(values) <= limits.max)


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

"""Geometry that has been asked for but not yet done: where each output image lies in its source.

Crops, flips and constant borders compose into one rectangle and two flags an image, so that however many of them a
pipeline has, pixels move once. Integers only; nothing here touches a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmdbpipe.transforms.raw import Size

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Int = int | Ints
"""One integer for all images, or one for each: [n]."""


def axes(size: Size) -> tuple[Any, Any]:
    """Split a size into heights and widths, each an int or an array [n]."""
    return size if isinstance(size, tuple) else (size[:, 0], size[:, 1])


def some(value: Any) -> bool:
    """Whether a number, or any of an array, is not zero; NumPy's own takes its time for a number."""
    return bool(value.any()) if isinstance(value, np.ndarray) else bool(value)


def join(height: Int, width: Int) -> Size:
    """Make a size of heights and widths; arrays that hold one value become that value."""
    if not isinstance(height, np.ndarray) and not isinstance(width, np.ndarray):
        return int(height), int(width)
    heights, widths = np.broadcast_arrays(height, width)
    if len(heights) and (heights == heights[0]).all() and (widths == widths[0]).all():
        return int(heights[0]), int(widths[0])
    return np.stack([heights, widths], axis=1)


@dataclass(frozen=True)
class Windows:
    """A rectangle of a source image for each output image; it may reach over the edges, into a border.

    Attributes:
        rows: int64 [n], which image of the source.
        size: (height, width) of the outputs.
        top: int64 [n], in source coordinates, negative above the edge.
        left: int64 [n].
        hflip: bool [n], whether the rectangle is mirrored left to right; None for none.
        vflip: bool [n], top to bottom; None for none.
        fill: What the border holds, for each channel; None where no rectangle reaches over an edge.
        whole: Whether every rectangle still is its whole source image (mirrored or not).
    """

    rows: Ints
    size: Size
    top: Ints
    left: Ints
    hflip: Bools | None = None
    vflip: Bools | None = None
    fill: tuple[float, ...] | None = None
    whole: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def full(cls, count: int, size: Size) -> Windows:
        """Every image of a source, whole."""
        zeros = np.zeros(count, np.int64)
        return cls(np.arange(count), size, zeros, zeros)

    @property
    def is_identity(self) -> bool:
        """Whether outputs are the first images of the source, whole and as they are."""
        plain = self.whole and self.hflip is None and self.vflip is None
        return plain and bool((self.rows == np.arange(len(self.rows))).all())

    def take(self, picks: Ints) -> Windows:
        """Some of the outputs, in the order given."""
        return replace(
            self,
            rows=self.rows[picks],
            size=self.size if isinstance(self.size, tuple) else join(self.size[picks, 0], self.size[picks, 1]),
            top=self.top[picks],
            left=self.left[picks],
            hflip=None if self.hflip is None else self.hflip[picks],
            vflip=None if self.vflip is None else self.vflip[picks],
        )

    def crop(self, top: Int, left: Int, size: Size) -> Windows:
        """Take a rectangle of each output."""
        (height, width), (h, w) = axes(self.size), axes(size)
        if self.vflip is not None:
            top = np.where(self.vflip, height - h - top, top)
        if self.hflip is not None:
            left = np.where(self.hflip, width - w - left, left)
        return Windows(
            self.rows, size, self.top + top, self.left + left, self.hflip, self.vflip, self.fill, whole=False
        )

    def pad(self, left: Int, top: Int, right: Int, bottom: Int, fill: tuple[float, ...]) -> Windows:
        """Extend each output over its edges, by at least 0 pixels; only where it still is `whole`."""
        height, width = axes(self.size)
        size = join(height + top + bottom, width + left + right)
        above = top if self.vflip is None else np.where(self.vflip, bottom, top)
        before = left if self.hflip is None else np.where(self.hflip, right, left)
        top, left = self.top - above, self.left - before
        return Windows(self.rows, size, top, left, self.hflip, self.vflip, fill, whole=False)

    def mirror(self, mask: Bools, *, vertical: bool = False) -> Windows:
        """Mirror the outputs that a mask bool [n] picks."""
        if vertical:
            return replace(self, vflip=mask if self.vflip is None else self.vflip ^ mask)
        return replace(self, hflip=mask if self.hflip is None else self.hflip ^ mask)


def concatenate(parts: list[Windows]) -> Windows:
    """Put the outputs of several windows over one source after each other."""

    def flags(name: str) -> Bools | None:
        columns = [getattr(part, name) for part in parts]
        if all(column is None for column in columns):
            return None
        lengths = [len(part) for part in parts]
        return np.concatenate([np.zeros(n, bool) if c is None else c for c, n in zip(columns, lengths, strict=True)])

    sizes = [np.broadcast_to(np.asarray(part.size), (len(part), 2)) for part in parts]
    size = np.concatenate(sizes)
    return Windows(
        rows=np.concatenate([part.rows for part in parts]),
        size=join(size[:, 0], size[:, 1]),
        top=np.concatenate([part.top for part in parts]),
        left=np.concatenate([part.left for part in parts]),
        hflip=flags("hflip"),
        vflip=flags("vflip"),
        fill=next((part.fill for part in parts if part.fill is not None), None),
        whole=all(part.whole for part in parts),
    )

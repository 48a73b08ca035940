"""Flips, crops and padding; where pixels move, `lmdbpipe.transforms.windows` and `padding` do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.bytewise import prepare
from lmdbpipe.transforms.padding import FILLABLE, Sides, border, grown, known_sides, pad, padded_spec, sides_of
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.step import Params, Spec, Step, below
from lmdbpipe.transforms.streams import Words
from lmdbpipe.transforms.windows import axes, some


class _Moving(Step):
    """A step after which pixels lie elsewhere."""

    def prepare(self) -> None:
        """Load or compile what they are moved with."""
        prepare()


class HorizontalFlip(_Moving):
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


class CenterCrop(_Moving):
    """``CenterCrop``; images smaller than the crop get a border of zeros."""

    def accept(self, spec: Spec) -> Spec | str:
        """Modes that PIL pads plainly; whether an image needs it is not known yet."""
        if spec.kind == "pil" and spec.mode not in FILLABLE:
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


class Pad(_Moving):
    """``Pad`` in every mode."""

    def accept(self, spec: Spec) -> Spec | str:
        """Fills that the pixels can hold, and no negative padding."""
        sides = sides_of(self.t.padding)
        if sides is None or min(sides) < 0:
            return f"padding {self.t.padding!r} is negative or not integers"
        return padded_spec(self.t, spec)

    def resized(self, spec: Spec, size: Any) -> Any:
        """Larger by the padding."""
        return grown(size, [known_sides(self.t.padding)])

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Pad all sides."""
        return pad(batch, self.t, [known_sides(self.t.padding)])


class RandomCrop(_Moving):
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
        padded = padded_spec(self.t, spec)
        if isinstance(padded, Spec) and padded != spec and self.t.pad_if_needed:
            return f"PIL makes mode {padded.mode} of those images that are padded"
        return padded

    def fixed(self, spec: Spec, size: Size) -> int | None:
        """None where images are of the crop's size already; not known where sizes vary."""
        padded = grown(size, self.paddings(size))
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
            result.append(known_sides(self._given()))
        if self.t.pad_if_needed:
            height, width = axes(grown(size, result))
            short, narrow = np.maximum(self.crop_size[0] - height, 0), np.maximum(self.crop_size[1] - width, 0)
            result += [(narrow, 0, narrow, 0), (0, short, 0, short)]
        return result

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give tops and lefts, uniform over where the crop fits."""
        high, wide = self._room(grown(size, self.paddings(size)))
        return self._corners(words, high, wide), self.crop_size

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """One top and left."""
        high, wide = self._room(grown(size, self.paddings(size)))
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
        return (0, 0, 0, 0) if self.t.padding is None else sides_of(self.t.padding)

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
        padded = grown(size, self.paddings(size))
        if not isinstance(padded, tuple):
            return None
        return sum(int(room > 1) for room in self._room(padded))

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """One top and left."""
        rooms = self._room(grown(size, self.paddings(size)))
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


def _smallest(size: Any) -> tuple[int, int]:
    height, width = axes(size)
    return int(np.min(height)), int(np.min(width))

"""``RandAugment``, ``TrivialAugmentWide`` and ``AutoAugment``, with the bits of Pillow, or of torch for tensors.

Which operations there are, and how strong, torchvision's own tables say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from lmdbpipe.transforms.operations import Edit, Maps, Operation, make_edit
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.step import Params, Spec, uniform
from lmdbpipe.transforms.streams import Words, counter_words
from lmdbpipe.transforms.turning import Turning

Space = Mapping[str, tuple[Sequence[float], bool]]
"""Of each operation's name: its magnitudes, weakest first, none where it has none; and whether they have signs."""

Shape = tuple[int, int]
"""(height, width)."""


def _shear(magnitude: float) -> float:
    return math.degrees(math.atan(magnitude))


_EDITS: dict[str, Callable[[float, Maps], Edit]] = {
    "AutoContrast": lambda *_: make_edit(Operation.AUTOCONTRAST),
    "Brightness": lambda magnitude, _: make_edit(Operation.BRIGHTNESS, 1.0 + magnitude),
    "Color": lambda magnitude, _: make_edit(Operation.COLOR, 1.0 + magnitude),
    "Contrast": lambda magnitude, _: make_edit(Operation.CONTRAST, 1.0 + magnitude),
    "Equalize": lambda *_: make_edit(Operation.EQUALIZE),
    "Identity": lambda *_: make_edit(Operation.IDENTITY),
    "Invert": lambda *_: make_edit(Operation.INVERT),
    "Posterize": lambda magnitude, _: make_edit(Operation.POSTERIZE, int(magnitude)),
    "Rotate": lambda magnitude, maps: maps.rotation(magnitude),
    "Sharpness": lambda magnitude, _: make_edit(Operation.SHARPNESS, 1.0 + magnitude),
    "ShearX": lambda magnitude, maps: maps.affine(shear=(_shear(magnitude), 0.0), center=(0, 0)),
    "ShearY": lambda magnitude, maps: maps.affine(shear=(0.0, _shear(magnitude)), center=(0, 0)),
    "Solarize": lambda magnitude, _: make_edit(Operation.SOLARIZE, magnitude),
    "TranslateX": lambda magnitude, maps: maps.affine(translate=(int(magnitude), 0)),
    "TranslateY": lambda magnitude, maps: maps.affine(translate=(0, int(magnitude))),
}
"""By torchvision's name: what a magnitude means, and how pixels move."""


@lru_cache(maxsize=4096)
def _edit(name: str, magnitude: float, maps: Maps) -> Edit:
    """What an operation by torchvision's name does to images of a size."""
    return _EDITS[name](magnitude, maps)


@lru_cache(maxsize=256)
def _space(kind: Any, bins: int, size: Shape, _: torch.dtype) -> Space:
    """The table of a class of either generation, made with the default dtype that there is now."""
    if hasattr(kind, "_AUGMENTATION_SPACE"):
        found = {name: (make(bins, *size), signed) for name, (make, signed) in kind._AUGMENTATION_SPACE.items()}
        top = {"Solarize": 255.0}  # version 2 says it as a part of the largest value
    else:
        sized = () if kind.__name__ == "TrivialAugmentWide" else (size,)
        found, top = kind._augmentation_space(None, bins, *sized), {}
    return {
        name: ([] if made is None or not made.ndim else [top.get(name, 1.0) * one for one in made.tolist()], signed)
        for name, (made, signed) in found.items()
    }


class Augment(Turning):
    """One of them."""

    @property
    def bins(self) -> int:
        """How many magnitudes there are."""
        return self.t.num_magnitude_bins  # type: ignore[no-any-return]

    def _infer_tuple(self, spec: Spec) -> Spec | str:
        return "torchvision refuses tuples of images here"

    def numbers(self, words: Words) -> list[list[Any]]:
        """The words themselves."""
        return words.tolist()  # type: ignore[no-any-return]

    def space(self, size: Shape) -> Space:
        """Its table, for images of (height, width)."""
        return _space(type(self.t), self.bins, size, torch.get_default_dtype())  # type: ignore[arg-type]

    def edit(self, name: str, number: int | None, negative: bool, maps: Maps) -> Edit:
        """An operation of the table, by the number of its magnitude and the sign, where it has them."""
        magnitudes, signed = self.space(maps.size)[name]
        magnitude = 0.0 if number is None or not magnitudes else magnitudes[number]
        return _edit(name, -magnitude if signed and negative else magnitude, maps)

    def below(self, count: int) -> int:
        """Draw a number below another one by the call that torchvision makes."""
        return int(torch.randint(count, ()))

    def negative(self) -> bool:
        """Draw a sign by the call that torchvision makes."""
        return bool(torch.rand(()) <= 0.5 if self.is_v2 else torch.randint(2, (1,)))


class RandAugment(Augment):
    """``RandAugment`` of both generations."""

    words = 2

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Make two words for each operation of two that are given."""
        seeds = words.astype(np.uint64)
        more = counter_words(seeds[:, 0] << np.uint64(32) | seeds[:, 1], 0, 2 * self.t.num_ops)
        return super().decode(more, spec, size)

    def chosen(self, numbers: list[Any], maps: Maps) -> list[Edit]:
        """Operations, and signs."""
        names = list(self.space(maps.size))
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        return [self.edit(names[which % len(names)], self.t.magnitude, bool(sign & 1), maps) for which, sign in pairs]

    def drawn(self, maps: Maps) -> list[Edit]:
        """As `chosen`, by the calls that torchvision makes."""
        space, edits = self.space(maps.size), []
        for _ in range(self.t.num_ops):
            name = list(space)[self.below(len(space))]
            edits.append(self.edit(name, self.t.magnitude, space[name][1] and self.negative(), maps))
        return edits


class TrivialAugmentWide(Augment):
    """``TrivialAugmentWide`` of both generations."""

    words = 3

    def chosen(self, numbers: list[Any], maps: Maps) -> list[Edit]:
        """One operation, its magnitude and sign."""
        which, number, sign = numbers
        names = list(self.space(maps.size))
        return [self.edit(names[which % len(names)], number % self.bins, bool(sign & 1), maps)]

    def drawn(self, maps: Maps) -> list[Edit]:
        """As `chosen`, by the calls that torchvision makes."""
        space = self.space(maps.size)
        name = list(space)[self.below(len(space))]
        magnitudes, signed = space[name]
        number = self.below(self.bins) if magnitudes else None
        return [self.edit(name, number, signed and self.negative(), maps)]


class AutoAugment(Augment):
    """``v1.AutoAugment``."""

    words = 5

    @property
    def bins(self) -> int:
        """Always the same."""
        return 10

    @property
    def policies(self) -> Sequence[Any]:
        """Pairs of an operation's name, its probability and the number of its magnitude."""
        return self.t.policies  # type: ignore[no-any-return]

    def numbers(self, words: Words) -> list[list[Any]]:
        """One for the policy, two chances from 0 to 1, and two for signs."""
        numbers: list[list[Any]] = words.tolist()
        for own, chances in zip(numbers, uniform(words[:, 1:3]).tolist(), strict=True):
            own[1:3] = chances
        return numbers

    def chosen(self, numbers: list[Any], maps: Maps) -> list[Edit]:
        """Two operations, of which each may be left out."""
        policy = self.policies[numbers[0] % len(self.policies)]
        parts = zip(policy, numbers[1:3], numbers[3:], strict=True)
        return [self._part(part, chance <= part[1], bool(sign & 1), maps) for part, chance, sign in parts]

    def drawn(self, maps: Maps) -> list[Edit]:
        """As `chosen`, by the calls that torchvision makes."""
        number, chances, signs = self.t.get_params(len(self.policies))
        parts = zip(self.policies[number], chances, signs.tolist(), strict=True)
        return [self._part(part, bool(chance <= part[1]), sign == 0, maps) for part, chance, sign in parts]

    def _part(self, part: tuple[str, float, int | None], on: bool, negative: bool, maps: Maps) -> Edit:
        name, _, number = part
        return self.edit(name, number, negative, maps) if on else make_edit(Operation.IDENTITY)


class AutoAugmentV2(AutoAugment):
    """``v2.AutoAugment``."""

    @property
    def policies(self) -> Sequence[Any]:
        """Under another name."""
        return self.t._policies  # type: ignore[no-any-return]

    def drawn(self, maps: Maps) -> list[Edit]:
        """The same, drawing one after the other."""
        edits = []
        for part in self.policies[self.below(len(self.policies))]:
            on = bool(torch.rand(()) <= part[1])
            signed = on and self.space(maps.size)[part[0]][1]
            edits.append(self._part(part, on, signed and self.negative(), maps))
        return edits
